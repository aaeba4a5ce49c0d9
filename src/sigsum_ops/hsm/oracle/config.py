"""The oracle's configuration: one TOML file in which nothing is unknown and nothing is guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.service.settings import Table, read

DEFAULT_PATH = Path("/etc/sigsum/oracle.toml")
SOCKET = Path("/run/sigsum-oracle/agent.sock")
STATE_DIRECTORY = Path("/var/lib/sigsum-oracle")


@dataclass(frozen=True)
class LogRole:
    """Signs the tree heads of the log whose key it is."""

    trillian: str  # host:port of the machine's own Trillian log server
    tree_id_file: Path  # log-go's; read whenever a proof is needed
    ungated_until: datetime | None = None  # a permit to sign alone, without the secondary; UTC


@dataclass(frozen=True)
class WitnessRole:
    """Cosigns the tree heads of logs with these origins.

    ``bastion``: the key also opens the witness's connection to a bastion host.
    """

    origins: tuple[str, ...]
    bastion: bool = False


@dataclass(frozen=True)
class HsmKey:
    """A key in a YubiHSM 2."""

    connector: str
    authentication_key: int
    signing_key: int
    passphrase_credential: str  # a systemd credential's name
    rehearsal_device: bool


@dataclass(frozen=True)
class SoftwareKey:
    """A key in a file, in a lab."""

    file: Path


@dataclass(frozen=True)
class Settings:
    """All of it."""

    public_key: PublicKey
    role: LogRole | WitnessRole
    key: HsmKey | SoftwareKey
    socket: Path
    state_directory: Path
    metrics_file: Path
    signatures_per_minute: int | None

    @property
    def journal(self) -> Path:
        """The journal of what was signed."""
        return self.state_directory / "journal"

    @property
    def signatures(self) -> Path:
        """How many signatures the device was asked for."""
        return self.state_directory / "signatures"

    @property
    def cosigned(self) -> Path:
        """What a witness has cosigned last, of each log."""
        return self.state_directory / "cosigned"

    @property
    def permit_ended(self) -> Path:
        """The end of the last permit that was seen to be over."""
        return self.state_directory / "permit-ended"

    @property
    def latch(self) -> Path:
        """The latch."""
        return self.state_directory / "latch"


def load(path: Path) -> Settings:
    """Read and check the file; contacts nothing and looks at no other file.

    Raises:
        UsageError: naming the setting, its value and what is allowed.
    """
    return read(path, parse)


def parse(values: dict[str, Any]) -> Settings:
    """Check the values of the file."""
    top = Table(values)
    role = top.either("log", "witness")
    key = top.either("hsm", "software_key")
    state_directory = top.path("state_directory", STATE_DIRECTORY)
    settings = Settings(
        public_key=PublicKey.parse(top.text("public_key")),
        role=_log(role) if role.name == "log" else _witness(role),
        key=_hsm(key) if key.name == "hsm" else _software_key(key),
        socket=top.path("socket", SOCKET),
        state_directory=state_directory,
        metrics_file=top.path("metrics_file", state_directory / "oracle.prom"),
        signatures_per_minute=top.number("signatures_per_minute", 1, 100_000, None),
    )
    top.done()
    return settings


def _log(table: Table) -> LogRole:
    trillian = table.text("trillian")
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}", trillian):
        raise table.wrong("trillian", trillian, "HOST:PORT, such as 127.0.0.1:8090")
    role = LogRole(trillian, table.path("tree_id_file"), _ungated_until(table))
    table.done()
    return role


def _ungated_until(table: Table) -> datetime | None:
    until = table.take("ungated_until", datetime, None)
    if until and (until.utcoffset() != timedelta(0) or until.microsecond):
        raise table.wrong(
            "ungated_until", until, "a UTC time in whole seconds, such as 2026-11-23T12:00:00Z"
        )
    return until


def _witness(table: Table) -> WitnessRole:
    origins = table.take("origins", list)
    for origin in origins:
        if not isinstance(origin, str) or not re.fullmatch(r"[!-*,-~]+", origin):
            raise table.wrong("origins", origin, "origin lines: ASCII without spaces and plus")
    if not origins or len(set(origins)) != len(origins):
        raise table.wrong("origins", origins, "at least one origin, each once")
    role = WitnessRole(tuple(origins), table.take("bastion", bool, False))
    table.done()
    return role


def _hsm(table: Table) -> HsmKey:
    key = HsmKey(
        connector=connector(table),
        authentication_key=table.number("authentication_key", 1, 0xFFFE),
        signing_key=table.number("signing_key", 1, 0xFFFE),
        passphrase_credential=credential_name(table),
        rehearsal_device=table.take("rehearsal_device", bool, False),
    )
    table.done()
    return key


def connector(table: Table) -> str:
    """Take a connector's URL."""
    url: str = table.text("connector", "http://127.0.0.1:12345")
    try:
        parts = urlsplit(url)
        good = parts.scheme == "http" and parts.hostname and parts.port
        good = good and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        good = False
    if not good:
        raise table.wrong("connector", url, "http://HOST:PORT")
    return url


def credential_name(table: Table) -> str:
    """Take the name of the systemd credential that holds a passphrase."""
    name: str = table.text("passphrase_credential")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or name.startswith("."):
        raise table.wrong("passphrase_credential", name, "the name of a systemd credential")
    return name


def _software_key(table: Table) -> SoftwareKey:
    key = SoftwareKey(table.path("file"))
    if not table.take("lab_only", bool, False):
        raise UsageError(
            "[software_key] without lab_only = true: a production log signs with an HSM",
            hint="Say lab_only = true in a lab; elsewhere replace the table by [hsm].",
        )
    table.done()
    return key
