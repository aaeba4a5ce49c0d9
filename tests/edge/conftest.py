"""A name server for tests: what its zone has, over real sockets, in the DNS's own format."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.zone
import pytest

Rcode = dns.rcode.Rcode


class NameServer:
    """Answers from one zone, as a server of that zone does."""

    def __init__(self, zone: str, rcodes: Mapping[str, Rcode] | None = None) -> None:
        soa = "@ 60 SOA ns root 1 60 60 60 60\n@ 60 NS ns\n"
        self.zone = dns.zone.from_text(f"{soa}{zone}\n", "example.org", relativize=False)
        self.rcodes = rcodes or {}
        self.asked: list[str] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self.port = self._udp.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return f"127.0.0.1#{self.port}"

    def close(self) -> None:
        self._udp.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._udp.close()

    def _serve(self) -> None:
        while True:
            data, client = self._udp.recvfrom(4096)
            if not data:
                return
            self._udp.sendto(self._answer(dns.message.from_wire(data)).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        [question] = query.question
        self.asked.append(question.name.to_text().removesuffix("."))
        if (code := self.rcodes.get(self.asked[-1])) is not None:
            response.set_rcode(code)
            return response
        if not question.name.is_subdomain(self.zone.origin or dns.name.root):
            response.set_rcode(dns.rcode.REFUSED)
            return response
        if (found := self.zone.get_rrset(question.name, question.rdtype)) is not None:
            response.answer.append(found)
        elif (alias := self.zone.get_rrset(question.name, dns.rdatatype.CNAME)) is not None:
            response.answer.append(alias)
            if (found := self.zone.get_rrset(alias[0].target, question.rdtype)) is not None:
                response.answer.append(found)
        elif self.zone.get_node(question.name) is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response


@pytest.fixture
def serve() -> Iterator:  # type: ignore[type-arg]
    """Start name servers, which end with the test."""
    running: list[NameServer] = []

    def start(zone: str, **settings: object) -> NameServer:
        running.append(NameServer(zone, **settings))  # type: ignore[arg-type]
        return running[-1]

    yield start
    for each in running:
        each.close()
