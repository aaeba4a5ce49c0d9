"""The archive of a log's published tree heads: a text file that only grows.

The first line binds it to the log; each further line is one tree head, larger than the one before,
as the log signed it, with the time (Unix seconds) and the URL at which it was first seen, and the
consistency proof (node hashes between commas, ``-`` for none) from the line before::

    sigsum-head-archive/v1 <key hash> <checksum>
    <size> <root hash> <signature> <time> <URL> <proof> <checksum>

So whoever has the log's public key can verify all of it, offline: the signatures show that the log
signed each tree head, the proofs that each extends the one before (RFC 9162 section 2.1.4). The
checksum, the CRC-32 in hex of every byte of the file before it, finds what neither covers. A line
has about 300 bytes, and 65 for each node of its proof: 1 kB in a tree of a hundred thousand leaves.

A line is synced to the disk before ``append`` returns. So a last line that is not whole was never
kept: the power failed, and it is cut off. Anything else that is not as it was written is damage.

Two tree heads that the log signed and of which neither extends the other are a split view. They
are kept in files beside the archive, ``split-view-….json``, which nothing here overwrites or
removes. A tree head that the log signed and did not prove, say because it died after it answered,
was published all the same: it is kept beside the archive in ``unproven-….sth``, in the form of
log-go's sth file, until a proof shows that it goes with the archive, or not. So each log wants a
directory of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from sigsum_ops.errors import OpsError
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.statefiles import remove_durably, sync_directory, write_durably
from sigsum_ops.log.treehead import (
    EMPTY_TREE_HEAD,
    MAX_NUMBER,
    SignedTreeHead,
    TreeHead,
    parse_signed_tree_head,
)

MAGIC = "sigsum-head-archive/v1"
# Files of either kind: a log that goes on with a second history, or without proofs, shows a new
# tree head of it every few seconds.
MAX_EVIDENCE = 100

_HEADER = re.compile(rb"sigsum-head-archive/v1 ([0-9a-f]{64}) [0-9a-f]{8}\n")
_LINE = re.compile(
    rb"(0|[1-9][0-9]{0,18}) ([0-9a-f]{64}) ([0-9a-f]{128}) ([0-9]{10}) ([!-~]+)"
    rb" (-|[0-9a-f]{64}(?:,[0-9a-f]{64})*) [0-9a-f]{8}\n"
)
# What a line that was cut short can be.
_BEGINNING = re.compile(
    rb"[0-9]{1,19}(?: [0-9a-f]{0,64}(?: [0-9a-f]{0,128}(?: [0-9]{0,10}(?: [!-~]*"
    rb"(?: (?:-|(?:[0-9a-f]{64},)*[0-9a-f]{0,64})(?: [0-9a-f]{0,8})?)?)?)?)?)?"
)
_LONGEST = 1 << 14  # bytes of a line; no URL and no proof makes one as long
_END = 9  # bytes of a line's checksum and newline


class ArchiveError(OpsError):
    """What was published is not known, or cannot be written down."""


class InUse(ArchiveError):  # noqa: N818 - an outcome that is waited for, no failure of ours
    """Another process has the archive open for writing."""


@dataclass(frozen=True)
class Kept:
    """One line: a signed tree head, when and where it was first seen, and the proof up to it.

    ``path`` is the consistency proof from the line before; of the first line, from the empty tree,
    which needs none.
    """

    signed: SignedTreeHead
    time: int
    url: str
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Checked:
    """What a whole archive was verified to hold; ``cut`` is the length of an unfinished line."""

    heads: int
    first: Kept
    last: Kept
    cut: int


@dataclass(frozen=True)
class SplitView:
    """Two tree heads that the log signed, and that do not go together.

    ``other-root``: their size is the same, and the two signatures show all. ``not-proven``: the log
    was asked for the proof between them, and gave this ``path``, which does not verify.
    """

    kind: Literal["other-root", "not-proven"]
    kept: SignedTreeHead
    found: SignedTreeHead
    path: tuple[bytes, ...] | None
    url: str
    message: str


def read(path: Path, log_key: PublicKey) -> Iterator[SignedTreeHead]:
    """The tree heads in their order, each with its signature and its proof verified.

    Can be read beside the service that writes it.

    Raises:
        ArchiveError: there is no archive, it is damaged, another log's, or does not verify.
    """
    with _opened(path) as file:
        for kept in _verified(_Lines(path, file, log_key), log_key):
            yield kept.signed


def last(path: Path, log_key: PublicKey) -> SignedTreeHead:
    """The largest tree head, its signature verified; of the others only that they are as written.

    Raises:
        ArchiveError: there is none, or the archive is damaged or another log's.
    """
    with _opened(path) as file:
        kept = _last(_Lines(path, file, log_key), log_key)
    if kept is None:
        raise _empty(path)
    return kept.signed


def check(path: Path, log_key: PublicKey) -> Checked:
    """Verify everything: form, checksums, signatures, proofs.

    Raises:
        ArchiveError: with the line that is wrong, or because no tree head is in it.
    """
    with _opened(path) as file:
        lines = _Lines(path, file, log_key)
        verified = _verified(lines, log_key)
        first = next(verified, None)
        if first is None:
            raise _empty(path)
        newest = deque([first], 1)
        newest.extend(verified)
        return Checked(lines.heads, first, newest[0], lines.cut)


def unproven(path: Path, log_key: PublicKey) -> list[SignedTreeHead]:
    """The tree heads beside the archive at ``path`` that nobody has proven, the smallest first.

    Raises:
        ArchiveError: a file that is not as it was written.
    """
    found = []
    for file in path.parent.glob("unproven-*.sth"):
        try:
            signed = parse_signed_tree_head(file.read_bytes())
            signed.verify(log_key)
        except OSError as error:
            raise ArchiveError(f"{file}: cannot be read: {error.strerror}") from error
        except OpsError as error:
            raise ArchiveError(
                f"{file}: {error.message}", hint="It is damaged, or another log's. Move it aside."
            ) from error
        found.append(signed)
    return sorted(found, key=lambda signed: signed.head.size)


def seen(path: Path, log_key: PublicKey) -> list[SignedTreeHead]:
    """What a tree has to extend, to extend all that is here: ``unproven`` ones, and the last.

    Raises:
        ArchiveError: there is no archive, or it is damaged or another log's.
    """
    with _opened(path) as file:
        kept = _last(_Lines(path, file, log_key), log_key)
    return [*unproven(path, log_key), *([kept.signed] if kept else [])]


def evidence(path: Path) -> list[Path]:
    """The split views that are kept beside the archive at ``path``."""
    return sorted(path.parent.glob("split-view-*.json"))


class Archive:
    """An archive that is open for writing, by one process at a time.

    ``last`` is its largest tree head, ``heads`` how many it has, ``unproven`` what is beside it,
    ``cut`` the length of an unfinished last line that opening it has removed.
    """

    def __init__(self, path: Path, file: BinaryIO, log_key: PublicKey) -> None:
        self.path = path
        self._file = file
        self._log_key = log_key
        self._broken = False
        lines = _Lines(path, file, log_key)
        self.last = _last(lines, log_key)
        self.heads = lines.heads
        self.cut = lines.cut
        self.unproven = tuple(unproven(path, log_key))
        self._crc = lines.crc
        self._size = lines.end
        if self.cut:
            os.ftruncate(file.fileno(), self._size)
            os.fsync(file.fileno())
        if not self._size:
            self._begin()

    @classmethod
    def open(cls, path: Path, log_key: PublicKey) -> Self:
        """Open, or begin, and check that all lines are as they were written.

        Raises:
            ArchiveError: it is damaged or another log's, or another process has it.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            file = os.fdopen(os.open(path, flags, 0o644), "r+b")
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(path, file, log_key)
        except BlockingIOError as error:
            file.close()
            raise InUse(
                f"{path}: in use by another process",
                hint="The service sigsum-head-archive follows the log already.",
            ) from error
        except OSError as error:
            file.close()
            raise ArchiveError(f"{path}: cannot be read: {error.strerror}") from error
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, signed: SignedTreeHead, url: str, path: tuple[bytes, ...]) -> None:
        """Keep a larger tree head; when this returns, it survives a power cut.

        Args:
            signed: the tree head.
            url: where it was seen; printable ASCII without a space.
            path: the consistency proof from ``last``.

        Raises:
            ProofError: it is not signed by the log, or not shown to extend ``last``.
            ArchiveError: the disk does not take it. The file is as it was before, or not used again
                until it was read anew.
        """
        kept = Kept(signed, int(time.time()), url, path)
        _verify(self.last, kept, self._log_key)
        if self._broken:
            raise ArchiveError(f"{self.path}: an earlier write failed and could not be undone")
        line = _line(_text(kept), self._crc)
        try:
            if os.write(self._file.fileno(), line) != len(line):
                raise OSError(0, "no space left")
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._take_back()
            raise ArchiveError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._crc = zlib.crc32(line, self._crc)
        self._size += len(line)
        self.heads += 1
        self.last = kept

    def find(self, size: int) -> SignedTreeHead | None:
        """The tree head of this size. Reads the file up to it, unless it is the last.

        Raises:
            ArchiveError: the file was damaged since it was opened.
        """
        if self.last and self.last.signed.head.size == size:
            return self.last.signed
        with _opened(self.path) as file:
            for line in _Lines(self.path, file, self._log_key):
                if int(line[1]) >= size:
                    return _kept(line).signed if int(line[1]) == size else None
        return None

    def keep_unproven(self, signed: SignedTreeHead) -> None:
        """Keep a tree head beside the archive; where there are too many, the smallest goes.

        Raises:
            ArchiveError: the disk does not take it.
        """
        if signed in self.unproven:
            return
        path = self._beside(signed)
        text = "".join(f"{name}={value}\n" for name, value in fields_of(signed).items())
        try:
            write_durably(path, text.encode())
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be written: {error.strerror}") from error
        self.unproven = (*self.unproven, signed)
        if len(self.unproven) > MAX_EVIDENCE:
            self.forget_unproven(min(self.unproven, key=lambda one: one.head.size))

    def forget_unproven(self, signed: SignedTreeHead) -> None:
        """It was judged, or never was unproven.

        Raises:
            ArchiveError: it cannot be removed.
        """
        if signed not in self.unproven:
            return
        path = self._beside(signed)
        try:
            remove_durably(path)
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be removed: {error.strerror}") from error
        self.unproven = tuple(one for one in self.unproven if one != signed)

    def _beside(self, signed: SignedTreeHead) -> Path:
        name = f"unproven-{signed.head.size}-{sha256(signed.signature).hexdigest()[:16]}.sth"
        return self.path.with_name(name)

    def keep_evidence(self, split: SplitView) -> Path | None:
        """Write a split view to a file beside the archive, unless this one is there already.

        Returns:
            The file; None where ``MAX_EVIDENCE`` others are there, which say enough.

        Raises:
            ArchiveError: the disk does not take it.
        """
        heads = (split.kept.head, split.found.head)
        digest = sha256(b"".join(head.checkpoint(self._log_key) for head in heads)).hexdigest()
        name = f"split-view-{heads[0].size}-{heads[1].size}-{digest[:16]}.json"
        path = self.path.with_name(name)
        there = evidence(self.path)
        if path in there:
            return path
        if len(there) >= MAX_EVIDENCE:
            return None
        try:
            write_durably(path, _evidence(split, self._log_key))
        except OSError as error:
            raise ArchiveError(f"{path}: cannot be written: {error.strerror}") from error
        return path

    def _take_back(self) -> None:
        # After a failed sync the kernel may take the page for written: what is there is not known.
        try:
            os.ftruncate(self._file.fileno(), self._size)
            os.fdatasync(self._file.fileno())
        except OSError:
            self._broken = True

    def _begin(self) -> None:
        descriptor = self._file.fileno()
        os.fchmod(descriptor, 0o644)  # it holds nothing but what was published
        if os.geteuid() == 0:  # it belongs to the owner of its directory, also where root makes it
            owner = self.path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        header = _header(self._log_key)
        os.write(descriptor, header)
        os.fsync(descriptor)
        sync_directory(self.path.parent)
        self._crc = zlib.crc32(header)
        self._size = len(header)


class _Lines:
    """The lines of a file after the first, each shown to be as it was written; see ``_kept``.

    After the last one, ``end`` is where the whole lines end, ``cut`` how many bytes follow, ``crc``
    the checksum of the whole lines and ``heads`` their number, without the first.
    """

    def __init__(self, path: Path, file: BinaryIO, log_key: PublicKey) -> None:
        self.end = self.cut = self.crc = self.heads = 0
        self._path = path
        self._readline = partial(file.readline, _LONGEST)
        self._log_key = log_key

    def __iter__(self) -> Iterator[re.Match[bytes]]:
        try:
            if not self._read_header():
                return
            for line in iter(self._readline, b""):
                if not line.endswith(b"\n"):
                    if not _BEGINNING.fullmatch(line):
                        raise self.wrong("not the beginning of a line either")
                    self.cut = len(line)
                    return
                yield self._matched(line)
        except OSError as error:
            raise ArchiveError(f"{self._path}: cannot be read: {error.strerror}") from error

    def wrong(self, what: str, *, line: int | None = None) -> ArchiveError:
        """The error about a line (from 1); by default the one after those that were read."""
        return ArchiveError(
            f"{self._path}: line {line or self.heads + 2}: {what}",
            hint="The archive is damaged. Do not edit it: move it aside, keep it, and look for the"
            " cause. A new one begins with what the log publishes now; other machines have theirs.",
        )

    def _read_header(self) -> bool:
        expected = _header(self._log_key)
        line = self._readline()
        if line == expected:
            self.end, self.crc = len(line), zlib.crc32(line)
            return True
        if expected.startswith(line):  # it was being begun
            self.cut = len(line)
            return False
        found = _HEADER.fullmatch(line)
        if found and line == _line(f"{MAGIC} {found[1].decode()} ", 0):
            raise ArchiveError(
                f"{self._path}: the archive of the log with key hash {found[1].decode()},"
                f" not of {self._log_key.hash}",
                hint="Each log has an archive of its own.",
            )
        raise self.wrong("not an archive's first line", line=1)

    def _matched(self, line: bytes) -> re.Match[bytes]:
        match = _LINE.fullmatch(line)
        crc = zlib.crc32(line[:-_END], self.crc)
        if not match or line[-_END:] != b"%08x\n" % crc or int(match[1]) > MAX_NUMBER:
            raise self.wrong("not as it was written")
        self.crc = zlib.crc32(line[-_END:], crc)
        self.end += len(line)
        self.heads += 1
        return match


def _kept(line: re.Match[bytes]) -> Kept:
    size, root, signature, when, url, proof = (field.decode() for field in line.groups())
    return Kept(
        SignedTreeHead(TreeHead(int(size), bytes.fromhex(root)), bytes.fromhex(signature)),
        int(when),
        url,
        () if proof == "-" else tuple(map(bytes.fromhex, proof.split(","))),
    )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise ArchiveError(
            f"{path}: there is no archive of tree heads",
            hint="`sigsum-ops archive follow` begins one.",
        ) from error
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be opened: {error.strerror}") from error


def _empty(path: Path) -> ArchiveError:
    return ArchiveError(
        f"{path}: no tree head is in it yet", hint="The log has not answered since it was begun."
    )


def _last(lines: _Lines, log_key: PublicKey) -> Kept | None:
    newest = deque(lines, 1)
    if not newest:
        return None
    kept = _kept(newest[0])
    try:
        kept.signed.verify(log_key)
    except ProofError as error:
        raise lines.wrong(error.message, line=lines.heads + 1) from error
    return kept


def _verified(lines: _Lines, log_key: PublicKey) -> Iterator[Kept]:
    previous = None
    for line in lines:
        kept = _kept(line)
        try:
            _verify(previous, kept, log_key)
        except ProofError as error:
            raise lines.wrong(error.message, line=lines.heads + 1) from error
        yield kept
        previous = kept


def _verify(previous: Kept | None, kept: Kept, log_key: PublicKey) -> None:
    """Check the signature of a line, and the proof from the one before. Raises ProofError."""
    kept.signed.verify(log_key)
    new, old = kept.signed.head, previous.signed.head if previous else EMPTY_TREE_HEAD
    if previous and new.size <= old.size:
        raise ProofError(f"size {new.size} is not larger than {old.size}")
    verify_consistency(old.size, old.root, new.size, new.root, kept.path)


def _header(log_key: PublicKey) -> bytes:
    return _line(f"{MAGIC} {log_key.hash} ", 0)


def _text(kept: Kept) -> str:
    signed = kept.signed
    proof = ",".join(node.hex() for node in kept.path) or "-"
    return (
        f"{signed.head.size} {signed.head.root.hex()} {signed.signature.hex()}"
        f" {kept.time:010d} {kept.url} {proof} "
    )


def _line(text: str, crc: int) -> bytes:
    data = text.encode()
    return data + b"%08x\n" % zlib.crc32(data, crc)


def _evidence(split: SplitView, log_key: PublicKey) -> bytes:
    sizes = sorted((split.kept.head.size, split.found.head.size))
    fields = {
        "kind": split.kind,
        "message": split.message,
        "log_public_key": log_key.ssh,
        "kept": fields_of(split.kept),
        "found": {**fields_of(split.found), "url": split.url, "time": int(time.time())},
        "proof": None
        if split.path is None
        else {
            "old_size": sizes[0],
            "new_size": sizes[1],
            "node_hashes": [node.hex() for node in split.path],
        },
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def fields_of(signed: SignedTreeHead) -> dict[str, Any]:
    """A signed tree head for JSON, with log.md's names."""
    head = signed.head
    return {
        "size": head.size,
        "root_hash": head.root.hex(),
        "signature": signed.signature.hex(),
    }
