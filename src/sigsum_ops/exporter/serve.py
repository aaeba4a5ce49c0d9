"""Answers Prometheus: ``GET /metrics``, in its text format (version 0.0.4), and nothing else.

The unit sigsum-exporter runs ``python3 -m sigsum_ops.exporter.serve``: what a person's command
line needs would take another seventh of its memory.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import Metric as Family
from prometheus_client import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from sigsum_ops.errors import OpsError
from sigsum_ops.exporter.read import Reader
from sigsum_ops.exporter.settings import CONFIG, Settings, load
from sigsum_ops.service.systemd import notify

FRESH = 1.0  # seconds for which an answer is given again: who asks often costs no more
PATIENCE = 10.0  # seconds for a client to say what it wants


class _Found(Collector):
    """What was read, as a registry wants to have it."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def render(families: Iterable[Family]) -> bytes:
    """The text of these metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found(list(families)))
    return generate_latest(registry)


class Exporter:
    """Reads when it is asked, once at a time."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._reading = threading.Lock()
        self._answer, self._read = b"", -FRESH

    def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        with self._reading:
            if time.monotonic() - self._read >= FRESH:
                self._answer = render(asyncio.run(self._reader.families()))
                self._read = time.monotonic()
            return self._answer


class Server(ThreadingHTTPServer):
    """One address and port."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], exporter: Exporter) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.exporter = exporter
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server: Server

    def do_GET(self) -> None:
        if self.path != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        text = self.server.exporter.text()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing: a scrape every few seconds is no news."""

    def version_string(self) -> str:
        """Not which Python it is."""
        return "sigsum-exporter"


def serve(settings: Settings, stop: threading.Event) -> None:
    """Answer until ``stop``."""
    exporter = Exporter(Reader(settings))
    servers = [Server(address, exporter) for address in settings.listen]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    notify("READY=1")
    stop.wait()
    notify("STOPPING=1")
    for server in servers:
        server.shutdown()
        server.server_close()


def main() -> int:
    """Answer until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(load(Path(sys.argv[1]) if sys.argv[1:] else CONFIG), stop)
    except OpsError as error:
        logging.critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
