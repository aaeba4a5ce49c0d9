"""Frames: what goes to a YubiHSM 2 and comes back, and the device's way of saying no.

A frame is command (1 byte), length of the data (2 bytes, big endian), data. A reply has the command
with the top bit set; an error is command 0x7f and one byte, the error code.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeVar

from yubihsm.defs import ALGORITHM, COMMAND, ERROR, OBJECT

_HEADER = struct.Struct("!BH")
_REPLY = 0x80

_Named = TypeVar("_Named", ALGORITHM, OBJECT)


class DeviceError(Exception):
    """The device refuses, with one of its codes. Not for people: it becomes an error frame."""

    def __init__(self, code: ERROR) -> None:
        super().__init__(code.name)
        self.code = code


class Frame(NamedTuple):
    """One frame, either way."""

    command: int
    data: bytes

    def encode(self) -> bytes:
        """The bytes on the wire."""
        return _HEADER.pack(self.command, len(self.data)) + self.data


def parse(encoded: bytes) -> Frame:
    """Read one frame that fills ``encoded`` exactly, else WRONG_LENGTH."""
    if len(encoded) < _HEADER.size:
        raise DeviceError(ERROR.WRONG_LENGTH)
    command, length = _HEADER.unpack_from(encoded)
    if len(encoded) != _HEADER.size + length:
        raise DeviceError(ERROR.WRONG_LENGTH)
    return Frame(command, encoded[_HEADER.size :])


def reply(command: int, data: bytes = b"") -> Frame:
    """The answer to a command that was carried out."""
    return Frame(command | _REPLY, data)


def failure(code: ERROR) -> Frame:
    """The answer to a command that was not."""
    return Frame(COMMAND.ERROR, bytes([code]))


class Fields:
    """Reads a command's data from left to right; too little or too much of it is WRONG_LENGTH."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise DeviceError(ERROR.WRONG_LENGTH)
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, size: int) -> int:
        """The next ``size`` bytes as a big-endian number."""
        return int.from_bytes(self.take(size), "big")

    def named(self, kind: type[_Named]) -> _Named:
        """The next byte as an algorithm or object type; an unknown one is INVALID_DATA."""
        return named(kind, self.number(1))

    def rest(self) -> bytes:
        """All that is left, which may be nothing."""
        return self.take(len(self._data) - self._at)

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self._data) - self._at

    def end(self) -> None:
        """Refuse bytes that nobody asked for."""
        if self.left:
            raise DeviceError(ERROR.WRONG_LENGTH)


def named(kind: type[_Named], value: int) -> _Named:
    """``kind(value)``; a value that it does not have is INVALID_DATA."""
    try:
        return kind(value)
    except ValueError:
        raise DeviceError(ERROR.INVALID_DATA) from None
