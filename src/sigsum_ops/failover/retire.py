"""A former primary, or a secondary that lost its data, forgets its tree to become a secondary.

Nothing of what it signed is deleted: evidence is put aside under ``RETIRED``, where nothing looks
for it. The database is emptied, since a tree that was a primary's can be no secondary's again.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.failover import units
from sigsum_ops.failover.adopt import Places
from sigsum_ops.failover.look import ORACLE
from sigsum_ops.log.statefiles import sync_directory

RETIRED = Path("/var/lib/sigsum-retired")
SERVICES = ("trillian-log-server.service", "trillian-log-signer.service")
PASSPHRASE = Path("/etc/sigsum/private/hsm-passphrase")
PRIMARY_ONLY = ("sigsum-log-primary.service", "sigsum-oracle.service")
# Of the oracle: what it signed. How often its device was used stays, for the audit compares it.
ORACLE_FILES = ("journal", "latch")


def retire(places: Places, now: datetime | None = None) -> Path | None:
    """Stop everything, put the past aside, and empty the database.

    Can be interrupted anywhere and run again. The masks go last: until then nothing here can start.

    Returns:
        Where the past is; None where there was none, or an earlier run had put it aside.
    """
    units.mask((*units.SECONDARY, *units.PRIMARY))
    _run("systemctl", "stop", *SERVICES)
    files = [path for path in places.state.iterdir() if path.is_file()]
    files += [path for name in ORACLE_FILES if (path := ORACLE / name).exists()]
    files += [units.MARK] if units.MARK.exists() else []
    aside = None
    if files:
        stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        aside = RETIRED / stamp
        aside.mkdir(parents=True, mode=0o700, exist_ok=True)
        for path in files:
            shutil.move(path, aside / f"{path.parent.name}-{path.name}")
        for directory in (aside, places.state, *([ORACLE] if ORACLE.exists() else [])):
            sync_directory(directory)
    # A standby has none; a promotion brings it again.
    PASSPHRASE.unlink(missing_ok=True)
    # The role makes it again, as on a new machine.
    _run("mariadb", "--execute", "DROP DATABASE IF EXISTS trillian")
    units.unmask((*units.SECONDARY, *units.PRIMARY))
    # What a secondary does not run; its file is there again, and would start at the next boot.
    there = [name for name in PRIMARY_ONLY if name in units.show(PRIMARY_ONLY)]
    if there:
        _run("systemctl", "disable", *there)
    return aside


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpsError(f"{' '.join(arguments[:2])}: {done.stderr.strip()}")
