"""What goes wrong on request, as a client sees it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from urllib.error import HTTPError

import pytest
import requests
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import AUDIT, COMMAND, ERROR
from yubihsm.exceptions import YubiHsmConnectionError

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.rehearsal import clear, faults, serve, strike
from sigsum_ops.hsm.rehearsal.faults import Fault, Kind
from tests.hsm.rehearsal.client import PASSWORD, SERIAL, Clock, refused, signing_key


def status(connector: str) -> dict[str, str]:
    answer = requests.get(f"{connector}/connector/status", timeout=5)
    return dict(line.split("=", 1) for line in answer.text.splitlines())


def answers_late(connector: str) -> bool:
    """Whether the device's info takes more than 0.2 s."""
    try:
        requests.post(f"{connector}/connector/api", b"\x06\0\0", timeout=0.2)
    except requests.Timeout:
        return True
    return False


def test_unplugged_and_plugged_in_again(connector: str, session: AuthSession, clock: Clock) -> None:
    key = signing_key(session, 500)
    strike(connector, "unplug=20")
    assert status(connector)["status"] == "NO_DEVICE"
    with pytest.raises(YubiHsmConnectionError, match="500"):
        key.sign_eddsa(b"m")
    clock.now += 19.9
    assert status(connector)["status"] == "NO_DEVICE"
    clock.now += 0.1
    assert status(connector)["status"] == "OK"
    with refused(ERROR.INVALID_SESSION):
        key.sign_eddsa(b"m")
    with YubiHsm.connect(connector) as hsm:
        fresh = hsm.create_session_derived(1, PASSWORD)
        key.with_session(fresh).sign_eddsa(b"m")
        assert [int(e.command) for e in fresh.get_log_entries().entries] == [0xFF, 0, 0]


def test_unplugged_until_cleared(connector: str, hsm: YubiHsm, clock: Clock) -> None:
    strike(connector, "unplug")
    clock.now += 1e9
    with pytest.raises(YubiHsmConnectionError):
        hsm.get_device_info()
    clear(connector)
    assert hsm.get_device_info().serial == SERIAL


@pytest.mark.parametrize(("fault", "done"), [("unplug", False), ("unplug-after", True)])
def test_unplugged_in_the_middle_of_a_command(
    connector: str, session: AuthSession, clock: Clock, fault: str, done: bool
) -> None:
    """The client sees the same, whether the command was carried out or not."""
    strike(connector, f"{fault}@generate-asymmetric-key=5")
    session.get_force_audit()  # another command does not set it off
    with pytest.raises(YubiHsmConnectionError):
        signing_key(session, 500)
    clock.now += 5
    with YubiHsm.connect(connector) as hsm:
        fresh = hsm.create_session_derived(1, PASSWORD)
        assert [o.id for o in fresh.list_objects()] == ([1, 500] if done else [1])
        signing_key(fresh, 501)  # it struck once


def test_a_reset_that_takes_the_device_away_as_real_ones_do(
    connector: str, session: AuthSession, clock: Clock
) -> None:
    strike(connector, "unplug-after@reset-device=3")
    signing_key(session, 500)
    session.reset_device()
    clock.now += 3
    with YubiHsm.connect(connector) as hsm:
        assert len(hsm.create_session_derived(1, PASSWORD).list_objects()) == 1


def test_a_hang_holds_up_everything_until_it_is_cleared(
    connector: str, session: AuthSession
) -> None:
    key = signing_key(session, 500)
    strike(connector, "hang@sign-eddsa")
    signatures: list[bytes] = []
    signer = threading.Thread(target=lambda: signatures.append(key.sign_eddsa(b"m")))
    signer.start()
    while not answers_late(connector):  # until the signer holds the connector
        pass
    assert signer.is_alive()
    clear(connector)
    signer.join(10)
    assert [len(signature) for signature in signatures] == [64]


def test_a_hang_ends_with_the_connector(state: Path) -> None:
    with serve({SERIAL: state}, struck=["hang"]) as urls:
        assert answers_late(urls[SERIAL])
    with serve({SERIAL: state}):  # nobody holds the file any more
        pass


def test_a_hang_with_an_end(connector: str, hsm: YubiHsm) -> None:
    strike(connector, "hang=0.2")
    start = time.monotonic()
    hsm.get_device_info()
    assert time.monotonic() - start >= 0.2


def test_sessions_are_lost_now_or_at_a_command(connector: str, hsm: YubiHsm) -> None:
    first = hsm.create_session_derived(1, PASSWORD)
    strike(connector, "lose-sessions")
    with refused(ERROR.INVALID_SESSION):
        first.get_force_audit()
    second = hsm.create_session_derived(1, PASSWORD)
    strike(connector, "lose-sessions@generate-asymmetric-key")
    second.get_force_audit()
    with refused(ERROR.INVALID_SESSION):
        signing_key(second, 500)
    third = hsm.create_session_derived(1, PASSWORD)
    assert len(third.list_objects()) == 1


def test_a_log_that_is_full(connector: str, session: AuthSession) -> None:
    session.set_force_audit(AUDIT.ON)
    strike(connector, "log-full")
    with refused(ERROR.LOG_FULL):
        session.get_pseudo_random(1)
    entries = session.get_log_entries().entries  # whose chain python-yubihsm checks
    assert len(entries) == 62
    session.set_log_index(entries[-1].number)
    session.get_pseudo_random(1)


def test_slow_signatures_stay_slow(connector: str, session: AuthSession) -> None:
    key = signing_key(session, 500)
    strike(connector, "slow=0.05")
    start = time.monotonic()
    key.sign_eddsa(b"1")
    key.sign_eddsa(b"2")
    assert time.monotonic() - start >= 0.1
    answer = requests.get(f"{connector}/rehearsal/faults", timeout=5)
    assert answer.text == "slow=0.05\n"
    clear(connector)
    start = time.monotonic()
    key.sign_eddsa(b"3")
    assert time.monotonic() - start < 0.05


def test_faults_from_the_start(state: Path) -> None:
    with (
        serve({SERIAL: state}, struck=["slow@echo=0.1"]) as urls,
        YubiHsm.connect(urls[SERIAL]) as hsm,
    ):
        start = time.monotonic()
        hsm.send_cmd(COMMAND.ECHO, b"x")
        assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("unplug", Fault(Kind.UNPLUG)),
        ("unplug=20", Fault(Kind.UNPLUG, None, 20)),
        ("unplug-after@reset-device=3", Fault(Kind.UNPLUG_AFTER, COMMAND.RESET_DEVICE, 3)),
        ("hang@sign-eddsa", Fault(Kind.HANG, COMMAND.SIGN_EDDSA)),
        ("lose-sessions", Fault(Kind.LOSE_SESSIONS)),
        ("log-full", Fault(Kind.LOG_FULL)),
        ("slow=0.25", Fault(Kind.SLOW, None, 0.25)),
    ],
)
def test_faults_are_read_and_written(text: str, fault: Fault) -> None:
    assert faults.parse(text) == fault
    assert str(fault) == text


def test_slow_means_about_what_a_real_device_takes() -> None:
    assert faults.parse("slow") == Fault(Kind.SLOW, None, 0.1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "break",
        "unplug=",
        "unplug=soon",
        "unplug=-1",
        "unplug@sign",
        "unplug-after=3",
        "log-full@echo",
        "log-full=1",
        "lose-sessions=1",
        "slow slow",
    ],
)
def test_what_is_no_fault_is_refused(connector: str, text: str) -> None:
    with pytest.raises(UsageError):
        faults.parse(text)
    with pytest.raises(HTTPError) as caught:
        strike(connector, text)
    assert caught.value.code == 400
