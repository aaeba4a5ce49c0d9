"""A device over its connector: what was sent is told, and what fails can be read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from yubihsm.defs import AUDIT, COMMAND, ERROR, OBJECT, OPTION

from sigsum_ops.hsm import device as devices
from sigsum_ops.hsm.device import (
    DEFAULT_PASSWORD,
    NO_REPLY,
    Device,
    Exchange,
    Refused,
    Unreachable,
    WrongSecret,
    command_audit,
    command_audit_value,
)
from sigsum_ops.hsm.plan import load
from sigsum_ops.hsm.rehearsal import clear, serve, strike

SERIAL = 90000001
PLAN = load(Path(__file__).parents[2] / "inventories/lab/hsm-plan.yml")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with serve({SERIAL: tmp_path / "hsm"}) as urls:
        yield urls[SERIAL]


@pytest.fixture
def device(url: str) -> Iterator[Device]:
    with Device(url) as found:
        yield found


def test_identity_and_what_was_sent(device: Device) -> None:
    assert (device.identity.serial, device.identity.part_number) == (SERIAL, "REHEARSAL")
    seen: list[Exchange] = []
    device.observe = seen.append
    with device.session(1, DEFAULT_PASSWORD) as session:
        assert session.objects() == ((OBJECT.AUTHENTICATION_KEY, 1),)
        assert len(session.random(16)) == 16
        assert session.storage().free_records < session.storage().records
    assert [exchange.command for exchange in seen[:2]] == [
        COMMAND.CREATE_SESSION,
        COMMAND.LIST_OBJECTS,
    ]
    assert seen[-1].command == COMMAND.CLOSE_SESSION
    assert all(exchange.error is None for exchange in seen)


def test_a_secret_is_not_among_what_is_told(device: Device) -> None:
    seen: list[Exchange] = []
    device.observe = seen.append
    spec = PLAN.objects["wrap-key"]
    key = bytes(range(32))
    with device.session(1, DEFAULT_PASSWORD) as session:
        assert session.put_wrap_key(spec, key) == 400
        session.put_authentication_key(PLAN.objects["backup-authentication"], b"passphrase")
    told = repr(seen)
    assert "passphrase" not in told
    assert repr(key) not in told
    enc, mac = devices.authentication_keys(b"passphrase")
    assert repr(enc) not in told
    assert repr(mac) not in told


def test_a_wrong_passphrase_and_a_key_that_is_not_there(device: Device) -> None:
    with pytest.raises(WrongSecret), device.session(1, b"wrong"):
        raise AssertionError
    with pytest.raises(Refused) as caught, device.session(2, b"wrong"):
        raise AssertionError
    assert caught.value.code == ERROR.OBJECT_NOT_FOUND
    assert device.opens(1, DEFAULT_PASSWORD)
    assert not device.opens(1, b"wrong")
    assert not device.opens(2, b"wrong")


def test_a_refusal_names_command_and_code(device: Device) -> None:
    with device.session(1, DEFAULT_PASSWORD) as session, pytest.raises(Refused) as caught:
        session.delete(OBJECT.WRAP_KEY, 400)
    assert caught.value.code == ERROR.OBJECT_NOT_FOUND
    assert "OBJECT_NOT_FOUND to DELETE_OBJECT" in caught.value.message
    assert str(SERIAL) in caught.value.message


def test_a_device_that_is_pulled_out(device: Device, url: str) -> None:
    seen: list[Exchange] = []
    device.observe = seen.append
    with device.session(1, DEFAULT_PASSWORD) as session:
        strike(url, "unplug")
        with pytest.raises(Unreachable, match="does not answer to LIST_OBJECTS"):
            session.objects()
    assert (COMMAND.LIST_OBJECTS, NO_REPLY) in [(e.command, e.error) for e in seen]
    with pytest.raises(Unreachable, match="does not answer"):
        Device(url)
    clear(url)
    with Device(url) as again:
        assert again.opens(1, DEFAULT_PASSWORD)


def test_a_session_that_the_device_lost(device: Device, url: str) -> None:
    with device.session(1, DEFAULT_PASSWORD) as session:
        strike(url, "lose-sessions")
        with pytest.raises(Unreachable, match="no longer knows the session"):
            session.objects()
    assert device.opens(1, DEFAULT_PASSWORD)


def test_sessions_do_not_leak(device: Device) -> None:
    for _ in range(20):  # a device has 16
        with device.session(1, DEFAULT_PASSWORD) as session, pytest.raises(Refused):
            session.delete(OBJECT.WRAP_KEY, 400)


def test_reset_brings_the_same_device_back(device: Device, url: str) -> None:
    with device.session(1, DEFAULT_PASSWORD) as session:
        session.put_wrap_key(PLAN.objects["wrap-key"], bytes(32))
        session.reset()
    with devices.connect_again(url, SERIAL) as again, again.session(1, DEFAULT_PASSWORD) as session:
        assert session.objects() == ((OBJECT.AUTHENTICATION_KEY, 1),)
        assert len(session.log().entries) == 2
    with pytest.raises(Unreachable, match="came back, not 90000002"):
        devices.connect_again(url, 90000002)


def test_options_as_on_the_wire(device: Device) -> None:
    wanted = {COMMAND.SIGN_EDDSA: AUDIT.ON, COMMAND.DELETE_OBJECT: AUDIT.FIXED}
    with device.session(1, DEFAULT_PASSWORD) as session:
        session.set_option(OPTION.COMMAND_AUDIT, command_audit_value(wanted))
        found = command_audit(session.option(OPTION.COMMAND_AUDIT))
    assert {command: found[command] for command in wanted} == wanted


@pytest.mark.parametrize("answer", [b"", b"\x86", b"\x86\x00\x00", b"<html>", b"\x7f\x00\x01\x99"])
def test_what_is_no_yubihsm_is_said_to_be_none(answer: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            with pytest.raises(Unreachable, match="not a YubiHSM's"):
                Device(f"http://127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()
            thread.join()


def test_nobody_listens() -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        Device("http://127.0.0.1:1")
