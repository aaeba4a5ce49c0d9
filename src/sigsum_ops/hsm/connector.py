"""What carries messages to a YubiHSM: its connector's HTTP API, within one deadline.

python-yubihsm's own HTTP backend waits 600 s for an answer, its time-out starts again with every
byte, and it needs a library that hosts do not have.
"""

from __future__ import annotations

import select
import socket
import time
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from yubihsm.backends import YhsmBackend
from yubihsm.exceptions import YubiHsmConnectionError

MAX_ANSWER = 4096  # bytes; a device's message has at most 3136


class Connector(YhsmBackend):
    """A connector's HTTP API (POST /connector/api) with one deadline for all that is asked of it.

    Keeps its connection between messages.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.deadline = 0.0
        parts = urlsplit(self.url)
        self._path = f"{parts.path}/connector/api"
        self._http = _Connection(parts.hostname or "", parts.port or 80)

    def transceive(self, msg: bytes) -> bytes:
        """One message to the device, and its answer."""
        http = self._http
        try:
            if http.sock and _dropped(http.sock):
                http.close()
            http.deadline = self.deadline
            http.request(
                "POST", self._path, body=msg, headers={"Content-Type": "application/octet-stream"}
            )
            response = http.getresponse()
            answer = response.read(MAX_ANSWER + 1)
        except (OSError, HTTPException) as error:
            http.close()
            raise YubiHsmConnectionError(
                f"the connector does not answer: {words(error)}"
            ) from error
        if response.status != 200 or len(answer) > MAX_ANSWER:
            http.close()
            raise YubiHsmConnectionError(
                f"the connector answers {response.status} with {len(answer)} bytes"
            )
        return answer

    def close(self) -> None:
        """Close the connection; the next message opens one."""
        self._http.close()


class _Connection(HTTPConnection):
    """HTTP over a socket whose every wait ends at the deadline."""

    deadline = 0.0

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), _left(self.deadline))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = _Socket(self, plain)


class _Socket(socket.socket):
    def __init__(self, connection: _Connection, plain: socket.socket) -> None:
        super().__init__(fileno=plain.detach())
        self._connection = connection

    def sendall(self, *arguments: Any) -> None:
        self.settimeout(_left(self._connection.deadline))
        super().sendall(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self.settimeout(_left(self._connection.deadline))
        return super().recv_into(*arguments)


def _dropped(sock: socket.socket) -> bool:
    """Whether an idle connection was closed by the other side: nothing else makes it readable."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time left")
    return left


def words(error: Exception) -> str:
    """What went wrong, also where the error itself says nothing."""
    return str(error) or type(error).__name__
