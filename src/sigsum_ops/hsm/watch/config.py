"""The configuration of ``hsm check`` and ``hsm audit``: one TOML file, in which nothing is guessed.

::

    connector = "http://127.0.0.1:12345"
    serial = 12345678

    [check]
    public_key = "ssh-ed25519 …"
    passphrase_credential = "hsm-health-passphrase"
    metrics_file = "/var/lib/sigsum-hsm/check.prom"

    [audit]
    passphrase_credential = "hsm-audit-passphrase"
    archive = "/var/lib/sigsum-hsm/12345678.audit"
    signatures = "/var/lib/sigsum-oracle/signatures"
    metrics_file = "/var/lib/sigsum-hsm/audit.prom"

The ids of objects are those of the standard plan, unless ``authentication_key`` and ``key`` say
otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.oracle.config import connector, credential_name
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.service.settings import Table, read

_ID = (1, 0xFFFE)


@dataclass(frozen=True)
class Where:
    """The machine's own device."""

    connector: str
    serial: int
    rehearsal_device: bool


@dataclass(frozen=True)
class Check:
    """The health key, and what may use it."""

    where: Where
    authentication_key: int
    key: int
    public_key: PublicKey
    passphrase_credential: str
    metrics_file: Path | None


@dataclass(frozen=True)
class Audit:
    """What reads the device's log, and what it is compared with.

    ``key`` is the signing key of which every use is accounted for, ``key_user`` the one
    authentication key that uses it, ``signatures`` where the oracle counts what it asked for.
    """

    where: Where
    authentication_key: int
    key: int
    key_user: int
    passphrase_credential: str
    archive: Path
    signatures: Path
    metrics_file: Path | None


@dataclass(frozen=True)
class Settings:
    """All of it. A table that is not there is None."""

    check: Check | None
    audit: Audit | None


def load(path: Path) -> Settings:
    """Read and check the file; contacts nothing and looks at no other file.

    Raises:
        UsageError: naming the setting, its value and what is allowed.
    """
    return read(path, parse)


def parse(values: dict[str, Any]) -> Settings:
    """Check the values of the file."""
    top = Table(values)
    where = Where(
        connector(top),
        top.number("serial", 1, 2**32 - 1),
        top.take("rehearsal_device", bool, False),
    )
    check, audit = top.take("check", dict, None), top.take("audit", dict, None)
    top.done()
    if check is None and audit is None:
        raise UsageError("at least one of the tables [check] and [audit] must be there")
    return Settings(
        None if check is None else _check(Table(check, "check"), where),
        None if audit is None else _audit(Table(audit, "audit"), where),
    )


def _check(table: Table, where: Where) -> Check:
    check = Check(
        where,
        authentication_key=table.number("authentication_key", *_ID, 800),
        key=table.number("key", *_ID, 900),
        public_key=PublicKey.parse(table.text("public_key")),
        passphrase_credential=credential_name(table),
        metrics_file=table.path("metrics_file", None),
    )
    table.done()
    return check


def _audit(table: Table, where: Where) -> Audit:
    audit = Audit(
        where,
        authentication_key=table.number("authentication_key", *_ID, 700),
        key=table.number("key", *_ID, 500),
        key_user=table.number("key_user", *_ID, 200),
        passphrase_credential=credential_name(table),
        archive=table.path("archive"),
        signatures=table.path("signatures"),
        metrics_file=table.path("metrics_file", None),
    )
    table.done()
    return audit
