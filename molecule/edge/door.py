"""The log's public door, asked as strangers do."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPMessage

NAME = "log.example.org"


@dataclass(frozen=True)
class Answer:
    """What was answered, read to its end."""

    status: int
    headers: HTTPMessage
    text: str


@dataclass(frozen=True)
class Door:
    """One machine's proxy, asked for the log's name whatever the DNS says."""

    address: str
    trust: ssl.SSLContext

    def connect(self, name: str = NAME, timeout: float = 10) -> ssl.SSLSocket:
        plain = socket.create_connection((self.address, 443), timeout=timeout)
        return self.trust.wrap_socket(plain, server_hostname=name)

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        host: str = NAME,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection(host)
        connection.sock = self.connect()
        return _answer(connection, method, path, body, headers)

    def status(self, path: str = "/get-tree-head") -> int:
        """The status of the answer; 0 where there is none."""
        try:
            return self.ask(path).status
        except (OSError, http.client.HTTPException):
            return 0

    def plainly(self, path: str, *, port: int = 80, host: str = NAME) -> Answer:
        """One request without TLS."""
        connection = http.client.HTTPConnection(host)
        connection.sock = socket.create_connection((self.address, port), timeout=10)
        return _answer(connection, "GET", path, None)

    def certificate(self) -> str:
        """The fingerprint of what it shows, which must be good for the log's name."""
        with self.connect() as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown
        return ssl.DER_cert_to_PEM_cert(shown)


def _answer(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())
    finally:
        connection.close()
