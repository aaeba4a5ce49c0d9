"""May this tree head be signed? The decision alone: no file, no clock, no connection.

Two tree heads that are signed for one log must be two states of one growing tree. What was signed
is in the journal; whether a larger tree head extends it, Trillian must prove. Three outcomes:

* ``Sign``: it is in the journal, or proven to extend the last of the journal;
* ``NotNow``: nothing says no, but the proof cannot be had, and asking later may help; or the log is
  without its secondary, and its permit to grow without one has ended;
* ``Latch``: signing it would be a split view, or the tree is not the one that was signed. Nothing
  is signed any more until a person has looked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from sigsum_ops.errors import OpsError
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.treehead import TreeHead

LatchReason = Literal["other-root", "not-proven"]
WaitReason = Literal["not-now", "permit-ended"]


class CannotProve(OpsError):  # noqa: N818 - named for what it means
    """Whoever keeps the tree did not answer, or not with what was asked for."""


class Tree(Protocol):
    """The tree as its keeper shows it now. Both methods may raise CannotProve."""

    def latest(self) -> TreeHead:
        """Size and root as of now."""

    def path(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """The consistency proof between two sizes; empty where none is needed."""


@dataclass(frozen=True)
class Proof:
    """A consistency proof as it was given, verified or not."""

    old: TreeHead
    new: TreeHead
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Sign:
    """Sign it; where it is new, journal it first."""

    new: bool


@dataclass(frozen=True)
class NotNow:
    """Do not sign it now."""

    message: str
    reason: WaitReason = "not-now"


@dataclass(frozen=True)
class Latch:
    """Sign nothing any more: ``requested`` contradicts ``journaled``."""

    reason: LatchReason
    message: str
    journaled: TreeHead
    requested: TreeHead
    proof: Proof | None  # that does not verify


Decision = Sign | NotNow | Latch


def decide(
    requested: TreeHead,
    *,
    journaled_root: bytes | None,
    last: TreeHead,
    tree: Tree,
    permit_ended: Callable[[], bool] | None = None,
) -> Decision:
    """Decide on one tree head.

    Args:
        requested: what the log wants to be signed.
        journaled_root: the root that is journaled for its size, None where there is none.
        last: the largest tree head in the journal.
        tree: asked only for a size beyond the last.
        permit_ended: of a log that may grow without its secondary only until a time: whether that
            has come. Asked last, since a proof may take seconds. None for a log that may grow.
    """
    if journaled_root is not None:
        if journaled_root == requested.root:
            return Sign(new=False)
        return Latch(
            "other-root",
            f"another root for size {requested.size} than the one that is journaled",
            TreeHead(requested.size, journaled_root),
            requested,
            None,
        )
    if requested.size < last.size:
        return NotNow(
            f"size {requested.size} is smaller than the last ({last.size}) and not journaled"
        )
    try:
        proof = _ask(requested, last, tree)
    except CannotProve as error:
        return NotNow(error.message)
    try:
        verify_consistency(
            proof.old.size, proof.old.root, proof.new.size, proof.new.root, proof.path
        )
    except ProofError as error:
        return Latch("not-proven", error.message, last, requested, proof)
    if permit_ended and permit_ended():
        return NotNow(
            f"the permit to go on without a secondary has ended, so nothing larger than size"
            f" {last.size} is signed until playbooks/reseed.yml has brought one in",
            "permit-ended",
        )
    return Sign(new=True)


def _ask(requested: TreeHead, last: TreeHead, tree: Tree) -> Proof:
    """A proof that shows, if it verifies, that the requested tree head extends the last."""
    if last.size > 0:
        return Proof(last, requested, tree.path(last.size, requested.size))
    # Everything extends the empty tree, so that it does would prove nothing of a log's first tree
    # head: it must be one that the tree has, or had before it grew.
    latest = tree.latest()
    if latest.size < requested.size:
        raise CannotProve(
            f"the tree has size {latest.size}, which is smaller than {requested.size}"
        )
    return Proof(requested, latest, tree.path(requested.size, latest.size))
