"""The device's log: parsing, the chain over several fetches, wrap-around, and what is unknown."""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yubihsm.core import LogEntry
from yubihsm.defs import COMMAND

from sigsum_ops.hsm.devicelog import RING_SIZE, BrokenLogError, Entry, continued, parse

RESET = Entry.parse(b"\0\1" + b"\xff" * 14 + bytes(range(16)))


def after(previous: Entry, command: int = COMMAND.SIGN_EDDSA) -> Entry:
    """The entry that a device would write next, by the formula and not by the code under test."""
    data = struct.pack(
        "!HBHHHHBL", (previous.number + 1) & 0xFFFF, command, 9, 2, 500, 0xFFFF, command | 0x80, 5
    )
    return Entry.parse(data + hashlib.sha256(data + previous.digest).digest()[:16])


def log(length: int, first: Entry = RESET) -> list[Entry]:
    entries = [first]
    while len(entries) < length:
        entries.append(after(entries[-1]))
    return entries


def test_it_reads_what_the_library_reads() -> None:
    entry = log(3)[2]
    theirs = LogEntry.parse(entry.encode())
    assert dataclasses.astuple(entry) == dataclasses.astuple(theirs)
    assert theirs.validate(LogEntry.parse(log(3)[1].encode()))
    assert entry.follows(log(3)[1])


def test_an_entry_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        parse([bytes(31)])


@given(st.integers(2, RING_SIZE), st.integers(0, 61), st.integers(0, 61))
def test_fetches_join_wherever_they_are_cut(length: int, seen: int, kept: int) -> None:
    entries = log(length)
    seen = seen % length + 1
    kept = min(kept, seen)  # what of it was not consumed, and comes again
    first = continued(None, entries[:seen])
    assert (first.new, first.gap) == (tuple(entries[:seen]), None)
    more = continued(entries[seen - 1], entries[seen - kept :])
    assert (more.new, more.gap) == (tuple(entries[seen:]), None)


@given(st.integers(0, 9), st.integers(0, 31), st.integers(1, 255))
def test_any_changed_byte_shows(which: int, byte: int, flip: int) -> None:
    entries = log(12)[1:]  # the predecessor of the first is known, as after a first fetch
    data = bytearray(entries[which].encode())
    data[byte] ^= flip
    changed = [*entries[:which], Entry.parse(bytes(data)), *entries[which + 1 :]]
    try:
        result = continued(RESET, changed)
    except BrokenLogError:
        return
    # Only a change of the first entry's number can pass for something else: entries lost before it.
    assert which == 0
    assert result.gap is not None


def test_numbers_wrap_around() -> None:
    almost = dataclasses.replace(RESET, number=0xFFFE, command=1)
    entries = log(5, almost)
    assert [entry.number for entry in entries] == [0xFFFE, 0xFFFF, 0, 1, 2]
    assert continued(entries[0], entries[1:]).gap is None
    assert continued(entries[1], entries[2:]).new == tuple(entries[2:])


def test_a_ring_that_lost_entries_says_what_is_unknown() -> None:
    entries = log(70)
    result = continued(entries[3], entries[-RING_SIZE:])
    assert result.new == tuple(entries[-RING_SIZE:])
    assert result.gap is not None
    assert "4 entries" in result.gap


def test_a_first_fetch_that_does_not_begin_with_the_reset_has_an_unknown_past() -> None:
    assert "came before" in str(continued(None, log(9)[2:]).gap)


def test_a_reset_begins_a_new_history() -> None:
    fresh = [Entry.parse(b"\0\1" + b"\xff" * 14 + b"\3" * 16)]
    fresh.append(after(fresh[0]))
    result = continued(log(20)[-1], fresh)
    assert result.new == tuple(fresh)
    assert "reset" in str(result.gap)


def test_history_that_now_reads_otherwise_is_an_error() -> None:
    known = log(6)
    other = [known[0], after(known[0], COMMAND.DELETE_OBJECT)]
    other += [after(other[-1])]
    with pytest.raises(BrokenLogError, match="now reads otherwise"):
        continued(known[2], other[1:])
    with pytest.raises(BrokenLogError, match="does not follow"):
        continued(known[0], [after(dataclasses.replace(known[0], digest=bytes(16)))])


def test_nothing_new_is_no_gap() -> None:
    assert continued(RESET, []).new == ()
    assert continued(RESET, [RESET]).new == ()
