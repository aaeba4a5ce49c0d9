"""restic(1), as far as it is used here: its command line, its answers, its exit codes (0.18)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sigsum_ops.backup.config import KNOWN_HOSTS, PASSWORD, SSH_KEY, STATE, Settings, secret
from sigsum_ops.errors import OpsError

TAG = "sigsum-ops"
FILES, DATABASE = "files", "database"  # the two snapshots of one backup, by their second tag

UNREADABLE = 3  # some files could not be read; there is a snapshot all the same
NO_REPOSITORY = 10
_MEANING = {
    NO_REPOSITORY: "there is no repository",
    11: "the repository is locked by another run",
    12: "the password is not this repository's",
}


class ResticError(OpsError):
    """restic failed; ``code`` is its exit code, ``output`` what it said on stdout."""

    def __init__(self, message: str, code: int, output: str) -> None:
        super().__init__(message)
        self.code = code
        self.output = output


@dataclass(frozen=True)
class Snapshot:
    """A snapshot; ``part`` is FILES or DATABASE. Both of one backup have the same time."""

    id: str
    host: str
    time: datetime
    part: str


@dataclass(frozen=True)
class Backup:
    """Both snapshots of one run: files first, so that the database is not behind them."""

    files: Snapshot
    database: Snapshot

    def __str__(self) -> str:
        return (
            f"{self.database.id[:8]}, of {self.database.host},"
            f" {self.database.time:%Y-%m-%d %H:%M:%S} UTC"
        )


class Restic:
    """A repository. As root no cache is kept: the service could not read it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._options = ["--repo", settings.repository, "--password-file", str(secret(PASSWORD))]
        as_root = os.geteuid() == 0
        self._options += ["--no-cache"] if as_root else ["--cache-dir", str(STATE / "cache")]
        if settings.repository.startswith("sftp:"):
            ssh = {
                "BatchMode": "yes",
                "ConnectTimeout": "20",
                "IdentitiesOnly": "yes",
                "ServerAliveInterval": "15",
                "StrictHostKeyChecking": "yes",
                "UserKnownHostsFile": str(KNOWN_HOSTS),
            }
            words = " ".join(f"-o {name}={value}" for name, value in ssh.items())
            self._options += ["--option", f"sftp.args=-i {secret(SSH_KEY)} {words}"]

    def command(self, *arguments: str) -> list[str]:
        """The command line: no secret is on it, but the names of files that hold them."""
        return ["restic", *self._options, "--retry-lock=5m", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The times that restic reads and writes are UTC."""
        return {**os.environ, "TZ": "UTC"}

    def run(self, *arguments: str) -> str:
        """Run it; returns its stdout.

        Raises:
            ResticError: it failed, with what it said.
            OpsError: it is not installed.
        """
        try:
            done = subprocess.run(
                self.command(*arguments),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise OpsError(
                "restic is not installed", hint="The role backup installs it."
            ) from error
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()][-8:]
            meaning = _MEANING.get(done.returncode, f"restic {arguments[0]} failed")
            raise ResticError(
                "\n".join([f"{self.settings.repository}: {meaning}", *said]),
                done.returncode,
                done.stdout,
            )
        return done.stdout

    def identity(self) -> str:
        """The repository's own id, drawn when it was made; needs its password."""
        return str(json.loads(self.run("cat", "config"))["id"])

    def snapshots(self) -> list[Snapshot]:
        """Those that this program made, of all machines, the oldest first."""
        return parse_snapshots(self.run("snapshots", "--json", "--tag", TAG))


def parse_snapshots(text: str) -> list[Snapshot]:
    """What ``restic snapshots --json`` prints; others' snapshots are passed over."""
    found = [
        Snapshot(item["id"], item["hostname"], datetime.fromisoformat(item["time"]), part)
        for item in json.loads(text)
        for part in (FILES, DATABASE)
        if {TAG, part} <= set(item.get("tags") or ())
    ]
    return sorted(found, key=lambda snapshot: (snapshot.time, snapshot.part))


def summary(text: str) -> dict[str, Any]:
    """The last line that ``restic backup --json`` prints: ids and counts."""
    for line in reversed(text.splitlines()):
        message = json.loads(line)
        if message.get("message_type") == "summary":
            return dict(message)
    raise OpsError("restic backup ended without a summary", hint="Is it another version of restic?")


def backups(snapshots: Iterable[Snapshot]) -> tuple[list[Backup], list[Snapshot]]:
    """Pairs of snapshots that one run has made, the oldest first; and those that are alone."""
    runs: dict[tuple[str, datetime], dict[str, Snapshot]] = {}
    for snapshot in snapshots:
        runs.setdefault((snapshot.host, snapshot.time), {})[snapshot.part] = snapshot
    whole = [Backup(run[FILES], run[DATABASE]) for run in runs.values() if len(run) > 1]
    alone = [snapshot for run in runs.values() if len(run) == 1 for snapshot in run.values()]
    return sorted(whole, key=lambda backup: backup.database.time), alone


def choose(snapshots: Iterable[Snapshot], wanted: str | None) -> Backup:
    """The newest whole backup, or the one to which this snapshot belongs (first digits of its id).

    Raises:
        OpsError: there is none.
    """
    whole, alone = backups(snapshots)
    if wanted is None:
        if not whole:
            raise OpsError("the repository holds no whole backup of a log machine")
        return whole[-1]
    found = [b for b in whole if b.files.id.startswith(wanted) or b.database.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if not found and any(snapshot.id.startswith(wanted) for snapshot in alone):
        raise OpsError(f"snapshot {wanted} is of a backup that was not finished")
    raise OpsError(
        f"snapshot {wanted} fits {len(found)} backups",
        hint="There are: " + ("; ".join(str(backup) for backup in whole) or "none"),
    )
