"""The journal of every tree head that the oracle signed, or was about to sign.

A text file that only grows. The first line binds it to the log; each further line is one tree
head, larger than the one before::

    sigsum-oracle-journal/v1 <key hash> <checksum>
    <size, 19 digits> <root hash> <Unix time> <checksum>

The checksum is the CRC-32, in hex, of every byte of the file before it. So the last one covers the
whole file, which is checked at the speed of the disk when it is opened, and any two neighbours are
checked when one is looked up. All lines have one length: a size is found by bisection in the file,
which takes no memory however old the log becomes (330 MB for a year of a new tree head every 10 s).

A line is synced to the disk before ``append`` returns, and nothing is signed before that. So a last
line that is not whole was never acknowledged: the power failed, and it is cut off. Anything else
that is not as it was written is damage, which is refused: to guess would be to sign a second tree.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.oracle import PROCEDURE
from sigsum_ops.log.statefiles import sync_directory
from sigsum_ops.log.treehead import MAX_NUMBER, TreeHead

MAGIC = "sigsum-oracle-journal/v1"

_HEADER = re.compile(rb"sigsum-oracle-journal/v1 ([0-9a-f]{64}) ([0-9a-f]{8})\n")
_RECORD = re.compile(rb"([0-9]{19}) ([0-9a-f]{64}) ([0-9]{10}) ([0-9a-f]{8})\n")
_HEADER_SIZE = len(MAGIC) + 75
_RECORD_SIZE = 105
_END = 9  # bytes of a line's checksum and newline
_CHUNK = 1 << 20

# What may stand at each place of a line that was cut short.
_FORM = [*[b"0123456789"] * 19, b" ", *[b"0123456789abcdef"] * 64, b" ", *[b"0123456789"] * 10]
_FORM += [b" ", *[b"0123456789abcdef"] * 8]


class JournalError(OpsError):
    """What was signed is not known, or cannot be written down: nothing may be signed."""


@dataclass(frozen=True)
class Record:
    """One line: a tree head, and when it was written (Unix seconds)."""

    head: TreeHead
    time: int


def create(path: Path, key_hash: str, head: TreeHead) -> None:
    """Begin a journal with the tree head that a person vouches for; never over an existing one.

    It belongs to the owner of its directory, also where root makes it.

    Raises:
        JournalError: there is one, or the disk does not take it.
    """
    header = _line(f"{MAGIC} {key_hash} ", 0)
    data = header + _line(_text(head), zlib.crc32(header))
    try:
        owner = path.parent.stat()
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(stream.fileno(), 0o640)
                if os.geteuid() == 0:
                    os.fchown(stream.fileno(), owner.st_uid, owner.st_gid)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, path)  # unlike a rename, it replaces nothing
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_directory(path.parent)
    except FileExistsError as error:
        raise JournalError(f"{path}: there is a journal already") from error
    except OSError as error:
        raise JournalError(f"{path}: cannot be written: {error.strerror}") from error


class Journal:
    """An open journal: ``first`` and ``last`` records, how many, and a root by its size.

    Open for writing by one process at a time. ``cut`` is the length of an unfinished last line
    that opening it has removed.
    """

    def __init__(self, path: Path, descriptor: int, key_hash: str, *, writable: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._broken = False
        self._crc = 0  # of the whole file
        size = os.fstat(descriptor).st_size
        self._check_header(key_hash, size)
        self.records, self.cut = divmod(size - _HEADER_SIZE, _RECORD_SIZE)
        if not self.records:
            raise self._damaged(2, "no tree head follows")
        self._end = size - self.cut
        self._check_all()
        self._check_cut()
        if writable and self.cut:
            os.ftruncate(descriptor, self._end)
            os.fsync(descriptor)
        self.first = self._record(0)
        self.last = self._record(self.records - 1)

    @classmethod
    def open(cls, path: Path, key_hash: str, *, writable: bool = True) -> Self:
        """Open and check the whole file. To look at it beside a running oracle: not writable.

        Args:
            path: the file.
            key_hash: of the log's key, which the journal must be about.
            writable: also lock it, and cut off a last line that was never acknowledged.

        Raises:
            JournalError: there is none, it is damaged or another log's, or another process has it.
        """
        flags = os.O_RDWR | os.O_APPEND if writable else os.O_RDONLY
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise JournalError(
                f"{path}: there is no journal, so what this log has signed is not known",
                hint="A new log's begins with `sigsum-ops oracle seed --empty`; on a machine that"
                " takes over a log, with `sigsum-ops oracle seed --sth FILE`. A journal that was"
                f" lost: {PROCEDURE}",
            ) from error
        except OSError as error:
            raise JournalError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            if writable:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, descriptor, key_hash, writable=writable)
        except BlockingIOError as error:
            os.close(descriptor)
            raise JournalError(
                f"{path}: in use by another process",
                hint="Stop the oracle first: systemctl stop sigsum-oracle",
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise JournalError(f"{path}: cannot be read: {error.strerror}") from error
        except JournalError:
            os.close(descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def root_at(self, size: int) -> bytes | None:
        """The root that is journaled for this size.

        Raises:
            JournalError: the file was damaged since it was opened.
        """
        if size == self.last.head.size:
            return self.last.head.root
        low, high = 0, self.records
        while low < high:
            middle = (low + high) // 2
            record = self._record(middle)
            if record.head.size == size:
                return record.head.root
            if record.head.size < size:
                low = middle + 1
            else:
                high = middle
        return None

    def append(self, head: TreeHead) -> None:
        """Journal a larger tree head; when this returns, it survives a power cut.

        Raises:
            JournalError: the disk does not take it. The file is as it was before, or not used again
                until it was read anew.
        """
        if head.size <= self.last.head.size:
            raise ValueError(f"size {head.size} is not larger than {self.last.head.size}")
        if self._broken:
            raise JournalError(f"{self.path}: an earlier write failed and could not be undone")
        line = _line(_text(head), self._crc)
        try:
            if os.write(self._descriptor, line) != len(line):
                raise OSError(0, "no space left")
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._take_back()
            raise JournalError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._crc = zlib.crc32(line, self._crc)
        self._end += len(line)
        self.records += 1
        self.last = _parse(line)

    def _take_back(self) -> None:
        # After a failed sync the kernel may take the page for written: what is there is not known.
        try:
            os.ftruncate(self._descriptor, self._end)
            os.fdatasync(self._descriptor)
        except OSError:
            self._broken = True

    def _check_header(self, key_hash: str, size: int) -> None:
        header = os.pread(self._descriptor, _HEADER_SIZE, 0)
        match = _HEADER.fullmatch(header)
        if not match or int(match[2], 16) != zlib.crc32(header[:-_END]):
            raise self._damaged(1, "not a journal's first line" if size else "the file is empty")
        if match[1].decode() != key_hash:
            raise JournalError(
                f"{self.path}: the journal of the log with key hash {match[1].decode()},"
                f" not of {key_hash}",
                hint="Look at public_key in the oracle's configuration, and at who moved the file.",
            )

    def _check_all(self) -> None:
        """Compare the last checksum with all that is before it."""
        crc, at = 0, 0
        while at < self._end - _END:
            chunk = os.pread(self._descriptor, min(_CHUNK, self._end - _END - at), at)
            if not chunk:
                break
            crc = zlib.crc32(chunk, crc)
            at += len(chunk)
        end = os.pread(self._descriptor, _END, self._end - _END)
        if end != b"%08x\n" % crc:
            raise self._damaged(self._first_wrong_line(), "not as it was written")
        self._crc = zlib.crc32(end, crc)

    def _first_wrong_line(self) -> int:
        for number in range(self.records):
            try:
                self._record(number)
            except JournalError:
                return number + 2
        return self.records + 1

    def _check_cut(self) -> None:
        rest = os.pread(self._descriptor, self.cut, self._end)
        if any(byte not in allowed for byte, allowed in zip(rest, _FORM, strict=False)):
            raise self._damaged(self.records + 2, "not the beginning of a line either")

    def _record(self, index: int) -> Record:
        at = _HEADER_SIZE + index * _RECORD_SIZE
        data = os.pread(self._descriptor, _END + _RECORD_SIZE, at - _END)
        before, line = data[:_END], data[_END:]
        try:
            crc = zlib.crc32(before, int(before[:-1], 16))
            if line[-_END:] != b"%08x\n" % zlib.crc32(line[:-_END], crc):
                raise ValueError
            return _parse(line)
        except ValueError as error:
            raise self._damaged(index + 2, "not as it was written") from error

    def _damaged(self, line: int, what: str) -> JournalError:
        return JournalError(
            f"{self.path}: line {line}: {what}",
            hint="The journal is damaged, so what this log has signed is not known, and nothing is"
            f" signed. Do not edit it: {PROCEDURE}, section 4.",
        )


def _text(head: TreeHead) -> str:
    return f"{head.size:019d} {head.root.hex()} {int(time.time()):010d} "


def _line(text: str, crc: int) -> bytes:
    data = text.encode()
    return data + b"%08x\n" % zlib.crc32(data, crc)


def _parse(line: bytes) -> Record:
    match = _RECORD.fullmatch(line)
    if not match or int(match[1]) > MAX_NUMBER:
        raise ValueError("not a record")
    return Record(TreeHead(int(match[1]), bytes.fromhex(match[2].decode())), int(match[3]))
