"""Objects under wrap: the documented format, and what may go in and out."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY, ERROR, OBJECT, ORIGIN
from yubihsm.objects import AsymmetricKey, AuthenticationKey, HmacKey, Opaque, WrapKey, YhsmObject

from sigsum_ops.hsm.rehearsal import ed25519, keys, serve, wrap
from sigsum_ops.hsm.rehearsal.frames import DeviceError
from sigsum_ops.hsm.rehearsal.store import Object
from tests.hsm.rehearsal.client import (
    ALL,
    BOTH_WAYS,
    EVERYWHERE,
    NONE,
    PASSWORD,
    SERIAL,
    SIGNING,
    log_in,
    public_key,
    refused,
    signing_key,
    wrap_key,
)

SEED = bytes(range(32))


@pytest.mark.parametrize("size", [16, 24, 32])
def test_a_wrapped_key_is_what_the_format_says(session: AuthSession, size: int) -> None:
    secret = os.urandom(size)
    own = Ed25519PrivateKey.from_private_bytes(SEED)
    key = AsymmetricKey.put(session, 500, "Log key", 0x0201, SIGNING, own)
    blob = wrap_key(session, secret).export_wrapped(key)

    plain = AESCCM(secret, tag_length=16).decrypt(blob[:13], blob[13:], None)
    head, body = plain[:59], plain[59:]
    assert struct.unpack("!BQHHHBBBB40s", head) == (
        {16: 29, 24: 41, 32: 42}[size],
        SIGNING,
        500,
        96,
        0x0201,
        OBJECT.ASYMMETRIC_KEY,
        ALGORITHM.EC_ED25519,
        0,
        ORIGIN.IMPORTED,
        b"Log key".ljust(40, b"\0"),
    )
    # RFC 8032 section 5.1.5: the hashed seed, clamped; here the scalar is big endian.
    scalar, prefix = ed25519.expand(SEED)
    assert scalar % 8 == 0
    assert scalar.bit_length() == 255
    public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert body == scalar.to_bytes(32, "big") + prefix + public


def test_the_other_form_begins_with_the_seed(session: AuthSession) -> None:
    own = Ed25519PrivateKey.from_private_bytes(SEED)
    key = AsymmetricKey.put(session, 500, "", 1, SIGNING, own)
    wrapping = wrap_key(session, bytes(16))
    short, long = wrapping.export_wrapped(key), wrapping.export_wrapped(key, seed=True)
    cipher = AESCCM(bytes(16))
    short, long = (cipher.decrypt(blob[:13], blob[13:], None) for blob in (short, long))
    assert struct.unpack_from("!H", long, 11) == (128,)
    assert long[59:] == SEED + short[59:]


@pytest.mark.parametrize("seed", [False, True])
def test_the_restored_key_is_the_same_key_on_another_device(tmp_path: Path, seed: bool) -> None:
    secret = os.urandom(32)
    states = {SERIAL: tmp_path / "a", SERIAL + 1: tmp_path / "b"}
    with (
        serve(states) as urls,
        YubiHsm.connect(urls[SERIAL]) as one,
        YubiHsm.connect(urls[SERIAL + 1]) as other,
    ):
        first = one.create_session_derived(1, PASSWORD)
        key = signing_key(first, 500)
        blob = wrap_key(first, secret, 400).export_wrapped(key, seed=seed)
        public, message = public_key(key), os.urandom(100)

        second = other.create_session_derived(1, PASSWORD)
        restored = wrap_key(second, secret, 400).import_wrapped(blob)
        assert isinstance(restored, AsymmetricKey)
        assert restored.id == 500
        assert public_key(restored) == public
        assert restored.sign_eddsa(message) == key.sign_eddsa(message)
        public.verify(restored.sign_eddsa(message), message)
        wanted = replace(key.get_info(), origin=ORIGIN.GENERATED | ORIGIN.IMPORTED_WRAPPED)
        assert restored.get_info() == (wanted if seed else replace(wanted, size=96))
        # It can go on from there; without the seed, only in the form that has none.
        onward = WrapKey(second, 400).export_wrapped(restored, seed=seed)
        key.delete()
        assert WrapKey(first, 400).import_wrapped(onward).get_info().sequence == 1
        assert key.sign_eddsa(message) == restored.sign_eddsa(message)
        if not seed:
            with refused(ERROR.INVALID_DATA):
                WrapKey(second, 400).export_wrapped(restored, seed=True)


def test_every_kind_of_object_survives(session: AuthSession, hsm: YubiHsm) -> None:
    exportable = CAPABILITY.EXPORTABLE_UNDER_WRAP
    wrapping = wrap_key(session, bytes(32), 400, BOTH_WAYS, ALL)
    objects: list[YhsmObject] = [
        AsymmetricKey.generate(session, 1000 + algorithm, "", 1, exportable, algorithm)
        for algorithm in keys.CURVES
    ]
    objects += [
        Opaque.put(session, 10, "", 1, exportable, ALGORITHM.OPAQUE_DATA, b"data"),
        HmacKey.put(session, 11, "", 1, exportable | CAPABILITY.SIGN_HMAC, b"key"),
        wrap_key(session, bytes(24), 12, exportable, CAPABILITY.SIGN_EDDSA),
        AuthenticationKey.put_derived(
            session, 13, "", 1, exportable, CAPABILITY.SIGN_ECDSA, "secret"
        ),
    ]
    mac = HmacKey(session, 11).sign_hmac(b"m")
    for item in objects:
        before = item.get_info()
        blob = wrapping.export_wrapped(item)
        item.delete()
        restored = wrapping.import_wrapped(blob)
        wanted = replace(before, sequence=1, origin=before.origin | ORIGIN.IMPORTED_WRAPPED)
        assert restored.get_info() == wanted
    assert Opaque(session, 10).get() == b"data"
    assert HmacKey(session, 11).sign_hmac(b"m") == mac
    hsm.create_session_derived(13, "secret").close()


def test_a_blob_that_was_altered_or_is_of_another_key_is_refused(session: AuthSession) -> None:
    wrapping = wrap_key(session, bytes(16), 400)
    key = signing_key(session, 500)
    blob = wrapping.export_wrapped(key)
    key.delete()
    for at in range(0, len(blob), 7):
        damaged = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        with refused(ERROR.INVALID_DATA):
            wrapping.import_wrapped(damaged)
    for length in (0, 13, 88):
        with refused(ERROR.WRONG_LENGTH):
            wrapping.import_wrapped(blob[:length])
    with refused(ERROR.INVALID_DATA):
        wrapping.import_wrapped(blob[:-1])
    with refused(ERROR.INVALID_DATA):
        wrap_key(session, bytes(24)).import_wrapped(blob)
    with refused(ERROR.INVALID_DATA):
        wrap_key(session, b"\1" * 16).import_wrapped(blob)
    assert not session.list_objects(object_id=500)
    wrapping.import_wrapped(blob)


def test_an_object_that_is_there_is_not_overwritten(session: AuthSession) -> None:
    wrapping = wrap_key(session, bytes(16))
    key = signing_key(session, 500)
    blob = wrapping.export_wrapped(key)
    with refused(ERROR.OBJECT_EXISTS):
        wrapping.import_wrapped(blob)


def test_only_what_is_exportable_leaves(session: AuthSession) -> None:
    wrapping = wrap_key(session, bytes(16), 400)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):  # the key is not
        wrapping.export_wrapped(signing_key(session, 0, CAPABILITY.SIGN_EDDSA))
    key = signing_key(session, 500)
    for rights in (NONE, CAPABILITY.IMPORT_WRAPPED):
        with refused(ERROR.INSUFFICIENT_PERMISSIONS):  # the wrap key may not
            wrap_key(session, bytes(16), 0, rights).export_wrapped(key)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):  # it lets less through than the key can do
        wrap_key(session, bytes(16), 0, BOTH_WAYS, CAPABILITY.SIGN_EDDSA).export_wrapped(key)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):  # they have no domain in common
        wrap_key(session, bytes(16), 0, domains=0b10).export_wrapped(key)
    with refused(ERROR.OBJECT_NOT_FOUND):
        wrapping.export_wrapped(AsymmetricKey(session, 501))
    with refused(ERROR.OBJECT_NOT_FOUND):
        WrapKey(session, 401).export_wrapped(key)
    other = AsymmetricKey.generate(
        session, 0, "", 1, CAPABILITY.EXPORTABLE_UNDER_WRAP, ALGORITHM.EC_P256
    )
    with refused(ERROR.INVALID_DATA):  # it has no seed
        wrapping.export_wrapped(other, seed=True)


def test_only_what_the_wrap_key_lets_through_arrives(hsm: YubiHsm, session: AuthSession) -> None:
    key = signing_key(session, 500, domains=0b111)
    blob = wrap_key(session, bytes(16), 400).export_wrapped(key)
    key.delete()
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        wrap_key(session, bytes(16), 0, CAPABILITY.EXPORT_WRAPPED).import_wrapped(blob)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        wrap_key(session, bytes(16), 0, delegated=CAPABILITY.SIGN_EDDSA).import_wrapped(blob)
    narrow = log_in(session, hsm, CAPABILITY.IMPORT_WRAPPED, CAPABILITY.SIGN_EDDSA)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        WrapKey(narrow, 400).import_wrapped(blob)
    incapable = log_in(session, hsm, ALL & ~CAPABILITY.IMPORT_WRAPPED, ALL)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        WrapKey(incapable, 400).import_wrapped(blob)
    # Domains are only narrowed to the wrap key's.
    wrap_key(session, bytes(16), 402, domains=0b110).import_wrapped(blob)
    assert key.get_info().domains == 0b110


def test_delegated_capabilities_are_not_smuggled_in(session: AuthSession) -> None:
    """The same through a wrap key that lets all capabilities but one through."""
    exportable = CAPABILITY.EXPORTABLE_UNDER_WRAP
    key = AuthenticationKey.put_derived(
        session, 100, "", EVERYWHERE, exportable, CAPABILITY.RESET_DEVICE, "x"
    )
    wide = wrap_key(session, bytes(16), 0, BOTH_WAYS, ALL)
    strict = wrap_key(session, bytes(16), 0, BOTH_WAYS, ALL & ~CAPABILITY.RESET_DEVICE)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        strict.export_wrapped(key)
    blob = wide.export_wrapped(key)
    key.delete()
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        strict.import_wrapped(blob)


def made(algorithm: ALGORITHM, kind: OBJECT, body: bytes) -> Object:
    return Object(500, kind, algorithm, bytes(40), 1, 0, 0, 1, 0, body)


WRAPPING = made(ALGORITHM.AES128_CCM_WRAP, OBJECT.WRAP_KEY, bytes(16))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300))
def test_an_expanded_key_signs_as_its_seed_does(seed: bytes, message: bytes) -> None:
    own = Ed25519PrivateKey.from_private_bytes(seed)
    public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    scalar, prefix = ed25519.expand(seed)
    assert ed25519.public_key(scalar) == public
    assert ed25519.sign(scalar, prefix, public, message) == own.sign(message)


@given(st.binary(max_size=200))
def test_a_properly_wrapped_body_that_is_no_key_is_refused(body: bytes) -> None:
    """Whoever has the wrap key can still not make the device hold a key that contradicts itself."""
    for algorithm, kind in (
        (ALGORITHM.EC_ED25519, OBJECT.ASYMMETRIC_KEY),
        (ALGORITHM.EC_P256, OBJECT.ASYMMETRIC_KEY),
        (ALGORITHM.HMAC_SHA256, OBJECT.HMAC_KEY),
        (ALGORITHM.EC_P256_YUBICO_AUTHENTICATION, OBJECT.AUTHENTICATION_KEY),
    ):
        with pytest.raises(DeviceError) as caught:
            wrap.unseal(WRAPPING, wrap.seal(WRAPPING, made(algorithm, kind, body), seed=False))
        assert caught.value.code in (ERROR.INVALID_DATA, ERROR.WRONG_LENGTH)


def test_types_and_algorithms_that_do_not_fit_are_refused() -> None:
    for algorithm, kind in (
        (ALGORITHM.EC_P256, OBJECT.OPAQUE),
        (ALGORITHM.RSA_2048, OBJECT.ASYMMETRIC_KEY),
        (ALGORITHM.TEMPLATE_SSH, OBJECT.TEMPLATE),
    ):
        blob = wrap.seal(WRAPPING, made(algorithm, kind, b"body"), seed=False)
        with pytest.raises(DeviceError) as caught:
            wrap.unseal(WRAPPING, blob)
        assert caught.value.code == ERROR.INVALID_DATA
