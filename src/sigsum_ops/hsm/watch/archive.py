"""The archive of a device's log: a text file that only grows, one for each device.

The first line binds it to the device, the others are those of ``account``; each ends with the
CRC-32, in hex, of every byte of the file before it::

    sigsum-hsm-audit/v1 <serial> <checksum>
    <line> <checksum>

What is appended is synced to the disk before the device may forget it. So a last line that is not
whole was still on the device: it is cut off, and fetched again. Anything else that is not as it was
written is damage.
"""

from __future__ import annotations

import fcntl
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Self

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.watch import PROCEDURE
from sigsum_ops.hsm.watch.account import Account
from sigsum_ops.log.statefiles import sync_directory

_HEADER = re.compile(r"sigsum-hsm-audit/v1 ([0-9]{1,10})", re.ASCII)
_END = 10  # bytes of a line's checksum, with a space before and a newline after it


class ArchiveError(OpsError):
    """What the device did is not known, or cannot be written down."""


class Archive:
    """An open archive. ``cut`` is the length of an unfinished last line that was found."""

    def __init__(self, path: Path, file: BinaryIO, serial: int, account: Account) -> None:
        self.path = path
        self.account = account
        self.cut = 0
        self._file = file
        self._crc = 0
        self._size = 0
        self._broken = False
        if os.fstat(file.fileno()).st_size:
            self._load(serial)

    @classmethod
    def open(cls, path: Path, serial: int, *, key: int, user: int, writable: bool = True) -> Self:
        """Open, or begin, and check the whole file. To look at it beside its service: not writable.

        Args:
            path: the file.
            serial: of the device.
            key: the signing key whose account it is.
            user: the authentication key that uses it.
            writable: also lock it, and cut off an unfinished last line.

        Raises:
            ArchiveError: it is damaged or another device's, or another process has it.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if writable else os.O_RDONLY
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be opened: {error.strerror}") from error
        file = os.fdopen(descriptor, "r+b" if writable else "rb")
        try:
            if writable:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            archive = cls(path, file, serial, Account(key, user))
            if writable:
                archive._begin(serial)
        except BlockingIOError as error:
            file.close()
            raise ArchiveError(
                f"{path}: in use by another process",
                hint="Stop the service first: systemctl stop sigsum-hsm-audit",
            ) from error
        except OSError as error:
            file.close()
            raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from error
        except BaseException:
            file.close()
            raise
        return archive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def append(self, lines: Iterable[str]) -> None:
        """Add lines, and bring the account up to them; when this returns, they survive a power cut.

        Raises:
            ArchiveError: the disk does not take it. The file is as it was before, or not used again
                until it was read anew.
        """
        if self._broken:
            raise ArchiveError(f"{self.path}: an earlier write failed and could not be undone")
        lines = list(lines)
        data, crc = _encode(lines, self._crc)
        try:
            if os.write(self._file.fileno(), data) != len(data):
                raise OSError(0, "no space left")
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._take_back()
            raise ArchiveError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._crc = crc
        self._size += len(data)
        for line in lines:
            self.account.apply(line)

    def _take_back(self) -> None:
        # After a failed sync the kernel may take the page for written: what is there is not known.
        try:
            os.ftruncate(self._file.fileno(), self._size)
            os.fdatasync(self._file.fileno())
        except OSError:
            self._broken = True

    def _begin(self, serial: int) -> None:
        """Cut off what was never finished, and write the first line of a new file."""
        if self.cut:
            os.ftruncate(self._file.fileno(), self._size)
            os.fsync(self._file.fileno())
        if self._size:
            return
        if os.geteuid() == 0:  # it belongs to the owner of its directory, also where root makes it
            owner = self.path.parent.stat()
            os.fchown(self._file.fileno(), owner.st_uid, owner.st_gid)
        data, self._crc = _encode([f"sigsum-hsm-audit/v1 {serial}"], 0)
        os.write(self._file.fileno(), data)
        os.fsync(self._file.fileno())
        sync_directory(self.path.parent)
        self._size = len(data)
        self.account.lines = 1

    def _load(self, serial: int) -> None:
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self.cut = len(line)
                break
            body = line[:-_END]
            try:
                crc = zlib.crc32(body, self._crc)
                if line[-_END:] != b" %08x\n" % crc:
                    raise ValueError("not as it was written")
                text = body.decode()
                if number == 1:
                    self._check_header(text, serial)
                else:
                    self.account.apply(text)
            except ValueError as error:
                raise ArchiveError(
                    f"{self.path}: line {number}: {error}",
                    hint=f"The archive is damaged. Do not edit it: {PROCEDURE}, section 4.",
                ) from error
            self._crc = zlib.crc32(line[-_END:], crc)
            self._size += len(line)

    def _check_header(self, text: str, serial: int) -> None:
        match = _HEADER.fullmatch(text)
        if not match:
            raise ValueError("not an archive's first line")
        if int(match[1]) != serial:
            raise ArchiveError(
                f"{self.path}: the archive of YubiHSM {match[1]}, not of {serial}",
                hint="Each device has an archive of its own.",
            )
        self.account.lines = 1


def _encode(lines: Iterable[str], crc: int) -> tuple[bytes, int]:
    """The bytes of lines that follow what has this checksum, and the checksum after them."""
    data = bytearray()
    for line in lines:
        body = line.encode()
        crc = zlib.crc32(body, crc)
        end = b" %08x\n" % crc
        crc = zlib.crc32(end, crc)
        data += body + end
    return bytes(data), crc
