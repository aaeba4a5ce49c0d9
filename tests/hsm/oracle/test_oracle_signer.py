"""The HSM signer: the right key or none, and it always comes back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from yubihsm.core import YubiHsm
from yubihsm.exceptions import YubiHsmConnectionError
from yubihsm.objects import AsymmetricKey

from sigsum_ops.hsm import rehearsal
from sigsum_ops.hsm.connector import Connector
from sigsum_ops.hsm.oracle import signer as module
from sigsum_ops.hsm.oracle.metrics import Metrics
from sigsum_ops.hsm.oracle.signatures import Counter
from sigsum_ops.hsm.oracle.signer import (
    HsmSigner,
    SignerError,
    SoftwareSigner,
    WrongDevice,
)
from sigsum_ops.log.keys import PublicKey
from tests.hsm.oracle.hsm import (
    AUTHENTICATION_KEY,
    PASSPHRASE,
    SERIAL,
    SIGNING_KEY,
    provision,
)
from tests.hsm.oracle.world import KEY, SECRET

MESSAGE = b"a tree head"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "device"


@pytest.fixture
def url(state: Path) -> Iterator[str]:
    with rehearsal.serve({SERIAL: state}) as urls:
        provision(urls[SERIAL])
        yield urls[SERIAL]


@pytest.fixture(autouse=True)
def _in_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make(url: str, **changes: Any) -> HsmSigner:
    settings: dict[str, Any] = {
        "authentication_key": AUTHENTICATION_KEY,
        "signing_key": SIGNING_KEY,
        "passphrase": PASSPHRASE,
        "pinned": KEY,
        "metrics": Metrics(),
        "counter": Counter.open(Path("signatures")),
        "rehearsal_allowed": True,
    }
    return HsmSigner(url, **{**settings, **changes})


def soon(seconds: float = 3.0) -> float:
    return time.monotonic() + seconds


def signs(signer: HsmSigner, seconds: float = 3.0) -> bool:
    """Whether it signs; it must be over in time."""
    begin = time.monotonic()
    try:
        KEY.verify(signer.sign(MESSAGE, soon(seconds)), MESSAGE)
        return True
    except SignerError:
        return False
    finally:
        assert time.monotonic() - begin < seconds + 0.5


def test_it_signs_in_one_session(url: str) -> None:
    signer = make(url)
    assert signer.prove(soon()) == f"YubiHSM {SERIAL} at {url}"
    assert all(signs(signer) for _ in range(20))
    assert signer.metrics.sessions_opened == 1
    assert signer.metrics.device_signatures == 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"passphrase": "wrong"}, "passphrase"),
        ({"authentication_key": 201}, "no authentication key 201"),
        ({"signing_key": 501}, "no signing key 501"),
        ({"pinned": PublicKey(bytes(32))}, "not the pinned"),
        ({"rehearsal_allowed": False}, "rehearsal device"),
    ],
)
def test_another_device_is_refused(url: str, changes: dict[str, Any], words: str) -> None:
    signer = make(url, **changes)
    for attempt in (signer.prove, lambda deadline: signer.sign(MESSAGE, deadline)):
        with pytest.raises(WrongDevice, match=words):
            attempt(soon())


def test_a_refused_device_does_not_run_out_of_sessions(url: str) -> None:
    signer = make(url, pinned=PublicKey(bytes(32)))
    for _ in range(20):
        with pytest.raises(WrongDevice):
            signer.prove(soon())
    assert signs(make(url))


def test_lost_sessions(url: str) -> None:
    signer = make(url)
    assert signs(signer)
    for lost in range(1, 4):
        rehearsal.strike(url, "lose-sessions")
        assert signs(signer)
        assert signs(signer)
        assert signer.metrics.sessions_opened == lost + 1


def test_the_new_session_has_the_old_ones_number(url: str) -> None:
    """The trap: to close the old session then would destroy the new one."""
    signer = make(url)
    assert signs(signer)
    before = signer._session
    rehearsal.strike(url, "lose-sessions")
    assert signs(signer)
    after = signer._session
    assert before is not after
    assert before
    assert after
    assert before.sid == after.sid
    assert all(signs(signer) for _ in range(5))
    assert signer.metrics.sessions_opened == 2


@pytest.mark.parametrize(
    "fault",
    [
        "unplug=0",
        "unplug@sign-eddsa=0",
        "unplug-after@sign-eddsa=0",
        "lose-sessions@sign-eddsa",
        "lose-sessions@get-public-key",
        "unplug@create-session=0",
        "unplug@authenticate-session=0",
        "slow=0.3",
    ],
)
def test_it_comes_back_by_itself(url: str, fault: str) -> None:
    signer = make(url)
    assert signs(signer)
    if fault.split("@")[-1].split("=")[0] in {
        "get-public-key",
        "create-session",
        "authenticate-session",
    }:
        rehearsal.strike(url, "lose-sessions")
    rehearsal.strike(url, fault)
    signs(signer)
    assert signs(signer)


def test_unplugged_and_back(url: str) -> None:
    signer = make(url)
    assert signs(signer)
    rehearsal.strike(url, "unplug")
    for _ in range(3):
        begin = time.monotonic()
        assert not signs(signer)
        assert time.monotonic() - begin < 1
    rehearsal.clear(url)
    assert signs(signer)


@pytest.mark.parametrize("command", ["sign-eddsa", "create-session", "device-info"])
def test_a_device_that_hangs(url: str, command: str) -> None:
    signer = make(url)
    assert signs(signer)
    if command != "sign-eddsa":
        rehearsal.strike(url, "lose-sessions")
    rehearsal.strike(url, f"hang@{command}")
    assert not signs(signer, 0.4)
    assert not signs(signer, 0.4)
    rehearsal.clear(url)
    assert signs(signer)


def test_a_connector_that_is_restarted(state: Path) -> None:
    with rehearsal.serve({SERIAL: state}) as urls:
        url = urls[SERIAL]
        provision(url)
        signer = make(url)
        assert signs(signer)
    assert not signs(signer)
    with rehearsal.serve({SERIAL: state}, ports=[int(url.rpartition(":")[2])]):
        assert signs(signer)
    assert signer.metrics.sessions_opened == 2


def test_no_session_is_free(url: str) -> None:
    hsm = YubiHsm.connect(url)
    others = [hsm.create_session_derived(1, "password") for _ in range(16)]
    signer = make(url)
    assert not signs(signer)
    others[3].close()
    assert signs(signer)


def test_a_session_that_idles_is_not_trusted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = make(url)
    assert signs(signer)
    monkeypatch.setattr(module, "SESSION_IDLE", 0.0)
    assert signs(signer)
    assert signer.metrics.sessions_opened == 2


def test_close_leaves_no_session(url: str) -> None:
    for _ in range(20):
        signer = make(url)
        assert signs(signer)
        signer.close()
    signer.close()


def test_a_signature_that_is_wrong_is_not_given(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = make(url)
    wrong = SECRET.sign(b"something else")
    with monkeypatch.context() as patch:
        patch.setattr(AsymmetricKey, "sign_eddsa", lambda _self, _data: wrong)
        assert not signs(signer)
    assert signs(signer)


def test_the_software_key() -> None:
    signer = SoftwareSigner(SECRET, KEY)
    assert "lab" in signer.prove(soon())
    KEY.verify(signer.sign(MESSAGE, soon()), MESSAGE)
    with pytest.raises(WrongDevice, match="not the pinned"):
        SoftwareSigner(SECRET, PublicKey(bytes(32))).prove(soon())


# What calls itself a connector


def drip(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")
    for _ in range(100):
        time.sleep(0.05)
        client.sendall(b"x")


def drip_headers(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(90):
        time.sleep(0.05)
        client.sendall(b"X-%d: y\r\n" % number)


def say(data: bytes) -> Callable[[socket.socket], None]:
    return lambda client: client.sendall(data)


@contextmanager
def listening(behave: Callable[[socket.socket], None], times: int = 100) -> Iterator[str]:
    """A server that reads a request, behaves so, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(times):
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    try:
                        client.recv(4096)
                        behave(client)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    "behave",
    [
        lambda client: client.settimeout(5) or client.recv(1),  # silent
        drip,
        drip_headers,
        lambda _client: None,
        say(b"x" * 10),
        say(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + bytes(9000)),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\x7f\0\1\xff"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x7f\0\0"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\x86\0\2\0\0"),
    ],
    ids=[
        "silent",
        "drips",
        "drips headers",
        "hangs up",
        "no HTTP",
        "error",
        "too long",
        "cut off",
        "empty",
        "unknown error code",
        "error without code",
        "short device info",
    ],
)
def test_something_else_at_the_connectors_address(behave: Callable[[socket.socket], None]) -> None:
    with listening(behave) as url:
        signer = make(url)
        assert not signs(signer, 0.4)
        signer.close()


def test_nothing_at_the_connectors_address() -> None:
    with listening(drip) as url:
        pass
    assert not signs(make(url), 0.4)


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    """Go's HTTP servers close idle connections; that is no reason to open a new session."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    with listening(say(answer)) as url:
        connector = Connector(url)
        for _ in range(3):
            connector.deadline = soon(1)
            assert connector.transceive(b"x") == b"abc"
            time.sleep(0.05)  # the server hangs up


def test_after_the_deadline_nothing_is_tried() -> None:
    connector = Connector("http://127.0.0.1:1")
    connector.deadline = time.monotonic() - 1
    with pytest.raises(YubiHsmConnectionError, match="no time left"):
        connector.transceive(b"x")
