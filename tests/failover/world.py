"""A log machine's files, and a log's key and leaves, for the tests of this room."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.failover.adopt import Places
from sigsum_ops.log.evidence import Evidence, format_promotion
from sigsum_ops.log.keys import PublicKey, public_key_of
from sigsum_ops.log.treehead import TreeHead
from tests.log import rfc9162
from tests.log.fake_trillian import FakeTree, FakeTrillian

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(SECRET)
LEAVES = [b"leaf %d" % number for number in range(20)]
FOREIGN = [b"foreign", *LEAVES[1:]]
SIZE = 12  # of the tree on the machine
TREE = 7  # its number


def head(size: int = SIZE, leaves: list[bytes] = LEAVES) -> TreeHead:
    return TreeHead(size, rfc9162.root(leaves[:size]))


def signed(head: TreeHead, secret: Ed25519PrivateKey = SECRET) -> bytes:
    """As log-go's sth file has it."""
    signature = secret.sign(head.checkpoint(KEY)).hex()
    return f"size={head.size}\nroot_hash={head.root.hex()}\nsignature={signature}\n".encode()


def reset(server: FakeTrillian) -> FakeTrillian:
    """A secondary's Trillian."""
    server.trees = {TREE: FakeTree(TREE, "PREORDERED_LOG", leaves=LEAVES[:SIZE])}
    server.before = server.after = lambda _method: None
    server.root_is_unreadable = False
    server.calls.clear()
    return server


def secondary(state: Path) -> Places:
    """A secondary's state directory."""
    state.mkdir()
    places = Places(state)
    places.tree_id.write_text(f"tree-id={TREE}\n")
    return places


def promote(
    places: Places, promoted: TreeHead, *, tree_id: int = TREE, key: PublicKey = KEY
) -> None:
    record = Evidence(promoted, tree_id, key.hash)
    places.promotion.write_bytes(format_promotion(record, datetime.now(UTC)))
