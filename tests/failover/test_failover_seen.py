"""A tree that may go on covers everything that anybody was ever shown, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sigsum_ops.errors import UsageError
from sigsum_ops.failover.seen import Seen, parse, read, uncovered
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.treehead import TreeHead
from sigsum_ops.log.trillian import CannotTell, Trillian
from tests.failover.world import FOREIGN, KEY, LEAVES, SIZE, TREE, head, reset, signed
from tests.log import rfc9162
from tests.log.fake_trillian import FakeTrillian

STH = signed(head())
COSIGNED = STH + b"cosignature=%s 1700000000 %s\n" % (b"ab" * 32, b"cd" * 64)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def proof(version: int = 2, tree_head: bytes = COSIGNED) -> bytes:
    """As sigsum-submit writes it; version 1 has a short checksum in its leaf."""
    checksum = "0123 " if version == 1 else ""
    return (
        f"version={version}\nlog={KEY.hash}\nleaf={checksum}{'12' * 32} {'34' * 64}\n\n".encode()
        + tree_head
        + f"\nleaf_index=3\nnode_hash={'56' * 32}\nnode_hash={'78' * 32}\n".encode()
    )


@pytest.mark.parametrize(
    "data",
    [STH, COSIGNED, proof(1), proof(2), proof(2, STH)],
    ids=["sth", "get-tree-head", "proof of version 1", "proof", "proof without cosignatures"],
)
def test_each_form_is_read(data: bytes, tmp_path: Path) -> None:
    assert parse(data, "a client", KEY) == Seen(head(), "a client")
    path = tmp_path / "seen"
    path.write_bytes(data)
    assert read(path, KEY) == Seen(head(), str(path))


@pytest.mark.parametrize("form", [bytes, lambda sth: proof(2, sth)], ids=["sth", "proof"])
@pytest.mark.parametrize(
    "sth",
    [
        signed(head(), STRANGER),
        STH.replace(b"size=12", b"size=13"),
        STH.replace(head().root.hex().encode(), head(11).root.hex().encode()),
        STH[:-129] + b"0" * 128 + b"\n",
    ],
    ids=["another's", "another size", "another root", "no signature"],
)
def test_what_the_log_did_not_sign(form: Callable[[bytes], bytes], sth: bytes) -> None:
    with pytest.raises(UsageError, match=f"a client: not signed by the log {KEY.hash}"):
        parse(form(sth), "a client", KEY)


def test_another_logs() -> None:
    with pytest.raises(UsageError, match="not signed by the log"):
        parse(STH, "a client", PublicKey(bytes(32)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\xff" * 40,
        b"version=2",
        b"version=2\n\n",
        STH[:-1],
        STH + STH,
        b"\n\n" + STH,
        proof()[: len(proof()) // 3],
        b"log=00\n\n" + STH,
        COSIGNED + COSIGNED[len(STH) :],
    ],
)
def test_garbage_is_refused_with_its_source(data: bytes) -> None:
    with pytest.raises(UsageError, match=r"^a client: .*line|^a client: .*ends where"):
        parse(data, "a client", KEY)


@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda data: b"version=" + data))
def test_no_bytes_are_taken_for_a_tree_head(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse(data, "x", KEY)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing: cannot be read: No such file"):
        read(tmp_path / "missing", KEY)
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read(tmp_path, KEY)


# Covered


@pytest.fixture(scope="module")
def server() -> Iterator[FakeTrillian]:
    with FakeTrillian() as trillian:
        yield trillian


@pytest.fixture
def trillian(server: FakeTrillian) -> Iterator[Trillian]:
    reset(server)
    with Trillian(server.address) as client:
        yield client


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(0, 20),
    known=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 21)), max_size=6),
)
def test_covered_exactly_if_the_tree_begins_with_it(
    server: FakeTrillian, size: int, known: list[tuple[int, int]]
) -> None:
    """By the definition: each known tree is one of so many leaves, forked at one of them."""
    reset(server).trees[TREE].leaves = LEAVES[:size]
    seen, expected = [], []
    for number, (old, forked_at) in enumerate(known):
        leaves = [*LEAVES[:forked_at], *(b"fork %d" % i for i in range(forked_at, 20))][:old]
        item = Seen(TreeHead(old, rfc9162.root(leaves)), f"number {number}")
        seen.append(item)
        if old > size or leaves != LEAVES[:old]:
            expected.append(item.head)
    with Trillian(server.address) as trillian:
        found = uncovered(seen, head(size), TREE, trillian)
    assert {item.seen.head for item in found} == set(expected)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 20), data=st.data())
def test_a_growing_tree_covers_its_past_and_no_altered_root(
    server: FakeTrillian, size: int, data: st.DataObject
) -> None:
    reset(server).trees[TREE].leaves = LEAVES[:size]
    past = [Seen(head(old), "past") for old in range(size + 1)]
    old = data.draw(st.integers(0, size))
    bit = data.draw(st.integers(0, 255))
    altered = bytearray(head(old).root)
    altered[bit // 8] ^= 1 << bit % 8
    with Trillian(server.address) as trillian:
        assert uncovered(past, head(size), TREE, trillian) == []
        wrong = Seen(TreeHead(old, bytes(altered)), "altered")
        (found,) = uncovered([*past, wrong], head(size), TREE, trillian)
        assert found.seen == wrong
        (larger,) = uncovered([Seen(head(size + 1), "larger")], head(size), TREE, trillian)
        assert f"ends at size {size}" in larger.reason


def test_the_reason_names_who_has_what(trillian: Trillian) -> None:
    known = [Seen(head(13), "log1"), Seen(head(5, FOREIGN), "a client"), Seen(head(5), "log1")]
    ahead, fork = uncovered(known, head(), TREE, trillian)
    assert str(ahead) == f"log1 has {head(13)}: the tree here ends at size {SIZE}"
    assert str(fork) == f"a client has {head(5, FOREIGN)}: the tree here ({head()}) is another one"


def test_what_many_have_is_proven_once(trillian: Trillian, server: FakeTrillian) -> None:
    known = [Seen(head(5), f"client {number}") for number in range(50)]
    assert uncovered(iter(known), head(), TREE, trillian) == []
    assert server.calls == ["GetConsistencyProof"]


def test_without_a_proof_nothing_is_covered(trillian: Trillian, server: FakeTrillian) -> None:
    server.root_is_unreadable = True
    with pytest.raises(CannotTell):
        uncovered([Seen(head(5), "log1")], head(), TREE, trillian)
