"""Ed25519 keys as Sigsum writes them: OpenSSH lines, hex, and hashes of the raw public key."""

from __future__ import annotations

import base64
import binascii
import re
import stat
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from sigsum_ops.errors import UsageError
from sigsum_ops.log.merkle import ProofError

KEY_SIZE = 32
SIGNATURE_SIZE = 64
_ALGORITHM = "ssh-ed25519"
# RFC 8709 section 4: string "ssh-ed25519", string key; each string with its length in 4 bytes.
_BLOB_PREFIX = b"\x00\x00\x00\x0b" + _ALGORITHM.encode() + b"\x00\x00\x00\x20"
_ALLOWED = (
    "Allowed is one Ed25519 public key: an OpenSSH line (ssh-ed25519 AAAA… comment),"
    " or 64 lower-case hexadecimal digits."
)


class BadSignature(ProofError):  # noqa: N818 - the name says it
    """A signature is not by that key over that message."""


@dataclass(frozen=True)
class PublicKey:
    """A raw Ed25519 public key, 32 bytes; whether it is a point on the curve shows when used."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_SIZE:
            raise UsageError(f"public key of {len(self.raw)} bytes, not {KEY_SIZE}", hint=_ALLOWED)

    @classmethod
    def from_ssh(cls, line: str) -> PublicKey:
        """Read one OpenSSH public key line: ``ssh-ed25519 <base64> [comment]``."""
        text = line.strip()
        if "\n" in text:
            raise UsageError("more than one line where one public key belongs", hint=_ALLOWED)
        algorithm, _, rest = text.partition(" ")
        if algorithm != _ALGORITHM:
            raise UsageError(f"not an Ed25519 public key: {_shown(algorithm)}", hint=_ALLOWED)
        encoded = rest.split(maxsplit=1)[0] if rest.strip() else ""
        try:
            blob = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(
                f"ssh-ed25519 key that is not base64: {_shown(encoded)}", hint=_ALLOWED
            ) from error
        raw = blob.removeprefix(_BLOB_PREFIX)
        if not blob.startswith(_BLOB_PREFIX) or len(raw) != KEY_SIZE:
            raise UsageError(
                f"ssh-ed25519 line whose base64 holds no Ed25519 key: {_shown(encoded)}",
                hint=_ALLOWED,
            )
        if base64.b64encode(blob).decode() != encoded:
            raise UsageError(
                f"ssh-ed25519 key in non-canonical base64: {_shown(encoded)}", hint=_ALLOWED
            )
        return cls(raw)

    @classmethod
    def from_hex(cls, text: str) -> PublicKey:
        """Read 64 lower-case hexadecimal digits, surrounding white space allowed."""
        digits = text.strip()
        if not re.fullmatch(r"[0-9a-f]{64}", digits):
            raise UsageError(
                f"not a public key of 64 lower-case hexadecimal digits: {_shown(digits)}",
                hint=_ALLOWED,
            )
        return cls(bytes.fromhex(digits))

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read either form."""
        if " " not in text.strip() and re.fullmatch(r"[0-9a-fA-F]*", text.strip()):
            return cls.from_hex(text)
        return cls.from_ssh(text)

    @property
    def ssh(self) -> str:
        """The OpenSSH line, without comment and newline."""
        return f"{_ALGORITHM} {base64.b64encode(_BLOB_PREFIX + self.raw).decode()}"

    @property
    def hex(self) -> str:
        """The raw key in hex, as submit tokens and log.md's responses have it."""
        return self.raw.hex()

    @property
    def hash(self) -> str:
        """SHA-256 of the raw key in hex: Sigsum's key hash."""
        return sha256(self.raw).hexdigest()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the OpenSSH form in base64, as ssh-keygen shows it behind ``SHA256:``."""
        return base64.b64encode(sha256(_BLOB_PREFIX + self.raw).digest()).decode().rstrip("=")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check an Ed25519 signature (64 bytes) over the message itself.

        Raises:
            BadSignature: it is not this key's.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise BadSignature(f"signature is not by the key {self.hex}") from error


def load_public_key(path: Path) -> PublicKey:
    """Read a file that holds one public key in either form."""
    try:
        return PublicKey.parse(path.read_text(encoding="ascii"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file", hint=_ALLOWED) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot read the public key: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an unencrypted OpenSSH private key file that holds an Ed25519 key.

    The file's mode is not judged here except for being a regular file: tests, stress runs and the
    secondary's own key use this, never the log's key.
    """
    hint = "Make one with: ssh-keygen -t ed25519 -N '' -f FILE   (or sigsum-key generate -o FILE)"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: not a regular file", hint=hint)
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the private key: {error.strerror}") from error
    try:
        key = load_ssh_private_key(data, password=None)
    except (TypeError, ValueError) as error:  # encrypted; or not such a file
        raise UsageError(
            f"{path}: not an unencrypted OpenSSH private key: {error}", hint=hint
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: not an Ed25519 private key", hint=hint)
    return key


def public_key_of(key: Ed25519PrivateKey) -> PublicKey:
    """The public half."""
    return PublicKey(key.public_key().public_bytes_raw())


def _shown(text: str) -> str:
    """A piece of input as a message may show it: short, quoted, no control characters."""
    return repr(text if len(text) <= 40 else text[:37] + "…")
