"""The connector's HTTP: what yubihsm-connector answers, so does this."""

from __future__ import annotations

import http.client
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from yubihsm.core import YubiHsm

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.rehearsal import serve
from tests.hsm.rehearsal.client import SERIAL

DEVICE_INFO = b"\x06\0\0"


@pytest.fixture
def http_to(connector: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(connector).netloc, timeout=5)


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_status(http_to: http.client.HTTPConnection) -> None:
    code, body = ask(http_to, "GET", "/connector/status")
    assert code == 200
    assert body.decode().splitlines() == [
        "status=OK",
        f"serial={SERIAL:010d}",
        "version=3.0.0-rehearsal",
        f"pid={os.getpid()}",
        "address=127.0.0.1",
        f"port={http_to.port}",
    ]


def test_one_connection_carries_many_requests(http_to: http.client.HTTPConnection) -> None:
    for _ in range(3):
        code, body = ask(http_to, "POST", "/connector/api", DEVICE_INFO)
        assert code == 200
        assert body[0] == 0x86
    assert http_to.sock is not None


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/connector/api", None, 405),
        ("POST", "/connector/status", b"abc", 405),
        ("DELETE", "/connector/api", None, 405),
        ("GET", "/", None, 404),
        ("POST", "/connector/api/", DEVICE_INFO, 404),
        ("POST", "/connector/api", b"\x06\0", 400),
        ("POST", "/connector/api", bytes(3140), 400),
    ],
)
def test_requests_that_it_does_not_take(
    http_to: http.client.HTTPConnection, method: str, path: str, body: bytes | None, code: int
) -> None:
    assert ask(http_to, method, path, body)[0] == code
    assert ask(http_to, "POST", "/connector/api", DEVICE_INFO)[0] == 200


@pytest.mark.parametrize("length", ["-1", "3139", "x", "99999999999999999999", "³"])
def test_a_length_that_is_a_lie(connector: str, length: str) -> None:
    address = urlsplit(connector)
    with socket.create_connection((address.hostname, address.port), timeout=5) as raw:
        head = f"POST /connector/api HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        raw.sendall(head.encode("latin-1", "replace") + b"\x06\0\0")
        raw.shutdown(socket.SHUT_WR)
        answer = raw.makefile("rb").readline()
    # What is promised and never comes is a frame of the wrong length.
    assert answer.split()[1] == (b"200" if length == "3139" else b"400")


def test_a_frame_of_the_wrong_length_is_the_devices_affair(
    http_to: http.client.HTTPConnection,
) -> None:
    for frame in (b"\x06\0\1", b"\x06\0\0\0", bytes(3139)):
        assert ask(http_to, "POST", "/connector/api", frame) == (200, b"\x7f\0\1\x08")


def test_a_client_that_waits_to_be_told_to_continue(connector: str) -> None:
    address = urlsplit(connector)
    with socket.create_connection((address.hostname, address.port), timeout=5) as raw:
        raw.sendall(
            b"POST /connector/api HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        lines = raw.makefile("rb")
        assert lines.readline().split()[1] == b"100"
        lines.readline()
        raw.sendall(DEVICE_INFO)
        assert lines.readline().split()[1] == b"200"


def test_a_port_that_is_taken(state: Path, connector: str) -> None:
    port = urlsplit(connector).port
    assert port is not None
    with (
        pytest.raises(OpsError, match=f"port {port}"),
        serve({SERIAL + 1: state}, ports=[port]),
    ):
        pass


def test_connections_end_with_the_connector(state: Path) -> None:
    """Or a client of the old one could still write to the state of the new one."""
    with serve({SERIAL: state}) as urls:
        kept = http.client.HTTPConnection(urlsplit(urls[SERIAL]).netloc, timeout=5)
        ask(kept, "POST", "/connector/api", DEVICE_INFO)
    kept.auto_open = 0
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(kept, "POST", "/connector/api", DEVICE_INFO)


def test_requests_from_several_clients_are_taken_one_after_the_other(connector: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work(n: int) -> int:
        with YubiHsm.connect(connector) as hsm, hsm.create_session_derived(1, "password") as own:
            return len(own.get_pseudo_random(n + 1))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(32))) == list(range(1, 33))
