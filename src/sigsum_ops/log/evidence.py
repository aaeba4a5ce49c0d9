"""What was shown of a log's tree on this machine, written down beside the log's state.

By the start guard at each start (``EVIDENCE_FILE``), and by a promotion (``PROMOTION_FILE``), which
has shown the tree to cover every tree head that anybody was known to have seen. Each is one JSON
object with exactly the keys that are written here; they differ in the name of the time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sigsum_ops.errors import UsageError
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, MAX_NUMBER, TreeHead

_PROVEN, _PROMOTED = "proven_at", "promoted_at"


@dataclass(frozen=True)
class Evidence:
    """The tree as it was shown to be, by its number in Trillian, and the log that it is about."""

    head: TreeHead
    tree_id: int
    log_key_hash: str


def parse_evidence(data: bytes) -> Evidence:
    """Parse what the start guard has written, or raise UsageError."""
    return _parse(data, _PROVEN)


def format_evidence(proven: Evidence, now: datetime) -> bytes:
    """The evidence file's content."""
    return _format(proven, _PROVEN, now)


def parse_promotion(data: bytes) -> Evidence:
    """Parse what a promotion has written, or raise UsageError."""
    return _parse(data, _PROMOTED)


def format_promotion(promoted: Evidence, now: datetime) -> bytes:
    """The promotion record's content."""
    return _format(promoted, _PROMOTED, now)


def _parse(data: bytes, time: str) -> Evidence:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from error
    keys = {"log_key_hash", "root_hash", "size", "tree_id", time}
    if not isinstance(fields, dict) or set(fields) != keys:
        raise UsageError(f"not an object with the keys {', '.join(sorted(keys))}")
    size, root, tree_id = fields["size"], fields["root_hash"], fields["tree_id"]
    # bool is an int to Python, not here.
    for name, number in (("size", size), ("tree_id", tree_id)):
        if type(number) is not int or not 0 <= number <= MAX_NUMBER:
            raise UsageError(f"{name} is not a number from 0 to {MAX_NUMBER}")
    try:
        head = TreeHead(size, bytes.fromhex(root))
    except (TypeError, ValueError) as error:
        raise UsageError("root_hash is not hexadecimal") from error
    if len(head.root) != len(EMPTY_TREE_HEAD.root):
        raise UsageError(f"root_hash has {len(head.root)} bytes, not {len(EMPTY_TREE_HEAD.root)}")
    return Evidence(head, tree_id, str(fields["log_key_hash"]))


def _format(evidence: Evidence, time: str, now: datetime) -> bytes:
    fields = {
        "log_key_hash": evidence.log_key_hash,
        time: now.isoformat(timespec="seconds"),
        "root_hash": evidence.head.root.hex(),
        "size": evidence.head.size,
        "tree_id": evidence.tree_id,
    }
    return (json.dumps(fields, indent=2) + "\n").encode()
