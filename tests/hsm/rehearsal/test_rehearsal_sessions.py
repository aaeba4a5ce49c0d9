"""Sessions: how they begin, how many there are, and how they end."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm.core import AuthSession, SymmetricAuth, YubiHsm
from yubihsm.defs import CAPABILITY, COMMAND, ERROR, OBJECT
from yubihsm.exceptions import YubiHsmAuthenticationError, YubiHsmDeviceError
from yubihsm.objects import AuthenticationKey

from tests.hsm.rehearsal.client import NONE, PASSWORD, Clock, log_in, refused

Damage = Callable[[bytes], bytes]


def echo(session: AuthSession) -> None:
    assert session.send_secure_cmd(COMMAND.ECHO, b"hello") == b"hello"


def sessions_left(hsm: YubiHsm) -> int:
    """How many sessions can still be opened; opens them."""
    count = 0
    while True:
        try:
            hsm.create_session_derived(1, PASSWORD)
        except YubiHsmDeviceError as error:
            if error.code != ERROR.SESSIONS_FULL:
                raise
            return count
        count += 1


def test_sixteen_sessions_work_side_by_side_and_a_seventeenth_is_refused(hsm: YubiHsm) -> None:
    sessions = [hsm.create_session_derived(1, PASSWORD) for _ in range(16)]
    assert sorted(session.sid for session in sessions) == list(range(16))  # type: ignore[type-var]
    with refused(ERROR.SESSIONS_FULL):
        hsm.create_session_derived(1, PASSWORD)
    for session in sessions:
        echo(session)
    sessions[7].close()
    assert hsm.create_session_derived(1, PASSWORD).sid == 7


def test_a_session_ends_after_30_seconds_without_a_message(hsm: YubiHsm, clock: Clock) -> None:
    busy = hsm.create_session_derived(1, PASSWORD)
    idle = hsm.create_session_derived(1, PASSWORD)
    clock.now += 29.9
    echo(busy)
    clock.now += 0.1
    with refused(ERROR.INVALID_SESSION):
        echo(idle)
    clock.now += 29.8
    echo(busy)
    assert sessions_left(hsm) == 15


def test_a_session_that_was_closed_is_gone(hsm: YubiHsm, session: AuthSession) -> None:
    sid = session.sid
    session.close()
    session._sid = sid
    with pytest.raises((YubiHsmDeviceError, ValueError)):
        echo(session)
    assert sessions_left(hsm) == 16


def test_a_wrong_password_is_noticed_by_the_client_and_leaves_half_a_session(
    hsm: YubiHsm, clock: Clock
) -> None:
    """python-yubihsm stops before it answers; a real device then keeps the slot, too."""
    with pytest.raises(YubiHsmAuthenticationError):
        hsm.create_session_derived(1, "wrong")
    assert sessions_left(hsm) == 15
    clock.now += 30
    assert sessions_left(hsm) == 16


def test_a_client_that_does_not_check_is_refused_by_the_device(hsm: YubiHsm) -> None:
    """As yubihsm-shell does: it sends its cryptogram first, and so leaves nothing behind."""
    for _ in range(20):
        begun = SymmetricAuth.init_session(hsm, 1)
        message = bytes([begun._sid]) + bytes(16)
        with refused(ERROR.AUTHENTICATION_FAILED):
            hsm.send_cmd(COMMAND.AUTHENTICATE_SESSION, message)
    assert sessions_left(hsm) == 16


def test_half_a_session_carries_no_commands(hsm: YubiHsm) -> None:
    begun = SymmetricAuth.init_session(hsm, 1)
    with refused(ERROR.INVALID_SESSION):
        hsm.send_cmd(COMMAND.SESSION_MESSAGE, bytes([begun._sid]) + bytes(24))
    complete = hsm.create_session_derived(1, PASSWORD)
    assert complete.sid is not None
    with refused(ERROR.INVALID_SESSION):  # nor can one be authenticated twice
        hsm.send_cmd(COMMAND.AUTHENTICATE_SESSION, bytes([complete.sid]) + bytes(16))
    echo(complete)


def test_an_authentication_key_that_is_not_there(hsm: YubiHsm) -> None:
    with refused(ERROR.OBJECT_NOT_FOUND):
        hsm.create_session_derived(2, PASSWORD)
    with refused(ERROR.WRONG_LENGTH):
        hsm.send_cmd(COMMAND.CREATE_SESSION, struct.pack("!H", 1) + bytes(7))
    with refused(ERROR.WRONG_LENGTH):  # the key is symmetric, so it wants a challenge, not a point
        hsm.send_cmd(COMMAND.CREATE_SESSION, struct.pack("!H", 1) + bytes(65))
    assert sessions_left(hsm) == 16


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:1] + bytes([data[1] ^ 1]) + data[2:],
        lambda data: data[:1] + data[17:],
    ],
    ids=["mac", "ciphertext", "a block less"],
)
def test_a_message_that_was_tampered_with_ends_the_session(
    hsm: YubiHsm, session: AuthSession, damage: Damage, monkeypatch: pytest.MonkeyPatch
) -> None:
    transceive = hsm._backend.transceive

    def tamper(message: bytes) -> bytes:
        data = damage(message[3:])
        return transceive(struct.pack("!BH", message[0], len(data)) + data)

    with monkeypatch.context() as patch:
        patch.setattr(hsm._backend, "transceive", tamper)
        with refused(ERROR.AUTHENTICATION_FAILED):
            session.send_secure_cmd(COMMAND.ECHO, bytes(32))
    with refused(ERROR.INVALID_SESSION):
        echo(session)
    assert sessions_left(hsm) == 16


def test_a_message_is_not_taken_twice(
    hsm: YubiHsm, session: AuthSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    transceive = hsm._backend.transceive

    def record(message: bytes) -> bytes:
        sent.append(message)
        return transceive(message)

    with monkeypatch.context() as patch:
        patch.setattr(hsm._backend, "transceive", record)
        echo(session)
    with refused(ERROR.AUTHENTICATION_FAILED):
        hsm.send_cmd(COMMAND.SESSION_MESSAGE, sent[0][3:])


def test_a_message_too_short_for_a_mac_does_not_end_the_session(
    hsm: YubiHsm, session: AuthSession
) -> None:
    assert session.sid is not None
    with refused(ERROR.WRONG_LENGTH):
        hsm.send_cmd(COMMAND.SESSION_MESSAGE, bytes([session.sid]))
    echo(session)


def test_asymmetric_authentication(hsm: YubiHsm, session: AuthSession) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    rights = CAPABILITY.GET_PSEUDO_RANDOM
    stored = AuthenticationKey.put_public_key(
        session, 700, "asymmetric", 1, rights, NONE, key.public_key()
    )
    with hsm.create_session_asymmetric(stored.id, key) as own:
        echo(own)
        assert len(own.get_pseudo_random(8)) == 8
        with refused(ERROR.INSUFFICIENT_PERMISSIONS):
            own.get_log_entries()
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(YubiHsmAuthenticationError):
        hsm.create_session_asymmetric(stored.id, other)
    with pytest.raises(YubiHsmAuthenticationError):
        hsm.create_session_asymmetric(stored.id, key, other.public_key())
    with refused(ERROR.INVALID_DATA):
        hsm.init_session_asymmetric(stored.id, b"\x04" + b"\xff" * 64)
    with refused(ERROR.WRONG_LENGTH):
        hsm.init_session(stored.id)


def test_an_authentication_key_must_be_a_point_of_the_curve(session: AuthSession) -> None:
    head = struct.pack("!H40sHQBQ", 0, b"", 1, 0, 49, 0)
    with refused(ERROR.INVALID_DATA):
        session.send_secure_cmd(COMMAND.PUT_AUTHENTICATION_KEY, head + b"\xff" * 64)


def test_rights_are_those_of_the_key_when_the_session_began(
    hsm: YubiHsm, session: AuthSession
) -> None:
    limited = log_in(session, hsm, CAPABILITY.GET_PSEUDO_RANDOM)
    (key,) = session.list_objects(label="some rights", object_type=OBJECT.AUTHENTICATION_KEY)
    key.delete()
    assert len(limited.get_pseudo_random(4)) == 4
