"""Certificates in which a device says where one of its keys comes from.

Public key, validity and issuer are taken as Yubico documents them for the YubiHSM 2: the key's own,
and those of the template, the certificate that is stored under the attesting key's id. Id 0 is the
key of the factory. What differs is the subject, which names a rehearsal device.
"""

from __future__ import annotations

import datetime
import secrets

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from yubihsm.defs import ERROR

from sigsum_ops.hsm.identity import REHEARSAL_SUBJECT
from sigsum_ops.hsm.rehearsal import keys
from sigsum_ops.hsm.rehearsal.frames import DeviceError
from sigsum_ops.hsm.rehearsal.store import Object

_ARC = "1.3.6.1.4.1.41482.4"
_FIRMWARE, _SERIAL, _ORIGIN, _DOMAINS, _CAPABILITIES, _ID, _LABEL = 1, 2, 3, 4, 5, 6, 9
_INTEGER, _BIT_STRING, _OCTET_STRING, _UTF8_STRING = 0x02, 0x03, 0x04, 0x0C
_VALID_FROM = datetime.datetime(2017, 1, 1)
_VALID_TO = datetime.datetime(2071, 10, 5)


def factory_certificate(
    key: ec.EllipticCurvePrivateKey, serial: int, firmware: tuple[int, int, int]
) -> bytes:
    """The certificate of the factory's attestation key, DER; a real one is signed by Yubico."""
    name = _name(f"Serial {serial}")
    builder = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(_serial_number())
        .not_valid_before(_VALID_FROM)
        .not_valid_after(_VALID_TO)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    for extension in _device_extensions(serial, firmware):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def attest(
    item: Object,
    serial: int,
    firmware: tuple[int, int, int],
    attesting_key: ec.EllipticCurvePrivateKey,
    template: bytes,
) -> bytes:
    """The certificate about an asymmetric key, DER.

    Raises:
        DeviceError: INVALID_DATA where the template is no certificate.
    """
    try:
        issuer = x509.load_der_x509_certificate(template)
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer.subject)
            .subject_name(_name(f"YubiHSM Attestation id:0x{item.id:04x}"))
            .public_key(keys.public_object(item.algorithm, item.body))
            .serial_number(_serial_number())
            .not_valid_before(issuer.not_valid_before_utc)
            .not_valid_after(issuer.not_valid_after_utc)
        )
        for extension in (*_device_extensions(serial, firmware), *_key_extensions(item)):
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(attesting_key, SHA256()).public_bytes(Encoding.DER)
    except ValueError:
        raise DeviceError(ERROR.INVALID_DATA) from None


def _name(unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, REHEARSAL_SUBJECT),
        ]
    )


def _serial_number() -> int:
    """16 random bytes, of which X.509 wants the number to be positive."""
    return secrets.randbits(127) | 1


def _device_extensions(
    serial: int, firmware: tuple[int, int, int]
) -> tuple[x509.UnrecognizedExtension, ...]:
    return (
        _extension(_FIRMWARE, _OCTET_STRING, bytes(firmware)),
        _extension(_SERIAL, _INTEGER, _signed(serial)),
    )


def _key_extensions(item: Object) -> tuple[x509.UnrecognizedExtension, ...]:
    return (
        _extension(_ORIGIN, _BIT_STRING, bytes([0, item.origin])),
        _extension(_DOMAINS, _BIT_STRING, b"\0" + item.domains.to_bytes(2, "big")),
        _extension(_CAPABILITIES, _BIT_STRING, b"\0" + item.capabilities.to_bytes(8, "big")),
        _extension(_ID, _INTEGER, _signed(item.id)),
        _extension(_LABEL, _UTF8_STRING, item.label.rstrip(b"\0")),
    )


def _signed(number: int) -> bytes:
    """A number as DER has it: as short as can be, and with a zero byte before a top bit."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _extension(number: int, tag: int, content: bytes) -> x509.UnrecognizedExtension:
    der = bytes([tag, len(content)]) + content  # none is longer than 127 bytes
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{_ARC}.{number}"), der)
