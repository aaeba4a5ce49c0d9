"""Merkle tree hashes and proofs: RFC 9162 section 2.1 with SHA-256 (the trees of RFC 6962).

Hashes are 32 bytes, sizes count leaves, indices start at 0. A proof that does not hold is a
``ProofError``; the functions that verify return nothing, so that no caller can forget to look.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from sigsum_ops.errors import OpsError

HASH_SIZE = 32
EMPTY_ROOT = sha256(b"").digest()


class ProofError(OpsError):
    """A proof or signature does not show what it claims to show."""


def leaf_hash(data: bytes) -> bytes:
    """MTH({data}): the hash of one leaf's serialised form."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an interior node over its two children's hashes."""
    return sha256(b"\x01" + left + right).digest()


def root_of(leaf_hashes: Sequence[bytes]) -> bytes:
    """MTH over leaves whose hashes are known, in one pass and logarithmic extra space."""
    peaks: list[bytes] = []  # roots of the perfect subtrees so far, the largest first
    for index, peak in enumerate(leaf_hashes):
        # One merge for each trailing one bit: those are the subtrees that this leaf completes.
        while index & 1:
            peak = node_hash(peaks.pop(), peak)
            index >>= 1
        peaks.append(peak)
    if not peaks:
        return EMPTY_ROOT
    root = peaks.pop()
    while peaks:
        root = node_hash(peaks.pop(), root)
    return root


def verify_inclusion(
    leaf_hash: bytes, index: int, size: int, root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the leaf stands at ``index`` in the tree of ``size`` leaves (section 2.1.3.2).

    Raises:
        ProofError: it is not shown to, whatever the reason.
    """
    _check_hashes(leaf_hash, root, *path)
    if not 0 <= index < size:
        raise ProofError(f"inclusion proof: leaf index {index} is outside a tree of size {size}")
    node, last = index, size - 1
    computed = leaf_hash
    for sibling in path:
        if last == 0:
            raise ProofError("inclusion proof: the path is longer than the tree is deep")
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            # A right-most node without a sibling rises unchanged until it is a right child.
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise ProofError("inclusion proof: the path is shorter than the tree is deep")
    if computed != root:
        raise ProofError(
            f"inclusion proof: leaf {index} leads to root {computed.hex()},"
            f" not to {root.hex()} at size {size}"
        )


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Check that the new tree extends the old one: its first leaves are the same (2.1.4.2).

    The cases that the RFC leaves out, as log.md has them: an empty old tree is extended by every
    tree, and equal sizes need equal roots; both with an empty path.

    Raises:
        ProofError: it is not shown to, whatever the reason.
    """
    _check_hashes(old_root, new_root, *path)
    if not 0 <= old_size <= new_size:
        raise ProofError(f"consistency proof: size {new_size} does not extend size {old_size}")
    if new_size == 0 and new_root != EMPTY_ROOT:
        raise ProofError(f"consistency proof: {new_root.hex()} is not the root of the empty tree")
    if old_size == 0 and old_root != EMPTY_ROOT:
        raise ProofError(f"consistency proof: {old_root.hex()} is not the root of the empty tree")
    if old_size in (0, new_size):
        if path:
            raise ProofError("consistency proof: a path where none is needed")
        if old_size == new_size and old_root != new_root:
            raise ProofError(f"two roots at size {old_size}: {old_root.hex()} and {new_root.hex()}")
        return

    nodes = list(path)
    if old_size & (old_size - 1) == 0:
        # The old tree is one perfect subtree of the new one, so the path leaves its root out.
        nodes.insert(0, old_root)
    if not nodes:
        raise ProofError("consistency proof: the path is empty")
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    computed_old = computed_new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            raise ProofError("consistency proof: the path is longer than the tree is deep")
        if node & 1 or node == last:
            computed_old = node_hash(sibling, computed_old)
            computed_new = node_hash(sibling, computed_new)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            computed_new = node_hash(computed_new, sibling)
        node >>= 1
        last >>= 1
    if last != 0:
        raise ProofError("consistency proof: the path is shorter than the tree is deep")
    if computed_old != old_root:
        raise ProofError(
            f"consistency proof: leads to root {computed_old.hex()} at size {old_size},"
            f" not to {old_root.hex()}"
        )
    if computed_new != new_root:
        raise ProofError(
            f"consistency proof: leads to root {computed_new.hex()} at size {new_size},"
            f" not to {new_root.hex()}"
        )


def _check_hashes(*hashes: bytes) -> None:
    for value in hashes:
        if len(value) != HASH_SIZE:
            raise ProofError(f"proof: a hash has {len(value)} bytes, not {HASH_SIZE}")
