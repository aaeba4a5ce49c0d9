"""What the timers run: a backup, the removal of old ones, the check of the repository."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.backup import PROCEDURE
from sigsum_ops.backup.config import STATE, Settings
from sigsum_ops.backup.restic import (
    DATABASE,
    FILES,
    NO_REPOSITORY,
    TAG,
    UNREADABLE,
    Restic,
    ResticError,
    backups,
    summary,
)
from sigsum_ops.errors import OpsError
from sigsum_ops.log.statefiles import read_if_there, write_durably
from sigsum_ops.service.metrics import family

# Configuration, public keys, signed tree heads, what the oracle signed, what the device counted.
PATHS = (
    "/etc/sigsum",
    "/var/lib/sigsum-archive",
    "/var/lib/sigsum-hsm",
    "/var/lib/sigsum-log",
    "/var/lib/sigsum-oracle",
)
# The secrets; what tells log-go to sign whatever it finds; files that are being written.
EXCLUDED = ("/etc/sigsum/private", "*.startup", ".*")
DATABASE_NAME = "trillian"
DUMP_FILE = "/trillian.sql"
# Of one instant, without a lock, row by row: the log goes on. What waits to be integrated is in it
# too, or Trillian would take a leaf that comes again for one that it has.
DUMP = (
    "mariadb-dump",
    "--single-transaction",
    "--quick",
    "--hex-blob",
    "--skip-triggers",
    "--no-tablespaces",
    DATABASE_NAME,
)
RECENT = "2d"  # younger ones all stay: such as one made by hand before something is changed
_ATTEMPTS = 3  # a file may be replaced while it is read


def initialise(settings: Settings) -> bool:
    """Make the repository where there is none, and remember which one it is.

    Returns:
        Whether it was made.

    Raises:
        OpsError: it can be neither opened nor made.
    """
    if settings.pin.exists():
        _open(settings)
        return False
    restic = Restic(settings)
    made = False
    try:
        identity = restic.identity()
    except ResticError as error:
        if error.code != NO_REPOSITORY:
            raise
        restic.run("init")
        identity, made = restic.identity(), True
    write_durably(settings.pin, f"{identity}\n".encode())
    return made


def run(settings: Settings) -> dict[str, Any]:
    """Back up this machine, then remove what is too old.

    Files first: each tree head in them was signed before the database was read, which therefore
    extends it.

    Returns:
        What was kept: ids, bytes, seconds.

    Raises:
        OpsError: a part of it could not be backed up, and nothing of this run is kept; or old ones
            could not be removed.
    """
    return _recorded("run", lambda: _run(settings))


def check(settings: Settings) -> dict[str, Any]:
    """Let restic check the repository's structure and a share of its data, by their hashes.

    Raises:
        OpsError: something is damaged or missing, or it is another repository.
    """

    def judge() -> dict[str, Any]:
        restic = _open(settings)
        restic.run("check", f"--read-data-subset={settings.check_share}")
        return {"repository": settings.repository, "share": settings.check_share}

    return _recorded("check", judge)


def _run(settings: Settings) -> dict[str, Any]:
    begun = time.monotonic()
    restic = _open(settings)
    restic.run("unlock")  # only what a run left behind that was killed
    now = datetime.now(UTC).replace(microsecond=0)
    common = ("backup", "--json", "--host", settings.host, f"--time={now:%Y-%m-%d %H:%M:%S}")
    files = _files(restic, *common, "--tag", f"{TAG},{FILES}")
    try:
        source = ("--stdin-from-command", "--stdin-filename", DUMP_FILE, "--", *DUMP)
        database = summary(restic.run(*common, "--tag", f"{TAG},{DATABASE}", *source))
    except OpsError:
        restic.run("forget", files["snapshot_id"])
        raise
    result = {
        "files": files["snapshot_id"],
        "database": database["snapshot_id"],
        "time": now.isoformat(),
        "bytes": files["total_bytes_processed"] + database["total_bytes_processed"],
        "added_bytes": files["data_added_packed"] + database["data_added_packed"],
        "seconds": round(time.monotonic() - begun, 3),
    }
    write_durably(STATE / "success.prom", _success(result, time.time()))
    _forget(restic)
    return result


def _files(restic: Restic, *arguments: str) -> dict[str, Any]:
    """Back up the files. What was read in part is forgotten, and read again."""
    options = [f"--exclude={pattern}" for pattern in EXCLUDED]
    there = [path for path in PATHS if Path(path).is_dir()]
    for left in reversed(range(_ATTEMPTS)):
        try:
            return summary(restic.run(*arguments, *options, *there))
        except ResticError as error:
            if error.code != UNREADABLE:
                raise
            restic.run("forget", summary(error.output)["snapshot_id"])
            if not left:
                raise
    raise AssertionError("unreachable")


def _forget(restic: Restic) -> None:
    """Remove what is too old, and what a run left behind that was killed between its parts."""
    settings = restic.settings
    own = [snapshot for snapshot in restic.snapshots() if snapshot.host == settings.host]
    if alone := backups(own)[1]:
        restic.run("forget", *(snapshot.id for snapshot in alone))
    restic.run(
        "forget",
        *("--host", settings.host, "--tag", TAG, "--group-by=host,tags", "--prune"),
        f"--keep-within={RECENT}",
        *("--keep-daily", str(settings.daily), "--keep-weekly", str(settings.weekly)),
        *("--keep-monthly", str(settings.monthly)),
    )


def _open(settings: Settings) -> Restic:
    """The repository that this machine knows.

    Raises:
        OpsError: it is another one, or cannot be opened.
    """
    pinned = read_if_there(settings.pin)
    if pinned is None:
        raise OpsError(
            f"{settings.pin}: missing: which repository is the right one is not known",
            hint="Run the playbook site.yml, which makes the repository or opens it once.",
        )
    restic = Restic(settings)
    found = restic.identity()
    if found != pinned.decode().strip():
        raise OpsError(
            f"{settings.repository} is repository {found}, not {pinned.decode().strip()}",
            hint=f"Somebody put another one in its place: see {PROCEDURE}.",
        )
    return restic


def _recorded(what: str, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do it, and write down whether it failed."""
    failed = True
    try:
        result = act()
        failed = False
    finally:
        write_durably(STATE / f"{what}.prom", _outcome(what, failed, time.time()))
    return result


def _success(result: dict[str, Any], now: float) -> bytes:
    name = "sigsum_backup_last_success"
    lines = [
        *family(f"{name}_timestamp_seconds", "gauge", "When a backup last succeeded.", ("", now)),
        *family(f"{name}_bytes", "gauge", "What it holds, unpacked.", ("", result["bytes"])),
        *family(
            f"{name}_added_bytes",
            "gauge",
            "What it added to the repository.",
            ("", result["added_bytes"]),
        ),
        *family(f"{name}_seconds", "gauge", "How long it took.", ("", result["seconds"])),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def _outcome(what: str, failed: bool, now: float) -> bytes:
    name = f"sigsum_backup_{what}"
    lines = [
        *family(f"{name}_failed", "gauge", f"1 if the last {what} failed.", ("", int(failed))),
        *family(f"{name}_timestamp_seconds", "gauge", f"When the last {what} ended.", ("", now)),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def as_line(result: dict[str, Any]) -> str:
    """For people."""
    if "share" in result:
        return f"{result['repository']}: nothing wrong is found in {result['share']} of its data"
    return (
        f"backed up {result['bytes']} bytes in {result['seconds']} s,"
        f" {result['added_bytes']} added: snapshots {result['files'][:8]}, {result['database'][:8]}"
    )
