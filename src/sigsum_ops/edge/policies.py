"""What a policy means, beyond that it can be read: what lint finds, and what a change changes.

Pure. The format and what makes a file unreadable is sigsum_ops.log.policy's.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import combinations
from urllib.parse import urlsplit

from sigsum_ops.log.policy import NONE, Policy

# So many witnesses are looked at in each combination; 2^16 take less than a second.
MOST = 16


def counts(policy: Policy, cosigned: Set[str], name: str | None = None) -> bool:
    """Whether cosignatures of these witnesses are a quorum (or satisfy the named group)."""
    name = name or policy.quorum or NONE
    if name == NONE:
        return True
    if (group := policy.groups.get(name)) is None:
        return name in cosigned
    return sum(counts(policy, cosigned, member) for member in group.members) >= group.threshold


def needed(policy: Policy) -> int:
    """How many witnesses make a quorum at the least."""

    def least(name: str) -> int:
        if (group := policy.groups.get(name)) is None:
            return 1
        return sum(sorted(map(least, group.members))[: group.threshold])

    return 0 if policy.quorum in {None, NONE} else least(str(policy.quorum))


def spare(policy: Policy) -> int:
    """How many witnesses, whichever they are, can be silent while the others are a quorum."""

    def breaks(name: str) -> int:
        if (group := policy.groups.get(name)) is None:
            return 1
        too_many = len(group.members) - group.threshold + 1
        return sum(sorted(map(breaks, group.members))[:too_many])

    return len(policy.witnesses) if needed(policy) == 0 else breaks(str(policy.quorum)) - 1


def in_quorum(policy: Policy) -> set[str]:
    """The witnesses whose cosignatures can matter."""

    def below(name: str) -> set[str]:
        group = policy.groups.get(name)
        return {name} if group is None else set().union(*map(below, group.members))

    return set() if needed(policy) == 0 else below(str(policy.quorum))


def apart(policy: Policy) -> tuple[set[str], set[str]] | None:
    """Two quorums without a common witness, if there are such.

    Each witness keeps to one history, so two histories may have a quorum each where none lies.
    """
    names = sorted(in_quorum(policy))
    if not names or len(names) > MOST:
        return None
    for size in range(1, len(names) // 2 + 1):
        for some in combinations(names, size):
            others = set(names) - set(some)
            if counts(policy, set(some)) and counts(policy, others):
                return set(some), others
    return None


def lint(policy: Policy, *, of_a_log: bool = False) -> Iterator[str]:
    """What a readable policy probably should not say; ``of_a_log`` for the one that a log uses."""
    if needed(policy) == 0:
        yield "quorum none: a tree head counts without any witness having seen it"
    if not policy.logs and not of_a_log:
        yield "no log line: nothing can be verified by it"
    if unused := sorted(set(policy.witnesses) - in_quorum(policy)):
        yield f"not part of the quorum: {', '.join(unused)}"
    grouped = {member for group in policy.groups.values() for member in group.members}
    if idle := sorted(set(policy.groups) - grouped - {policy.quorum}):
        yield f"a group that nothing uses: {', '.join(idle)}"
    if needed(policy) and spare(policy) == 0:
        yield "no witness may be silent: the log stands still for its users when one of them is"
    if len(in_quorum(policy)) > MOST:
        yield f"more than {MOST} witnesses: not looked for two quorums without a common one"
    if found := apart(policy):
        some, others = (" and ".join(sorted(each)) for each in found)
        yield f"{some} are a quorum, and so are {others}: two histories could have one each"
    for name, witness in policy.witnesses.items():
        if witness.url is None and of_a_log:
            yield f"witness {name} has no URL: the log cannot ask it"
        if witness.url is not None and urlsplit(witness.url).scheme != "https":
            yield f"witness {name} is asked without TLS: {witness.url}"
    for log in policy.logs:
        if log.url is not None and urlsplit(log.url).scheme != "https":
            yield f"log {log.key.hash} is asked without TLS: {log.url}"


def differences(old: Policy, new: Policy) -> Iterator[str]:
    """What a change of the policy means, one line each."""
    logs = [{log.key: log.url for log in policy.logs} for policy in (old, new)]
    yield from _changed("log", *({key.hex: url for key, url in each.items()} for each in logs))
    for name in sorted({*old.witnesses, *new.witnesses}):
        before, after = old.witnesses.get(name), new.witnesses.get(name)
        if before is None and after is not None:
            yield f"+ witness {name} {after.key.hex} {after.url or ''}".rstrip()
        elif after is None and before is not None:
            yield f"- witness {name} {before.key.hex}"
        elif before is not None and after is not None:
            if before.key != after.key:
                yield f"! witness {name} has another key: {before.key.hex}, now {after.key.hex}"
            if before.url != after.url:
                yield f"  witness {name} has another URL: {before.url}, now {after.url}"
    groups = [
        {
            name: f"{group.threshold} of {', '.join(sorted(group.members))}"
            for name, group in p.groups.items()
        }
        for p in (old, new)
    ]
    yield from _changed("group", *groups)
    if old.quorum != new.quorum:
        yield f"  quorum {old.quorum}, now {new.quorum}"
    for what, measure in (("needs", needed), ("can spare", spare)):
        if measure(old) != measure(new):
            yield f"  the quorum {what} {measure(old)} of its witnesses, now {measure(new)}"


def _changed(
    what: str,
    old: dict[str, str] | dict[str, str | None],
    new: dict[str, str] | dict[str, str | None],
) -> Iterator[str]:
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"+ {what} {name} {new[name] or ''}".rstrip()
        elif name not in new:
            yield f"- {what} {name}"
        elif old[name] != new[name]:
            yield f"  {what} {name}: {old[name]}, now {new[name]}"
