"""Objects under wrap: AES-CCM with a nonce of 13 bytes and a tag of 16.

A wrapped object is nonce, ciphertext, tag. Its plain text is the wrap key's algorithm (1 byte),
capabilities (8), id (2), length of the body (2), domains (2), type (1), algorithm (1), sequence
(1), origin (1), label (40) and the body, which for authentication and wrap keys begins with their
delegated capabilities (8). An Ed25519 key has two bodies, with its seed and without; the one
without is what all firmware and yubihsm-wrap write.
"""

from __future__ import annotations

import os
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from yubihsm.defs import ALGORITHM, ERROR, OBJECT

from sigsum_ops.hsm.rehearsal import keys
from sigsum_ops.hsm.rehearsal.frames import DeviceError, named
from sigsum_ops.hsm.rehearsal.store import DELEGATING, LABEL_SIZE, Object

_NONCE_SIZE, _TAG_SIZE = 13, 16
_HEADER = struct.Struct(f"!BQHHHBBBB{LABEL_SIZE}s")


def seal(wrap_key: Object, item: Object, *, seed: bool) -> bytes:
    """Wrap an object; ``seed`` asks for the form of an Ed25519 key that has its seed.

    Raises:
        DeviceError: INVALID_DATA where there is no seed to include.
    """
    body = item.body
    is_ed25519 = item.algorithm == ALGORITHM.EC_ED25519
    if seed and not (is_ed25519 and keys.has_seed(body)):
        raise DeviceError(ERROR.INVALID_DATA)
    if is_ed25519 and not seed:
        body = keys.without_seed(body)
    if item.type in DELEGATING:
        body = item.delegated.to_bytes(8, "big") + body
    header = _HEADER.pack(
        wrap_key.algorithm,
        item.capabilities,
        item.id,
        len(body),
        item.domains,
        item.type,
        item.algorithm,
        item.sequence,
        item.origin,
        item.label,
    )
    nonce = os.urandom(_NONCE_SIZE)
    return nonce + _cipher(wrap_key).encrypt(nonce, header + body, None)


def unseal(wrap_key: Object, blob: bytes) -> Object:
    """Unwrap and check an object, as it was when it was wrapped.

    Raises:
        DeviceError: INVALID_DATA where it was wrapped with another key, was altered, or is not of
            the form above; WRONG_LENGTH where it is too short to be.
    """
    if len(blob) <= _NONCE_SIZE + _HEADER.size + _TAG_SIZE:
        raise DeviceError(ERROR.WRONG_LENGTH)
    try:
        plain = _cipher(wrap_key).decrypt(blob[:_NONCE_SIZE], blob[_NONCE_SIZE:], None)
    except InvalidTag:
        raise DeviceError(ERROR.INVALID_DATA) from None
    (wrap_algorithm, capabilities, object_id, length, domains, kind, algorithm, sequence, origin,
     label) = _HEADER.unpack_from(plain)  # fmt: skip
    body = plain[_HEADER.size :]
    if wrap_algorithm != wrap_key.algorithm or length != len(body) or not object_id:
        raise DeviceError(ERROR.INVALID_DATA)
    object_type, object_algorithm = named(OBJECT, kind), named(ALGORITHM, algorithm)
    if object_algorithm not in keys.ALGORITHMS.get(object_type, ()):
        raise DeviceError(ERROR.INVALID_DATA)
    delegated = 0
    if object_type in DELEGATING:
        delegated, body = int.from_bytes(body[:8], "big"), body[8:]
    keys.check(object_algorithm, body)
    return Object(
        id=object_id,
        type=object_type,
        algorithm=object_algorithm,
        label=label,
        domains=domains,
        capabilities=capabilities,
        delegated=delegated,
        origin=origin,
        sequence=sequence,
        body=body,
    )


def _cipher(wrap_key: Object) -> AESCCM:
    return AESCCM(wrap_key.body, tag_length=_TAG_SIZE)
