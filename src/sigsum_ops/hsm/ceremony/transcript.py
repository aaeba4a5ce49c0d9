"""The transcript: an append-only file of canonical JSON lines, each with the hash of the last one.

    {"body":…,"kind":"opened","n":1,"prev":"00…00","time":"2026-01-31T09:00:00.000Z"}

``n`` counts from 1; ``prev`` is the SHA-256 of the bytes of the line before, without its newline,
64 zeros in the first line; ``body`` is a record of ``records.py``. A line is on the disk before
``append`` returns: what follows it (the next command, the next question) never happened without it.

After the closing line the file never changes. Its signatures, one file per participant in
``signatures/`` beside it, are over the bytes of the closing line without its newline, which by its
``prev`` stands for all lines.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.ceremony import canonical, records
from sigsum_ops.hsm.ceremony.canonical import Json
from sigsum_ops.hsm.ceremony.records import Closed, Opened, Participant, Record
from sigsum_ops.log.statefiles import sync_directory

NAMESPACE = "sigsum-ops-ceremony@v1"
SIGNATURES = "signatures"
NO_LINE = "0" * 64
_FIELDS = {"n", "prev", "time", "kind", "body"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)


@dataclass(frozen=True)
class Line:
    """One line. ``raw`` is its bytes without the newline; ``hash`` what the next line refers to."""

    n: int
    prev: str
    time: str
    record: Record
    raw: bytes

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()


class WrongLineError(Exception):
    """A line that cannot stand where it is. ``n`` counts lines of the file from 1."""

    def __init__(self, n: int, reason: str) -> None:
        super().__init__(f"line {n}: {reason}")
        self.n = n
        self.reason = reason


def encode(n: int, prev: str, time: str, record: Record) -> Line:
    """A line in its canonical form."""
    fields: dict[str, Json] = {
        "n": n,
        "prev": prev,
        "time": time,
        "kind": record.kind,
        "body": records.to_json(record),
    }
    return Line(n, prev, time, record, canonical.dumps(fields))


def decode(raw: bytes, n: int) -> Line:
    """The line with its record, which is the ``n``-th of the file.

    Raises:
        WrongLineError: not canonical JSON, not of a line's form, or not numbered ``n``.
    """
    try:
        fields = canonical.loads(raw)
        if not isinstance(fields, dict) or fields.keys() != _FIELDS:
            raise ValueError(f"not an object of {', '.join(sorted(_FIELDS))}")
        number, prev, time, kind = (fields[name] for name in ("n", "prev", "time", "kind"))
        if type(number) is not int or number != n:
            raise ValueError(f"is numbered {number}: a line is missing, doubled or out of place")
        if not isinstance(prev, str) or not re.fullmatch(r"[0-9a-f]{64}", prev):
            raise ValueError("prev is not a SHA-256 in hexadecimal")
        if not isinstance(time, str) or not _is_time(time):
            raise ValueError("time is not of the form 2026-01-31T09:00:00.000Z")
        return Line(n, prev, time, records.parse(cast(str, kind), fields["body"]), raw)
    except ValueError as error:
        raise WrongLineError(n, str(error)) from error


def decode_all(data: bytes) -> list[Line]:
    """Every line of a whole file, chained from the first to the last.

    Raises:
        WrongLineError: the first line that is not as it was written, as far as the file itself
            shows: where two neighbours do not fit, the line after them may vouch for one.
    """
    *whole, rest = data.split(b"\n")
    if not whole and not rest:
        raise WrongLineError(1, "the file is empty")
    lines = [decode(raw, n) for n, raw in enumerate(whole, 1)]
    check_chain(lines)
    if rest:
        raise WrongLineError(len(whole) + 1, "is cut off: it has no newline")
    return lines


def check_chain(lines: Sequence[Line], *, last_is_intact: bool = True) -> None:
    """Raise WrongLineError for the first line that does not fit.

    Args:
        last_is_intact: whether something else (a signature) vouches for the last line. If so, a
            misfit between it and the one before is the fault of the one before.
    """
    prev = NO_LINE
    for n, line in enumerate(lines, 1):
        if line.prev != prev:
            vouched = lines[n].prev == line.hash if n < len(lines) else last_is_intact
            if n > 1 and vouched:
                raise WrongLineError(n - 1, f"is not the line that line {n} was written after")
            raise WrongLineError(n, "does not refer to the line before it")
        prev = line.hash


class Transcript:
    """Appends to a transcript; resumes one. A context manager that holds the file's lock.

    ``lines`` are all lines so far. ``discarded_bytes`` counts those of a line that was being
    written when the power went: nothing that depended on it happened, so it was cut off.
    """

    def __init__(self, path: Path) -> None:
        """Open for appending, or create; what is there is verified first.

        Raises:
            OpsError: another process writes to it, it cannot be written, or a line of it is wrong.
        """
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OpsError(f"cannot open {path}: {error.strerror}") from error
        try:
            self.lines, self.discarded_bytes = self._take_over()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _take_over(self) -> tuple[list[Line], int]:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OpsError(f"another process writes to {self.path}") from error
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = decode_all(whole) if whole else []
        except WrongLineError as error:
            raise OpsError(
                f"{self.path}: {error}",
                hint="This record was changed; it cannot be gone on with. Keep it, and ask why.",
            ) from error
        if len(whole) < len(data):
            os.ftruncate(self._descriptor, len(whole))
        os.fsync(self._descriptor)
        sync_directory(self.path.parent)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        return lines, len(data) - len(whole)

    @property
    def head(self) -> str:
        """The hash of the last line: it stands for everything so far."""
        return self.lines[-1].hash if self.lines else NO_LINE

    @property
    def opened(self) -> Opened:
        """The first line's record. Raises OpsError while there is none."""
        first = self.lines[0].record if self.lines else None
        if not isinstance(first, Opened):
            raise OpsError(f"{self.path} does not begin with the opening record")
        return first

    @property
    def closed(self) -> bool:
        return bool(self.lines) and isinstance(self.lines[-1].record, Closed)

    def append(self, record: Record) -> Line:
        """Write one line; it survives a power cut once this returns.

        Raises:
            OpsError: the transcript is closed, or the disk failed; the file is then as before.
        """
        if self.closed:
            raise OpsError(f"{self.path} is closed; nothing can be added")
        if isinstance(record, Opened) != (not self.lines):
            raise OpsError("a transcript has one opening record, which comes first")
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        number = len(self.lines) + 1
        # What could not be read back is a bug, best found now.
        line = decode(encode(number, self.head, now, record).raw, number)
        before = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        try:
            _write_all(self._descriptor, line.raw + b"\n")
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, before)
            os.lseek(self._descriptor, before, os.SEEK_SET)
            raise OpsError(f"cannot write to {self.path}: {error.strerror}") from error
        self.lines.append(line)
        return line

    def close(self, participants: Sequence[Participant]) -> Line:
        """Write the closing record, which the participants then sign. Once only."""
        opened = self.opened
        return self.append(
            Closed(
                ceremony=opened.ceremony,
                lines=len(self.lines) + 1,
                plan_hash=opened.plan_hash,
                mode=opened.mode,
                participants=tuple(participants),
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)


def signature_file(transcript: Path, participant: str) -> Path:
    """Where a participant's signature is."""
    return transcript.parent / SIGNATURES / f"{participant}.sig"


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
