"""Secrets of a ceremony: how they are made, and how long they live.

**Made** from two sources. 64 bytes of the device's random number generator and 64 bytes of the
operating system's go, each with its length before it, and after a name for the purpose, through
SHA-512; the secret is the beginning of the digest:

    SHA-512("sigsum-ops-ceremony-secret@v1" 00 purpose 00 || 00 40 || device || 00 40 || system)

Both inputs are longer than any secret and neither source sees the other's before it answers, so the
secret is as hard to guess as the better one of the two: a broken device does no harm while the
operating system is sound, and the other way round. The name keeps two secrets apart even if both
sources repeat themselves.

**Kept** in a bytearray that is overwritten when it is done with. Python cannot promise more: the
libraries that derive keys and talk to the device make short-lived copies of their own. So the
process is also kept from writing memory to a disk (``keep_memory_private``).
"""

from __future__ import annotations

import binascii
import ctypes
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sigsum_ops.errors import OpsError

_MAKE = b"sigsum-ops-ceremony-secret@v1\0"
_COMMIT = b"sigsum-ops-ceremony-commitment@v1\0"
_INPUT = 64  # bytes from each source
PASSPHRASE_BYTES = 32  # before they are written as hexadecimal digits

_PR_SET_DUMPABLE = 4


class Secret:
    """Bytes that do not show in a representation, and are gone after ``wipe``."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = bytearray(data)

    @property
    def raw(self) -> bytearray:
        """The bytes themselves, not a copy. ValueError after ``wipe``."""
        if not self._data:
            raise ValueError("this secret was wiped")
        return self._data

    @contextmanager
    def hexadecimal(self) -> Iterator[bytearray]:
        """As hexadecimal digits, which is how a passphrase is typed; wiped at the end."""
        digits = bytearray(binascii.hexlify(self.raw))
        try:
            yield digits
        finally:
            _overwrite(digits)

    def commitment(self, purpose: str, salt: str) -> str:
        """What may be published, to recognise the secret later by: SHA-256, in hexadecimal.

        The secrets are long and random, so it does not help anyone to guess them. ``salt`` is the
        hash of the ceremony's first line: the same secret in two ceremonies does not show.
        """
        head = _COMMIT + purpose.encode() + b"\0" + salt.encode() + b"\0"
        return hashlib.sha256(head + self.raw).hexdigest()

    def wipe(self) -> None:
        _overwrite(self._data)
        self._data = bytearray()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._data == other._data

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<secret>"


def make(
    purpose: str,
    length: int,
    device: Callable[[int], bytes],
    system: Callable[[int], bytes] = os.urandom,
) -> Secret:
    """A secret of ``length`` bytes (at most 64), mixed as this module's docstring says."""
    if not 16 <= length <= hashlib.sha512().digest_size:
        raise ValueError(f"a secret of {length} bytes cannot be made")
    digest = hashlib.sha512(_MAKE + purpose.encode() + b"\0")
    for name, source in (("device", device), ("operating system", system)):
        drawn = bytearray(source(_INPUT))
        if len(drawn) != _INPUT or len(set(drawn)) == 1:
            raise OpsError(
                f"the {name} gave no randomness ({len(drawn)} bytes, {len(set(drawn))} values)",
                hint="Do not use this device or machine for a ceremony.",
            )
        digest.update(_INPUT.to_bytes(2, "big"))
        digest.update(drawn)
        _overwrite(drawn)
    mixed = bytearray(digest.digest())
    secret = Secret(mixed[:length])
    _overwrite(mixed)
    return secret


def keep_memory_private() -> None:
    """No core dump and no debugger may take this process's memory to a disk."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OpsError(
            f"cannot forbid core dumps: {os.strerror(ctypes.get_errno())}",
            hint="Run the ceremony on Linux.",
        )


def swap_areas(swaps: Path = Path("/proc/swaps")) -> list[str]:
    """Where the kernel may write memory to, except compressed memory (zram)."""
    areas = [line.split()[0] for line in swaps.read_text().splitlines()[1:] if line.strip()]
    return [area for area in areas if not area.startswith("/dev/zram")]


def _overwrite(data: bytearray) -> None:
    for place in range(len(data)):
        data[place] = 0
