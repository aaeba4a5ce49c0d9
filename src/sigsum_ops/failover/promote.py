"""``sigsum-ops promote``: playbooks/promote.yml, its checks first, then a person who confirms."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.failover.ungated import Permit
from sigsum_ops.site import ansible

PLAYBOOK = "sigsum_ops.site.promote"
NOTHING_CHANGED = "Nothing was changed."  # how a refusal of the playbook begins


@dataclass(frozen=True)
class Request:
    """What the operator wants, and attests. Without a target the best machine is picked."""

    target: str = ""
    inventory: Path | None = None
    seen: tuple[Path, ...] = ()
    fenced_by: str = ""
    fenced_how: str = ""
    hsm_out: tuple[str, ...] = ()
    ungated: Permit = field(default_factory=Permit)

    @property
    def arguments(self) -> tuple[str, ...]:
        """For ``ansible-playbook``."""
        variables = {
            **({"target": self.target} if self.target else {}),
            "seen": [str(path.absolute()) for path in self.seen],
            "fenced_by": self.fenced_by,
            "fenced_how": self.fenced_how,
            "hsm_out": ",".join(self.hsm_out),
            "failover_ungated_until": self.ungated.until,
            "failover_ungated_by": self.ungated.by,
            "failover_ungated_why": self.ungated.why,
        }
        return (PLAYBOOK, "--extra-vars", json.dumps(variables))

    def check(self) -> None:
        """Refuse what makes no sense before any machine is contacted."""
        for path in self.seen:
            if not path.is_file():
                raise UsageError(f"--seen {path}: no such file")
        if bool(self.fenced_by) != bool(self.fenced_how):
            raise UsageError("--fenced-by and --fenced-how go together: who, and in words how")
        if self.hsm_out and not self.fenced_by:
            raise UsageError("--hsm-out says that a HSM was pulled; --fenced-by says by whom")
        try:
            self.ungated.check(datetime.now(UTC))
        except UsageError as error:
            raise UsageError(f"--ungated-until: {error.message}", hint=error.hint) from error


def promote(
    request: Request, *, check: bool, confirm: Callable[[str], str] | None
) -> dict[str, Any]:
    """Check everything, have it confirmed, and promote.

    Args:
        request: what is wanted.
        check: stop after the checks.
        confirm: asks a person, who answers with the target's name; None: nobody is asked.

    Returns:
        ``target``, ``why`` it was picked, ``warnings``, ``problems`` (why nothing was changed) and
        ``promoted``.

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
    choice = chosen(checked.stdout)
    result = {
        "target": choice.get("candidate", request.target),
        "why": choice.get("why", ""),
        "warnings": choice.get("warnings", []),
        "problems": list(found),
        "promoted": False,
    }
    if found or check:
        return result
    # What was confirmed, and not what would be picked by then.
    request = replace(request, target=result["target"])
    if confirm is not None:
        until = request.ungated.until
        alone = f" Until {until} what it acknowledges is on no other machine." if until else ""
        said = "".join(f"{line}\n" for line in lines(result))
        answer = confirm(
            f"{said}{request.target} will be the primary from now on, and the old one never again"
            f" as it is.{alone} Type {request.target} to go on"
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


def lines(result: Mapping[str, Any]) -> list[str]:
    """What a person should know of the choice."""
    why = [f"{result['target']} is {result['why']}"] if result["why"] else []
    return [*why, *(f"warning: {text}" for text in result["warnings"])]


def problems(output: str) -> Sequence[str]:
    """The reasons in what the playbook said, empty where it did not refuse."""
    for said in ansible.said(output, "FAILED! => "):
        if str(said).startswith(NOTHING_CHANGED):
            return [line for line in str(said).splitlines()[1:] if line.strip()]
    return []


def chosen(output: str) -> dict[str, Any]:
    """What the playbook said of the machine that would be promoted, empty where it did not."""
    for said in ansible.said(output, "] => "):
        if isinstance(said, dict) and "candidate" in said:
            return said
    return {}
