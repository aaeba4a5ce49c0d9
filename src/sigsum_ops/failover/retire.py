"""A former primary, or a secondary that lost its data, forgets its tree to become a secondary.

Nothing of what it signed is deleted: evidence is put aside under ``RETIRED``, where nothing looks
for it. The database is emptied, since a tree that was a primary's can be no secondary's again. With
what was restored from a backup a quarantine goes, too.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from sigsum_ops.backup import quarantine
from sigsum_ops.errors import OpsError
from sigsum_ops.failover import units
from sigsum_ops.failover.adopt import NotAdopted, Places
from sigsum_ops.failover.look import ORACLE
from sigsum_ops.log.statefiles import parse_tree_id, sync_directory
from sigsum_ops.log.trillian import Trillian

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
    if files or quarantine.MARK.exists():
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
    # Not before: until then there is something that nobody has proven.
    if aside is not None and quarantine.MARK.exists():
        shutil.move(quarantine.MARK, aside / f"sigsum-{quarantine.MARK.name}")
    units.unmask((*units.SECONDARY, *units.PRIMARY))
    # What a secondary does not run; its file is there again, and would start at the next boot.
    there = [name for name in PRIMARY_ONLY if name in units.show(PRIMARY_ONLY)]
    if there:
        _run("systemctl", "disable", *there)
    return aside


def abandon(trillian: Trillian, places: Places) -> bool:
    """Undo what a promotion did before it changed the tree; nothing is started.

    Returns:
        Whether anything was changed.

    Raises:
        NotAdopted: the tree may be a primary's.
        CannotTell: Trillian did not answer.
    """
    tree = trillian.get_tree(parse_tree_id(places.tree_id.read_bytes()))
    if places.sth.exists() or (tree.type, tree.state) != ("PREORDERED_LOG", "ACTIVE"):
        raise NotAdopted(
            f"its tree, {tree.described}, may be a primary's",
            hint="playbooks/promote.yml goes on; there is no other way.",
        )
    # A standby has no passphrase, either.
    files = [path for path in (places.promotion, places.startup, PASSPHRASE) if path.exists()]
    for path in files:
        path.unlink()
    sync_directory(places.state)
    return units.unmask(units.SECONDARY) or bool(files)


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpsError(f"{' '.join(arguments[:2])}: {done.stderr.strip()}")
