"""Is a tree ahead of everything that anybody was ever shown?

A tree head that the log has signed is a promise: whoever has seen it will ask for a proof that the
log of tomorrow extends it. So a machine may become the primary only if its tree can give each of
those proofs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.treehead import SignedTreeHead, TreeHead, parse_cosigned_tree_head
from sigsum_ops.log.trillian import Trillian


@dataclass(frozen=True)
class Seen:
    """A tree head that somebody has seen, and who says so."""

    head: TreeHead
    source: str


@dataclass(frozen=True)
class Uncovered:
    """What a tree cannot prove that it extends, and why."""

    seen: Seen
    reason: str

    def __str__(self) -> str:
        return f"{self.seen.source} has {self.seen.head}: {self.reason}"


def parse(data: bytes, source: str, log_key: PublicKey) -> Seen:
    """``parse_signed``, without the signature once it is verified."""
    return Seen(parse_signed(data, source, log_key).head, source)


def parse_signed(data: bytes, source: str, log_key: PublicKey) -> SignedTreeHead:
    """Read a signed tree head: log-go's sth file, an answer to get-tree-head, or a proof.

    A proof of logging (sigsum-go's doc/sigsum-proof.md) has the tree head as its second part.

    Raises:
        UsageError: it is none of them, or not signed by this log.
    """
    parts = data.split(b"\n\n")
    body = (
        parts[1].removesuffix(b"\n") + b"\n"
        if data.startswith(b"version=") and len(parts) > 1
        else data
    )
    try:
        signed = parse_cosigned_tree_head(body).signed
        signed.verify(log_key)
    except UsageError as error:
        raise UsageError(f"{source}: {error.message}") from error
    except ProofError as error:
        raise UsageError(f"{source}: not signed by the log {log_key.hash}") from error
    return signed


def read(path: Path, log_key: PublicKey) -> Seen:
    """``parse`` a file.

    Raises:
        UsageError: it cannot be read, too.
    """
    try:
        return parse(path.read_bytes(), str(path), log_key)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def uncovered(
    known: Iterable[Seen], tree: TreeHead, tree_id: int, trillian: Trillian
) -> list[Uncovered]:
    """Those that the tree, as Trillian has it now, is not proven to extend.

    Raises:
        CannotTell: Trillian did not give a proof.
    """
    found = []
    for seen in {item.head: item for item in known}.values():
        old = seen.head
        if old.size > tree.size:
            found.append(Uncovered(seen, f"the tree here ends at size {tree.size}"))
            continue
        path = trillian.consistency_proof(tree_id, old.size, tree.size)
        try:
            verify_consistency(old.size, old.root, tree.size, tree.root, path)
        except ProofError:
            found.append(Uncovered(seen, f"the tree here ({tree}) is another one"))
    return found
