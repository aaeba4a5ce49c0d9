"""``sigsum-ops promote``: playbooks/promote.yml, its checks first, then a person who confirms."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.site import ansible

PLAYBOOK = "sigsum_ops.site.promote"
NOTHING_CHANGED = "Nothing was changed."  # how a refusal of the playbook begins


@dataclass(frozen=True)
class Request:
    """What the operator wants, and attests."""

    target: str
    inventory: Path | None = None
    seen: tuple[Path, ...] = ()
    fenced_by: str = ""
    fenced_how: str = ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """For ``ansible-playbook``."""
        variables = {
            "target": self.target,
            "seen": [str(path.absolute()) for path in self.seen],
            "fenced_by": self.fenced_by,
            "fenced_how": self.fenced_how,
        }
        return (PLAYBOOK, "--extra-vars", json.dumps(variables))

    def check(self) -> None:
        """Refuse what makes no sense before any machine is contacted."""
        for path in self.seen:
            if not path.is_file():
                raise UsageError(f"--seen {path}: no such file")
        if bool(self.fenced_by) != bool(self.fenced_how):
            raise UsageError("--fenced-by and --fenced-how go together: who, and in words how")


def promote(
    request: Request, *, check: bool, confirm: Callable[[str], str] | None
) -> dict[str, Any]:
    """Check everything, have it confirmed, and promote.

    Args:
        request: what is wanted.
        check: stop after the checks.
        confirm: asks a person, who answers with the target's name; None: nobody is asked.

    Returns:
        ``target``, ``problems`` (why nothing was changed) and ``promoted``.

    Raises:
        UsageError: the request makes no sense, or the person did not confirm.
        OpsError: Ansible failed in another way.
    """
    request.check()
    checked = ansible.run(
        "ansible-playbook", *request.arguments, "--check", inventory=request.inventory
    )
    found = problems(checked.stdout)
    if checked.returncode and not found:
        raise OpsError(
            f"the checks could not be made:\n{checked.stdout[-3000:]}{checked.stderr[-1000:]}"
        )
    result = {"target": request.target, "problems": list(found), "promoted": False}
    if found or check:
        return result
    if confirm is not None:
        answer = confirm(
            f"{request.target} will be the primary from now on, and the old one never again as it"
            f" is. Type {request.target} to go on"
        )
        if answer.strip() != request.target:
            raise UsageError("not confirmed; nothing was changed")
    done = ansible.run(
        "ansible-playbook", *request.arguments, inventory=request.inventory, output=sys.stderr
    )
    if done.returncode:
        raise OpsError(
            f"the promotion of {request.target} is not finished",
            hint="Read above what failed. When the reason is gone, run it again: it goes on there.",
        )
    return {**result, "promoted": True}


def problems(output: str) -> Sequence[str]:
    """The reasons in what the playbook said, empty where it did not refuse."""
    for answer in output.split("FAILED! => ")[1:]:
        try:
            message = str(json.JSONDecoder().raw_decode(answer)[0].get("msg", ""))
        except ValueError:  # another task's, in another form
            continue
        if message.startswith(NOTHING_CHANGED):
            return [line for line in message.splitlines()[1:] if line.strip()]
    return []
