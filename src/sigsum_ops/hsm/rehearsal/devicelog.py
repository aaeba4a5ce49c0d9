"""The device's own log: a ring of 62 entries, each with a digest over itself and the one before.

An entry (YubiHSM 2, GET LOG ENTRIES) is number, command, length of the command's data, id of the
session's authentication key, target key, second key, result and tick, then 16 bytes of
SHA-256(entry, digest before). Where something does not apply it is 0xffff; the result is the
reply's command, or the error code. After a reset the log begins with an entry of 0xff, whose digest
is random, and one for the boot.

Written apart from ``sigsum_ops.hsm.devicelog``, which judges what real devices and this one write.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import sha256

from yubihsm.defs import ERROR

from sigsum_ops.hsm.rehearsal.frames import DeviceError

CAPACITY = 62
NOTHING = 0xFFFF
_DATA = struct.Struct("!HBHHHHBL")
_DIGEST_SIZE = 16
_MAX_COUNT = 0xFFFF


@dataclass
class DeviceLog:
    """The log, and what could not be logged. ``changes`` grows with each change of it."""

    entries: list[bytes]  # the oldest first, each of 32 bytes
    number: int  # of the last entry that was written
    digest: bytes  # its digest
    unlogged_boots: int = 0
    unlogged_authentications: int = 0
    changes: int = field(default=0, compare=False)

    @classmethod
    def after_reset(cls, seed: bytes) -> DeviceLog:
        """The log of a device that was reset; ``seed`` (16 bytes) starts the chain of digests."""
        log = cls([(1).to_bytes(2, "big") + b"\xff" * 14 + seed], 1, seed)
        log.boot(forced=False)
        return log

    @property
    def full(self) -> bool:
        """Whether the next entry would overwrite one that nobody has fetched."""
        return len(self.entries) >= CAPACITY

    def append(
        self,
        command: int,
        length: int,
        session_key: int,
        target_key: int,
        second_key: int,
        result: int,
        tick: int,
    ) -> None:
        """Write an entry; a full ring loses its oldest."""
        self.number = (self.number + 1) % 2**16
        data = _DATA.pack(
            self.number, command, length, session_key, target_key, second_key, result, tick
        )
        self.digest = sha256(data + self.digest).digest()[:_DIGEST_SIZE]
        self.entries = [*self.entries[-CAPACITY + 1 :], data + self.digest]
        self.changes += 1

    def boot(self, *, forced: bool) -> None:
        """Record that the device got power; ``forced`` is whether forced audit is on."""
        if forced and self.full:
            self.unlogged_boots = min(self.unlogged_boots + 1, _MAX_COUNT)
            self.changes += 1
        else:
            self.append(0, 0, NOTHING, 0, 0, 0, 0)

    def count_authentication(self) -> None:
        """Count a session that was opened while the log was full and audit forced."""
        self.unlogged_authentications = min(self.unlogged_authentications + 1, _MAX_COUNT)
        self.changes += 1

    def fetched(self, number: int) -> None:
        """Free all entries up to this one, which somebody has read.

        Raises:
            DeviceError: INVALID_DATA where no entry has that number.
        """
        numbers = [int.from_bytes(entry[:2], "big") for entry in self.entries]
        if number not in numbers:
            raise DeviceError(ERROR.INVALID_DATA)
        self.entries = self.entries[numbers.index(number) + 1 :]
        self.unlogged_boots = self.unlogged_authentications = 0
        self.changes += 1

    def encode(self) -> bytes:
        """The reply to GET_LOG_ENTRIES."""
        counts = struct.pack(
            "!HHB", self.unlogged_boots, self.unlogged_authentications, len(self.entries)
        )
        return counts + b"".join(self.entries)
