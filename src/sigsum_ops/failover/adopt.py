"""A secondary's tree becomes a primary's: the one step of a promotion that cannot be taken back.

Trillian calls a tree whose leaves come with their numbers PREORDERED_LOG, and one that numbers them
itself LOG. It changes the one into the other while the tree is frozen, and does not look whether
all numbered leaves are in the tree. Each part reads back what it did and can be repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.failover import database, units
from sigsum_ops.failover.seen import Seen, uncovered
from sigsum_ops.log.evidence import Evidence, format_promotion, parse_promotion
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.statefiles import (
    PROMOTION_FILE,
    STARTUP_SUFFIX,
    parse_tree_id,
    write_durably,
)
from sigsum_ops.log.treehead import TreeHead
from sigsum_ops.log.trillian import Tree, Trillian

STARTUP_LOCAL_TREE = b"startup=local-tree\n"
DRAIN_FOR = 30.0  # seconds; the signer integrates a thousand leaves in each of its intervals

# From what is read back to what is done next; a tree is done where there is nothing.
_NEXT: dict[tuple[str, str], dict[str, str]] = {
    ("PREORDERED_LOG", "ACTIVE"): {"state": "FROZEN"},
    ("PREORDERED_LOG", "FROZEN"): {"tree_type": "LOG"},
    ("LOG", "FROZEN"): {"state": "ACTIVE"},
    ("LOG", "ACTIVE"): {},
}


class NotAdopted(OpsError):  # noqa: N818 - an outcome
    """The tree is left as it was, or as an earlier run left it."""


@dataclass(frozen=True)
class Places:
    """Where a log machine keeps its state."""

    state: Path = Path("/var/lib/sigsum-log")

    @property
    def sth(self) -> Path:
        """log-go's signed tree head."""
        return self.state / "sth"

    @property
    def startup(self) -> Path:
        """What tells log-go how to begin."""
        return self.state / f"sth{STARTUP_SUFFIX}"

    @property
    def tree_id(self) -> Path:
        """log-go's tree-id file."""
        return self.state / "tree-id"

    @property
    def promotion(self) -> Path:
        """What a promotion proved; the start guard and the oracle go by it."""
        return self.state / PROMOTION_FILE


def adopt(
    trillian: Trillian,
    log_key: PublicKey,
    known: Iterable[Seen],
    places: Places,
    *,
    drain: Callable[[int, int], database.Sequenced] = database.sequenced,
    stop: Callable[[], object] = lambda: units.mask(units.SECONDARY),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[TreeHead, bool]:
    """Turn the tree into a primary's, at exactly the tree head that is returned.

    Args:
        trillian: the machine's own.
        log_key: the log's.
        known: every tree head that the tree must extend.
        places: the machine's state.
        drain: the numbered leaves of a tree beyond a size.
        stop: keeps the secondary from adding leaves, for good.
        clock: seconds.
        sleep: takes seconds.

    Returns:
        The tree head with which the log goes on, and whether anything was changed.

    Raises:
        NotAdopted: the tree must not, or cannot, become a primary's.
        CannotTell: Trillian did not answer; running it again goes on.
    """
    tree_id = parse_tree_id(places.tree_id.read_bytes())
    record = _record(places, log_key, tree_id)
    if places.sth.exists():
        if record is None:
            raise NotAdopted(
                f"{places.sth}: there is a signed tree head, so this machine has been the primary",
                hint="playbooks/reseed.yml makes it a secondary first.",
            )
        head = trillian.latest_root(tree_id)
        if behind := uncovered(known, head, tree_id, trillian):
            raise NotAdopted(
                "the log has signed what this primary has not: " + "; ".join(map(str, behind)),
                hint="Another machine was promoted since. Re-seed this one from it.",
            )
        return record.head, False
    stop()
    end = clock() + DRAIN_FOR
    while True:
        head = trillian.latest_root(tree_id)
        waiting = drain(tree_id, head.size)
        if waiting.drained() and trillian.latest_root(tree_id) == head:
            break
        if clock() >= end:
            raise NotAdopted(
                f"{waiting.count} leaves from number {waiting.first} to {waiting.last} are not in"
                f" the tree after {DRAIN_FOR:.0f} s",
                hint="Does trillian-log-signer run? Its log says what keeps it from integrating.",
            )
        sleep(0.1)
    as_primary = trillian.get_tree(tree_id).type == "LOG"
    if record is not None and record.head != head and as_primary:
        raise NotAdopted(
            f"the tree has {head}, but was promoted at {record.head}, and nothing is signed yet",
            hint="Something else wrote to the tree. Keep it, and follow docs/bcp/split-view.md.",
        )
    if behind := uncovered(known, head, tree_id, trillian):
        raise NotAdopted(
            "the log has signed more than this machine has: " + "; ".join(map(str, behind)),
            hint="Promote a machine that has it, or bring this one's source back.",
        )
    # Before the tree is a primary's, so that it never is one without it.
    if record is None or record.head != head:
        record = Evidence(head, tree_id, log_key.hash)
        _write(places.promotion, format_promotion(record, datetime.now(UTC)))
    convert(trillian, tree_id)
    if trillian.latest_root(tree_id) != head:
        raise NotAdopted(f"the tree changed while it was converted; it had {head}")
    if not places.startup.exists():
        _write(places.startup, STARTUP_LOCAL_TREE)
    return head, True


def convert(trillian: Trillian, tree_id: int) -> Tree:
    """Freeze, change the type, make active: whichever of them is still to be done.

    Raises:
        NotAdopted: what is read back is not what was asked for.
    """
    for _ in range(len(_NEXT)):
        tree = trillian.get_tree(tree_id)
        change = _NEXT.get((tree.type, tree.state))
        if change is None or tree.deleted:
            break
        if not change:
            return tree
        trillian.update_tree(tree_id, **change)
    raise NotAdopted(f"Trillian's {tree.described} cannot be made an active LOG")


def _record(places: Places, log_key: PublicKey, tree_id: int) -> Evidence | None:
    if not places.promotion.exists():
        return None
    record = parse_promotion(places.promotion.read_bytes())
    if (record.log_key_hash, record.tree_id) != (log_key.hash, tree_id):
        raise NotAdopted(f"{places.promotion}: is about another log or tree")
    return record


def _write(path: Path, data: bytes) -> None:
    """Write a file that belongs to the log, whoever runs this."""
    owner = path.parent.stat()
    write_durably(path, data, owner=(owner.st_uid, owner.st_gid))
