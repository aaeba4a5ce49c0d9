"""May this machine become the primary? From what was read of all machines; touches none.

Each problem has a name that stays the same, so that the continuity plan, tests and programs
can refer to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
    looks: Mapping[str, Look | None],
    target: str,
    *,
    fenced_by: str = "",
    fenced_how: str = "",
    seen: int = 0,
    replaced: Collection[str] = (),
    now: float,
) -> list[Problem]:
    """Everything that speaks against promoting ``target``.

    Args:
        looks: of every log machine; None for one that does not answer. The target's has been
            compared with what all others have signed, published or hold.
        target: the machine to promote.
        fenced_by: who attests that machines which do not answer cannot sign any more.
        fenced_how: how that was brought about, in words.
        seen: how many tree heads the operator has given beside.
        replaced: machines that were replaced as primary, and not re-seeded since.
        now: the controller's clock, in Unix seconds.
    """
    look = looks.get(target)
    if look is None:
        return [Problem("target-unreachable", f"{target} does not answer, or is no log machine")]
    return [
        *_evidence(looks),
        *_others(looks, target, fenced_by, fenced_how, seen),
        *_target(target, look, replaced),
        *_machine(target, look, now),
    ]


def reseed_problems(
    looks: Mapping[str, Look | None],
    target: str,
    *,
    fenced_by: str = "",
    fenced_how: str = "",
    replaced: Collection[str] = (),
    wipe: bool = False,
) -> list[Problem]:
    """Everything that speaks against making ``target`` a secondary of the primary there is.

    Args:
        looks: of every log machine, None for one that does not answer or is new. The primary's has
            been compared with what all others have signed, published or hold.
        target: the machine.
        fenced_by: who attests that machines which do not answer cannot sign any more.
        fenced_how: how that was brought about, in words.
        replaced: machines that were replaced as primary, and not re-seeded since.
        wipe: whether the target's data is to go even if it cannot be read.
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
    if target in replaced:
        primaries = [name for name in primaries if name != target]
    if len(primaries) != 1 or primaries[0] in replaced:
        found = " and ".join(primaries) or "none"
        return [
            Problem(
                "primary",
                f"there must be one primary to copy from; there is {found}",
                "playbooks/promote.yml makes a secondary the primary, and fences the others.",
            )
        ]
    source, look = looks[primaries[0]], looks.get(target)
    if source is None or source["tree"] is None:
        return [Problem("tree-unreadable", f"the tree of {primaries[0]} cannot be read")]
    return [
        *_evidence(looks if not wipe else {k: v for k, v in looks.items() if k != target}),
        *_silent({k: v for k, v in looks.items() if k != target}, fenced_by, fenced_how),
        *_to_lose(target, look, wipe),
        *(
            Problem(
                "ahead",
                f"{primaries[0]}, the primary, cannot prove what others have: {behind}",
                "Leaves were lost, or there are two histories. Keep all machines as they are, and"
                " follow docs/bcp/split-view.md.",
            )
            for behind in source["tree"]["behind"]
        ),
    ]


def _to_lose(target: str, look: Look | None, wipe: bool) -> Iterator[Problem]:
    """What a wipe would destroy unseen."""
    if look is None or wipe:
        return
    if look["has_latch"]:
        yield Problem("latched", f"the oracle of {target} is latched", "docs/bcp/oracle-latched.md")
    if look["tree"] is None and look["has_tree_id"]:
        reasons = "; ".join(look["unreadable"])
        yield Problem(
            "tree-unreadable",
            f"the tree of {target} cannot be read: {reasons}",
            "It may be the only other copy. If it is lost for sure: -e wipe=true",
        )


def _evidence(looks: Mapping[str, Look | None]) -> Iterator[Problem]:
    for name, look in sorted(looks.items()):
        for path in (look or {}).get("split_views", []):
            yield Problem(
                "split-view",
                f"{name} has seen two histories of this log: {path}",
                "Nothing may be promoted before this is understood: docs/bcp/split-view.md",
            )
        for doubt in (look or {}).get("doubts", []):
            yield Problem(
                "doubtful",
                f"{name} has evidence of what was signed that cannot be read: {doubt}",
                "Find out what it held; then put it aside.",
            )


def _silent(looks: Mapping[str, Look | None], fenced_by: str, fenced_how: str) -> Iterator[Problem]:
    silent = sorted(name for name, look in looks.items() if look is None)
    if silent and not (fenced_by.strip() and len(fenced_how.split()) >= 3):
        yield Problem(
            "not-fenced",
            f"{', '.join(silent)} does not answer, so nobody can see that it signs no more",
            "Cut its power, its network, or pull its HSM. Then say who did it and how:"
            " -e fenced_by=NAME -e fenced_how='power cut at the PDU'",
        )


def _others(
    looks: Mapping[str, Look | None], target: str, fenced_by: str, fenced_how: str, seen: int
) -> Iterator[Problem]:
    others = {name: look for name, look in looks.items() if name != target}
    yield from _silent(others, fenced_by, fenced_how)
    known = seen + sum(
        len(look["signed"]) + len(look["published"]) for look in looks.values() if look
    )
    if None in others.values() and not known:
        yield Problem(
            "nothing-seen",
            "nothing is known of what the log has published, so nobody can say what would be lost",
            "Give a tree head or proof that a user, a monitor or a witness has: --seen FILE",
        )
    for name, look in sorted(others.items()):
        if look and look["parts"] == ["secondary"]:
            yield Problem(
                "other-secondary",
                f"{name} is a secondary too: an old primary that comes back could go on with it",
                f"On {name}: systemctl disable --now sigsum-log-secondary. Re-seed it afterwards.",
            )


def _target(target: str, look: Look, replaced: Collection[str]) -> Iterator[Problem]:
    promoted = look["promoted"] is not None
    if target in replaced:
        yield Problem(
            "replaced",
            f"another machine has taken the place of {target} since it was the primary",
            "playbooks/reseed.yml makes it a secondary first.",
        )
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
