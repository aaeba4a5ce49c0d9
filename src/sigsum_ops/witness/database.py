"""litewitness's database: the logs that it knows, and the tree head that it has seen of each.

The tables are those of torchwood 0.9.0. It is read here, and put forward; what else is to be
changed is left to upstream's witnessctl. litewitness reads it anew for each request, so nothing
has to be told to it.
"""

from __future__ import annotations

import base64
import binascii
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.log.merkle import HASH_SIZE
from sigsum_ops.log.treehead import TreeHead

BUSY = 10.0  # seconds to wait for whoever writes


@dataclass(frozen=True)
class KnownLog:
    """A log: its last tree head, and its keys as notes have them. Without one it is not served."""

    head: TreeHead
    keys: tuple[str, ...]


def read(path: Path) -> dict[str, KnownLog]:
    """The logs by their origin; none where there is no database yet. Creates nothing.

    Raises:
        OpsError: it cannot be read, or is not what litewitness writes.
    """
    if not path.exists():
        return {}
    with _opened(path, "ro") as database:
        keys: dict[str, list[str]] = {}
        for origin, key in database.execute("SELECT origin, key FROM key ORDER BY key"):
            keys.setdefault(origin, []).append(key)
        rows = database.execute("SELECT origin, tree_size, tree_hash FROM log").fetchall()
    return {
        origin: KnownLog(_head(path, origin, size, root), tuple(keys.get(origin, ())))
        for origin, size, root in rows
    }


def put_forward(path: Path, heads: Mapping[str, TreeHead]) -> list[str]:
    """Bring each of these logs to the tree head, where the database has a smaller one, or none.

    It goes forward only, also beside a running litewitness.

    Returns:
        The origins of the logs that were behind.

    Raises:
        OpsError: the database cannot be written.
    """
    if not path.exists():
        # The tables are upstream's to make.
        listed = subprocess.run(
            ("witnessctl", "list-logs", "-db", str(path)),
            capture_output=True,
            text=True,
            check=False,
        )
        if listed.returncode:
            raise OpsError(f"{path}: cannot be made: {listed.stderr.strip()}")
    changed = []
    with _opened(path, "rw") as database:
        for origin, head in heads.items():
            values = (head.size, base64.b64encode(head.root).decode(), origin)
            done = database.execute(
                "UPDATE log SET tree_size = ?1, tree_hash = ?2"
                " WHERE origin = ?3 AND tree_size < ?1",
                values,
            ).rowcount
            done += database.execute(
                "INSERT INTO log (tree_size, tree_hash, origin) VALUES (?1, ?2, ?3)"
                " ON CONFLICT DO NOTHING",
                values,
            ).rowcount
            changed += [origin] if done else []
        database.commit()
    return changed


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    try:
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY)) as database:
            yield database
    except sqlite3.Error as error:
        raise OpsError(f"{path}: not a database that can be used: {error}") from error


def _head(path: Path, origin: str, size: object, root: object) -> TreeHead:
    try:
        raw = base64.b64decode(str(root), validate=True)
    except binascii.Error:
        raw = b""
    if not isinstance(size, int) or size < 0 or len(raw) != HASH_SIZE:
        raise OpsError(f"{path}: {origin}: {size!r} with {root!r} is no tree head")
    return TreeHead(size, raw)
