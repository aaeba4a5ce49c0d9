"""What the exporter reads, and where it answers: /etc/sigsum/exporter.toml."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.service.settings import Table, read

CONFIG = Path("/etc/sigsum/exporter.toml")


@dataclass(frozen=True)
class Log:
    """The log of a log machine, as the machine itself reaches it."""

    key: PublicKey
    url: str
    trillian: str  # host:port


@dataclass(frozen=True)
class Settings:
    """``listen`` and the values of ``certificates``, by their names, are addresses and ports."""

    listen: tuple[tuple[str, int], ...]
    log: Log | None
    certificates: dict[str, tuple[str, int]]


def load(path: Path = CONFIG) -> Settings:
    """Read and check the configuration; contacts nothing.

    Raises:
        UsageError: naming the setting, its value and what is allowed.
    """
    return read(path, parse)


def parse(values: dict[str, Any]) -> Settings:
    """Check the values of the file."""
    table = Table(values)
    listen = table.take("listen", list)
    if not listen:
        raise table.wrong("listen", listen, "at least one address:port")
    certificates = table.take("certificates", dict, {})
    settings = Settings(
        listen=tuple(_endpoint(table, "listen", each) for each in listen),
        log=_log(Table(log, "log")) if (log := table.take("log", dict, None)) else None,
        certificates={
            name: _endpoint(table, "certificates", each) for name, each in certificates.items()
        },
    )
    table.done()
    return settings


def _log(table: Table) -> Log:
    url = table.text("url")
    LogClient(url)  # refuses what is no log's URL
    trillian = table.text("trillian")
    if not trillian.rpartition(":")[2].isdigit():
        raise table.wrong("trillian", trillian, "host:port")
    log = Log(PublicKey.parse(table.text("public_key")), url, trillian)
    table.done()
    return log


def _endpoint(table: Table, key: str, value: Any) -> tuple[str, int]:
    """An IP address and a port: no name, which somebody else could lead elsewhere."""
    allowed = "an IP address and a port, such as 127.0.0.1:6970 or [::1]:6970"
    address, _, port = str(value).rpartition(":")
    try:
        found = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError:
        raise table.wrong(key, value, allowed) from None
    if not 0 < number < 65536 or (found.version == 6) != address.startswith("["):
        raise table.wrong(key, value, allowed)
    return str(found), number
