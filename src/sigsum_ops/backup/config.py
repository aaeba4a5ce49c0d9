"""The configuration of ``sigsum-ops backup``: one TOML file without a secret.

::

    repository = "sftp:backup@vault.example.org:/srv/log"
    host = "log-north"
    check_share = "100%"

    [keep]
    daily = 14
    weekly = 8
    monthly = 12
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sigsum_ops.errors import UsageError
from sigsum_ops.service.settings import Table, read

STATE = Path("/var/lib/sigsum-backup")
KNOWN_HOSTS = Path("/etc/sigsum/backup-known-hosts")
PRIVATE = Path("/etc/sigsum/private")
PASSWORD = "backup-password"  # noqa: S105 - the name of the file that holds it
SSH_KEY = "backup-ssh-key"


@dataclass(frozen=True)
class Settings:
    """Where backups go, under which name, how many of them stay (snapshots)."""

    repository: str
    host: str
    check_share: str
    daily: int
    weekly: int
    monthly: int

    @property
    def pin(self) -> Path:
        """The file that holds the repository's own id, from when this machine first opened it."""
        return STATE / f"repository-{sha256(self.repository.encode()).hexdigest()[:16]}"


def load(path: Path) -> Settings:
    """Read and check the file; contacts nothing and looks at no other file.

    Raises:
        UsageError: naming the setting, its value and what is allowed.
    """
    return read(path, parse)


def parse(values: dict[str, Any]) -> Settings:
    """Check the values of the file."""
    top = Table(values)
    repository, host, share = top.text("repository"), top.text("host"), top.text("check_share")
    if re.search(r"://[^/@]*:[^/@]+@", repository):
        raise UsageError(
            "repository holds a password",
            hint="It would be in a list of processes. Use sftp with a key, or a server without.",
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", host):
        raise top.wrong("host", host, "a machine's name")
    if not re.fullmatch(r"([1-9]|[1-9][0-9]|100)%", share):
        raise top.wrong("check_share", share, "1% to 100%")
    keep = Table(top.take("keep", dict), "keep")
    top.done()
    settings = Settings(
        repository,
        host,
        share,
        *(keep.number(period, 1, 1000) for period in ("daily", "weekly", "monthly")),
    )
    keep.done()
    return settings


def secret(name: str) -> Path:
    """The file of a secret: the service's credential (systemd.exec(5)), or root's own."""
    return Path(os.environ.get("CREDENTIALS_DIRECTORY") or PRIVATE, name)
