"""Every command of a ceremony, as python-yubihsm sends it and reads the answer."""

from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY, COMMAND, ERROR, OBJECT, OPTION, ORIGIN
from yubihsm.exceptions import YubiHsmAuthenticationError
from yubihsm.objects import AsymmetricKey, AuthenticationKey, HmacKey, Opaque, WrapKey

from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.rehearsal import keys, serve
from sigsum_ops.hsm.rehearsal.device import Device
from tests.hsm.rehearsal.client import (
    ALL,
    EVERYWHERE,
    NONE,
    PASSWORD,
    SERIAL,
    Direct,
    Memory,
    public_key,
    refused,
    signing_key,
    wrap_key,
)

CURVES: list[ec.EllipticCurve] = [
    ec.SECP224R1(),
    ec.SECP256R1(),
    ec.SECP384R1(),
    ec.SECP521R1(),
    ec.SECP256K1(),
    ec.BrainpoolP256R1(),
    ec.BrainpoolP384R1(),
    ec.BrainpoolP512R1(),
]
HASHES: list[hashes.HashAlgorithm] = [
    hashes.SHA1(),  # noqa: S303 - the device has it
    hashes.SHA256(),
    hashes.SHA384(),
    hashes.SHA512(),
]


def test_it_says_what_it_is(hsm: YubiHsm) -> None:
    info = hsm.get_device_info()
    assert (info.serial, info.version, info.part_number) == (SERIAL, (2, 4, 0), "REHEARSAL")
    assert (info.log_size, info.log_used) == (62, 2)
    assert ALGORITHM.EC_ED25519 in info.supported_algorithms
    assert is_rehearsal(info.serial, info.part_number)
    # Either mark is enough; the part number of a real device ends in NUL.
    assert is_rehearsal(12345678, "REHEARSAL\0\0")
    assert is_rehearsal(90000000, None)
    assert not is_rehearsal(12345678, "78CLUFX5000P\0")
    assert not is_rehearsal(12345678, None)


def test_a_new_device_has_the_factorys_authentication_key_and_nothing_else(
    session: AuthSession,
) -> None:
    (only,) = session.list_objects()
    info = only.get_info()
    assert (info.object_type, info.id, info.size) == (OBJECT.AUTHENTICATION_KEY, 1, 40)
    assert info.label == "DEFAULT AUTHKEY CHANGE THIS ASAP"
    assert info.capabilities & ALL == ALL == info.delegated_capabilities & ALL
    assert (info.domains, info.sequence, info.origin) == (EVERYWHERE, 0, ORIGIN.IMPORTED)


def test_ed25519_signatures_are_those_of_the_key(session: AuthSession) -> None:
    own = Ed25519PrivateKey.generate()
    put = AsymmetricKey.put(session, 500, "put", 1, CAPABILITY.SIGN_EDDSA, own)
    assert public_key(put) == own.public_key()
    assert put.get_info().origin == ORIGIN.IMPORTED
    generated = signing_key(session)
    assert generated.get_info().origin == ORIGIN.GENERATED
    assert generated.get_info().size == 128
    for message in (b"", b"m", bytes(3000)):
        assert put.sign_eddsa(message) == own.sign(message)
        public_key(generated).verify(generated.sign_eddsa(message), message)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_ec_keys_sign_and_agree(session: AuthSession, curve: ec.EllipticCurve) -> None:
    rights = CAPABILITY.SIGN_ECDSA | CAPABILITY.DERIVE_ECDH
    own = ec.generate_private_key(curve)
    put = AsymmetricKey.put(session, 0, "put", 1, rights, own)
    made = AsymmetricKey.generate(session, 0, "made", 1, rights, ALGORITHM.for_curve(curve))
    assert public_key(put) == own.public_key()
    assert made.get_info().size == 3 * ((curve.key_size + 7) // 8)
    for kind in HASHES:
        signature = made.sign_ecdsa(b"m", hash=kind)
        public_key(made).verify(signature, b"m", ec.ECDSA(kind))
    peer = ec.generate_private_key(curve)
    assert put.derive_ecdh(peer.public_key()) == own.exchange(ec.ECDH(), peer.public_key())


def test_a_sha512_digest_is_padded_for_p521(session: AuthSession) -> None:
    key = AsymmetricKey.generate(
        session, 0, "k", 1, CAPABILITY.SIGN_ECDSA, ALGORITHM.EC_P521
    )  # yubihsm-shell sends such a digest in 66 bytes
    signature = key.sign_ecdsa(b"m", hash=hashes.SHA512(), length=66)
    public_key(key).verify(signature, b"m", ec.ECDSA(hashes.SHA512()))


def test_keys_that_cannot_be_are_refused(session: AuthSession) -> None:
    def put(algorithm: ALGORITHM, key: bytes) -> None:
        head = struct.pack("!H40sHQB", 0, b"k", 1, 0, algorithm)
        session.send_secure_cmd(COMMAND.PUT_ASYMMETRIC_KEY, head + key)

    with refused(ERROR.WRONG_LENGTH):
        put(ALGORITHM.EC_ED25519, bytes(31))
    with refused(ERROR.WRONG_LENGTH):
        put(ALGORITHM.EC_P256, bytes(33))
    with refused(ERROR.INVALID_DATA):
        put(ALGORITHM.EC_P256, bytes(32))
    with refused(ERROR.INVALID_DATA):
        put(ALGORITHM.HMAC_SHA1, bytes(20))
    for curve, order in keys.CURVES.items():  # the last scalar there is, and the next
        size = keys.coordinate_size(curve)
        with refused(ERROR.INVALID_DATA):
            put(curve, order.to_bytes(size, "big"))
        with refused(ERROR.INVALID_DATA):
            put(curve, (order + 1).to_bytes(size, "big"))
        put(curve, (order - 1).to_bytes(size, "big"))
    with refused(ERROR.ALGORITHM_DISABLED):  # what this device has not
        put(ALGORITHM.RSA_2048, bytes(256))
    assert len(session.list_objects()) == 1 + len(keys.CURVES)


def test_signing_with_the_wrong_kind_of_key_is_refused(session: AuthSession) -> None:
    rights = CAPABILITY.SIGN_EDDSA | CAPABILITY.SIGN_ECDSA | CAPABILITY.DERIVE_ECDH
    edwards = AsymmetricKey.generate(session, 0, "k", 1, rights, ALGORITHM.EC_ED25519)
    curve = AsymmetricKey.generate(session, 0, "k", 1, rights, ALGORITHM.EC_P256)
    with refused(ERROR.INVALID_DATA):
        curve.sign_eddsa(b"m")
    with refused(ERROR.INVALID_DATA):
        edwards.sign_ecdsa(b"m")
    with refused(ERROR.WRONG_LENGTH):
        curve.sign_ecdsa(b"m", length=33)
    with refused(ERROR.INVALID_DATA):
        curve.derive_ecdh(ec.generate_private_key(ec.SECP384R1()).public_key())


@pytest.mark.parametrize(
    "algorithm",
    [
        ALGORITHM.HMAC_SHA1,
        ALGORITHM.HMAC_SHA256,
        ALGORITHM.HMAC_SHA384,
        ALGORITHM.HMAC_SHA512,
    ],
)
def test_hmac(session: AuthSession, algorithm: ALGORITHM) -> None:
    rights = CAPABILITY.SIGN_HMAC | CAPABILITY.VERIFY_HMAC
    put = HmacKey.put(session, 0, "put", 1, rights, b"secret", algorithm)
    hmac = HMAC(b"secret", algorithm.to_hash_algorithm())
    hmac.update(b"data")
    mac = hmac.finalize()
    assert put.sign_hmac(b"data") == mac
    assert put.verify_hmac(mac, b"data")
    assert not put.verify_hmac(mac, b"other")
    made = HmacKey.generate(session, 0, "made", 1, rights, algorithm)
    assert made.verify_hmac(made.sign_hmac(b"data"), b"data")
    assert made.get_info().size == 2 * algorithm.to_key_size()


def test_opaque_objects_come_back_as_they_were(session: AuthSession) -> None:
    for data in (b"x", bytes(range(256)) * 7):
        stored = Opaque.put(session, 0, "note", 1, NONE, ALGORITHM.OPAQUE_DATA, data)
        assert stored.get() == data
        assert stored.get_info().size == len(data)


def test_random_bytes_differ_and_are_as_many_as_asked_for(session: AuthSession) -> None:
    assert len(session.get_pseudo_random(3116)) == 3116  # the largest reply
    assert session.get_pseudo_random(16) != session.get_pseudo_random(16)
    with refused(ERROR.WRONG_LENGTH):
        session.get_pseudo_random(3117)
    with refused(ERROR.WRONG_LENGTH):
        session.get_pseudo_random(65535)


def test_ids_are_chosen_by_the_device_on_request_and_refused_where_they_cannot_be(
    session: AuthSession,
) -> None:
    ids = {signing_key(session).id for _ in range(5)}
    assert len(ids) == 5
    assert ids <= set(range(1, 0xFFFF))
    signing_key(session, 500)
    with refused(ERROR.OBJECT_EXISTS):
        signing_key(session, 500)
    with refused(ERROR.INVALID_ID):
        signing_key(session, 0xFFFF)
    # The same id of another type is another object.
    Opaque.put(session, 500, "same id", 1, NONE, ALGORITHM.OPAQUE_DATA, b"x")
    assert len(session.list_objects(object_id=500)) == 2


def test_listing_filters(session: AuthSession) -> None:
    signing_key(session, 500, domains=0b1)
    signing_key(session, 600, CAPABILITY.EXPORTABLE_UNDER_WRAP, domains=0b10)
    wrap_key(session, bytes(16), 400)

    def ids(**filters: object) -> list[int]:
        return [found.id for found in session.list_objects(**filters)]  # type: ignore[arg-type]

    assert ids() == [1, 400, 500, 600]
    assert ids(object_type=OBJECT.ASYMMETRIC_KEY) == [500, 600]
    assert ids(object_id=400) == [400]
    assert ids(domains=0b10) == [1, 600]
    assert ids(capabilities=CAPABILITY.SIGN_EDDSA) == [1, 500]
    assert ids(algorithm=ALGORITHM.AES128_CCM_WRAP) == [400]
    assert ids(label="signing key", domains=0b10) == [600]
    assert ids(label="signing") == []
    for malformed in (b"\x01", b"\x07\0", b"\x06short"):
        with refused(ERROR.INVALID_DATA):
            session.send_secure_cmd(COMMAND.LIST_OBJECTS, malformed)


def test_the_sequence_counts_the_objects_that_an_id_had(session: AuthSession) -> None:
    for expected in range(3):
        key = signing_key(session, 500)
        assert key.get_info().sequence == expected
        key.delete()


def test_storage_is_accounted_for(session: AuthSession) -> None:
    def free() -> tuple[int, int]:
        reply = session.send_secure_cmd(COMMAND.GET_STORAGE_INFO)
        records, left, pages, free_pages, size = struct.unpack("!5H", reply)
        assert (records, pages, size) == (256, 1024, 126)
        return left, free_pages

    assert free() == (255, 1023)
    note = Opaque.put(session, 0, "n", 1, NONE, ALGORITHM.OPAQUE_DATA, bytes(127))
    assert free() == (254, 1021)
    note.delete()
    assert free() == (255, 1023)


@pytest.mark.parametrize(
    ("count", "size"),
    [(255, 1), (1023 // 24, 24 * 126)],
    ids=["256 objects", "126 kilobytes"],
)
def test_a_device_that_is_full(count: int, size: int) -> None:
    session = YubiHsm(Direct(Device(Memory()))).create_session_derived(1, PASSWORD)
    for _ in range(count):
        Opaque.put(session, 0, "n", 1, NONE, ALGORITHM.OPAQUE_DATA, bytes(size))
    with refused(ERROR.STORAGE_FAILED):
        Opaque.put(session, 0, "n", 1, NONE, ALGORITHM.OPAQUE_DATA, bytes(size))


def test_the_passphrase_of_a_session_can_be_changed_by_itself_only(
    hsm: YubiHsm, session: AuthSession
) -> None:
    key = AuthenticationKey.put_derived(
        session, 100, "k", 1, CAPABILITY.CHANGE_AUTHENTICATION_KEY, NONE, "first"
    )
    with refused(ERROR.INVALID_ID):
        key.change_password("second")
    own = hsm.create_session_derived(100, "first")
    key.with_session(own).change_password("second")
    assert key.get_info().sequence == 1
    with pytest.raises(YubiHsmAuthenticationError):
        hsm.create_session_derived(100, "first")
    hsm.create_session_derived(100, "second").close()
    with refused(ERROR.INVALID_DATA):  # of the same kind only
        key.with_session(own).change_public_key(
            ec.generate_private_key(ec.SECP256R1()).public_key()
        )


def test_an_asymmetric_authentication_key_can_be_changed(
    hsm: YubiHsm, session: AuthSession
) -> None:
    first, second = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    rights = CAPABILITY.CHANGE_AUTHENTICATION_KEY
    key = AuthenticationKey.put_public_key(session, 100, "k", 1, rights, NONE, first.public_key())
    assert key.get_info().size == 72
    own = hsm.create_session_asymmetric(100, first)
    key.with_session(own).change_public_key(second.public_key())
    hsm.create_session_asymmetric(100, second).close()
    with pytest.raises(YubiHsmAuthenticationError):
        hsm.create_session_asymmetric(100, first)


def test_reset_leaves_a_device_as_from_the_factory(
    connector: str, hsm: YubiHsm, session: AuthSession
) -> None:
    device_key = hsm.get_device_public_key()
    signing_key(session, 500)
    session.set_command_audit({COMMAND.ECHO: 2})  # type: ignore[dict-item]
    session.get_object(1, OBJECT.AUTHENTICATION_KEY).delete()
    session.reset_device()
    with YubiHsm.connect(connector) as again:
        assert again.get_device_public_key() != device_key
        fresh = again.create_session_derived(1, PASSWORD)
        assert [(o.id, o.get_info().sequence) for o in fresh.list_objects()] == [(1, 0)]
        assert not any(fresh.get_command_audit().values())
        assert signing_key(fresh, 500).get_info().sequence == 0


def test_a_deleted_authentication_key_opens_no_session_but_its_session_lives_on(
    hsm: YubiHsm, session: AuthSession
) -> None:
    session.get_object(1, OBJECT.AUTHENTICATION_KEY).delete()
    signing_key(session, 500)
    with refused(ERROR.OBJECT_NOT_FOUND):
        hsm.create_session_derived(1, PASSWORD)


def test_algorithms_can_be_disabled_on_a_fresh_device_only(session: AuthSession) -> None:
    assert session.get_enabled_algorithms()[ALGORITHM.RSA_2048] is False
    session.set_enabled_algorithms({ALGORITHM.EC_P256: False})
    assert session.get_enabled_algorithms()[ALGORITHM.EC_P256] is False
    with refused(ERROR.ALGORITHM_DISABLED):
        AsymmetricKey.generate(session, 0, "k", 1, NONE, ALGORITHM.EC_P256)
    with refused(ERROR.INVALID_DATA):
        session.set_enabled_algorithms({ALGORITHM.RSA_2048: True})
    signing_key(session)
    with refused(ERROR.INVALID_DATA):
        session.set_enabled_algorithms({ALGORITHM.EC_P256: True})


def test_options_that_it_has_not_are_refused(session: AuthSession) -> None:
    with refused(ERROR.INVALID_DATA):
        session.get_fips_status()
    with refused(ERROR.INVALID_DATA):
        session.set_fips_mode(True)
    with refused(ERROR.INVALID_DATA):
        session.put_option(OPTION.FORCE_AUDIT, b"\3")
    with refused(ERROR.WRONG_LENGTH):
        session.put_option(OPTION.FORCE_AUDIT, b"\1\1")
    with refused(ERROR.WRONG_LENGTH):
        session.put_option(OPTION.COMMAND_AUDIT, b"\1")


@pytest.mark.parametrize(
    ("command", "data", "code"),
    [
        (COMMAND.SIGN_PKCS1, b"", ERROR.INVALID_COMMAND),
        (COMMAND.CREATE_SESSION, bytes(10), ERROR.INVALID_COMMAND),
        (COMMAND.GET_PSEUDO_RANDOM, b"", ERROR.WRONG_LENGTH),
        (COMMAND.GET_OPTION, b"", ERROR.WRONG_LENGTH),
        (COMMAND.GET_OPTION, b"\xff", ERROR.INVALID_DATA),
        (COMMAND.GET_OBJECT_INFO, b"\0\1", ERROR.WRONG_LENGTH),
        (COMMAND.GET_OBJECT_INFO, b"\0\1\x0a", ERROR.INVALID_DATA),
        (COMMAND.GET_OBJECT_INFO, b"\0\1\6", ERROR.OBJECT_NOT_FOUND),
        (COMMAND.GET_STORAGE_INFO, b"\0", ERROR.WRONG_LENGTH),
        (COMMAND.GET_PUBLIC_KEY, b"\0\1\2", ERROR.INVALID_DATA),
        (COMMAND.BLINK_DEVICE, b"", ERROR.WRONG_LENGTH),
        (COMMAND.DEVICE_INFO, b"\2", ERROR.INVALID_DATA),
    ],
)
def test_malformed_commands_get_the_devices_own_error(
    session: AuthSession, command: COMMAND, data: bytes, code: ERROR
) -> None:
    with refused(code):
        session.send_secure_cmd(command, data)
    assert session.send_secure_cmd(COMMAND.ECHO, b"still here") == b"still here"


def test_commands_of_a_session_are_unknown_outside_of_one(hsm: YubiHsm) -> None:
    for command in (COMMAND.GET_STORAGE_INFO, COMMAND.SIGN_EDDSA, COMMAND.RESET_DEVICE):
        with refused(ERROR.INVALID_COMMAND):
            hsm.send_cmd(command)
    assert hsm.send_cmd(COMMAND.ECHO, b"x" * 2021) == b"x" * 2021


def test_blink(session: AuthSession) -> None:
    assert session.send_secure_cmd(COMMAND.BLINK_DEVICE, b"\5") == b""


def test_older_firmware_has_smaller_messages_and_no_second_page(state: object) -> None:
    with (
        serve({SERIAL: state}, firmware=(2, 3, 2)) as urls,  # type: ignore[dict-item]
        YubiHsm.connect(urls[SERIAL]) as hsm,
    ):
        assert hsm.get_device_info().version == (2, 3, 2)
        assert hsm.get_device_info().part_number is None
        with refused(ERROR.WRONG_LENGTH):
            hsm.send_cmd(COMMAND.DEVICE_INFO, b"\1")
        session = hsm.create_session_derived(1, PASSWORD)
        assert len(session.get_pseudo_random(2028)) == 2028
        with refused(ERROR.WRONG_LENGTH):
            session.get_pseudo_random(2029)
        key, wrap = signing_key(session), wrap_key(session, bytes(16))
        with refused(ERROR.WRONG_LENGTH):
            wrap.export_wrapped(key, seed=True)


def test_the_factory_keys_are_those_that_every_tool_derives() -> None:
    from sigsum_ops.hsm.rehearsal.store import FACTORY_SECRET

    assert hashlib.pbkdf2_hmac("sha256", b"password", b"Yubico", 10000) == FACTORY_SECRET


def test_wrap_keys_of_every_size(session: AuthSession) -> None:
    for size in (16, 24, 32):
        assert wrap_key(session, bytes(size)).get_info().size == size + 8
    made = WrapKey.generate(
        session, 0, "w", 1, NONE, ALGORITHM.AES256_CCM_WRAP, CAPABILITY.SIGN_EDDSA
    )
    info = made.get_info()
    assert (info.size, info.origin) == (40, ORIGIN.GENERATED)
    assert info.delegated_capabilities == CAPABILITY.SIGN_EDDSA


def test_the_device_key_is_a_point_of_p256(hsm: YubiHsm) -> None:
    raw = hsm.send_cmd(COMMAND.GET_DEVICE_PUBLIC_KEY)
    assert raw[0] == ALGORITHM.EC_P256_YUBICO_AUTHENTICATION
    point = hsm.get_device_public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert point[1:] == raw[1:]
