"""Running Ansible's programs for the command line, with this repository's configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from sigsum_ops.errors import OpsError, UsageError

# In a checkout, from whatever directory the command is run; elsewhere Ansible finds its own.
_CONFIG = Path(__file__).parents[3] / "ansible.cfg"

# For output that is parsed, whatever the person or program that calls us likes to read.
PLAIN = {"ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}


def run(
    program: str, *arguments: str, inventory: Path | None, output: IO[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs and return how it ended.

    Args:
        program: ``ansible``, ``ansible-playbook``, …
        inventory: as for ``ansible-playbook -i``; None for the one that ansible.cfg names.
        output: where a person reads what it says meanwhile; without it, it is captured.

    Raises:
        UsageError: there is no such inventory.
        OpsError: Ansible is not installed.
    """
    settings = {}
    if output is None:
        settings = {
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_DEPRECATION_WARNINGS": "false",
            **PLAIN,
        }
    try:
        return subprocess.run(
            command(program, *arguments, inventory=inventory),
            env=environment(**settings),
            stdout=output or subprocess.PIPE,
            stderr=None if output else subprocess.PIPE,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise OpsError(
            f"{program} is not installed", hint="Install sigsum-ops with its extra: controller"
        ) from error


def render(template: str, inventory: Path | None) -> object:
    """Have Ansible render a template over a whole inventory; contacts no machine.

    Raises:
        UsageError: Ansible cannot read or render the inventory.
        OpsError: Ansible is not installed, or its answer is not understood.
    """
    done = run(
        "ansible",
        "localhost",
        "--connection=local",
        "--module-name=ansible.builtin.debug",
        "--args",
        json.dumps({"msg": template}),
        inventory=inventory,
    )
    if done.returncode != 0:
        raise UsageError(
            f"Ansible cannot read the inventory:\n{(done.stderr + done.stdout).strip()}"
        )
    try:
        answer: object = json.loads(done.stdout[done.stdout.index("{") :])["msg"]
    except (ValueError, LookupError) as error:
        raise OpsError(f"Ansible's answer is not understood: {done.stdout.strip()}") from error
    return answer


def said(output: str, mark: str) -> Iterator[Any]:
    """The messages of tasks, whose results ansible-playbook prints in JSON after the mark."""
    for answer in output.split(mark)[1:]:
        with suppress(ValueError):  # another task's, in another form
            yield json.JSONDecoder().raw_decode(answer)[0].get("msg", "")


def command(program: str, *arguments: str, inventory: Path | None) -> list[str]:
    """The command line for one of Ansible's programs.

    Raises:
        UsageError: there is no such inventory.
    """
    if inventory is not None and not inventory.exists():
        raise UsageError(f"{inventory}: no such inventory")
    # Beside this interpreter first: the virtual environment's, with or without activation.
    path = Path(sys.executable).with_name(program)
    return [
        str(path) if path.exists() else program,
        *(["--inventory", str(inventory)] if inventory else []),
        *arguments,
    ]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment, with this repository's configuration for Ansible."""
    return {
        **({"ANSIBLE_CONFIG": str(_CONFIG)} if _CONFIG.exists() else {}),
        **os.environ,
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        **settings,
    }
