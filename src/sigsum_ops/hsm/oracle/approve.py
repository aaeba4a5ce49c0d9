"""What the oracle may sign: parses what it is asked for, and decides, journals or latches.

An approver is used from one thread, and answers in the time that Trillian may take.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, Self, get_args

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.oracle import decide
from sigsum_ops.hsm.oracle.decide import CannotProve, Latch, NotNow
from sigsum_ops.hsm.oracle.journal import Journal, JournalError
from sigsum_ops.hsm.oracle.latch import Latch as LatchFile
from sigsum_ops.hsm.oracle.metrics import Metrics
from sigsum_ops.hsm.oracle.permit import Permit
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.statefiles import parse_tree_id
from sigsum_ops.log.treehead import TreeHead, parse_checkpoint
from sigsum_ops.log.trillian import Trillian, TrillianError

# Two calls at most, so that enough of the log's five seconds is left for the device.
TRILLIAN_DEADLINE = 1.5  # seconds

Outcome = Literal[
    "signed",
    "malformed",
    "not-now",
    "permit-ended",
    "rolled-back",
    "latched",
    "journal",
    "rate-limited",
    "device",
    "late",
    "internal",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class Refused(OpsError):  # noqa: N818 - an outcome
    """No signature. ``outcome`` is its stable name in the metrics."""

    def __init__(self, outcome: Outcome, message: str, *, news: bool = False) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.news = news  # to be shouted, once


class Approver(Protocol):
    """Says what may be signed, by raising Refused for what may not."""

    def approve(self, data: bytes) -> str | None:
        """Return what is new about it, in words, where something is."""


class TreeSource(decide.Tree, Protocol):
    """The tree to ask, and where that is, for the evidence."""

    seen: dict[str, object]


class LogApprover:
    """Tree heads of one log that are journaled or proven."""

    def __init__(
        self,
        key: PublicKey,
        journal: Journal,
        latch: LatchFile,
        tree: TreeSource,
        metrics: Metrics,
        permit: Permit | None = None,
    ) -> None:
        self._key = key
        self._journal = journal
        self._latch = latch
        self._tree = tree
        self._metrics = metrics
        self._permit = permit
        metrics.permit = permit
        metrics.latched = latch.latched
        metrics.journal(journal)

    def approve(self, data: bytes) -> str | None:
        """Parse, decide, and journal what is new; latch what must never be."""
        try:
            head = parse_checkpoint(data, self._key)
        except UsageError as error:
            raise Refused("malformed", f"not a tree head of this log: {error.message}") from error
        if self._latch.latched:
            self._latch.retry()
            raise Refused("latched", f"latched: see {self._latch.path}")
        try:
            decision = decide.decide(
                head,
                journaled_root=self._journal.root_at(head.size),
                last=self._journal.last.head,
                tree=self._tree,
                permit_ended=self._permit.ended if self._permit else None,
            )
            if isinstance(decision, NotNow):
                raise Refused(decision.reason, f"not now ({head}): {decision.message}")
            if isinstance(decision, Latch):
                self._metrics.latched = True
                context = {"log_key_hash": self._key.hash, "request": data.hex(), **self._tree.seen}
                raise Refused("latched", self._latch.set(decision, context), news=True)
            if decision.new:
                with self._metrics.timed("journal"):
                    self._journal.append(head)
                self._metrics.journal(self._journal)
                return f"journaled {head}"
        except JournalError as error:
            raise Refused("journal", str(error)) from error
        return None


class TrillianTree:
    """The tree that log-go is to serve, as Trillian shows it; ``seen`` says where it was asked."""

    def __init__(self, address: str, tree_id_file: Path, metrics: Metrics) -> None:
        self._trillian = Trillian(address, deadline=TRILLIAN_DEADLINE)
        self._tree_id_file = tree_id_file
        self._metrics = metrics
        self.seen: dict[str, object] = {"trillian": address, "tree_id": None}

    def __enter__(self) -> Self:
        self._trillian.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._trillian.__exit__()

    def latest(self) -> TreeHead:
        """Size and root as of now."""
        with self._metrics.timed("proof"):
            tree_id = self._tree_id()
            try:
                return self._trillian.latest_root(tree_id)
            except TrillianError as error:
                raise CannotProve(error.message) from error

    def path(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """The consistency proof."""
        with self._metrics.timed("proof"):
            tree_id = self._tree_id()
            try:
                return self._trillian.consistency_proof(tree_id, old_size, new_size)
            except TrillianError as error:
                raise CannotProve(error.message) from error

    def _tree_id(self) -> int:
        # Each time, because procedures change it; log-go reads it at its start.
        try:
            tree_id = parse_tree_id(self._tree_id_file.read_bytes())
        except OSError as error:
            raise CannotProve(f"{self._tree_id_file}: {error.strerror}") from error
        except UsageError as error:
            raise CannotProve(f"{self._tree_id_file}: {error.message}") from error
        self.seen["tree_id"] = tree_id
        return tree_id
