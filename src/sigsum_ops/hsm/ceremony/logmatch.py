"""A device's own log against the commands on record: nothing left out, nothing invented.

Only commands that the plan audits are compared; sessions and reading are not among them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony import records
from sigsum_ops.hsm.ceremony.records import Command, Create, Export, Import, KeyId, ObjectRef, Sign
from sigsum_ops.hsm.devicelog import Entry


@dataclass(frozen=True)
class Recorded:
    """A command and its line; ``command`` is None where an interrupt may have swallowed one."""

    n: int
    command: Command | None


# Every way to read the record so far: where in it, and the entries that interrupts explain.
_Ways = dict[int, tuple[Entry, ...]]


class MismatchError(ValueError):
    """``n`` is the line of the record that the mismatch shows in."""

    def __init__(self, n: int, reason: str) -> None:
        super().__init__(reason)
        self.n = n


def compare(
    entries: Sequence[tuple[int, Entry]], recorded: Sequence[Recorded], audited: Collection[str]
) -> list[str]:
    """Match log and record of one device, from its reset to the last time the log was read.

    Args:
        entries: the device's log, each entry with the line it was read in.
        recorded: the commands in the same time.
        audited: the commands that the device was told to log.

    Returns:
        Notes: entries for which the record has only an interrupt.

    Raises:
        MismatchError: a logged command that is not on record, or the other way round.
    """
    pattern = list(_pattern(recorded, audited))
    numbers = {names.COMMANDS[name] for name in audited}
    logged = [(n, entry) for n, entry in entries if entry.command in numbers]
    ways = _skip(pattern, {0: ()})
    for n, entry in logged:
        further: _Ways = {}
        for position, explained in ways.items():
            if position == len(pattern):
                continue
            item = pattern[position]
            if item.command is None:
                further.setdefault(position + 1, (*explained, entry))
            elif _matches(entry, item.command):
                further[position + 1] = min(
                    further.get(position + 1, explained), explained, key=len
                )
        if not further:
            there = _next(pattern, ways)
            raise MismatchError(n, f"its log goes on with {entry}, the record {there}")
        ways = _skip(pattern, further)
    if len(pattern) not in ways:
        missing = pattern[max(ways)]
        raise MismatchError(missing.n, f"its log ends, the record {_next(pattern, ways)}")
    return [f"an interrupt left out of the record: {entry}" for entry in ways[len(pattern)]]


@dataclass(frozen=True)
class _Item:
    n: int
    command: Command | None
    optional: bool


def _pattern(recorded: Sequence[Recorded], audited: Collection[str]) -> Iterator[_Item]:
    """Up to the command that turns auditing on, and where no reply came, an entry is optional.

    Devices before firmware 2.3.1 need no such command: they audit from their reset.
    """
    on = not any(item.command and _turns_auditing_on(item.command) for item in recorded)
    for item in recorded:
        command = item.command
        if command is None:
            yield _Item(item.n, None, optional=True)
        elif command.command in audited:
            turns_on = _turns_auditing_on(command)
            lost = command.error == records.NO_REPLY
            yield _Item(item.n, command, optional=not on or turns_on or lost)
            on = on or turns_on


def _turns_auditing_on(command: Command) -> bool:
    given = command.parameters
    is_option = isinstance(given, records.Option) and given.option == "command-audit"
    return command.command == "set-option" and is_option and command.error is None


def _skip(pattern: Sequence[_Item], ways: _Ways) -> _Ways:
    """Add the positions that are reached by passing over optional items."""
    found = dict(ways)
    for position in range(min(ways), len(pattern)):
        if position in found and pattern[position].optional:
            best = found[position]
            found[position + 1] = min(found.get(position + 1, best), best, key=len)
    return found


def _next(pattern: Sequence[_Item], ways: _Ways) -> str:
    """What the record has at the furthest place that it was followed to."""
    if len(pattern) in ways:
        return "ends"
    item = pattern[max(ways)]
    return f"with {item.command.command if item.command else 'an interrupt'} (line {item.n})"


def _matches(entry: Entry, command: Command) -> bool:
    if entry.command != names.COMMANDS[command.command]:
        return False
    if entry.session_key != command.session_key:
        return False
    if command.error != records.NO_REPLY and entry.succeeded != (command.error is None):
        return False
    match command.parameters:
        case Create(object=new):
            return entry.target_key == new.id
        case ObjectRef(id=number) | KeyId(id=number) | Sign(id=number):
            return entry.target_key == number
        case records.ChangeSecret(id=number) | records.Attest(id=number):
            return entry.target_key == number
        case Export(wrap_key=number) | Import(wrap_key=number):
            return number in (entry.target_key, entry.second_key)
    return True
