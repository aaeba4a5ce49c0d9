"""Restored data is kept in quarantine until it is proven ahead of everything that was published.

The mark (/etc/sigsum/quarantined.json) keeps the log, the oracle and Trillian's signer from
starting: each of their units asks for its absence, by a drop-in that playbooks/restore.yml puts
there first. Trillian's signer is among them since it would go on with the leaves that waited when
the backup was made, in an order of its own: the tree would be no prefix of the published one.

Only a promotion ends it, and only of a tree that is proven: ``integrate`` before the tree becomes
a primary's, ``lift`` after. Re-seeding ends it too, by emptying the machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.backup import PROCEDURE
from sigsum_ops.backup.config import Settings
from sigsum_ops.backup.job import DATABASE_NAME, DUMP_FILE
from sigsum_ops.backup.restic import Backup, Restic, choose
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.failover.seen import Seen, Uncovered, read, uncovered
from sigsum_ops.log import archive
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.statefiles import (
    parse_tree_id,
    read_if_there,
    sync_directory,
    write_durably,
)
from sigsum_ops.log.treehead import TreeHead
from sigsum_ops.log.trillian import TreeNotFound, TreeNotInitialised, Trillian, retry

MARK = Path("/etc/sigsum/quarantined.json")
LOG_KEY = Path("/etc/sigsum/log.pub")
RESTORED = Path("/var/lib/sigsum-restored")  # the files, under their own paths
TREE_ID = Path("/var/lib/sigsum-log/tree-id")
UNITS_DIRECTORY = Path("/etc/systemd/system")
BAR = "10-quarantine.conf"  # of each of UNITS, in its directory of drop-ins
# Signed before the database was read.
OWN_HEADS = ("var/lib/sigsum-log/sth", "var/lib/sigsum-archive/heads")
SERVER = "trillian-log-server.service"
SIGNER = "trillian-log-signer.service"
# What must not run, in the order in which it is stopped.
UNITS = (
    "sigsum-log-primary.service",
    "sigsum-log-secondary.service",
    "sigsum-oracle.service",
    SIGNER,
)
INTEGRATE_FOR = 60.0  # seconds; what waits is what a log is given in one interval
EXIT_CANNOT_TELL = 75  # EX_TEMPFAIL of sysexits.h


def read_mark() -> dict[str, Any] | None:
    """The mark: since when and why, what was restored, and the last proof; None without one.

    Raises:
        OpsError: it is damaged, and the machine is in quarantine all the same.
    """
    data = read_if_there(MARK)
    if data is None:
        return None
    try:
        mark = json.loads(data)
    except ValueError as error:
        raise OpsError(f"{MARK}: damaged: {error}", hint=f"See {PROCEDURE}.") from error
    if not isinstance(mark, dict) or not {"since", "reason"} <= mark.keys():
        raise OpsError(f"{MARK}: not a mark of quarantine", hint=f"See {PROCEDURE}.")
    return mark


def _write_mark(mark: dict[str, Any]) -> None:
    write_durably(MARK, (json.dumps(mark, indent=2) + "\n").encode())


def _quarantined() -> dict[str, Any]:
    """The mark, on a machine that is in quarantine."""
    mark = read_mark()
    if mark is None:
        raise OpsError(
            f"{MARK}: missing: this machine is not in quarantine",
            hint="Only playbooks/restore.yml restores; it first asks whether it may.",
        )
    for unit in UNITS:
        state = _systemctl("show", "--value", "--property=ActiveState", unit).strip()
        if state not in ("inactive", "failed"):
            raise OpsError(
                f"{unit} is {state} on a machine in quarantine",
                hint="Stop it, and run playbooks/restore.yml again.",
            )
    return mark


def restore(
    settings: Settings, snapshot: str | None, *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Put a backup's database into MariaDB and its files under RESTORED, as data only.

    Can be interrupted anywhere and run again.

    Args:
        settings: the repository.
        snapshot: the first digits of the id of either part; without it, the newest backup.
        say: takes one line for each step.

    Returns:
        The mark, with what was restored.

    Raises:
        OpsError: the machine is not in quarantine, its database holds what no restore has put
            there, the backup is another log's, or not all of it can be restored.
    """
    mark = _quarantined()
    if "restored" not in mark and (trees := _count("Trees")):
        raise OpsError(
            f"the database holds {trees} tree{'s' * (trees > 1)} that no restore has put there",
            hint="A restore goes into an empty database. If this one is not needed:"
            f" mariadb --execute 'DROP DATABASE {DATABASE_NAME}', and run the playbook again.",
        )
    restic = Restic(settings)
    backup = choose(restic.snapshots(), snapshot)
    # From here on it is this program's, and is replaced when it runs again.
    mark = {"since": mark["since"], "reason": mark["reason"], "restored": None}
    _write_mark(mark)
    say(f"restoring backup {backup}")
    _restore_files(restic, backup)
    tree_file = (RESTORED / TREE_ID.relative_to("/")).read_bytes()
    tree_id = parse_tree_id(tree_file)
    _systemctl("stop", SERVER)
    _restore_database(restic, backup)
    _systemctl("start", SERVER)
    # The log's; a promotion finds the tree by it.
    owner = TREE_ID.parent.stat()
    write_durably(TREE_ID, tree_file, owner=(owner.st_uid, owner.st_gid))
    mark["restored"] = {
        "snapshot": backup.database.id,
        "host": backup.database.host,
        "time": backup.database.time.isoformat(),
        "tree_id": tree_id,
    }
    _write_mark(mark)
    return mark


def _count(table: str) -> int:
    """How many rows a table of Trillian's database has."""
    query = f"SELECT COUNT(*) FROM {table}"  # noqa: S608 - the names are in this file
    done = subprocess.run(
        ["mariadb", "--batch", "--skip-column-names", f"--execute={query}", DATABASE_NAME],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OpsError(f"MariaDB does not say what {DATABASE_NAME} holds: {done.stderr.strip()}")
    return int(done.stdout)


def _restore_files(restic: Restic, backup: Backup) -> None:
    if RESTORED.exists():
        shutil.rmtree(RESTORED)
    RESTORED.mkdir(mode=0o700)
    restic.run("restore", backup.files.id, "--target", str(RESTORED))
    own, theirs = _key(LOG_KEY), _key(RESTORED / LOG_KEY.relative_to("/"))
    if own != theirs:
        raise OpsError(
            f"backup {backup} is of the log {theirs.hash}, not of {own.hash}",
            hint="Name a snapshot of this log, or correct log_server_public_key.",
        )


def _restore_database(restic: Restic, backup: Backup) -> None:
    """Stream the dump into MariaDB. A part of it is never left."""
    _sql(f"DROP DATABASE IF EXISTS {DATABASE_NAME}; CREATE DATABASE {DATABASE_NAME}")
    with subprocess.Popen(
        restic.command("dump", backup.database.id, DUMP_FILE),
        env=restic.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as source:
        loaded = subprocess.run(
            ["mariadb", DATABASE_NAME], stdin=source.stdout, capture_output=True, check=False
        )
        said = source.stderr.read() if source.stderr else b""
    if source.returncode or loaded.returncode:
        _sql(f"DROP DATABASE {DATABASE_NAME}; CREATE DATABASE {DATABASE_NAME}")
        reason = (loaded.stderr if loaded.returncode else said).decode(errors="replace").strip()
        raise OpsError(f"the database of backup {backup} could not be restored: {reason}")


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpsError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _sql(statements: str) -> None:
    done = subprocess.run(
        ["mariadb", f"--execute={statements}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OpsError(f"MariaDB refuses: {done.stderr.strip()}")


def _key(path: Path) -> PublicKey:
    try:
        return PublicKey.parse(path.read_text(encoding="ascii"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def prove(
    files: Iterable[Path], *, trillian: str, wait: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compare the restored tree with signed tree heads, and write the outcome into the mark.

    Args:
        files: sth files, answers to get-tree-head, proofs of logging, archives of tree heads; at
            least one tree head.
        trillian: address of the machine's own Trillian log server.
        wait: seconds for it to answer.
        say: takes one line for each reason to wait.

    Returns:
        The proof: size, root, what it is ahead of, when.

    Raises:
        Behind: the tree is not proven to extend one of them.
        CannotTell: Trillian does not say.
        OpsError: nothing was restored here, or a file is not a tree head of this log.
    """
    mark = _quarantined()
    if not mark.get("restored"):
        raise OpsError("nothing is restored here", hint="Run playbooks/restore.yml first.")
    tree_id = mark["restored"]["tree_id"]
    key = _key(LOG_KEY)
    given = [seen for path in files for seen in _heads(path, key)]
    if not given:
        raise UsageError(
            "no tree head is given: an empty list would prove nothing",
            hint="--seen FILE: an answer to get-tree-head, an sth file, a proof, or an archive.",
        )
    own = kept(key)
    _write_mark({**mark, "proof": None})

    def judge() -> dict[str, Any]:
        with Trillian(trillian) as connection:
            return compare([*given, *own], tree_id, connection)

    proof = retry(judge, wait=wait, say=say)
    _write_mark({**mark, "proof": proof})
    return proof


def kept(key: PublicKey) -> list[Seen]:
    """The tree heads that the log had signed when the backup was made."""
    paths = [path for name in OWN_HEADS if (path := RESTORED / name).exists()]
    return [seen for path in paths for seen in _heads(path, key)]


def proven(mark: dict[str, Any] | None) -> list[Seen]:
    """What a tree in quarantine was when it was last proven, and what it was compared with.

    Raises:
        OpsError: the mark is damaged.
    """
    proof = (mark or {}).get("proof")
    if not proof:
        return []
    try:
        return [
            Seen(TreeHead(int(item["size"]), bytes.fromhex(item["root_hash"])), str(item["source"]))
            for item in ({**proof, "source": str(MARK)}, *proof["ahead_of"])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise OpsError(f"{MARK}: damaged: {error!r}", hint=f"See {PROCEDURE}.") from error


def integrate(
    *,
    wait: float = INTEGRATE_FOR,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Seen]:
    """Have Trillian's signer finish a tree that is proven; nothing else may start yet.

    A backup is of one instant, and leaves waited then. After a tree that is ahead of everything
    that was published they may come in any order. Without a quarantine nothing is done.

    Args:
        wait: seconds for the signer.
        clock: seconds.
        sleep: takes seconds.

    Returns:
        What the tree was proven to be and to extend.

    Raises:
        OpsError: the tree is not proven, or leaves wait still; it can be run again.
    """
    mark = read_mark()
    if mark is None:
        return []
    if not mark.get("proof"):
        raise OpsError(
            f"{MARK}: what was restored here is not proven ahead of what was published",
            hint="sigsum-ops backup prove --seen FILE",
        )
    (UNITS_DIRECTORY / f"{SIGNER}.d" / BAR).unlink(missing_ok=True)
    _systemctl("daemon-reload")
    _systemctl("start", SIGNER)
    end = clock() + wait
    while waiting := _count("Unsequenced"):
        if clock() >= end:
            raise OpsError(
                f"{waiting} leaves are not in the tree after {wait:.0f} s",
                hint=f"Does {SIGNER} run? Its log says what keeps it from integrating.",
            )
        sleep(0.5)
    return proven(mark)


def lift() -> None:
    """End the quarantine of a tree that is a primary's now; the mark is kept beside the files.

    What barred the units is left where it is: it asks for the mark only.
    """
    mark = read_mark()
    if mark is None:
        return
    record = {**mark, "lifted": datetime.now(UTC).isoformat(timespec="seconds")}
    RESTORED.mkdir(mode=0o700, exist_ok=True)
    write_durably(RESTORED / MARK.name, (json.dumps(record, indent=2) + "\n").encode())
    MARK.unlink()
    sync_directory(MARK.parent)


def _heads(path: Path, key: PublicKey) -> list[Seen]:
    """The tree heads in a file that a tree must extend; of an archive, what stands for all."""
    try:
        with path.open("rb") as file:
            is_archive = file.read(len(archive.MAGIC)) == archive.MAGIC.encode()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if not is_archive:
        return [read(path, key)]
    return [Seen(signed.head, str(path)) for signed in archive.seen(path, key)]


class Behind(OpsError):  # noqa: N818 - an outcome
    """The restored tree is not ahead of all that was published."""


def compare(seen: Iterable[Seen], tree_id: int, trillian: Trillian) -> dict[str, Any]:
    """Prove that the tree extends each of these tree heads.

    Raises:
        Behind: with each one that it does not extend, and how many leaves are missing.
        CannotTell: Trillian does not say.
    """
    known = list(seen)
    try:
        trillian.get_tree(tree_id)
        tree = trillian.latest_root(tree_id)
    except (TreeNotFound, TreeNotInitialised) as error:
        raise Behind(f"{error.message}: the backup is not whole") from error
    if left := uncovered(known, tree, tree_id, trillian):
        raise Behind(
            "\n".join([f"the restored tree ({tree}) must not be used:", *map(_line(tree), left)]),
            hint="Its log would sign a second root for sizes that are published: a split view."
            f" The machine stays in quarantine. See {PROCEDURE}.",
        )
    return {
        "size": tree.size,
        "root_hash": tree.root.hex(),
        "tree_id": tree_id,
        "ahead_of": [
            {"source": item.source, "size": item.head.size, "root_hash": item.head.root.hex()}
            for item in known
        ],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _line(tree: TreeHead) -> Callable[[Uncovered], str]:
    def line(item: Uncovered) -> str:
        missing = item.seen.head.size - tree.size
        return f"  {item}" + (f"; it is {missing} leaves behind" if missing > 0 else "")

    return line
