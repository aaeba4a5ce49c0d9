"""How many signatures the device was asked for: what an audit compares the device's own log with.

One line, written in place, within one sector of the disk::

    sigsum-oracle-signatures/v1 <id> <given> <lost> <lost at> <pending> <checksum>

It says so before the device is told to sign, and is synced then: so after a power cut too, the
device has not signed more often than the line allows. What is missing at worst is that an answer
came. The checksum is the CRC-32, in hex, of the line before it.

Signing does not depend on what the file holds. Where it is lost or damaged, a new count begins with
another id, and the audit says that it does not know.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sigsum_ops.errors import OpsError
from sigsum_ops.log.statefiles import write_durably

_LINE = re.compile(
    rb"(sigsum-oracle-signatures/v1 ([0-9a-f]{16}) ([0-9]{19}) ([0-9]{19}) ([0-9]{10}) ([01]) )"
    rb"([0-9a-f]{8})\n"
)
_TRIES = 5  # to read a line that is being written


@dataclass(frozen=True)
class Count:
    """The line.

    ``given`` signatures came from the device; ``lost`` commands to sign got no answer, the last at
    ``lost_at`` (Unix seconds), and the device may have signed or not; one is ``pending``, or none.
    """

    id: str
    given: int = 0
    lost: int = 0
    lost_at: int = 0
    pending: bool = False

    def encode(self) -> bytes:
        """The line; all have one length."""
        text = f"{self.given:019d} {self.lost:019d} {self.lost_at:010d} {self.pending:d} "
        data = f"sigsum-oracle-signatures/v1 {self.id} {text}".encode()
        return data + b"%08x\n" % zlib.crc32(data)

    def without_answer(self) -> Count:
        """After a command that got no answer."""
        return replace(self, lost=self.lost + 1, lost_at=int(time.time()), pending=False)


def parse(data: bytes) -> Count:
    """Raises ValueError where it is not the line as it was written."""
    match = _LINE.fullmatch(data)
    if not match or int(match[7], 16) != zlib.crc32(match[1]):
        raise ValueError("not as it was written")
    given, lost, lost_at, pending = map(int, match.group(3, 4, 5, 6))
    return Count(match[2].decode(), given, lost, lost_at, bool(pending))


def read(path: Path) -> Count | None:
    """The count as of now, beside a running oracle; None where none was ever begun.

    Raises:
        OpsError: it cannot be read, or is damaged.
    """
    for left in reversed(range(_TRIES)):
        try:
            return parse(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OpsError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            if not left:
                raise OpsError(
                    f"{path}: {error}", hint="A restart of the oracle begins a new count."
                ) from error
            time.sleep(0.01)
    raise AssertionError


class Counter:
    """The oracle's end of it. Used from one thread of one process."""

    def __init__(self, path: Path, descriptor: int, count: Count) -> None:
        self.path = path
        self.count = count
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Go on counting, or begin; what an earlier oracle left pending was lost with it.

        Raises:
            OpsError: the disk does not take it.
        """
        try:
            try:
                count = parse(path.read_bytes())
            except (FileNotFoundError, ValueError):
                count = Count(secrets.token_hex(8))
                write_durably(path, count.encode())
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise OpsError(f"{path}: cannot be written: {error.strerror}") from error
        counter = cls(path, descriptor, count)
        if count.pending:
            counter._write(count.without_answer())
        return counter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @contextmanager
    def asked(self, no: type[Exception]) -> Iterator[None]:
        """Count the command to sign that the block sends, and what comes of it.

        Args:
            no: what the block raises where the device answers that it did not sign.

        Raises:
            OSError: the disk does not take it, and the block is not entered.
        """
        self._write(replace(self.count, pending=True))
        os.fdatasync(self._descriptor)
        after = self.count.without_answer()
        try:
            yield
            after = replace(self.count, given=self.count.given + 1, pending=False)
        except no:
            after = replace(self.count, pending=False)
            raise
        finally:
            # The next one is synced. Until then the disk may say that one is pending.
            with suppress(OSError):
                self._write(after)

    def _write(self, count: Count) -> None:
        self.count = count
        os.pwrite(self._descriptor, count.encode(), 0)
