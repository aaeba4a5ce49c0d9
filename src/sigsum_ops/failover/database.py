"""What of a tree is in MariaDB that Trillian's own interface does not tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError

SOCKET = Path("/run/mysqld/mysqld.sock")
NAME = "trillian"


@dataclass(frozen=True)
class Sequenced:
    """Leaves that have a number: so many from ``first`` on, the largest ``last``."""

    first: int
    count: int
    last: int | None

    def drained(self) -> bool:
        """Whether none waits to be integrated into the tree that ends at ``first``."""
        return self.count == 0


def sequenced(tree_id: int, size: int, socket: Path = SOCKET) -> Sequenced:
    """What has a number beyond the tree's size.

    A secondary's leaves are numbered when they arrive, and integrated by its signer afterwards.
    Once the tree is a primary's, Trillian gives out numbers by the tree's size, so what waited
    would collide: it must be none.

    Raises:
        OpsError: the database does not answer.
    """
    rows = _query(
        socket,
        "SELECT COUNT(*), MAX(SequenceNumber) FROM SequencedLeafData"
        " WHERE TreeId = %s AND SequenceNumber >= %s",
        (tree_id, size),
    )
    count, last = rows[0]
    return Sequenced(size, int(count), None if last is None else int(last))


def _query(socket: Path, statement: str, values: tuple[int, ...]) -> Any:
    # Debian's python3-pymysql, on hosts only: the roles install it.
    import pymysql

    try:
        with (
            pymysql.connect(unix_socket=str(socket), user="root", database=NAME) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, values)
            return cursor.fetchall()
    except pymysql.Error as error:
        raise OpsError(f"MariaDB at {socket}: {error.args[-1]}") from error
