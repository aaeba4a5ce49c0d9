"""Key material: what the device keeps of each kind of key, and what it does with it.

The body of an object is what the device stores and what a wrapped object holds, so it is the one
form used here:

    Ed25519             seed where it is known, scalar (big endian), prefix, public key; 32 each
    EC                  scalar, x, y, each as long as the curve's coordinates
    HMAC                the key padded to the hash's block and xored with 0x36, then with 0x5c
    wrap key            the AES key
    authentication key  K-ENC and K-MAC (16 each), or x and y of the public key on P-256
    opaque              the data
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yubihsm.defs import ALGORITHM, ERROR, OBJECT

from sigsum_ops.hsm.rehearsal import ed25519
from sigsum_ops.hsm.rehearsal.channel import p256_point
from sigsum_ops.hsm.rehearsal.frames import DeviceError

# The curves, each with its group's order, which a scalar is less than: older releases of
# ``cryptography`` do not see to that themselves.
CURVES = {
    ALGORITHM.EC_P224: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFF16A2E0B8F03E13DD29455C5C2A3D,
    ALGORITHM.EC_P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ALGORITHM.EC_P384: int(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF"
        "581A0DB248B0A77AECEC196ACCC52973",
        16,
    ),
    ALGORITHM.EC_P521: int(
        "1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
        "FFA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386"
        "409",
        16,
    ),
    ALGORITHM.EC_K256: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    ALGORITHM.EC_BP256: 0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7,
    ALGORITHM.EC_BP384: int(
        "8CB91E82A3386D280F5D6F7E50E641DF152F7109ED5456B31F166E6CAC0425A7"
        "CF3AB6AF6B7FC3103B883202E9046565",
        16,
    ),
    ALGORITHM.EC_BP512: int(
        "AADD9DB8DBE9C48B3FD4E6AE33C9FC07CB308DB3B3C9D20ED6639CCA70330870"
        "553E5C414CA92619418661197FAC10471DB1D381085DDADDB58796829CA90069",
        16,
    ),
}
ASYMMETRIC = (*CURVES, ALGORITHM.EC_ED25519)
HMACS = (
    ALGORITHM.HMAC_SHA1,
    ALGORITHM.HMAC_SHA256,
    ALGORITHM.HMAC_SHA384,
    ALGORITHM.HMAC_SHA512,
)
WRAPS = (ALGORITHM.AES128_CCM_WRAP, ALGORITHM.AES192_CCM_WRAP, ALGORITHM.AES256_CCM_WRAP)
AUTHENTICATION = {
    ALGORITHM.AES128_YUBICO_AUTHENTICATION: 32,
    ALGORITHM.EC_P256_YUBICO_AUTHENTICATION: 64,
}
OPAQUE = (ALGORITHM.OPAQUE_DATA, ALGORITHM.OPAQUE_X509_CERTIFICATE)
ALGORITHMS = {
    OBJECT.ASYMMETRIC_KEY: ASYMMETRIC,
    OBJECT.HMAC_KEY: HMACS,
    OBJECT.WRAP_KEY: WRAPS,
    OBJECT.AUTHENTICATION_KEY: tuple(AUTHENTICATION),
    OBJECT.OPAQUE: OPAQUE,
}
# What signs or agrees, beside the algorithms of the objects themselves.
OPERATIONS = (
    ALGORITHM.EC_ECDSA_SHA1,
    ALGORITHM.EC_ECDSA_SHA256,
    ALGORITHM.EC_ECDSA_SHA384,
    ALGORITHM.EC_ECDSA_SHA512,
    ALGORITHM.EC_ECDH,
)
SUPPORTED = frozenset(a for group in ALGORITHMS.values() for a in group) | frozenset(OPERATIONS)

_ED25519_SEEDED, _ED25519_EXPANDED = 128, 96
_HASHES = (hashes.SHA1, hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512)
_DIGESTS = {kind.digest_size: kind for kind in _HASHES}


def coordinate_size(algorithm: ALGORITHM) -> int:
    """Bytes of a coordinate, and of a scalar, on an EC algorithm's curve."""
    return (algorithm.to_curve().key_size + 7) // 8


def generate(algorithm: ALGORITHM) -> bytes:
    """A new key of any kind that can be generated, as a body."""
    if algorithm in CURVES:
        return _ec_body(algorithm, ec.generate_private_key(algorithm.to_curve()))
    if algorithm == ALGORITHM.EC_ED25519:
        return load(algorithm, os.urandom(32))
    return load(algorithm, os.urandom(algorithm.to_key_size()))


def load(algorithm: ALGORITHM, key: bytes) -> bytes:
    """The body of a key as a client sends it (a seed, a scalar, a raw key, opaque data).

    Raises:
        DeviceError: WRONG_LENGTH, or INVALID_DATA where the key cannot be.
    """
    if algorithm == ALGORITHM.EC_ED25519:
        _need(len(key) == 32)
        scalar, prefix = ed25519.expand(key)
        return key + scalar.to_bytes(32, "big") + prefix + ed25519.public_key(scalar)
    if algorithm in CURVES:
        _need(len(key) == coordinate_size(algorithm))
        return _ec_body(algorithm, _ec_private(algorithm, key))
    if algorithm in HMACS:
        block = algorithm.to_key_size()
        _need(0 < len(key) <= block)
        padded = key.ljust(block, b"\0")
        return bytes(b ^ 0x36 for b in padded) + bytes(b ^ 0x5C for b in padded)
    if algorithm in WRAPS:
        _need(len(key) == algorithm.to_key_size())
    elif algorithm in AUTHENTICATION:
        _need(len(key) == AUTHENTICATION[algorithm])
        if algorithm == ALGORITHM.EC_P256_YUBICO_AUTHENTICATION:
            p256_point(b"\x04" + key)
    else:
        _need(len(key) > 0)
    return key


def check(algorithm: ALGORITHM, body: bytes) -> None:
    """Refuse a body, as it comes out of a wrapped object, that is not one of this algorithm.

    Raises:
        DeviceError: INVALID_DATA.
    """
    try:
        if algorithm == ALGORITHM.EC_ED25519:
            seed, scalar, _, public = _ed25519_parts(body)
            consistent = not seed or load(algorithm, seed) == body
            same = consistent and ed25519.public_key(scalar) == public
        elif algorithm in CURVES:
            size = coordinate_size(algorithm)
            same = load(algorithm, body[:size]) == body
        elif algorithm in HMACS:
            same = load(algorithm, _hmac_key(algorithm, body)) == body
        else:
            same = load(algorithm, body) == body
    except DeviceError:
        same = False
    if not same:
        raise DeviceError(ERROR.INVALID_DATA)


def without_seed(body: bytes) -> bytes:
    """An Ed25519 body in the form that all firmware exports."""
    return body[-_ED25519_EXPANDED:]


def has_seed(body: bytes) -> bool:
    """Whether an Ed25519 body still has the seed it was made from."""
    return len(body) == _ED25519_SEEDED


def public_key(algorithm: ALGORITHM, body: bytes) -> bytes:
    """The public key of an asymmetric key as GET_PUBLIC_KEY sends it: raw, or x and y."""
    return body[-32:] if algorithm == ALGORITHM.EC_ED25519 else body[coordinate_size(algorithm) :]


def public_object(
    algorithm: ALGORITHM, body: bytes
) -> Ed25519PublicKey | ec.EllipticCurvePublicKey:
    """The public key of an asymmetric key, for a certificate."""
    raw = public_key(algorithm, body)
    if algorithm == ALGORITHM.EC_ED25519:
        return Ed25519PublicKey.from_public_bytes(raw)
    return ec.EllipticCurvePublicKey.from_encoded_point(algorithm.to_curve(), b"\x04" + raw)


def ec_private(algorithm: ALGORITHM, body: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key of an EC body; INVALID_DATA where it is no EC key."""
    if algorithm not in CURVES:
        raise DeviceError(ERROR.INVALID_DATA)
    return _ec_private(algorithm, body[: coordinate_size(algorithm)])


def sign_eddsa(algorithm: ALGORITHM, body: bytes, message: bytes) -> bytes:
    """Sign with Ed25519 (64 bytes); INVALID_DATA where the key is another."""
    if algorithm != ALGORITHM.EC_ED25519:
        raise DeviceError(ERROR.INVALID_DATA)
    seed, scalar, prefix, public = _ed25519_parts(body)
    if seed:
        return Ed25519PrivateKey.from_private_bytes(seed).sign(message)
    return ed25519.sign(scalar, prefix, public, message)


def sign_ecdsa(algorithm: ALGORITHM, body: bytes, digest: bytes) -> bytes:
    """Sign a digest of SHA-1, -224, -256, -384 or -512 with ECDSA (DER).

    For P-521, clients put two zero bytes in front of a SHA-512 digest, to its 66.
    """
    key = ec_private(algorithm, body)
    if len(digest) == 66 and digest.startswith(b"\0\0"):
        digest = digest[2:]
    hash_ = _DIGESTS.get(len(digest))
    if hash_ is None:
        raise DeviceError(ERROR.WRONG_LENGTH)
    return key.sign(digest, ec.ECDSA(Prehashed(hash_())))


def agree(algorithm: ALGORITHM, body: bytes, point: bytes) -> bytes:
    """ECDH with an uncompressed point; INVALID_DATA where it is not on the key's curve."""
    key = ec_private(algorithm, body)
    try:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(algorithm.to_curve(), point)
    except ValueError:
        raise DeviceError(ERROR.INVALID_DATA) from None
    return key.exchange(ec.ECDH(), peer)


def hmac_size(algorithm: ALGORITHM) -> int:
    """Bytes of a MAC."""
    return algorithm.to_hash_algorithm().digest_size


def sign_hmac(algorithm: ALGORITHM, body: bytes, data: bytes) -> bytes:
    """The MAC over ``data``."""
    return _hmac(algorithm, body, data).finalize()


def verify_hmac(algorithm: ALGORITHM, body: bytes, mac: bytes, data: bytes) -> bool:
    """Whether ``mac`` is the MAC over ``data``."""
    try:
        _hmac(algorithm, body, data).verify(mac)
    except InvalidSignature:
        return False
    return True


def _hmac(algorithm: ALGORITHM, body: bytes, data: bytes) -> HMAC:
    hmac = HMAC(_hmac_key(algorithm, body), algorithm.to_hash_algorithm())
    hmac.update(data)
    return hmac


def _hmac_key(algorithm: ALGORITHM, body: bytes) -> bytes:
    return bytes(b ^ 0x36 for b in body[: algorithm.to_key_size()])


def _ed25519_parts(body: bytes) -> tuple[bytes, int, bytes, bytes]:
    """Seed (may be empty), scalar, prefix and public key."""
    _need(len(body) in (_ED25519_SEEDED, _ED25519_EXPANDED))
    scalar, prefix, public = body[-96:-64], body[-64:-32], body[-32:]
    return body[:-_ED25519_EXPANDED], int.from_bytes(scalar, "big"), prefix, public


def _ec_private(algorithm: ALGORITHM, scalar: bytes) -> ec.EllipticCurvePrivateKey:
    number = int.from_bytes(scalar, "big")
    if not 0 < number < CURVES[algorithm]:
        raise DeviceError(ERROR.INVALID_DATA)
    return ec.derive_private_key(number, algorithm.to_curve())


def _ec_body(algorithm: ALGORITHM, key: ec.EllipticCurvePrivateKey) -> bytes:
    scalar = key.private_numbers().private_value.to_bytes(coordinate_size(algorithm), "big")
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return scalar + point[1:]


def _need(condition: bool) -> None:
    if not condition:
        raise DeviceError(ERROR.WRONG_LENGTH)
