"""The connector: a device's frames over HTTP, as yubihsm-connector serves them.

GET /connector/status answers lines of key=value, POST /connector/api carries one frame. Beside
these, and only here: POST /rehearsal/faults takes a fault (faults.py) in its body, GET lists those
that wait, and DELETE clears them and plugs the device in.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.identity import REHEARSAL_SERIALS
from sigsum_ops.hsm.rehearsal import faults
from sigsum_ops.hsm.rehearsal.device import Device
from sigsum_ops.hsm.rehearsal.faults import Armed, Fault, Kind
from sigsum_ops.hsm.rehearsal.frames import DeviceError
from sigsum_ops.hsm.rehearsal.state import Firmware, StateFile

STATUS_PATH = "/connector/status"
API_PATH = "/connector/api"
FAULTS_PATH = "/rehearsal/faults"
_METHODS = {STATUS_PATH: "GET", API_PATH: "POST", FAULTS_PATH: "GET, POST, DELETE"}
_VERSION = "3.0.0-rehearsal"
# The real one's limits: a frame's header, and the longest message and 3 bytes.
_MIN_REQUEST, _MAX_REQUEST = 3, 3139
_MAX_FAULT = 200  # bytes


class Unplugged(Exception):  # noqa: N818 - a state
    """There is no device, or it went away before it answered."""


class Bench:
    """A device in its socket, and whoever pulls it out. Thread-safe; one request at a time."""

    def __init__(
        self, file: StateFile, firmware: Firmware | None, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._armed = Armed()
        self._absent_until: float | None = None
        self._release = threading.Event()
        self.device = Device(
            file, firmware=firmware, clock=clock, before=self._before, after=self._after
        )

    def transceive(self, frame: bytes) -> bytes:
        """Hand the device a frame and return its answer, or raise Unplugged."""
        with self._lock:
            if not self._plugged():
                raise Unplugged
            return self.device.handle(frame)

    def plugged(self) -> bool:
        """Whether there is a device; waits for its turn like everything else."""
        with self._lock:
            return self._plugged()

    def strike(self, fault: Fault) -> None:
        """Let a fault happen, now or at its command."""
        at_once = fault.command is None
        if fault.kind is Kind.UNPLUG and at_once:
            with self._lock:
                self._unplug(fault.seconds)
        elif fault.kind is Kind.LOSE_SESSIONS and at_once:
            with self._lock:
                self.device.lose_sessions()
        elif fault.kind is Kind.LOG_FULL:
            with self._lock:
                self.device.fill_log()
        else:
            self._armed.add(fault)

    def clear(self) -> None:
        """End all faults. Does not wait for its turn, so it ends a hang, too."""
        self._armed.clear()
        self._absent_until = None if self._absent_until is None else -math.inf
        self._release.set()
        self._release = threading.Event()

    def close(self) -> None:
        """Put the device away: whatever still comes finds none, and the file is at rest."""
        self.clear()
        with self._lock:
            self._absent_until = math.inf

    def waiting(self) -> str:
        """The faults that have not struck, one a line."""
        return str(self._armed)

    def _plugged(self) -> bool:
        if self._absent_until is None:
            return True
        if self._clock() < self._absent_until:
            return False
        self._absent_until = None
        self.device.power_cycle()
        return True

    def _unplug(self, seconds: float) -> None:
        self.device.lose_sessions()
        self._absent_until = self._clock() + seconds

    def _before(self, command: int) -> None:
        if hang := self._armed.take(Kind.HANG, command):
            self._sleep(hang.seconds)
        if delay := self._armed.delay(command):
            self._sleep(delay)
        if self._armed.take(Kind.LOSE_SESSIONS, command):
            self.device.lose_sessions()
        if gone := self._armed.take(Kind.UNPLUG, command):
            self._unplug(gone.seconds)
            raise Unplugged

    def _after(self, command: int) -> None:
        if gone := self._armed.take(Kind.UNPLUG_AFTER, command):
            self._unplug(gone.seconds)
            raise Unplugged

    def _sleep(self, seconds: float) -> None:
        self._release.wait(min(seconds, threading.TIMEOUT_MAX))


class _Handler(BaseHTTPRequestHandler):
    """Requests for the bench of the server that they came to."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one segment: two would meet Nagle and delayed ACK
    server: _Server

    def do_GET(self) -> None:
        if self.path == STATUS_PATH:
            self._send(HTTPStatus.OK, self._status().encode(), "text/plain; charset=utf-8")
        elif self.path == FAULTS_PATH:
            self._send(HTTPStatus.OK, self.server.bench.waiting().encode(), "text/plain")
        else:
            self._refuse()

    def do_POST(self) -> None:
        if self.path == API_PATH:
            body = self._body(_MIN_REQUEST, _MAX_REQUEST)
            if body is not None:
                self._transceive(body)
        elif self.path == FAULTS_PATH:
            body = self._body(1, _MAX_FAULT)
            if body is not None:
                self._strike(body)
        else:
            self._refuse()

    def do_DELETE(self) -> None:
        if self.path == FAULTS_PATH:
            self.server.bench.clear()
            self._send(HTTPStatus.NO_CONTENT, b"", "text/plain")
        else:
            self._refuse()

    def handle_expect_100(self) -> bool:
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a ceremony's terminal is for people."""

    def _status(self) -> str:
        host, port = self.server.server_address[:2]
        return (
            f"status={'OK' if self.server.bench.plugged() else 'NO_DEVICE'}\n"
            f"serial={self.server.bench.device.state.serial:010d}\n"
            f"version={_VERSION}\n"
            f"pid={os.getpid()}\n"
            f"address={host!s}\n"
            f"port={port}\n"
        )

    def _transceive(self, frame: bytes) -> None:
        try:
            answer = self.server.bench.transceive(frame)
        except Unplugged:
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._send(HTTPStatus.OK, answer, "application/octet-stream")

    def _strike(self, body: bytes) -> None:
        try:
            self.server.bench.strike(faults.parse(body.decode("ascii", "replace")))
        except UsageError as error:
            self._send(HTTPStatus.BAD_REQUEST, f"{error}\n".encode(), "text/plain")
        except DeviceError as error:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n".encode(), "text/plain")
        else:
            self._send(HTTPStatus.NO_CONTENT, b"", "text/plain")

    def _body(self, least: int, most: int) -> bytes | None:
        """The request's body; None where its length is wrong, and that was answered."""
        text = self.headers.get("Content-Length", "")
        length = int(text) if text.isascii() and text.isdigit() else -1
        if not least <= length <= most:
            self.close_connection = True  # its body is still to come, and would be taken for more
            self._fail(HTTPStatus.BAD_REQUEST)
            return None
        return self.rfile.read(length)

    def _refuse(self) -> None:
        self.close_connection = True
        if allowed := _METHODS.get(self.path):
            self._fail(HTTPStatus.METHOD_NOT_ALLOWED, allowed)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"404 page not found\n", "text/plain")

    def _fail(self, status: HTTPStatus, allowed: str = "") -> None:
        self._send(status, f"{status.phrase}\n".encode(), "text/plain; charset=utf-8", allowed)

    def _send(self, status: HTTPStatus, body: bytes, content_type: str, allowed: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if allowed:
            self.send_header("Allow", allowed)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], bench: Bench) -> None:
        self.bench = bench
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        """Stop listening and hang up on whoever keeps a connection open."""
        super().server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serve(
    states: Mapping[int, Path],
    *,
    host: str = "127.0.0.1",
    ports: Sequence[int] = (),
    firmware: Firmware | None = None,
    struck: Iterable[str] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict[int, str]]:
    """Plug rehearsal devices in, each into a connector of its own, until the context is left.

    ``states`` says for each serial number in which directory the device is kept; several may share
    one. ``ports`` are in the same order, and any free ones where it is empty. ``struck`` are faults
    of all devices from the start.

    Yields the connectors' URLs by serial number.

    Raises:
        UsageError: a serial number that rehearsal devices do not have, or a fault that is none.
        OpsError: a state or a port cannot be used.
    """
    for serial in states:
        if serial not in REHEARSAL_SERIALS:
            raise UsageError(
                f"{serial} is not a serial number of a rehearsal device",
                hint=f"Theirs are {REHEARSAL_SERIALS[0]} to {REHEARSAL_SERIALS[-1]}.",
            )
    at_start = [faults.parse(text) for text in struck]
    urls: dict[int, str] = {}
    with ExitStack() as stack:
        for (serial, directory), port in zip(
            states.items(), ports or [0] * len(states), strict=True
        ):
            file = StateFile(directory, serial)
            stack.enter_context(file.locked())
            bench = Bench(file, firmware, clock)
            for fault in at_start:
                bench.strike(fault)
            server = stack.enter_context(_listening(bench, host, port))
            urls[serial] = f"http://{host}:{server.server_address[1]}"
        yield urls


@contextmanager
def _listening(bench: Bench, host: str, port: int) -> Iterator[_Server]:
    try:
        server = _Server((host, port), bench)
    except OSError as error:
        raise OpsError(
            f"no connector can listen on {host} port {port}: {error.strerror}",
            hint="Choose another port, or stop what uses it.",
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        bench.close()
        server.shutdown()
        thread.join()
        server.server_close()


def strike(url: str, fault: str) -> None:
    """Let a fault happen on the rehearsal device behind this connector."""
    _control(Request(url + FAULTS_PATH, data=fault.encode(), method="POST"))  # noqa: S310


def clear(url: str) -> None:
    """End the faults of the rehearsal device behind this connector, and plug it in."""
    _control(Request(url + FAULTS_PATH, method="DELETE"))  # noqa: S310


def _control(request: Request) -> None:
    with urlopen(request, timeout=10):  # noqa: S310 - a connector's URL
        pass
