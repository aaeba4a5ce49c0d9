"""May this machine become the primary? From what was read of all machines; touches none.

Each problem has a name that stays the same, so that the continuity plan, tests and programs
can refer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sigsum_ops.errors import UsageError
from sigsum_ops.failover import ungated
from sigsum_ops.failover.ungated import Permit

CLOCK_BOUND = 5.0  # seconds that a machine's clock may differ from the controller's
FREE_BOUND = 1024  # MiB: what a primary may write before somebody looks

Look = Mapping[str, Any]  # what ``look`` found


@dataclass(frozen=True)
class Choice:
    """The machine to promote, or an empty name; and in words why."""

    name: str
    why: str


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
    asked: Permit | None = None,
    permits: Mapping[str, datetime] | None = None,
    hsm_out: Collection[str] = (),
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
        asked: the permit to go on alone that the target is to have, if any.
        permits: until when a machine may go on alone that cannot be asked itself.
        hsm_out: machines of which it is attested, too, that their HSM is out.
        now: the controller's clock, in Unix seconds.
    """
    look = looks.get(target)
    if look is None:
        return [Problem("target-unreachable", f"{target} does not answer, or is no log machine")]
    return [
        *_evidence(looks),
        *_others(looks, target, fenced_by, fenced_how, seen),
        *_alone(
            {name: look for name, look in looks.items() if name != target},
            {name: until for name, until in (permits or {}).items() if name != target},
            hsm_out if _attested(fenced_by, fenced_how) else (),
            now,
        ),
        *_asked(asked or Permit(), target, followers(looks, target), now),
        *_target(target, look, replaced),
        *_machine(target, look, now),
    ]


def choose(
    looks: Mapping[str, Look | None],
    judged: Callable[[str], Collection[Problem]],
    replaced: Collection[str] = (),
) -> Choice:
    """The machine to promote where nobody has named one.

    One whose promotion was begun before all others; then one against which nothing speaks, and so
    is proven to extend all that is known to have been signed; then the largest tree. None while a
    primary runs: that it is to be replaced is not for a program to say.

    Args:
        looks: as for ``problems``; each secondary's has been compared as the target's is.
        judged: what speaks against promoting a machine.
        replaced: machines that were replaced as primary, and not re-seeded since.
    """
    if serving := sorted(name for name, look in looks.items() if look and look["primary_runs"]):
        return Choice(
            "",
            f"{' and '.join(serving)} is the primary, and runs. Name the machine that is to take"
            " its place, or the one whose promotion is to be finished: -e target=HOST",
        )
    found = []
    for name, look in looks.items():
        begun = look is not None and look["promoted"] is not None and name not in replaced
        if look is None or look["tree"] is None or not (begun or look["parts"] == ["secondary"]):
            continue
        against = sorted({problem.name for problem in judged(name)})
        notes = [*(["its promotion was begun"] if begun else []), *against]
        said = f"{name} ({'; '.join([f'{held(look)} leaves', *notes])})"
        found.append((not begun, bool(against), -held(look), name, said))
    if not found:
        return Choice("", "no secondary answers whose tree can be read")
    found.sort()
    return Choice(found[0][3], f"the best of {', '.join(said for *_, said in found)}")


def held(look: Look) -> int:
    """The size of a tree, in leaves, once all that have arrived are in it."""
    return int(look["tree"]["size"] + look["tree"]["waiting"])


def followers(looks: Mapping[str, Look | None], target: str) -> list[str]:
    """The secondaries that go on with ``target`` as their primary, the best to wait for first.

    ``problems`` sees to it that the target extends their trees.
    """
    found = [
        (look["node_key"] is None, -held(look), name)
        for name, look in looks.items()
        if name != target and look and look["parts"] == ["secondary"] and look["tree"] is not None
    ]
    return [name for *_, name in sorted(found)]


def gating(looks: Mapping[str, Look | None], primary: str, otherwise: str) -> str:
    """The secondary that ``primary`` waits for, if it is in order; or another."""
    wanted = (looks.get(primary) or {}).get("gated_by")
    keys = {name: (looks[name] or {}).get("node_key") for name in followers(looks, primary)}
    found = [name for name, key in keys.items() if key and key == wanted and name != otherwise]
    return next(iter(found), otherwise)


def former(looks: Mapping[str, Look | None], target: str) -> str:
    """The machine that ``target`` takes the place of: not a secondary, as long as there is one."""
    others = [name for name in looks if name != target]
    found = [name for name in others if (look := looks[name]) and look["parts"] != ["secondary"]]
    return next(iter([*found, *others]), "")


def warnings(look: Look) -> list[str]:
    """What a person should know of a target, and what speaks not against promoting it."""
    return [
        f"the witness {answer['name']} ({answer['url']}) {answer['reason']}: nobody knows up to"
        " which size it has cosigned"
        for answer in look.get("witnesses", [])
        if answer["size"] is None
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


def abandon_problems(
    looks: Mapping[str, Look | None],
    target: str,
    *,
    adopted: str = "",
    unfenced: Collection[str] = (),
) -> list[Problem]:
    """Everything that speaks against giving up the promotion of ``target``.

    Args:
        looks: of every log machine; None for one that does not answer.
        target: the machine that was to be the primary.
        adopted: the machine, beside ``target``, whose tree may have been made a primary's last, by
            the controller's journal; empty where there is none.
        unfenced: it was given up already, by that journal, and nothing was done since but that
            these were unfenced. A controller that died meanwhile may have left that unsaid: one of
            them is the primary again, and that is right.
    """
    look = looks.get(target)
    if look is None:
        return [Problem("target-unreachable", f"{target} does not answer, or is no log machine")]
    found = []
    tree = look["tree"]
    if tree is None:
        reasons = "; ".join(look["unreadable"])
        found.append(Problem("tree-unreadable", f"the tree of {target} cannot be read: {reasons}"))
    elif (tree["type"], tree["state"]) != ("PREORDERED_LOG", "ACTIVE") or look["has_sth"]:
        found.append(
            Problem(
                "too-late",
                f"the tree of {target}, {tree['type']} and {tree['state']}, may be a primary's",
                f"playbooks/promote.yml -e target={target} goes on.",
            )
        )
    for name, other in sorted(looks.items()):
        mark = (other or {}).get("fenced") or {}
        if other and "primary" in other["parts"]:
            if name not in unfenced:
                found.append(
                    Problem("primary", f"{name} is the primary; nothing is to be given up")
                )
        # The mark stays where a later promotion, of a third machine, found it fenced already.
        elif mark.get("promoted") == target and adopted not in ("", name):
            found.append(
                Problem(
                    "replaced",
                    f"{name} was fenced, and {adopted} may have become the primary since",
                    f"playbooks/promote.yml -e target={adopted} goes on.",
                )
            )
    return found


def to_unfence(
    looks: Mapping[str, Look | None], target: str, unfinished: Collection[tuple[str, str]]
) -> list[str]:
    """The machines that answer and were fenced for ``target``, or whose unfencing was not noted.

    A mark that is there decides: one that was fenced for another machine since stays so.
    """
    found = []
    for name, look in sorted(looks.items()):
        if look is None:
            continue
        mark = look["fenced"]
        if mark.get("promoted") == target if mark else ("unfence", name) in unfinished:
            found.append(name)
    return found


def _to_lose(target: str, look: Look | None, wipe: bool) -> Iterator[Problem]:
    """What a wipe would destroy unseen."""
    if look is None or wipe:
        return
    if look["has_latch"]:
        yield Problem("latched", f"the oracle of {target} is latched", "docs/bcp/oracle-latched.md")
    yield from _quarantined(
        target, look, "Somebody may still need it. If not: -e wipe=true empties the machine."
    )
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


def _attested(by: str, how: str) -> bool:
    return bool(by.strip()) and len(how.split()) >= ungated.WORDS


def _alone(
    others: Mapping[str, Look | None],
    permits: Mapping[str, datetime],
    hsm_out: Collection[str],
    now: float,
) -> Iterator[Problem]:
    """Machines that would not wait for a secondary when they come back, but go on signing."""
    for name in sorted({*others, *permits} - set(hsm_out)):
        look, until = others.get(name), permits.get(name)
        if look is not None:
            # It answers: only what serves, or would after a reboot, can go on.
            there = look["permit"] if "primary" in look["parts"] else ""
            until = ungated.parse(there) if there else None
        if until is not None and not ungated.over(until, now):
            yield Problem(
                "ungated-permit",
                f"{name} may sign without a secondary until {ungated.text(until)}: it would go on"
                " as a second primary wherever nobody sees it",
                "If it answers, playbooks/reseed.yml brings it a secondary, and so ends that. Else"
                f" wait, or pull its HSM, keep it out, and say so: --hsm-out {name} (of the"
                f" playbook: -e hsm_out={name}), with who did it and how.",
            )


def _asked(asked: Permit, target: str, followers: Collection[str], now: float) -> Iterator[Problem]:
    """A permit to go on alone for nothing, or one that nobody answers for."""
    try:
        asked.check(datetime.fromtimestamp(now, UTC))
    except UsageError as error:
        yield Problem("ungated-until", error.message, error.hint or "")
    if asked.until and followers:
        yield Problem(
            "ungated-until",
            f"{' and '.join(followers)} can be the secondary of {target}, which then needs no"
            " permit to go on alone",
            "Promote it without.",
        )


def _silent(looks: Mapping[str, Look | None], fenced_by: str, fenced_how: str) -> Iterator[Problem]:
    silent = sorted(name for name, look in looks.items() if look is None)
    if silent and not _attested(fenced_by, fenced_how):
        yield Problem(
            "not-fenced",
            f"{', '.join(silent)} does not answer, so nobody can see that it signs no more",
            "Cut its power, its network, or pull its HSM. Then say who did it and how:"
            " -e fenced_by=NAME -e fenced_how='power cut at the PDU'"
            + (
                ". A primary and its secondary that come back together would go on."
                if len(silent) > 1
                else ""
            ),
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
    if _serves(looks[target]):
        return  # what is left of an earlier run's promotion; a secondary is its own by now
    here = looks[target]
    for name, look in sorted(others.items()):
        if not look or look["parts"] != ["secondary"]:
            continue
        if look["tree"] is None:
            yield Problem(
                "other-secondary",
                f"{name} is a secondary too, and its tree cannot be read:"
                f" {'; '.join(look['unreadable'])}",
                f"Mend it; or on {name}: systemctl disable --now sigsum-log-secondary. Re-seed it"
                " afterwards.",
            )
        elif here and here["tree"] and held(look) > held(here):
            yield Problem(
                "better-candidate",
                f"{name} has {held(look)} leaves, and {target} has {held(here)}",
                f"Promote {name}: -e target={name}. If it cannot be, power it off, attest that, and"
                " re-seed it afterwards.",
            )


def _serves(look: Look | None) -> bool:
    """Whether the machine was promoted and has signed since."""
    return (
        look is not None
        and look["promoted"] is not None
        and look["has_sth"]
        and "primary" in look["parts"]
    )


def _target(target: str, look: Look, replaced: Collection[str]) -> Iterator[Problem]:
    promoted = look["promoted"] is not None
    # On a machine that has signed nothing is restored; the tree may have been a primary's.
    restored = look["quarantine"] is not None
    yield from _quarantined(
        target, look, f"On {target}: sigsum-ops backup prove --seen FILE. docs/bcp/restore.md"
    )
    if target in replaced and not restored:
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
    as_primary = tree["type"] != "PREORDERED_LOG" and tree["state"] == "ACTIVE"
    if as_primary and not promoted and not restored:
        yield Problem("tree-type", f"the tree of {target} is of type {tree['type']}")
    for behind in tree["behind"]:
        yield Problem(
            "behind",
            f"{target} cannot prove what was signed: {behind}",
            "Promote a machine whose tree has it.",
        )
    yield from _witnesses(target, look)


def _witnesses(target: str, look: Look) -> Iterator[Problem]:
    """A witness cosigns no tree head that does not extend the last one that it has cosigned."""
    for answer in look.get("witnesses", []):
        said = f"the witness {answer['name']} ({answer['url']}) has cosigned"
        if answer["other_root"]:
            yield Problem(
                "split-view",
                f"{said} another tree of size {answer['size']} than the one that was published",
                "Nothing may be promoted before this is understood: docs/bcp/split-view.md",
            )
        elif answer["size"] is not None and answer["size"] > look["tree"]["size"]:
            yield Problem(
                "witness-ahead",
                f"{said} size {answer['size']}, and the tree of {target} ends at size"
                f" {look['tree']['size']}",
                "Promote a machine whose tree has it.",
            )


def _quarantined(target: str, look: Look, hint: str) -> Iterator[Problem]:
    """A backup that could be behind what was published."""
    mark = look["quarantine"]
    if mark is not None and not mark.get("proof"):
        yield Problem(
            "quarantined",
            f"{target} is in quarantine since {mark['since']} ({mark['reason']}), and what was"
            " restored there is not proven ahead of what was published",
            hint,
        )


def _machine(target: str, look: Look, now: float) -> Iterator[Problem]:
    difference = look["time"] - look.get("received", now)
    if abs(difference) > CLOCK_BOUND:
        yield Problem(
            "clock", f"the clock of {target} differs by {difference:+.0f} s from this one"
        )
    path, free = min(look["free_mb"].items(), key=lambda each: each[1] or 0)
    if free is None:
        yield Problem("disk", f"{path} of {target} cannot be read")
    elif free < FREE_BOUND:
        yield Problem("disk", f"{target} has {free} MiB of free disk at {path}")
    if not look["has_policy"]:
        yield Problem("policy", f"{target} has no witness policy, /etc/sigsum/policy")
