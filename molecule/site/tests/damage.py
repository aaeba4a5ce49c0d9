"""Ways to put another tree, or none, under the log; and back."""

from __future__ import annotations

import json
from typing import Any

from harness import LOG, PRIMARY, STATE, TRILLIAN, Site

from sigsum_ops.log.treehead import TreeHead

KEPT = "/root/kept"
KEEP = (
    f"rm -rf {KEPT}/state; mkdir -p {KEPT}; cp -a {STATE} {KEPT}/state;"
    f" mariadb-dump trillian > {KEPT}/now.sql"
)
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
    return (
        f"systemctl stop {TRILLIAN}; mariadb trillian < {KEPT}/{dump}; systemctl start {TRILLIAN}"
    )


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
