"""Tree heads as a Sigsum log writes and signs them (log.md, C2SP's tlog-checkpoint).

The parsers take exactly what log-go writes: lines in their order, each ended by one newline,
numbers in decimal without a leading zero. In its files and answers a line is ``key=value``, bytes
are in lower-case hexadecimal; in what is signed they are in canonical base64.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import SIGNATURE_SIZE, PublicKey
from sigsum_ops.log.merkle import EMPTY_ROOT, HASH_SIZE

ORIGIN_PREFIX = "sigsum.org/v1/tree/"
COSIGNATURE_HEADER = "cosignature/v1"
_ED25519 = b"\x01"  # C2SP's signed-note: the type of a log's signature
MAX_NUMBER = 2**63 - 1  # Sigsum's integers are signed 64-bit numbers that are not negative


@dataclass(frozen=True)
class TreeHead:
    """A tree's size in leaves and its root hash (32 bytes)."""

    size: int
    root: bytes

    def __str__(self) -> str:
        return f"size {self.size}, root {self.root.hex()}"

    def checkpoint(self, log_key: PublicKey) -> bytes:
        """The checkpoint body: the very bytes that the log with this key signs."""
        return self.body(log_origin(log_key))

    def body(self, origin: str) -> bytes:
        """The checkpoint body of a log with this origin (C2SP's tlog-checkpoint)."""
        root = base64.b64encode(self.root).decode()
        return f"{origin}\n{self.size}\n{root}\n".encode()


EMPTY_TREE_HEAD = TreeHead(0, EMPTY_ROOT)


@dataclass(frozen=True)
class SignedTreeHead:
    """A tree head with the log's signature (64 bytes), not verified by being here."""

    head: TreeHead
    signature: bytes

    def verify(self, log_key: PublicKey) -> None:
        """Check that this log signed this tree head.

        The origin is part of what is signed and is made from the key, so another log's tree head
        does not pass even if it was signed with the same key under another origin.

        Raises:
            BadSignature: it did not.
        """
        log_key.verify(self.signature, self.head.checkpoint(log_key))


@dataclass(frozen=True)
class Cosignature:
    """A witness's cosignature: hash of its key (hex), time (Unix seconds), signature."""

    key_hash: str
    timestamp: int
    signature: bytes


@dataclass(frozen=True)
class CosignatureMessage:
    """What a witness signs: that at this time (Unix seconds) this was the log's largest head."""

    origin: str
    timestamp: int
    head: TreeHead


@dataclass(frozen=True)
class CosignedTreeHead:
    """What get-tree-head answers; cosignatures in the order of the answer."""

    signed: SignedTreeHead
    cosignatures: tuple[Cosignature, ...]


def log_origin(log_key: PublicKey) -> str:
    """The first line of what the log with this key signs."""
    return f"{ORIGIN_PREFIX}{log_key.hash}"


def key_id(origin: str, key: PublicKey) -> bytes:
    """By which a signed note names a log's key (C2SP's signed-note, Ed25519), 4 bytes."""
    return sha256(origin.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def verifier_key(origin: str, key: PublicKey) -> str:
    """A log's key as witnesses are given it (C2SP's signed-note): with its origin and its id."""
    encoded = base64.b64encode(_ED25519 + key.raw).decode()
    return f"{origin}+{key_id(origin, key).hex()}+{encoded}"


def parse_checkpoint(data: bytes, log_key: PublicKey) -> TreeHead:
    """Parse a checkpoint body of the log with this key: the inverse of ``TreeHead.checkpoint``.

    No extension lines: a Sigsum log has none.

    Raises:
        UsageError: it is another log's, or not a checkpoint body; with the number of the line.
    """
    return parse_body(data, {log_origin(log_key)})[1]


def parse_body(data: bytes, origins: Collection[str]) -> tuple[str, TreeHead]:
    """Parse a checkpoint body of a log with one of these origins: the inverse of ``TreeHead.body``.

    Raises:
        UsageError: it is another log's, or not a checkpoint body; with the number of the line.
    """
    return _checkpoint(_lines(data), origins)


def cosignature_message(origin: str, timestamp: int, head: TreeHead) -> bytes:
    """What a witness signs (tlog-cosignature, Ed25519) for what it saw at a time (Unix seconds)."""
    return f"{COSIGNATURE_HEADER}\ntime {timestamp}\n".encode() + head.body(origin)


def parse_cosignature_message(data: bytes, origins: Collection[str]) -> CosignatureMessage:
    """Parse what a witness signs for a log of these origins (tlog-cosignature, Ed25519).

    Raises:
        UsageError: another origin's, or not such a message; with the number of the line.
    """
    lines = _lines(data)
    number, line = _next(lines, "the header")
    if line != COSIGNATURE_HEADER:
        raise UsageError(f"line {number}: {line[:60]!r} where {COSIGNATURE_HEADER} is expected")
    number, line = _next(lines, "the time")
    if not line.startswith("time "):
        raise UsageError(f"line {number}: {line[:60]!r} where the time is expected")
    timestamp = _number(number, line.removeprefix("time "))
    origin, head = _checkpoint(lines, origins)
    return CosignatureMessage(origin, timestamp, head)


def parse_signed_tree_head(data: bytes) -> SignedTreeHead:
    """Parse log-go's sth file.

    Raises:
        UsageError: with the number of the line that is not what it must be.
    """
    parsed = parse_cosigned_tree_head(data)
    if parsed.cosignatures:
        raise UsageError("line 4: a cosignature, where nothing may follow the signature")
    return parsed.signed


def parse_cosigned_tree_head(data: bytes) -> CosignedTreeHead:
    """Parse the body of a get-tree-head response.

    Raises:
        UsageError: with the number of the line that is not what it must be.
    """
    lines = _lines(data)
    size = _number(*_value(lines, "size"))
    root = _bytes(*_value(lines, "root_hash"), HASH_SIZE)
    signature = _bytes(*_value(lines, "signature"), SIGNATURE_SIZE)
    cosignatures: dict[str, Cosignature] = {}
    for number, line in lines:
        value = _cut(number, line, "cosignature")
        fields = value.split(" ")
        if len(fields) != 3:
            raise UsageError(f"line {number}: cosignature has {len(fields)} fields, not 3")
        key_hash = _bytes(number, fields[0], HASH_SIZE).hex()
        if key_hash in cosignatures:
            raise UsageError(f"line {number}: second cosignature by {key_hash}")
        cosignatures[key_hash] = Cosignature(
            key_hash,
            _number(number, fields[1]),
            _bytes(number, fields[2], SIGNATURE_SIZE),
        )
    return CosignedTreeHead(
        SignedTreeHead(TreeHead(size, root), signature), tuple(cosignatures.values())
    )


def _checkpoint(lines: Iterator[tuple[int, str]], origins: Collection[str]) -> tuple[str, TreeHead]:
    """The three lines of a checkpoint body, one of these origins and nothing after it."""
    number, origin = _next(lines, "the origin")
    if origin not in origins:
        raise UsageError(f"line {number}: {origin[:100]!r} is not an origin to sign for")
    number, line = _next(lines, "the size")
    size = _number(number, line)
    number, line = _next(lines, "the root hash")
    root = _base64(number, line)
    for number, line in lines:
        raise UsageError(f"line {number}: {line[:60]!r} where nothing may follow the root hash")
    return origin, TreeHead(size, root)


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Numbered lines, from 1; the last must be ended too."""
    *ended, rest = data.split(b"\n")
    for number, line in enumerate(ended, start=1):
        try:
            yield number, line.decode("ascii")
        except UnicodeDecodeError as error:
            raise UsageError(f"line {number}: not ASCII") from error
    if rest:
        raise UsageError(f"line {len(ended) + 1}: does not end with a newline")


def _value(lines: Iterator[tuple[int, str]], key: str) -> tuple[int, str]:
    number, line = _next(lines, f"{key}=")
    return number, _cut(number, line, key)


def _next(lines: Iterator[tuple[int, str]], expected: str) -> tuple[int, str]:
    number, line = next(lines, (0, ""))
    if not number:
        raise UsageError(f"ends where {expected} is expected")
    return number, line


def _cut(number: int, line: str, key: str) -> str:
    found, equals, value = line.partition("=")
    if found != key or not equals:
        raise UsageError(f"line {number}: {line[:60]!r} where {key}= is expected")
    return value


def _number(line: int, text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) > MAX_NUMBER:
        raise UsageError(
            f"line {line}: {text[:60]!r} is not a number from 0 to {MAX_NUMBER},"
            " in decimal without leading zeros"
        )
    return int(text)


def _bytes(line: int, text: str, size: int) -> bytes:
    if not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
        raise UsageError(
            f"line {line}: {text[:20]!r}… is not {2 * size} lower-case hexadecimal digits"
        )
    return bytes.fromhex(text)


def _base64(line: int, text: str) -> bytes:
    """A hash in base64 as encoders write it: padded, and no bits beyond the last byte."""
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        value = b""
    if len(value) != HASH_SIZE or base64.b64encode(value).decode() != text:
        raise UsageError(f"line {line}: {text[:60]!r} is not {HASH_SIZE} bytes in base64")
    return value
