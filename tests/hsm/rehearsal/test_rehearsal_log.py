"""The device's log: what is written, how it is chained, and what happens when it is full."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from yubihsm.core import AuthSession, LogEntry, YubiHsm
from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, ERROR
from yubihsm.exceptions import YubiHsmAuthenticationError
from yubihsm.objects import AsymmetricKey, Opaque

from sigsum_ops.hsm.rehearsal import serve
from sigsum_ops.hsm.rehearsal.devicelog import CAPACITY, DeviceLog
from tests.hsm.rehearsal.client import (
    NONE,
    PASSWORD,
    SERIAL,
    Clock,
    log_in,
    refused,
    signing_key,
    wrap_key,
)

# Published by owners of real devices: number, command, length, session key, target, second, result,
# tick, digest. The first two are the log after a reset, the others from the life of another device.
NA = 0xFFFF  # not applicable
REAL = [
    [
        (1, 255, NA, NA, NA, NA, 255, 2**32 - 1, "33012657537e4842f57fa6ed3b09b25b"),
        (2, 0x00, 0, 0xFFFF, 0, 0, 0, 0, "fc153091560e18bca82621522c85bdba"),
        (3, 0x4F, 5, 1, 0xFFFF, 0xFFFF, 0xCF, 1987, "3d9380a76ae41826d90daa44c1085a62"),
        (4, 0x4F, 4, 1, 0xFFFF, 0xFFFF, 0xCF, 3479, "43d063d6f0d67b43b87cd67df2f6c2bc"),
    ],
    [
        (46, 0x4B, 234, 1, 0xCF94, 0x997E, 0xCB, 335725, "415f51f1f035a1b713e730e4464e4033"),
        (47, 0x4C, 77, 1, 0xAFF7, 0xFFFF, 0xCC, 351714, "5496a60d478c2b9c801d8d32ca66b554"),
        (48, 0x00, 0, 0xFFFF, 0, 0, 0, 0, "14ac7747ba9bbb243cfc70befeb5349b"),
        (49, 0x03, 10, 0xFFFF, 1, 0xFFFF, 0x83, 139, "b20a8f25c025e693a8e869b433294a20"),
        (50, 0x04, 17, 0xFFFF, 1, 0xFFFF, 0x84, 139, "ebfae425c319ac7a0afbb8b92597de7c"),
        (51, 0x67, 2, 1, 0xFFFF, 0xFFFF, 0xE7, 697, "2e395d1b706668737e1d2215813db47e"),
    ],
]  # fmt: skip


@pytest.mark.parametrize("real", REAL)
def test_entries_are_chained_as_real_devices_chain_them(
    real: list[tuple[int, int, int, int, int, int, int, int, str]],
) -> None:
    log = DeviceLog([], real[0][0], bytes.fromhex(real[0][-1]))
    for entry in real[1:]:
        log.append(*entry[1:8])
        assert log.entries[-1][:2] == entry[0].to_bytes(2, "big")
        assert log.digest.hex() == entry[-1]


def entries(session: AuthSession) -> list[LogEntry]:
    """All entries; python-yubihsm checks the chain while it reads them."""
    return list(session.get_log_entries().entries)


def drain(session: AuthSession) -> None:
    session.set_log_index(entries(session)[-1].number)


def test_after_a_reset_there_are_two_entries(session: AuthSession) -> None:
    first, second = entries(session)
    assert first.data == b"\0\1" + b"\xff" * 14
    assert second.data == struct.pack("!HBHHHHBL", 2, 0, 0, 0xFFFF, 0, 0, 0, 0)
    assert second.digest == hashlib.sha256(second.data + first.digest).digest()[:16]


def test_two_devices_have_different_chains(tmp_path: Path) -> None:
    digests = set()
    with serve({SERIAL: tmp_path / "a", SERIAL + 1: tmp_path / "b"}) as urls:
        for url in urls.values():
            with YubiHsm.connect(url) as hsm:
                digests.add(entries(hsm.create_session_derived(1, PASSWORD))[0].digest)
    assert len(digests) == 2


def test_commands_are_logged_only_if_they_are_audited(session: AuthSession) -> None:
    assert not any(session.get_command_audit().values())
    signing_key(session, 500)
    assert len(entries(session)) == 2
    session.set_command_audit({COMMAND.GENERATE_ASYMMETRIC_KEY: AUDIT.ON})
    signing_key(session, 501)
    assert [e.command for e in entries(session)[2:]] == [COMMAND.GENERATE_ASYMMETRIC_KEY]
    assert session.get_command_audit()[COMMAND.GENERATE_ASYMMETRIC_KEY] == AUDIT.ON


def test_what_is_logged(hsm: YubiHsm, session: AuthSession, clock: Clock) -> None:
    audited = (
        COMMAND.CREATE_SESSION,
        COMMAND.AUTHENTICATE_SESSION,
        COMMAND.GENERATE_ASYMMETRIC_KEY,
        COMMAND.PUT_WRAP_KEY,
        COMMAND.EXPORT_WRAPPED,
        COMMAND.DELETE_OBJECT,
        COMMAND.IMPORT_WRAPPED,
        COMMAND.SIGN_EDDSA,
        COMMAND.SET_OPTION,
        COMMAND.SET_LOG_INDEX,
    )
    clock.now += 1.5
    session.set_command_audit(dict.fromkeys(audited, AUDIT.ON))
    hsm.create_session_derived(1, PASSWORD)
    wrap = wrap_key(session, bytes(16), 400)
    key = signing_key(session)
    key.sign_eddsa(b"message")
    blob = wrap.export_wrapped(key)
    key.delete()
    wrap.import_wrapped(blob)
    with refused(ERROR.OBJECT_NOT_FOUND):
        AsymmetricKey(session, 77).sign_eddsa(b"")
    logged = [
        (e.command, e.length, e.session_key, e.target_key, e.second_key, e.result, e.tick)
        for e in entries(session)[2:]
    ]
    none, ok = 0xFFFF, 0x80
    assert logged == [
        (COMMAND.SET_OPTION, 23, 1, none, none, ok | COMMAND.SET_OPTION, 150),
        (COMMAND.CREATE_SESSION, 10, none, 1, none, ok | COMMAND.CREATE_SESSION, 150),
        (COMMAND.AUTHENTICATE_SESSION, 17, none, 1, none, ok | COMMAND.AUTHENTICATE_SESSION, 150),
        (COMMAND.PUT_WRAP_KEY, 77, 1, 400, none, ok | COMMAND.PUT_WRAP_KEY, 150),
        (COMMAND.GENERATE_ASYMMETRIC_KEY, 53, 1, key.id, none, 0xC6, 150),
        (COMMAND.SIGN_EDDSA, 9, 1, key.id, none, ok | COMMAND.SIGN_EDDSA, 150),
        (COMMAND.EXPORT_WRAPPED, 5, 1, 400, key.id, ok | COMMAND.EXPORT_WRAPPED, 150),
        (COMMAND.DELETE_OBJECT, 3, 1, key.id, none, ok | COMMAND.DELETE_OBJECT, 150),
        (COMMAND.IMPORT_WRAPPED, 2 + len(blob), 1, 400, key.id, 0xCB, 150),
        (COMMAND.SIGN_EDDSA, 2, 1, 77, none, ERROR.OBJECT_NOT_FOUND, 150),
    ]
    drain(session)
    assert [e.command for e in entries(session)] == [COMMAND.SET_LOG_INDEX]


def test_failed_authentication_is_logged(hsm: YubiHsm, session: AuthSession) -> None:
    session.set_command_audit(
        {COMMAND.CREATE_SESSION: AUDIT.ON, COMMAND.AUTHENTICATE_SESSION: AUDIT.ON}
    )
    with refused(ERROR.OBJECT_NOT_FOUND):
        hsm.create_session_derived(9, PASSWORD)
    with pytest.raises(YubiHsmAuthenticationError):
        hsm.create_session_derived(1, "wrong")
    with refused(ERROR.AUTHENTICATION_FAILED):
        hsm.send_cmd(COMMAND.AUTHENTICATE_SESSION, b"\1" + bytes(16))
    assert [(e.target_key, e.result) for e in entries(session)[2:]] == [
        (9, ERROR.OBJECT_NOT_FOUND),
        (1, 0x80 | COMMAND.CREATE_SESSION),
        (1, ERROR.AUTHENTICATION_FAILED),
    ]


def test_a_full_log_forgets_its_oldest_entries(session: AuthSession) -> None:
    session.set_command_audit({COMMAND.GET_PSEUDO_RANDOM: AUDIT.ON})
    for _ in range(100):
        session.get_pseudo_random(1)
    found = entries(session)
    assert len(found) == CAPACITY
    assert [found[0].number, found[-1].number] == [41, 102]


def test_numbers_go_around() -> None:
    log = DeviceLog([], 0xFFFF, bytes(16))
    log.append(1, 2, 3, 4, 5, 6, 7)
    assert log.number == 0
    log.append(1, 2, 3, 4, 5, 6, 7)
    log.fetched(0)
    assert [entry[:2] for entry in log.entries] == [b"\0\1"]


def test_the_index_frees_what_was_read(session: AuthSession, hsm: YubiHsm) -> None:
    session.set_log_index(1)
    assert [e.number for e in entries(session)] == [2]
    assert hsm.get_device_info().log_used == 1
    for wrong in (1, 3, 65535):
        with refused(ERROR.INVALID_DATA):
            session.set_log_index(wrong)


def force(session: AuthSession) -> None:
    """Forced audit, with signing audited, and a full log."""
    session.set_command_audit({COMMAND.GET_PSEUDO_RANDOM: AUDIT.ON})
    session.set_force_audit(AUDIT.ON)
    for _ in range(CAPACITY - len(entries(session))):
        session.get_pseudo_random(1)


def test_forced_audit_stops_the_device_when_its_log_is_full(
    hsm: YubiHsm, session: AuthSession
) -> None:
    key = signing_key(session, 500)
    last = entries(session)[-1]
    session.set_log_index(last.number)
    force(session)
    assert hsm.get_device_info().log_used == CAPACITY
    for act in (
        lambda: session.get_pseudo_random(1),
        lambda: key.sign_eddsa(b"not audited, but stopped as well"),
        session.list_objects,
        lambda: session.set_force_audit(AUDIT.OFF),
    ):
        with refused(ERROR.LOG_FULL):
            act()
    # Reading and freeing go on, and so does opening a session to do it.
    auditor = hsm.create_session_derived(1, PASSWORD)
    log = auditor.get_log_entries(last)
    assert (log.n_boot, log.n_auth) == (0, 1)
    auditor.set_log_index(log.entries[-1].number)
    assert auditor.get_log_entries(log.entries[-1]) == (0, 0, [])
    session.get_pseudo_random(1)
    session.set_force_audit(AUDIT.OFF)
    assert session.get_force_audit() == AUDIT.OFF


def test_boots_that_a_full_log_has_no_room_for_are_counted(state: Path) -> None:
    with serve({SERIAL: state}) as urls, YubiHsm.connect(urls[SERIAL]) as hsm:
        force(hsm.create_session_derived(1, PASSWORD))
    for _ in range(3):
        with serve({SERIAL: state}):
            pass
    with serve({SERIAL: state}) as urls, YubiHsm.connect(urls[SERIAL]) as hsm:
        log = hsm.create_session_derived(1, PASSWORD).get_log_entries()
    assert (log.n_boot, log.n_auth, len(log.entries)) == (4, 1, CAPACITY)


def test_what_is_fixed_stays_until_a_reset(connector: str, session: AuthSession) -> None:
    session.set_command_audit({COMMAND.SIGN_EDDSA: AUDIT.FIXED})
    session.set_force_audit(AUDIT.FIXED)
    for value in (AUDIT.OFF, AUDIT.ON):
        with refused(ERROR.INVALID_DATA):
            session.set_command_audit({COMMAND.ECHO: AUDIT.ON, COMMAND.SIGN_EDDSA: value})
        with refused(ERROR.INVALID_DATA):
            session.set_force_audit(value)
    assert session.get_command_audit()[COMMAND.ECHO] == AUDIT.OFF  # all or nothing
    session.reset_device()
    with YubiHsm.connect(connector) as again:
        assert again.create_session_derived(1, PASSWORD).get_force_audit() == AUDIT.OFF


def test_the_envelope_of_messages_is_never_audited(session: AuthSession) -> None:
    with refused(ERROR.INVALID_DATA):
        session.set_command_audit({COMMAND.SESSION_MESSAGE: AUDIT.ON})
    session.set_command_audit({COMMAND.SESSION_MESSAGE: AUDIT.OFF})
    with refused(ERROR.INVALID_DATA):
        session.set_command_audit({COMMAND.ERROR: AUDIT.ON})


def test_an_auditor_needs_no_other_capability(hsm: YubiHsm, session: AuthSession) -> None:
    auditor = log_in(session, hsm, CAPABILITY.GET_LOG_ENTRIES)
    drain(auditor)
    assert entries(auditor) == []
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        auditor.get_force_audit()


def test_turning_an_audit_on_is_logged_by_itself(session: AuthSession) -> None:
    session.set_command_audit({COMMAND.SET_OPTION: AUDIT.ON})
    session.set_force_audit(AUDIT.OFF)
    assert [(e.command, e.length) for e in entries(session)[2:]] == [
        (COMMAND.SET_OPTION, 5),
        (COMMAND.SET_OPTION, 4),
    ]


def test_objects_are_named_in_the_log_by_their_own_ids(session: AuthSession) -> None:
    session.set_command_audit({COMMAND.PUT_OPAQUE: AUDIT.ON})
    stored = Opaque.put(session, 0, "", 1, NONE, ALGORITHM.OPAQUE_DATA, b"x")
    assert entries(session)[-1].target_key == stored.id
