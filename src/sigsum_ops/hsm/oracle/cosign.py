"""What a witness's oracle signs: cosignatures that never go back, and its way into a bastion.

litewitness proves that a tree head extends the one before, which it has in its database. A database
that is lost or rolled back, by a restored backup or a machine's snapshot, forgets what was
cosigned, and the next history is as good to it as the first. So the oracle keeps what it was last
asked to cosign, of each log, in a place and a form of its own. It signs nothing smaller, and no
other root of the same size; and ``sigsum-ops witness guard`` compares the two before each start.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Self

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.oracle import handshake
from sigsum_ops.hsm.oracle.approve import Refused
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.statefiles import read_if_there, sync_directory, write_durably
from sigsum_ops.log.treehead import (
    COSIGNATURE_HEADER,
    TreeHead,
    parse_body,
    parse_cosignature_message,
)

# The witness's clock is this machine's: what differs by more than the wait for the device is not
# what litewitness writes.
MAX_SKEW = 60  # seconds


class Cosigned:
    """The last tree head of each log, in a file each: a checkpoint body (C2SP's tlog-checkpoint).

    The directory is made once, when a person says that the key has never cosigned (``begin``).
    Without it nothing is known of what was cosigned, and nothing is signed.

    The file is named by the SHA-256 of the log's origin, in hex. Each tree head is on the disk
    before it is signed, so what is here was signed, or was about to be.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, TreeHead] = {}
        if not directory.is_dir():
            raise OpsError(
                f"{directory} is not there: what this witness has cosigned is not known",
                hint="A key that has never cosigned begins with `sigsum-ops witness begin`. One"
                " that has must not begin anew: docs/witness.md",
            )

    @classmethod
    def begin(cls, directory: Path) -> Self:
        """Make the directory of a key that has never cosigned; it belongs to its parent's owner.

        Raises:
            OpsError: it is there, or cannot be made.
        """
        try:
            owner = directory.parent.stat()
            directory.mkdir(mode=0o755)
            # litewitness's guard reads it, whatever the umask.
            directory.chmod(0o755)
            if os.geteuid() == 0:
                os.chown(directory, owner.st_uid, owner.st_gid)
            sync_directory(directory.parent)
        except OSError as error:
            raise OpsError(f"{directory}: cannot be begun: {error.strerror}") from error
        return cls(directory)

    def last(self, origin: str) -> TreeHead | None:
        """The last one of a log; None where none was ever cosigned.

        Raises:
            OpsError: what is there cannot be read, or is not what was written.
        """
        if origin not in self._known:
            path = self._path(origin)
            try:
                data = read_if_there(path)
            except OSError as error:
                raise OpsError(f"{path}: cannot be read: {error.strerror}") from error
            if data is None:
                return None
            self._known[origin] = _parsed(path, data, {origin})[1]
        return self._known[origin]

    def append(self, origin: str, head: TreeHead) -> None:
        """Put a larger one in the place of the last.

        Raises:
            OpsError: the disk does not take it.
        """
        try:
            write_durably(self._path(origin), head.body(origin))
        except OSError as error:
            raise OpsError(f"{self._path(origin)}: cannot be written: {error.strerror}") from error
        self._known[origin] = head

    def all(self) -> Iterator[tuple[str, TreeHead]]:
        """Origin and tree head of each log, as they are on the disk.

        Raises:
            OpsError: what is there cannot be read, or is not what was written.
        """
        try:
            # A name with a point is being written.
            paths = sorted(path for path in self._directory.iterdir() if path.suffix == "")
            files = [(path, path.read_bytes()) for path in paths if path.name[0] != "."]
        except OSError as error:
            raise OpsError(f"{self._directory}: cannot be read: {error}") from error
        for path, data in files:
            yield _parsed(path, data, {data.partition(b"\n")[0].decode(errors="replace")})

    def _path(self, origin: str) -> Path:
        return self._directory / _name(origin)


class WitnessApprover:
    """Cosignatures for the logs that are configured, none of them smaller than the one before.

    Args:
        origins: of the logs.
        cosigned: what was signed so far.
        handshake_key: the witness's key, where it also opens connections to a bastion.
        now: the time (Unix seconds).
    """

    def __init__(
        self,
        origins: Collection[str],
        cosigned: Cosigned,
        handshake_key: PublicKey | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._origins = frozenset(origins)
        self._cosigned = cosigned
        self._handshake_key = handshake_key
        self._now = now

    def approve(self, data: bytes) -> str | None:
        """Parse, compare with what was cosigned before, and write down what is new."""
        try:
            if self._handshake_key and not data.startswith(COSIGNATURE_HEADER.encode()):
                handshake.check(data, self._handshake_key, self._now())
                return None
            message = parse_cosignature_message(data, self._origins)
        except UsageError as error:
            raise Refused("malformed", f"not a cosignature to make: {error.message}") from error
        if abs(message.timestamp - self._now()) > MAX_SKEW:
            raise Refused("not-now", f"dated {message.timestamp}, which is not now")
        head, origin = message.head, message.origin
        try:
            last = self._cosigned.last(origin)
            if last == head:
                return None
            if last and head.size <= last.size:
                # Two requests may overtake each other. Where it goes on, the database was put back.
                was = "a larger one" if head.size < last.size else "another tree of the same size"
                raise Refused("rolled-back", f"{head}: of {origin} {was} was cosigned, {last}")
            self._cosigned.append(origin, head)
        except OpsError as error:
            if isinstance(error, Refused):
                raise
            raise Refused("journal", str(error)) from error
        return None


def _name(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()


def _parsed(path: Path, data: bytes, origins: Collection[str]) -> tuple[str, TreeHead]:
    try:
        origin, head = parse_body(data, origins)
        if path.name != _name(origin):
            raise UsageError(f"it is about {origin!r}, whose file has another name")
    except UsageError as error:
        raise OpsError(
            f"{path}: damaged: {error.message}",
            hint="What was cosigned for this log is not known: docs/witness.md",
        ) from error
    return origin, head
