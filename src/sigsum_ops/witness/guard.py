"""A witness's database is never an older one: compared with what the oracle has cosigned.

litewitness writes a tree head down before it has it signed, and the oracle before it signs. So what
the oracle has of a log is in the database, or something larger is. A database that has less was
lost or rolled back, and a witness that went on from there could cosign a second history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.oracle.config import Settings, WitnessRole, load
from sigsum_ops.hsm.oracle.cosign import Cosigned
from sigsum_ops.log.treehead import TreeHead
from sigsum_ops.witness import PROCEDURE, database
from sigsum_ops.witness.database import KnownLog


@dataclass(frozen=True)
class Witness:
    """Both accounts of what was cosigned, by the origins of the logs."""

    known: Mapping[str, KnownLog]
    cosigned: Mapping[str, TreeHead]

    @property
    def problems(self) -> list[str]:
        """One line for each log of which the database has too little."""
        return list(_problems(self))

    def as_json(self) -> dict[str, Any]:
        """What both have of each log."""
        return {
            origin: {
                "database": _json(self.known[origin].head) if origin in self.known else None,
                "cosigned": _json(self.cosigned.get(origin)),
                "keys": list(self.known[origin].keys) if origin in self.known else [],
            }
            for origin in sorted({*self.known, *self.cosigned})
        }


def look(path: Path, oracle: Path) -> Witness:
    """Read the database, and what the oracle with this configuration has cosigned.

    Raises:
        OpsError: one of them cannot be read, or the oracle is not a witness's.
    """
    # In this order: litewitness writes first, so beside it the other would be behind at times.
    cosigned = dict(Cosigned(_settings(oracle).cosigned).all())
    return Witness(database.read(path), cosigned)


def begin(path: Path, oracle: Path) -> None:
    """Say that the key has never cosigned anything: from here on it is kept what it has.

    Raises:
        OpsError: it has, as far as this machine knows.
    """
    if known := {name: log.head for name, log in database.read(path).items() if log.head.size}:
        shown = "\n".join(f"{origin}: {head}" for origin, head in sorted(known.items()))
        raise OpsError(f"{path} has seen tree heads, so this is no beginning:\n{shown}")
    Cosigned.begin(_settings(oracle).cosigned)


def guard(path: Path, oracle: Path) -> Witness:
    """The same, and refuse a database that was rolled back.

    Raises:
        OpsError: it was, or it cannot be told.
    """
    witness = look(path, oracle)
    if witness.problems:
        raise OpsError(
            f"{path} is not what this witness has cosigned:\n" + "\n".join(witness.problems),
            hint=f"It was lost or rolled back. Do not start the witness: {PROCEDURE}",
        )
    return witness


def recover(path: Path, oracle: Path) -> list[str]:
    """Put the database forward to what the oracle has cosigned last; the logs that were behind.

    Raises:
        OpsError: it has another tree of the same size, or cannot be written.
    """
    witness = look(path, oracle)
    for origin, head in witness.cosigned.items():
        there = witness.known.get(origin)
        if there and there.head.size == head.size and there.head != head:
            raise OpsError(
                f"{origin}: two trees of one size: cosigned was {head}, the database has"
                f" {there.head}",
                hint=f"Keep both, and end this witness: {PROCEDURE}",
            )
    return database.put_forward(path, witness.cosigned)


def _settings(oracle: Path) -> Settings:
    settings = load(oracle)
    if not isinstance(settings.role, WitnessRole):
        raise OpsError(f"{oracle}: is the configuration of a log's oracle, not of a witness's")
    return settings


def _problems(witness: Witness) -> Iterator[str]:
    for origin, head in sorted(witness.cosigned.items()):
        there = witness.known.get(origin)
        if there is None:
            yield f"{origin}: cosigned at {head}, and not in the database"
        elif there.head.size < head.size or (
            there.head.size == head.size and there.head.root != head.root
        ):
            yield f"{origin}: cosigned at {head}, and the database has {there.head}"


def _json(head: TreeHead | None) -> dict[str, Any] | None:
    return {"size": head.size, "root_hash": head.root.hex()} if head else None
