"""May this machine become the primary? From what was read of all machines; touches none.

Each problem has a name that stays the same, so that the continuity plan, tests and programs
can refer to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CLOCK_BOUND = 5.0  # seconds that a machine's clock may differ from the controller's
FREE_BOUND = 1024  # MiB: what a primary may write before somebody looks

Look = Mapping[str, Any]  # what ``look`` found


@dataclass(frozen=True)
class Problem:
    """Why not, and what to do about it."""

    name: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" + (f"\n  {self.hint}" if self.hint else "")


def problems(
    looks: Mapping[str, Look | None], target: str, *, fenced_by: str, fenced_how: str, now: float
) -> list[Problem]:
    """Everything that speaks against promoting ``target``.

    Args:
        looks: of every log machine; None for one that does not answer. The target's has been
            compared with what all others have signed.
        target: the machine to promote.
        fenced_by: who attests that machines which do not answer cannot sign any more.
        fenced_how: how that was brought about, in words.
        now: the controller's clock, in Unix seconds.
    """
    look = looks.get(target)
    if look is None:
        return [Problem("target-unreachable", f"{target} does not answer, or is no log machine")]
    return [
        *(
            Problem(
                "split-view",
                f"{name} has seen two histories of this log: {path}",
                "Nothing may be promoted before this is understood: docs/bcp/split-view.md",
            )
            for name, seen in sorted(looks.items())
            for path in (seen or {}).get("split_views", [])
        ),
        *_others(looks, target, fenced_by, fenced_how),
        *_target(target, look),
        *_machine(target, look, now),
    ]


def reseed_problems(looks: Mapping[str, Look | None], target: str) -> list[Problem]:
    """Everything that speaks against making ``target`` a secondary of the primary there is.

    Args:
        looks: of every log machine, None for one that does not answer or is new. The primary's has
            been compared with what the target promised.
        target: the machine.
    """
    primaries = sorted(name for name, look in looks.items() if look and "primary" in look["parts"])
    if primaries == [target]:
        return [
            Problem(
                "target-serves",
                f"{target} is the primary",
                "playbooks/handover.yml -e target=OTHER makes it a secondary.",
            )
        ]
    # One that comes back after another was promoted still takes itself for the primary.
    primaries = [name for name in primaries if name != target]
    if len(primaries) != 1:
        found = " and ".join(primaries) or "none"
        return [
            Problem(
                "primary",
                f"there must be one primary to copy from; there is {found}",
                "playbooks/promote.yml makes a secondary the primary.",
            )
        ]
    source = looks[primaries[0]]
    if source is None or source["tree"] is None:
        return [Problem("tree-unreadable", f"the tree of {primaries[0]} cannot be read")]
    return [
        Problem(
            "ahead",
            f"{target} has what {primaries[0]} cannot prove: {behind}",
            "Leaves were lost, or there are two histories. Keep both machines as they are, and"
            " follow docs/bcp/split-view.md.",
        )
        for behind in source["tree"]["behind"]
    ]


def _others(
    looks: Mapping[str, Look | None], target: str, fenced_by: str, fenced_how: str
) -> Iterator[Problem]:
    silent = sorted(name for name, look in looks.items() if look is None and name != target)
    if silent and not (fenced_by.strip() and len(fenced_how.split()) >= 3):
        yield Problem(
            "not-fenced",
            f"{', '.join(silent)} does not answer, so nobody can see that it signs no more",
            "Cut its power, its network, or pull its HSM. Then say who did it and how:"
            " -e fenced_by=NAME -e fenced_how='power cut at the PDU'",
        )


def _target(target: str, look: Look) -> Iterator[Problem]:
    promoted = look["promoted"] is not None
    if look["fenced"] is not None:
        yield Problem(
            "target-fenced",
            f"{target} was fenced: {look['fenced']}",
            "playbooks/reseed.yml makes it a secondary first.",
        )
    if look["parts"] not in (["secondary"], []) and not promoted:
        yield Problem("target-part", f"{target} is {' and '.join(look['parts'])}, no secondary")
    if look["has_latch"]:
        yield Problem("latched", f"the oracle of {target} is latched", "docs/bcp/oracle-latched.md")
    if not promoted:
        for name, there in (("sth", look["has_sth"]), ("startup file", look["has_startup"])):
            if there:
                yield Problem(
                    "state-left",
                    f"{target} has a {name} from an earlier life as primary",
                    "playbooks/reseed.yml puts it aside.",
                )
    tree = look["tree"]
    if tree is None:
        reasons = "; ".join(look["unreadable"])
        yield Problem("tree-unreadable", f"the tree of {target} cannot be read: {reasons}")
        return
    if tree["type"] != "PREORDERED_LOG" and not promoted and tree["state"] == "ACTIVE":
        yield Problem("tree-type", f"the tree of {target} is of type {tree['type']}")
    for behind in tree["behind"]:
        yield Problem(
            "behind",
            f"{target} cannot prove what was signed: {behind}",
            "Promote a machine whose tree has it.",
        )


def _machine(target: str, look: Look, now: float) -> Iterator[Problem]:
    if abs(look["time"] - now) > CLOCK_BOUND:
        yield Problem(
            "clock", f"the clock of {target} differs by {look['time'] - now:+.0f} s from this one"
        )
    if look["free_mb"] is None or look["free_mb"] < FREE_BOUND:
        yield Problem("disk", f"{target} has {look['free_mb']} MiB of free disk")
    if not look["has_policy"]:
        yield Problem("policy", f"{target} has no witness policy, /etc/sigsum/policy")
