"""What a procedure needs to know of one log machine, read without changing anything.

Each part that cannot be read is None, with the reason among ``unreadable``: a machine whose
database is gone still tells what it has signed. What shows what was signed, is there and cannot be
read is among ``doubts``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from sigsum_ops.backup import quarantine
from sigsum_ops.errors import OpsError
from sigsum_ops.failover import database, ungated, units
from sigsum_ops.failover.adopt import Places
from sigsum_ops.failover.seen import Seen, parse_signed, read, uncovered
from sigsum_ops.hsm.oracle import config
from sigsum_ops.hsm.oracle.journal import Journal
from sigsum_ops.log import archive, guard, policy
from sigsum_ops.log.evidence import parse_promotion
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.statefiles import parse_tree_id
from sigsum_ops.log.treehead import SignedTreeHead, TreeHead
from sigsum_ops.log.trillian import Trillian

T = TypeVar("T")

ORACLE = Path("/var/lib/sigsum-oracle")
ORACLE_CONFIG = config.DEFAULT_PATH
CONFIG = guard.DEFAULT_CONFIG
ARCHIVE = Path("/var/lib/sigsum-archive/heads")
NODE_KEY = Path("/etc/sigsum/node-key.pub")
GATED_BY = Path("/etc/sigsum/secondary.pub")
POLICY = Path("/etc/sigsum/policy")
DATABASE = Path("/var/lib/mysql")


def look(
    trillian: Trillian, log_key: PublicKey, known: list[Seen], places: Places
) -> dict[str, Any]:
    """Everything, as one object for JSON.

    Args:
        trillian: the machine's own.
        log_key: the log's.
        known: tree heads from elsewhere, to be compared with the tree here.
        places: the machine's state.
    """
    unreadable: list[str] = []
    doubts: list[str] = []

    def attempt(read: Callable[[], T], note: list[str] = unreadable) -> T | None:
        try:
            return read()
        except (OpsError, OSError) as error:
            note.append(str(error))
            return None

    signed = [item for item in (attempt(part, doubts) for part in _signed(log_key, places)) if item]
    published = attempt(lambda: _published(log_key), doubts) or []
    mark = attempt(quarantine.read_mark, doubts)
    proven = attempt(lambda: quarantine.proven(mark), doubts) or []
    if mark is not None:
        published += attempt(lambda: quarantine.kept(log_key), doubts) or []
    shown = units.show((*units.PRIMARY, *units.SECONDARY))
    tree = attempt(lambda: _tree(trillian, places, [*known, *signed, *published, *proven]))
    return {
        "units": shown,
        "parts": parts(shown),
        "primary_runs": _runs(shown.get("sigsum-log-primary.service")),
        "fenced": units.read_mark(),
        "quarantine": mark,
        "stopped": units.stopped({name: shown[name] for name in units.PRIMARY if name in shown}),
        "tree": tree,
        "signed": [_seen(item) for item in signed],
        "published": [_seen(item) for item in published],
        "split_views": [str(path) for path in archive.evidence(ARCHIVE)],
        # What was restored was not copied from the primary.
        "promises": [_seen(item) for item in signed] + (_copied(tree) if mark is None else []),
        "to_retire": _to_retire(shown, tree, signed, places),
        "doubts": doubts,
        "has_tree_id": places.tree_id.exists(),
        "has_sth": places.sth.exists(),
        "has_startup": places.startup.exists(),
        "has_latch": (ORACLE / "latch").exists(),
        "promoted": attempt(lambda: _promoted(places)),
        "node_key": attempt(lambda: _key(NODE_KEY)),
        "gated_by": attempt(lambda: _key(GATED_BY)),
        "permit": attempt(_permit),
        "replicated": attempt(_replicated),
        "has_policy": POLICY.exists(),
        "free_mb": {str(path): attempt(_free(path)) for path in (places.state, DATABASE)},
        "time": time.time(),
        "unreadable": unreadable,
    }


def _free(path: Path) -> Callable[[], int]:
    """MiB that can still be written there, which may be a disk of its own."""
    return lambda: shutil.disk_usage(path).free >> 20


def _copied(tree: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A secondary's own tree: the primary must extend it as well as anything that was signed."""
    if tree is None or tree["type"] != "PREORDERED_LOG":
        return []
    return [{"size": tree["size"], "root_hash": tree["root_hash"], "source": "its own tree"}]


def _to_retire(
    shown: dict[str, dict[str, str]],
    tree: dict[str, Any] | None,
    signed: list[Seen],
    places: Places,
) -> bool:
    """Whether the machine must forget its tree before it can be a secondary."""
    return (
        units.MARK.exists()
        or quarantine.MARK.exists()
        or bool(signed)
        or places.sth.exists()
        or places.promotion.exists()
        or (tree is not None and (tree["type"], tree["state"]) != ("PREORDERED_LOG", "ACTIVE"))
        or any(unit["LoadState"] == "masked" for unit in shown.values())
    )


def parts(shown: dict[str, dict[str, str]]) -> list[str]:
    """Which parts in the log this machine takes or would take after a reboot."""
    return [
        part
        for part in ("primary", "secondary")
        if (unit := shown.get(f"sigsum-log-{part}.service"))
        and unit["LoadState"] != "masked"
        and (unit["UnitFileState"] == "enabled" or _runs(unit))
    ]


def witnesses(
    log_key: PublicKey, places: Places, given: Iterable[SignedTreeHead]
) -> list[dict[str, Any]]:
    """What each witness of the policy has cosigned, asked with the last tree head that is known.

    Args:
        log_key: the log's.
        places: the machine's state.
        given: tree heads from elsewhere, verified.

    Raises:
        UsageError: the policy cannot be read.
    """
    # Its HTTP library takes as long to load as a whole look does.
    from sigsum_ops.failover import witness

    if not POLICY.exists():
        return []
    signed = list(given)
    with suppress(OpsError, OSError):  # ``look`` tells what cannot be read
        signed += archive.seen(ARCHIVE, log_key)
    with suppress(OpsError, OSError):
        signed.append(parse_signed(places.sth.read_bytes(), str(places.sth), log_key))
    answers = witness.ask(policy.load(POLICY).witnesses, witness.latest(signed), log_key)
    return [asdict(answer) for answer in answers]


def _key(path: Path) -> str | None:
    return PublicKey.parse(path.read_text()).hex if path.exists() else None


def _runs(unit: Mapping[str, str] | None) -> bool:
    return unit is not None and unit["ActiveState"] in ("active", "activating")


def _signed(log_key: PublicKey, places: Places) -> list[Callable[[], Seen | None]]:
    """What this machine itself knows to have been signed."""

    def sth() -> Seen | None:
        return read(places.sth, log_key) if places.sth.exists() else None

    def journal() -> Seen | None:
        path = ORACLE / "journal"
        if not path.exists():
            return None
        with Journal.open(path, log_key.hash, writable=False) as opened:
            return Seen(opened.last.head, str(path))

    return [sth, journal]


def _published(log_key: PublicKey) -> list[Seen]:
    """What the archive of published tree heads wants to be extended, where there is one."""
    if not ARCHIVE.exists():
        return []
    return [Seen(signed.head, str(ARCHIVE)) for signed in archive.seen(ARCHIVE, log_key)]


def _tree(trillian: Trillian, places: Places, known: list[Seen]) -> dict[str, Any]:
    tree_id = parse_tree_id(places.tree_id.read_bytes())
    tree = trillian.get_tree(tree_id)
    head = trillian.latest_root(tree_id)
    waiting = database.sequenced(tree_id, head.size)
    return {
        "id": tree_id,
        "type": tree.type,
        "state": tree.state,
        **_json(head),
        "waiting": waiting.count,
        "behind": [str(item) for item in uncovered(known, head, tree_id, trillian)],
    }


def _promoted(places: Places) -> dict[str, Any] | None:
    if not places.promotion.exists():
        return None
    return _json(parse_promotion(places.promotion.read_bytes()).head)


def _permit() -> str:
    """Until when the oracle lets the log go on alone; empty where it does not."""
    role = config.load(ORACLE_CONFIG).role if ORACLE_CONFIG.exists() else None
    until = role.ungated_until if isinstance(role, config.LogRole) else None
    return ungated.text(until) if until else ""


def _replicated() -> bool:
    """Whether the log, as primary, waits for a secondary."""
    return CONFIG.exists() and guard.read_config(CONFIG).replicated


def _seen(item: Seen) -> dict[str, Any]:
    return {**_json(item.head), "source": item.source}


def _json(head: TreeHead) -> dict[str, Any]:
    return {"size": head.size, "root_hash": head.root.hex()}
