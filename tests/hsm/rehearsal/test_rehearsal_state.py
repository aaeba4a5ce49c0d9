"""What a device remembers, and what becomes of its file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import AUDIT, COMMAND, ERROR
from yubihsm.objects import AuthenticationKey, Opaque

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.rehearsal import serve
from sigsum_ops.hsm.rehearsal import state as state_module
from sigsum_ops.hsm.rehearsal.state import State
from tests.hsm.rehearsal.client import (
    NONE,
    PASSWORD,
    SERIAL,
    refused,
    signing_key,
    wrap_key,
)


def test_everything_but_sessions_survives_a_restart(state: Path) -> None:
    asymmetric = ec.generate_private_key(ec.SECP256R1())
    with serve({SERIAL: state}) as urls, YubiHsm.connect(urls[SERIAL]) as hsm:
        session = hsm.create_session_derived(1, PASSWORD)
        signing_key(session, 499).delete()
        key = signing_key(session, 500)
        wrap_key(session, bytes(32), 400)
        AuthenticationKey.put_public_key(session, 700, "", 1, NONE, NONE, asymmetric.public_key())
        session.set_command_audit({COMMAND.SIGN_EDDSA: AUDIT.ON})
        session.set_force_audit(AUDIT.ON)
        signature = key.sign_eddsa(b"m")
        infos = [o.get_info() for o in session.list_objects()]
        log = session.get_log_entries().entries
        device_key = hsm.get_device_public_key()
        attester = Opaque(session, 0).get()
    with serve({SERIAL: state}) as urls, YubiHsm.connect(urls[SERIAL]) as again:
        assert again.get_device_public_key() == device_key
        with refused(ERROR.INVALID_SESSION):
            session._hsm = again
            session.get_force_audit()
        fresh = again.create_session_derived(1, PASSWORD)
        assert [o.get_info() for o in fresh.list_objects()] == infos
        after = fresh.get_log_entries().entries
        assert after[: len(log)] == log
        assert [int(e.command) for e in after[len(log) :]] == [0]  # the boot
        assert key.with_session(fresh).sign_eddsa(b"m") == signature
        assert fresh.get_force_audit() == AUDIT.ON
        assert Opaque(fresh, 0).get() == attester
        assert signing_key(fresh, 499).get_info().sequence == 1
        again.create_session_asymmetric(700, asymmetric).close()


@pytest.mark.usefixtures("connector")
def test_only_its_owner_can_read_the_keys(state: Path) -> None:
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    files = list(state.iterdir())
    assert files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_directory_that_others_can_read_is_refused(state: Path) -> None:
    state.mkdir(mode=0o755)
    with pytest.raises(OpsError, match="can be read by others"), serve({SERIAL: state}):
        pass


@pytest.mark.usefixtures("connector")
def test_a_device_runs_once(state: Path) -> None:
    with pytest.raises(OpsError, match="in use"), serve({SERIAL: state}):
        pass


def test_several_devices_share_a_directory_and_nothing_else(state: Path) -> None:
    serials = (SERIAL, SERIAL + 1)
    with serve(dict.fromkeys(serials, state)) as urls:
        for serial in serials:
            with YubiHsm.connect(urls[serial]) as hsm:
                assert hsm.get_device_info().serial == serial
                session = hsm.create_session_derived(1, PASSWORD)
                assert len(session.list_objects()) == 1
                signing_key(session, 500)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"format": "another"}', "\0\xff"])
def test_a_file_that_is_none_is_refused_and_left_alone(state: Path, content: str) -> None:
    state.mkdir(mode=0o700)
    file = state / f"{SERIAL}.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(OpsError, match="not the state"), serve({SERIAL: state}):
        pass
    assert file.read_bytes() == content.encode("latin-1")


def test_the_file_of_another_device_is_refused(state: Path) -> None:
    with serve({SERIAL: state}):
        pass
    (state / f"{SERIAL}.json").rename(state / f"{SERIAL + 1}.json")
    with pytest.raises(OpsError, match=f"device {SERIAL}"), serve({SERIAL + 1: state}):
        pass


def test_firmware_is_the_devices_own(state: Path) -> None:
    with serve({SERIAL: state}, firmware=(2, 4, 1)):
        pass
    with serve({SERIAL: state}) as urls, YubiHsm.connect(urls[SERIAL]) as hsm:
        assert hsm.get_device_info().version == (2, 4, 1)
    with (
        pytest.raises(OpsError, match=r"firmware 2\.4\.1"),
        serve({SERIAL: state}, firmware=(2, 5, 0)),
    ):
        pass


@pytest.mark.parametrize("serial", [0, 12345678, 89999999, 100000000])
def test_a_serial_number_of_real_devices_is_refused(state: Path, serial: int) -> None:
    with pytest.raises(UsageError, match="rehearsal device"), serve({serial: state}):
        pass
    assert not state.exists()


def test_where_nothing_can_be_written_nothing_changes(
    state: Path, session: AuthSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing_key(session, 500)
    before = (state / f"{SERIAL}.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "write_durably", full)
        with refused(ERROR.STORAGE_FAILED):
            signing_key(session, 501)
        with refused(ERROR.STORAGE_FAILED):
            session.set_force_audit(AUDIT.ON)
    assert (state / f"{SERIAL}.json").read_bytes() == before
    assert [o.id for o in session.list_objects()] == [1, 500]
    assert session.get_force_audit() == AUDIT.OFF
    signing_key(session, 501)


def test_what_a_killed_process_left_is_removed(state: Path) -> None:
    state.mkdir(mode=0o700)
    left_over = state / f".{SERIAL}.json.x1y2z3"
    left_over.write_text("half a device")
    with serve({SERIAL: state}):
        assert not left_over.exists()


def test_the_state_is_the_same_after_writing_and_reading() -> None:
    device = State.factory(SERIAL, (2, 4, 0))
    text = device.to_json()
    assert State.from_json(text).to_json() == text
    assert json.loads(text)["serial"] == SERIAL
