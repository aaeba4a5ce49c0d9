"""Merkle proofs against the RFC's recursive definitions and against known answers."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigsum_ops.log.merkle import (
    EMPTY_ROOT,
    ProofError,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from tests.log import rfc9162

SIZES = 70
LEAVES = [b"leaf %d" % number for number in range(SIZES)]
ROOTS = [rfc9162.root(LEAVES[:size]) for size in range(SIZES + 1)]
OTHER = sha256(b"another hash").digest()

sizes = st.integers(1, SIZES)


def test_known_answers() -> None:
    # RFC 6962's own test vectors, which every implementation of it carries.
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (
        leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    inputs.append("606162636465666768696a6b6c6d6e6f")
    hashes = [leaf_hash(bytes.fromhex(text)) for text in inputs]
    assert (
        root_of(hashes).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


@pytest.mark.parametrize("size", range(SIZES + 1))
def test_root_is_the_rfcs(size: int) -> None:
    assert root_of([leaf_hash(leaf) for leaf in LEAVES[:size]]) == ROOTS[size]


@pytest.mark.parametrize("size", range(1, SIZES + 1))
def test_every_leaf_is_included(size: int) -> None:
    for index in range(size):
        path = rfc9162.inclusion(index, LEAVES[:size])
        verify_inclusion(leaf_hash(LEAVES[index]), index, size, ROOTS[size], path)


@pytest.mark.parametrize("size", range(SIZES + 1))
def test_every_tree_extends_every_smaller_one(size: int) -> None:
    verify_consistency(0, EMPTY_ROOT, size, ROOTS[size], [])
    for old in range(1, size + 1):
        path = rfc9162.consistency(old, LEAVES[:size])
        verify_consistency(old, ROOTS[old], size, ROOTS[size], path)


def mutations(path: list[bytes]) -> list[list[bytes]]:
    """Paths near this one that are not it."""
    return [
        *([*path[:i], OTHER, *path[i + 1 :]] for i in range(len(path))),
        *([*path[:i], *path[i + 1 :]] for i in range(len(path))),
        *([*path[:i], b, a, *path[i + 2 :]] for i, (a, b) in enumerate(pairwise(path)) if a != b),
        [*path, OTHER],
        [OTHER, *path],
        *([[*path, path[-1]]] if path else []),
    ]


@given(size=sizes, data=st.data())
def test_wrong_inclusion_is_refused(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    path = rfc9162.inclusion(index, LEAVES[:size])
    leaf, root = leaf_hash(LEAVES[index]), ROOTS[size]
    wrong = [
        (OTHER, index, size, root, path),
        (leaf, index, size, OTHER, path),
        *((leaf, other, size, root, path) for other in range(-1, size + 2) if other != index),
        (leaf, index, 0, root, path),
        *((leaf, index, size, root, mutated) for mutated in mutations(path)),
        (leaf[:-1], index, size, root, path),
        (leaf, index, size, root, [*path[:-1], b""]),
        # The classic second preimage: an interior node passed off as a leaf.
        *([(node_hash(leaf, path[0]), index // 2, (size + 1) // 2, root, path)] if path else []),
    ]
    for arguments in wrong:
        with pytest.raises(ProofError):
            verify_inclusion(*arguments)


@given(size=sizes, data=st.data())
def test_wrong_consistency_is_refused(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    path = rfc9162.consistency(old, LEAVES[:size])
    wrong = [
        (old, OTHER, size, ROOTS[size], path),
        (old, ROOTS[old], size, OTHER, path),
        *((other, ROOTS[old], size, ROOTS[size], path) for other in range(size) if other != old),
        (old, ROOTS[old], old - 1, ROOTS[old - 1], path),
        (old, ROOTS[old - 1], size, ROOTS[size], path),
        *((old, ROOTS[old], size, ROOTS[size], mutated) for mutated in mutations(path)),
        (old, ROOTS[old][:-1], size, ROOTS[size], path),
    ]
    for arguments in wrong:
        with pytest.raises(ProofError):
            verify_consistency(*arguments)


@given(size=sizes, data=st.data())
def test_a_fork_is_never_consistent(size: int, data: st.DataObject) -> None:
    """No path at all that an honest prover could give for the forked tree passes."""
    old = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, old - 1))
    fork = [*LEAVES[:changed], b"changed", *LEAVES[changed + 1 : size]]
    with pytest.raises(ProofError):
        verify_consistency(
            old, ROOTS[old], size, rfc9162.root(fork), rfc9162.consistency(old, fork)
        )


@pytest.mark.parametrize(
    ("old", "old_root", "new", "new_root", "path"),
    [
        (0, EMPTY_ROOT, 3, ROOTS[3], [OTHER]),
        (0, OTHER, 3, ROOTS[3], []),
        (0, EMPTY_ROOT, 0, OTHER, []),
        (3, ROOTS[3], 3, ROOTS[3], [OTHER]),
        (3, ROOTS[3], 3, OTHER, []),
        (3, ROOTS[3], 7, ROOTS[7], []),
        (-1, ROOTS[3], 7, ROOTS[7], []),
    ],
)
def test_trivial_cases_are_not_waved_through(
    old: int, old_root: bytes, new: int, new_root: bytes, path: list[bytes]
) -> None:
    with pytest.raises(ProofError):
        verify_consistency(old, old_root, new, new_root, path)


@pytest.mark.parametrize("size", range(1, 10))
def test_a_path_that_leads_past_the_root_is_refused(size: int) -> None:
    """Even to a root that it would lead to: the size says how deep the tree is."""
    leaf, last = leaf_hash(LEAVES[size - 1]), size - 1
    path = rfc9162.inclusion(last, LEAVES[:size])
    with pytest.raises(ProofError, match="longer"):
        verify_inclusion(leaf, last, size, node_hash(OTHER, ROOTS[size]), [*path, OTHER])
