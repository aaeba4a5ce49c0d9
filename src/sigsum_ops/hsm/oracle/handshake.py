"""What a witness's key signs to open a connection to a bastion host (c2sp.org/https-bastion).

The bastion knows a witness by its key: in TLS 1.3 the witness shows a certificate that it signed
itself, and signs the handshake. Both go through the agent. Neither can be taken for a cosignature,
which begins with a line of its own, and neither makes anybody believe a tree head.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import SIGNATURE_SIZE, PublicKey

# RFC 8446 section 4.4.3: this, then the hash of the transcript, by SHA-256 or SHA-384.
CLIENT_CONTEXT = b" " * 64 + b"TLS 1.3, client CertificateVerify\0"
_HASH_SIZES = (32, 48)
_ED25519_ALGORITHM = bytes.fromhex("300506032b6570")  # RFC 8410 section 3
MAX_LIFE = timedelta(hours=48)


def check(data: bytes, key: PublicKey, now: float) -> None:
    """Check that this is one of the two, for the witness with this key.

    Args:
        data: what is to be signed.
        key: the witness's.
        now: Unix seconds.

    Raises:
        UsageError: it is neither.
    """
    if data.startswith(CLIENT_CONTEXT):
        if len(data) - len(CLIENT_CONTEXT) not in _HASH_SIZES:
            raise UsageError("a TLS handshake of another length")
        return
    _check_certificate(data, key, datetime.fromtimestamp(now, UTC))


def _check_certificate(data: bytes, key: PublicKey, now: datetime) -> None:
    """The part of a certificate that is signed: of a client, short-lived, with this key."""
    signature = b"\x03" + _length(SIGNATURE_SIZE + 1) + bytes(SIGNATURE_SIZE + 1)
    whole = data + _ED25519_ALGORITHM + signature
    try:
        certificate = x509.load_der_x509_certificate(b"\x30" + _length(len(whole)) + whole)
        public = certificate.public_key()
        extensions = {each.oid: each.value for each in certificate.extensions}
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        current = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
        wanted = {
            x509.KeyUsage.oid: x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            x509.ExtendedKeyUsage.oid: x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
        }
        good = (
            certificate.tbs_certificate_bytes == data
            and isinstance(public, Ed25519PublicKey)
            and public.public_bytes_raw() == key.raw
            and certificate.issuer == certificate.subject
            and extensions == wanted
            and current
            and life <= MAX_LIFE
        )
    # What a parser of a foreign form may raise.
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ):
        good = False
    if not good:
        raise UsageError("neither a cosignature nor a connection to a bastion")


def _length(size: int) -> bytes:
    """The length of a DER value."""
    if size < 128:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets
