"""The YubiHSM's own log: its entries, and whether several fetches make one unbroken chain.

The device keeps the last 62 entries in a ring. Each has a 16-bit number, which wraps around, and a
digest: the first 16 bytes of SHA-256 over the entry's first 16 bytes and the digest before it.
After a reset the log starts with a line of ones, numbered 1, then a line for the boot.

The digest is no signature: who holds all entries can compute one. It shows that entries which were
fetched at different times, over the device's authenticated channel, are of one history.

Pure: nothing here talks to a device.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from yubihsm.defs import COMMAND

RING_SIZE = 62
ENTRY_SIZE = 32
_FORMAT = struct.Struct("!HBHHHHBL16s")
_DATA = slice(0, 16)
_NO_KEY = 0xFFFF
_RESET = b"\0\1" + b"\xff" * 14


class BrokenLogError(ValueError):
    """Entries that cannot all be what one device wrote."""


@dataclass(frozen=True)
class Entry:
    """One entry. ``session_key``, ``target_key`` and ``second_key`` are ids, 0xffff for none;
    ``result`` is the reply's code (the command's with its high bit set, or an error's); ``tick`` is
    the device's own clock, which starts at its boot."""

    number: int
    command: int
    length: int
    session_key: int
    target_key: int
    second_key: int
    result: int
    tick: int
    digest: bytes

    @classmethod
    def parse(cls, data: bytes) -> Entry:
        """Raises ValueError if it is not 32 bytes."""
        if len(data) != ENTRY_SIZE:
            raise ValueError(f"a log entry has {ENTRY_SIZE} bytes, not {len(data)}")
        return cls(*_FORMAT.unpack(data))

    def encode(self) -> bytes:
        """The 32 bytes."""
        return _FORMAT.pack(
            self.number,
            self.command,
            self.length,
            self.session_key,
            self.target_key,
            self.second_key,
            self.result,
            self.tick,
            self.digest,
        )

    @property
    def is_reset(self) -> bool:
        """The line that a reset leaves: nothing before it is in this log."""
        return self.encode()[_DATA] == _RESET

    @property
    def is_boot(self) -> bool:
        return self.command == 0 and self.session_key == _NO_KEY

    @property
    def succeeded(self) -> bool:
        return self.result == self.command | 0x80

    def follows(self, previous: Entry) -> bool:
        """Whether number and digest continue ``previous``."""
        digest = hashlib.sha256(self.encode()[_DATA] + previous.digest).digest()[:16]
        return self.number == (previous.number + 1) & 0xFFFF and self.digest == digest

    def __str__(self) -> str:
        try:
            command = COMMAND(self.command).name.lower().replace("_", "-")
        except ValueError:
            command = "boot" if self.is_boot else f"0x{self.command:02x}"
        result = "" if self.succeeded or self.is_boot else f", result 0x{self.result:02x}"
        return f"entry {self.number} ({command} on {self.target_key}{result})"


@dataclass(frozen=True)
class Continuation:
    """What a fetch adds to what was known.

    ``new`` are the entries after the last known one. ``gap`` says what is not known between them
    (None if they join): those entries are not lost track of, they are **unknown**.
    """

    new: tuple[Entry, ...]
    gap: str | None


def parse(entries: Iterable[bytes]) -> tuple[Entry, ...]:
    """Entries of 32 bytes each. Raises ValueError."""
    return tuple(Entry.parse(entry) for entry in entries)


def continued(last: Entry | None, fetched: Sequence[Entry]) -> Continuation:
    """Check a fetch, and join it to the last entry known from earlier ones.

    A fetch may begin with entries that are known already (they were not consumed), with the next
    one, or later, if the ring wrapped in between; numbers count modulo 65536.

    Raises:
        BrokenLogError: a digest does not follow from the entry before, or an entry that was
            fetched before now reads otherwise.
    """
    for previous, entry in pairwise(fetched):
        if not entry.follows(previous):
            raise BrokenLogError(f"{entry} does not follow {previous}: its number or digest")
    if not fetched:
        return Continuation((), None)
    first = fetched[0]
    if last is None:
        gap = None if first.is_reset else f"what came before {first}"
        return Continuation(tuple(fetched), gap)
    if last in fetched:
        return Continuation(tuple(fetched[fetched.index(last) + 1 :]), None)
    if first.follows(last):
        return Continuation(tuple(fetched), None)
    if first.is_reset:
        return Continuation(tuple(fetched), f"what came after {last}, before the device was reset")
    if any(entry.number == last.number for entry in fetched):
        raise BrokenLogError(f"{last} was fetched before, and now reads otherwise")
    lost = (first.number - last.number - 1) & 0xFFFF
    if lost == 0:
        raise BrokenLogError(f"{first} does not follow {last}: its digest")
    gap = f"{lost} entries (or 65536 more) between {last} and {first}"
    return Continuation(tuple(fetched), gap)
