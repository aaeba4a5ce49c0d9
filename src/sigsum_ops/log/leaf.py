"""Sigsum leaves and submit tokens, as log.md version 1 has them (sections 2.2.3, 3.1 and 4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.errors import UsageError
from sigsum_ops.log import merkle
from sigsum_ops.log.keys import SIGNATURE_SIZE, PublicKey, public_key_of

LEAF_SIZE = 128
TOKEN_HEADER = "sigsum-token"  # noqa: S105 - a header's name
_LEAF_NAMESPACE = b"sigsum.org/v1/tree-leaf\0"
_TOKEN_NAMESPACE = b"sigsum.org/v1/submit-token\0"
# What can be looked up under the label _sigsum_v1: no space, which separates it from the signature.
_DOMAIN = re.compile(r"[^\s.]+(\.[^\s.]+)*")


@dataclass(frozen=True)
class Leaf:
    """What the tree holds: checksum (32 bytes), signature (64), submitter's key hash (32)."""

    checksum: bytes
    signature: bytes
    key_hash: bytes

    def __post_init__(self) -> None:
        sizes = (len(self.checksum), len(self.signature), len(self.key_hash))
        if sizes != (merkle.HASH_SIZE, SIGNATURE_SIZE, merkle.HASH_SIZE):
            raise UsageError(f"leaf of {sizes} bytes, not (32, 64, 32)")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the 128 bytes that are hashed into the tree."""
        if len(data) != LEAF_SIZE:
            raise UsageError(f"leaf of {len(data)} bytes, not {LEAF_SIZE}")
        return cls(data[:32], data[32:96], data[96:])

    def __bytes__(self) -> bytes:
        return self.checksum + self.signature + self.key_hash

    @property
    def hash(self) -> bytes:
        """RFC 6962's leaf hash, by which get-inclusion-proof finds the leaf."""
        return merkle.leaf_hash(bytes(self))


@dataclass(frozen=True)
class LeafRequest:
    """A signed request to log ``message`` (32 bytes, usually the hash of some data)."""

    message: bytes
    signature: bytes
    public_key: PublicKey

    @classmethod
    def sign(cls, key: Ed25519PrivateKey, message: bytes) -> Self:
        """Sign the message's checksum under the leaf's namespace; the log checks exactly that."""
        if len(message) != merkle.HASH_SIZE:
            raise UsageError(f"message of {len(message)} bytes, not {merkle.HASH_SIZE}")
        return cls(message, key.sign(_signed_data(message)), public_key_of(key))

    def verify(self) -> None:
        """Check the signature as the log does.

        Raises:
            BadSignature: it is not the submitter's over this message.
        """
        self.public_key.verify(self.signature, _signed_data(self.message))

    @property
    def leaf(self) -> Leaf:
        """The leaf that the log makes of it."""
        return Leaf(
            sha256(self.message).digest(), self.signature, sha256(self.public_key.raw).digest()
        )

    @property
    def body(self) -> bytes:
        """The body of add-leaf."""
        return (
            f"message={self.message.hex()}\n"
            f"signature={self.signature.hex()}\n"
            f"public_key={self.public_key.hex}\n"
        ).encode()


def submit_token(key: Ed25519PrivateKey, log_key: PublicKey, domain: str) -> str:
    """The value of the ``sigsum-token`` header: a domain, and that domain's key's word to this log.

    Args:
        key: the private half of a public key in the TXT record ``_sigsum_v1.DOMAIN``.
        log_key: the log that the token is for; any other log refuses it.
        domain: the name whose rate limit the log counts the submission against.
    """
    if not _DOMAIN.fullmatch(domain):
        raise UsageError(
            f"not a domain name for a submit token: {domain!r}", hint="Such as: example.org"
        )
    return f"{domain} {key.sign(_TOKEN_NAMESPACE + log_key.raw).hex()}"


def _signed_data(message: bytes) -> bytes:
    return _LEAF_NAMESPACE + sha256(message).digest()
