"""A machine with an oracle: its files, and the Trillian beside it."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sigsum_ops.hsm.oracle.agent import key_blob, string
from sigsum_ops.hsm.oracle.config import Settings, load
from sigsum_ops.hsm.oracle.journal import create
from sigsum_ops.log.keys import public_key_of
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, TreeHead
from tests.log import rfc9162
from tests.log.fake_trillian import FakeTree, FakeTrillian

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(SECRET)
LEAVES = [b"leaf %d" % number for number in range(20)]
FOREIGN = [b"foreign", *LEAVES[1:]]


def head(size: int, leaves: list[bytes] = LEAVES) -> TreeHead:
    return TreeHead(size, rfc9162.root(leaves[:size]))


def checkpoint(size: int, leaves: list[bytes] = LEAVES) -> bytes:
    return head(size, leaves).checkpoint(KEY)


def sign_request(data: bytes) -> bytes:
    return b"\x0d" + string(key_blob(KEY)) + string(data) + bytes(4)


def answered(frame: bytes) -> bytes | None:
    """The signature in an answer, None for failure."""
    if frame == b"\x05":
        return None
    assert frame[0] == 14
    return frame[-64:]


def ask_on(client: socket.socket, data: bytes) -> bytes | None:
    """Ask for a signature on an open connection."""
    client.settimeout(6)
    client.sendall(string(sign_request(data)))
    with client.makefile("rb") as stream:
        (length,) = struct.unpack(">I", stream.read(4))
        return answered(stream.read(length))


def ask(path: Path, data: bytes) -> bytes | None:
    """Ask the agent at this socket for a signature."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return ask_on(client, data)


@dataclass
class World:
    """Files in ``directory``, for a log of which Trillian has 12 leaves."""

    directory: Path
    trillian: FakeTrillian
    more: str = ""  # TOML, before the tables
    hsm: str = ""  # TOML, the table [hsm]
    until: datetime | None = None  # of a permit to go on without a secondary

    def __post_init__(self) -> None:
        self.state = self.directory / "state"
        self.state.mkdir()
        self.tree_id = self.directory / "tree-id"
        self.promotion = self.directory / "promotion.json"
        self.tree_id.write_text("tree-id=1\n")
        self.key_file = self.directory / "key"
        self.key_file.write_bytes(
            SECRET.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        )
        self.socket = self.directory / "agent.sock"
        self.metrics = self.directory / "oracle.prom"
        self.journal = self.state / "journal"
        self.latch = self.state / "latch"
        self.trillian.trees = {1: FakeTree(1, leaves=LEAVES[:12])}

    @property
    def config(self) -> Path:
        path = self.directory / "oracle.toml"
        key = self.hsm or f'[software_key]\nfile = "{self.key_file}"\nlab_only = true\n'
        permit = f"ungated_until = {self.until:%Y-%m-%dT%H:%M:%SZ}\n" if self.until else ""
        path.write_text(
            f'public_key = "{KEY.ssh}"\nsocket = "{self.socket}"\n'
            f'state_directory = "{self.state}"\nmetrics_file = "{self.metrics}"\n{self.more}'
            f'[log]\ntrillian = "{self.trillian.address}"\ntree_id_file = "{self.tree_id}"\n'
            f"{permit}{key}"
        )
        return path

    @property
    def settings(self) -> Settings:
        return load(self.config)

    def seed(self, seeded: TreeHead = EMPTY_TREE_HEAD) -> None:
        create(self.journal, KEY.hash, seeded)

    def grow(self, size: int, leaves: list[bytes] = LEAVES) -> None:
        self.trillian.trees[1].leaves = leaves[:size]
