"""Sigsum policy files: which log, which witnesses, and how many of them must have cosigned.

The format is sigsum-go's doc/policy.md. A policy is refused here for what sigsum-go refuses it for,
with the number of the line, so that a log is never restarted on a file that it cannot read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import PublicKey

NONE = "none"
_FORMS = {
    "log": "log <public key in hex> [<url>]",
    "witness": "witness <name> <public key in hex> [<url>]",
    "group": "group <name> <all|any|number> <member>…",
    "quorum": "quorum <name of a witness or group, or none>",
}
# Octets that may appear: tab, printable ASCII, and anything with the high bit set.
_FORBIDDEN = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")


@dataclass(frozen=True)
class Entity:
    """A log or a witness; the URL is needed only by those who talk to it."""

    key: PublicKey
    url: str | None


@dataclass(frozen=True)
class Group:
    """Witnesses and groups by name, of which ``threshold`` must have cosigned."""

    threshold: int
    members: tuple[str, ...]


@dataclass
class Policy:
    """A parsed policy; ``quorum`` names a witness or a group, or is ``none``."""

    logs: list[Entity] = field(default_factory=list)
    witnesses: dict[str, Entity] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    quorum: str | None = None


def load(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        UsageError: unreadable, or malformed at the line that the message names.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the policy file: {error.strerror}") from error
    return parse(data, str(path))


def parse(data: bytes, source: str = "policy") -> Policy:
    """Parse the octets of a policy file; ``source`` starts the error messages."""
    policy = Policy()
    for number, line in enumerate(data.split(b"\n"), start=1):
        if bad := _FORBIDDEN.search(line):
            raise UsageError(f"{source}:{number}: control character 0x{bad[0].hex()}")
        # Only space and tab separate; names are opaque octets, which surrogateescape keeps apart.
        text = line.decode("utf-8", "surrogateescape")
        words = [word for word in re.split(r"[ \t]+", text) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            _apply(policy, words[0], words[1:])
        except UsageError as error:
            hint = error.hint
            if words[0] in _FORMS:
                hint = f"The form is: {_FORMS[words[0]]}"
            raise UsageError(f"{source}:{number}: {error.message}", hint=hint) from error
    if policy.quorum is None:
        raise UsageError(f"{source}: no quorum line", hint=f"One is needed: {_FORMS['quorum']}")
    return policy


def build(setting: object, log: tuple[PublicKey, str] | None = None) -> str:
    """The text of a policy file, from what an inventory says of its witnesses.

    Args:
        setting: ``witnesses`` by name, each with ``key`` and perhaps ``url``; ``groups`` by name,
            each with ``threshold`` and ``members``; ``quorum``.
        log: key and URL of a log line; None for the policy of a log, which needs none.

    Raises:
        UsageError: what cannot be right, with its place in the setting or in the text.
    """
    parts = _mapping(setting, "", {"witnesses", "groups", "quorum"})
    lines = [] if log is None else [f"log {log[0].hex} {log[1]}"]
    for name, witness in _mapping(parts.get("witnesses") or {}, "witnesses: ").items():
        place = f"witnesses: {name}: "
        fields = _mapping(witness, place, {"key", "url"})
        try:
            key = PublicKey.parse(str(fields.get("key")))
        except UsageError as error:
            raise UsageError(f"{place}{error.message}", hint=error.hint) from error
        url = f" {_word(fields['url'], f'{place}url ')}" if fields.get("url") else ""
        lines.append(f"witness {_word(name, place)} {key.hex}{url}")
    waiting = {
        name: _mapping(group, f"groups: {name}: ", {"threshold", "members"})
        for name, group in _mapping(parts.get("groups") or {}, "groups: ").items()
    }
    while waiting:
        # A group comes after those that it is made of.
        ready = [name for name, group in waiting.items() if not _members(group) & waiting.keys()]
        if not ready:
            raise UsageError(f"groups: {', '.join(sorted(waiting))} are made of each other")
        group = waiting.pop(ready[0])
        place = f"groups: {ready[0]}: "
        members = _members(group)
        if not members or len(members) != len(group["members"]):  # type: ignore[arg-type]
            hint = "a list of witnesses and groups, each once"
            raise UsageError(f"{place}members is {group.get('members')!r}", hint=hint)
        words = [ready[0], group.get("threshold"), *sorted(members)]
        lines.append(f"group {' '.join(_word(word, place) for word in words)}")
    lines.append(f"quorum {_word(parts.get('quorum'), 'quorum ')}")
    text = "".join(f"{line}\n" for line in lines)
    parse(text.encode(), "as a policy file, line")
    return text


def _mapping(value: object, place: str, allowed: Set[str] | None = None) -> Mapping[str, object]:
    """A mapping of the setting, with no other keys than those allowed."""
    wanted = f"a mapping with {', '.join(sorted(allowed))}" if allowed else "a mapping by name"
    if not isinstance(value, Mapping):
        raise UsageError(f"{place}is {value!r}", hint=wanted)
    for key in value:
        if not isinstance(key, str) or (allowed and key not in allowed):
            raise UsageError(f"{place}has {key!r}", hint=wanted)
    return value


def _word(value: object, place: str) -> str:
    """What stands between spaces in a policy file."""
    text = str(value)
    if not re.fullmatch(r"[^\s#]\S*", text):
        raise UsageError(f"{place}is {text!r}", hint="a single word")
    return text


def _members(group: Mapping[str, object]) -> set[str]:
    members = group.get("members")
    return set(map(str, members)) if isinstance(members, list | tuple) else set()


def _apply(policy: Policy, keyword: str, words: Sequence[str]) -> None:
    match keyword, words:
        case "log", [key] | [key, _]:
            _add_log(policy, _entity(key, words[1:]))
        case "witness", [name, key] | [name, key, _]:
            _add_witness(policy, name, _entity(key, words[2:]))
        case "group", [name, threshold, _, *_]:
            _add_group(policy, name, threshold, tuple(words[2:]))
        case "quorum", [name]:
            if policy.quorum is not None:
                raise UsageError("a second quorum line")
            if name != NONE:
                _defined(policy, name)
            policy.quorum = name
        case _ if keyword in _FORMS:
            raise UsageError(f"{keyword} line with {len(words)} words after it")
        case _:
            raise UsageError(
                f"unknown keyword {keyword!r}", hint=f"Allowed are: {', '.join(_FORMS)}"
            )


def _entity(key: str, url: Sequence[str]) -> Entity:
    return Entity(PublicKey.from_hex(key.lower()), url[0] if url else None)


def _add_log(policy: Policy, log: Entity) -> None:
    if any(log.key == other.key for other in policy.logs):
        raise UsageError(f"a second log line for the key {log.key.hex}")
    policy.logs.append(log)


def _add_witness(policy: Policy, name: str, witness: Entity) -> None:
    _undefined(policy, name)
    for other_name, other in policy.witnesses.items():
        if other.key == witness.key:
            raise UsageError(f"witness {name!r} has the key of witness {other_name!r}")
    policy.witnesses[name] = witness


def _add_group(policy: Policy, name: str, threshold: str, members: tuple[str, ...]) -> None:
    _undefined(policy, name)
    # A witness counts in one way only: a member of any group, or twice of this one, is taken.
    taken = {member for group in policy.groups.values() for member in group.members}
    for member in members:
        _defined(policy, member)
        if member in taken:
            raise UsageError(f"{member!r} is a member of a group already")
        taken.add(member)
    match threshold:
        case "any":
            needed = 1
        case "all":
            needed = len(members)
        case _ if threshold.isascii() and threshold.isdecimal():
            needed = int(threshold)
        case _:
            raise UsageError(f"threshold {threshold!r} is neither all, any nor a number")
    if not 1 <= needed <= len(members):
        raise UsageError(f"threshold {needed} in a group of {len(members)}")
    policy.groups[name] = Group(needed, members)


def _undefined(policy: Policy, name: str) -> None:
    if name == NONE or name in policy.witnesses or name in policy.groups:
        raise UsageError(f"the name {name!r} is defined already")


def _defined(policy: Policy, name: str) -> None:
    if name not in policy.witnesses and name not in policy.groups:
        raise UsageError(f"{name!r} is no witness or group defined on an earlier line")
