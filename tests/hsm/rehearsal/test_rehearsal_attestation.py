"""Attestations, read back with python-yubihsm's parser and verified with cryptography."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from yubihsm.core import AuthSession
from yubihsm.defs import ALGORITHM, CAPABILITY, ERROR, ORIGIN
from yubihsm.objects import (
    AsymmetricKey,
    AttestationExtensions,
    KeyAttestationExtensions,
    Opaque,
)

from sigsum_ops.hsm.rehearsal import keys
from tests.hsm.rehearsal.client import NONE, SERIAL, public_key, refused, signing_key

SUBJECT = "YubiHSM rehearsal device"


def common_name(name: x509.Name) -> str:
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def template(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an attester of ours")])
    start = datetime.datetime(2024, 2, 3, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365))
        .serial_number(7)
        .public_key(key.public_key())
        .sign(key, hashes.SHA256())
    )


def test_the_factory_attests_a_signing_key(session: AuthSession) -> None:
    key = signing_key(session, 0x8001, domains=0x0203)
    certificate = key.attest()
    factory = Opaque(session, 0).get_certificate()
    certificate.verify_directly_issued_by(factory)
    factory.verify_directly_issued_by(factory)
    assert common_name(factory.subject) == common_name(certificate.subject) == SUBJECT
    assert "0x8001" in certificate.subject.rfc4514_string()
    assert certificate.public_key() == public_key(key)
    read = AttestationExtensions.parse(certificate)
    assert isinstance(read, KeyAttestationExtensions)
    assert read == KeyAttestationExtensions(
        firmware_version=(2, 4, 0),
        serial=SERIAL,
        origin=ORIGIN.GENERATED,
        domains=0x0203,
        capabilities=key.get_info().capabilities,
        object_id=0x8001,
        label="signing key",
        fips_approved=None,
    )
    assert AttestationExtensions.parse(factory).serial == SERIAL


@pytest.mark.parametrize("algorithm", keys.CURVES)
def test_a_key_attests_another(session: AuthSession, algorithm: ALGORITHM) -> None:
    private = ec.generate_private_key(algorithm.to_curve())
    attester = AsymmetricKey.put(
        session, 600, "attester", 1, CAPABILITY.SIGN_ATTESTATION_CERTIFICATE, private
    )
    given = template(private)
    attester.put_certificate("template", 1, NONE, given)
    key = AsymmetricKey.generate(session, 601, "k", 1, NONE, algorithm)
    certificate = key.attest(600)
    certificate.verify_directly_issued_by(given)
    assert certificate.not_valid_before_utc == given.not_valid_before_utc
    assert certificate.not_valid_after_utc == given.not_valid_after_utc
    assert certificate.public_key() == public_key(key)


def test_what_cannot_attest_is_refused(session: AuthSession) -> None:
    key = signing_key(session, 500)
    with refused(ERROR.OBJECT_NOT_FOUND):
        key.attest(600)
    AsymmetricKey.generate(session, 600, "", 1, NONE, ALGORITHM.EC_P256)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        key.attest(600)
    rights = CAPABILITY.SIGN_ATTESTATION_CERTIFICATE
    AsymmetricKey.generate(session, 601, "", 1, rights, ALGORITHM.EC_P256)
    with refused(ERROR.OBJECT_NOT_FOUND):  # it has no template
        key.attest(601)
    Opaque.put(session, 601, "", 1, NONE, ALGORITHM.OPAQUE_X509_CERTIFICATE, b"no certificate")
    with refused(ERROR.INVALID_DATA):
        key.attest(601)
    AsymmetricKey.generate(session, 602, "", 1, rights, ALGORITHM.EC_ED25519)
    with refused(ERROR.INVALID_DATA):  # attestations are signed with ECDSA
        key.attest(602)
