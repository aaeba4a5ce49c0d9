"""The start guard on the real log-go, Trillian and MariaDB, and what log-go signs without it.

The guard's refusals are tested with replication and without. That log-go itself would sign a second
root is shown beside them, with the very same damage, so that it is the guard that saves the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness import LOG, PRIMARY, STATE, TRILLIAN, Site, passed, refused
from resources.support import eventually

from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.leaf import LeafRequest
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, SignedTreeHead, TreeHead

KEPT = "/root/kept"
KEEP = f"rm -rf {KEPT}/state; cp -a {STATE} {KEPT}/state; mariadb-dump trillian > {KEPT}/now.sql"
KILL = f"systemctl kill --kill-whom=main --signal=KILL {LOG}"
# Makes another tree in the same Trillian, with leaves of its own: argument 1 is their number.
# QueueLeaf of Trillian's protocol, field by field: log_id = 1, leaf = 2; in it leaf_value = 2.
FOREIGN_TREE = """
import json, os, sys, time
import grpc
from sigsum_ops.log.trillian import Trillian

def number(value):
    return bytes([value & 127 | 128]) + number(value >> 7) if value > 127 else bytes([value])

def message(field, data):
    return bytes([field << 3 | 2]) + number(len(data)) + data

size, address = int(sys.argv[1]), "127.0.0.1:8090"
with Trillian(address) as trillian, grpc.insecure_channel(address) as channel:
    tree = trillian.create_tree("LOG", "foreign")
    trillian.init_log(tree.id)
    queue = channel.unary_unary("/trillian.TrillianLog/QueueLeaf")
    for _ in range(size):
        queue(b"\\x08" + number(tree.id) + message(2, message(2, os.urandom(128))), timeout=5)
    while (head := trillian.latest_root(tree.id)).size < size:
        time.sleep(0.05)
print(json.dumps([tree.id, head.size, head.root.hex()]))
"""


def restore(dump: str) -> str:
    """The command that puts a dump in the place of Trillian's database."""
    # Asked to stop, Trillian waits for 10 seconds first.
    return (
        f"systemctl kill --signal=KILL {TRILLIAN}; systemctl stop {TRILLIAN};"
        f" mariadb trillian < {KEPT}/{dump}; systemctl start {TRILLIAN}"
    )


@pytest.fixture(scope="module", autouse=True)
def older(site: Site) -> TreeHead:
    """Have a dump of the database from before more leaves came; this is its tree head."""
    site.signs_and_replicates()
    site.change(PRIMARY, f"mkdir -p {KEPT}; mariadb-dump trillian > {KEPT}/older.sql")
    return site.signed().head


@pytest.fixture(params=["replicated", "unreplicated"], scope="module")
def replication(request: pytest.FixtureRequest, site: Site) -> Iterator[str]:
    """The configuration as delivered, or with both settings of replication removed from it."""
    config = "/etc/sigsum/config.toml"
    if request.param == "unreplicated":
        site.change(
            PRIMARY,
            f"grep -c '^secondary-' {config} | grep -qx 2; cp -a {config} /root;"
            f" sed -i '/^secondary-/d' {config}; systemctl restart {LOG}",
        )
    yield request.param
    if request.param == "unreplicated":
        site.change(PRIMARY, f"mv /root/config.toml {config}; systemctl restart {LOG}")


def name_foreign_tree(site: Site, more: int) -> TreeHead:
    """Make another tree, with ``more`` leaves than this log's, and let the tree-id file name it."""
    size = site.signed().head.size + more
    said = site.machines[PRIMARY].check_output("python3 -c %s %s", FOREIGN_TREE, str(size))
    tree_id, size, root = json.loads(said)
    site.change(PRIMARY, f"{KILL}; echo tree-id={tree_id} > {STATE}/tree-id")
    return TreeHead(size, bytes.fromhex(root))


def spoil(site: Site, command: str) -> None:
    """Damage the state of a log that was killed, before it is started again."""
    site.change(PRIMARY, f"{KILL}; cd {STATE}; {command}")


def as_head(fields: dict[str, Any] | None) -> TreeHead | None:
    """A tree head as the guard's marker has it."""
    return TreeHead(fields["size"], bytes.fromhex(fields["root_hash"])) if fields else None


# By the guard's reason. The result is the tree that the guard should find, where it looks at one.
DAMAGES: dict[str, Callable[[Site], TreeHead | None]] = {
    "tree-id-empty": lambda site: spoil(site, ": > tree-id"),
    "tree-id-missing": lambda site: spoil(site, "rm tree-id"),
    "sth-missing": lambda site: spoil(site, "rm sth"),
    "startup-and-sth": lambda site: spoil(site, "echo startup=local-tree > sth.startup"),
    "tree-not-extension": lambda site: name_foreign_tree(site, 1),
}


@pytest.mark.usefixtures("replication")
@pytest.mark.parametrize("reason", DAMAGES)
def test_the_guard_refuses(site: Site, reason: str) -> None:
    head, sth = site.signed().head, site.sth()
    site.change(PRIMARY, KEEP)
    found = DAMAGES[reason](site)
    marker = refused(site, reason, sth=None if reason == "sth-missing" else sth)
    assert as_head(marker["tree"]) == found
    if reason == "sth-missing":
        assert marker["earlier"]["source"] == f"{STATE}/guard-evidence.json"
    else:
        assert as_head(marker["earlier"]) == head
    database = restore("now.sql") if found else "true"
    site.change(
        PRIMARY,
        f"cp -a {KEPT}/state/sth {KEPT}/state/tree-id {STATE}; rm -f {STATE}/sth.startup;"
        f" {database}; systemctl start {LOG}",
    )
    passed(site)


def restore_older_database(site: Site, older: TreeHead) -> TreeHead:
    """Put the older dump in the database's place, and start the log."""
    # The start is refused, which is what the caller looks for.
    site.change(
        PRIMARY, f"systemctl stop {LOG}; {restore('older.sql')}; systemctl start {LOG} || true"
    )
    return older


def name_new_tree(site: Site, _: TreeHead) -> TreeHead:
    """Lose the tree-id file, and do what upstream's start script then does."""
    create = "trillian_createtree --admin_server=127.0.0.1:8090 --tree_type=LOG"
    tree_id = site.change(PRIMARY, create)
    spoil(site, f"rm tree-id; echo tree-id={tree_id} > tree-id")
    return EMPTY_TREE_HEAD


# What is done, and the guard's reason. The result is the tree that is then in the log's place.
FORKS: dict[str, tuple[str, Callable[[Site, TreeHead], TreeHead]]] = {
    "an older database restored": ("tree-smaller", restore_older_database),
    "the tree-id lost, a new tree created": ("tree-smaller", name_new_tree),
    "a tree of equal size named": ("tree-other-root", lambda site, _: name_foreign_tree(site, 0)),
}


@pytest.mark.parametrize("damage", FORKS)
def test_the_guard_refuses_where_the_log_alone_signs_a_second_root_for_the_same_size(
    site: Site, replication: str, older: TreeHead, damage: str, tmp_path: Path
) -> None:
    reason, fork = FORKS[damage]
    first, sth = site.signed(), site.sth()
    site.change(PRIMARY, KEEP)
    found = fork(site, older)
    marker = refused(site, reason, sth=sth)
    assert (as_head(marker["earlier"]), as_head(marker["tree"])) == (first.head, found)

    drop_in = f"/run/systemd/system/{LOG}.service.d"
    site.change(
        PRIMARY,
        f"mkdir -p {drop_in}; printf '[Service]\nExecStartPre=\n' > {drop_in}/unguarded.conf;"
        f" systemctl daemon-reload; systemctl start {LOG}",
    )
    eventually(site.serves, seconds=10, what="the log answers")
    # Not one more: the secondary has this many, and would copy the next one.
    asyncio.run(add_leaves(site.url, first.head.size - found.size))
    eventually(
        lambda: site.signed().head != first.head, seconds=30, what="the log signs another tree head"
    )
    second = site.signed()
    assert second.head.size == first.head.size
    site.report.append(f"log-go without the guard, {replication}, {damage}, signs both:")
    for signed in (first, second):
        signed.verify(site.log_key)
        openssl_verifies(site.log_key, signed, tmp_path)
        site.report.append(f"    {signed.head}")

    site.change(
        PRIMARY,
        f"systemctl stop {LOG}; rm -r {drop_in}; systemctl daemon-reload;"
        f" cp -a {KEPT}/state/. {STATE}; {restore('now.sql')}; systemctl start {LOG}",
    )
    passed(site)


async def add_leaves(url: str, number: int) -> None:
    """Submit that many new leaves."""
    key = Ed25519PrivateKey.generate()
    async with LogClient(url) as client:
        for _ in range(number):
            # It queues the leaf before it looks for it in the tree of the size that it has signed,
            # which fails where the leaf is integrated already and the tree still smaller.
            with contextlib.suppress(ApiError):
                await client.add_leaf(LeafRequest.sign(key, os.urandom(32)).body)


def openssl_verifies(key: PublicKey, signed: SignedTreeHead, directory: Path) -> None:
    """Check the signature with a program that is not ours."""
    public, body, signature = (directory / name for name in ("key.pem", "body", "signature"))
    public.write_bytes(
        Ed25519PublicKey.from_public_bytes(key.raw).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
    )
    body.write_bytes(signed.head.checkpoint(key))
    signature.write_bytes(signed.signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", body]
    done = subprocess.run([*command, "-sigfile", signature], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
