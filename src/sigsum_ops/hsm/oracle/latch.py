"""The latch: evidence that signing would have been a split view, and the stop that it means.

While the file is there, the oracle signs nothing, whatever the file holds. It is moved aside by
``resolve``, never deleted.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.oracle import PROCEDURE, decide
from sigsum_ops.log.statefiles import sync_directory, write_durably
from sigsum_ops.log.treehead import TreeHead


@dataclass(frozen=True)
class Evidence:
    """The file's content as it is, and what names it."""

    data: bytes

    @property
    def digest(self) -> str:
        """SHA-256 in hex: names this evidence where a person says to have read it."""
        return sha256(self.data).hexdigest()

    def as_json(self) -> Any:
        """What the oracle wrote; None where it is not JSON (it latches all the same)."""
        try:
            return json.loads(self.data)
        except ValueError:
            return None


class Latch:
    """The latch's file, and what is remembered while it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: bytes | None = None
        self._latched = os.path.lexists(path)

    @property
    def latched(self) -> bool:
        """Once set, set for the life of the process."""
        return self._latched

    def set(self, found: decide.Latch, context: dict[str, Any]) -> str:
        """Latch, and put the evidence on the disk; returns what a person must read.

        Never fails: where the disk does not take it, it is latched in memory, and ``retry`` tries
        to write it again.
        """
        self._latched = True
        self._unwritten = _evidence(found, context)
        self.retry()
        where = f"evidence in {self.path}" if not self._unwritten else "EVIDENCE NOT YET ON DISK"
        return (
            f"LATCHED ({found.reason}): {found.message}\n"
            f"  journaled: {found.journaled}\n"
            f"  requested: {found.requested}\n"
            f"  Nothing is signed until a person has resolved this. Procedure: {PROCEDURE}\n"
            f"  ({where})"
        )

    def retry(self) -> None:
        """Write the evidence that could not be written before."""
        if self._unwritten is None:
            return
        try:
            write_durably(self.path, self._unwritten, mode=0o640)
        except OSError:
            return
        self._unwritten = None


def read(path: Path) -> Evidence | None:
    """The evidence, None where the oracle is not latched.

    Raises:
        OpsError: it cannot be read, which latches too.
    """
    if not os.path.lexists(path):
        return None
    try:
        return Evidence(path.read_bytes())
    except OSError as error:
        raise OpsError(f"{path}: cannot be read: {error.strerror}") from error


def resolve(
    path: Path,
    evidence: Evidence,
    *,
    proven: TreeHead,
    followed: str | None,
    ask: Callable[[str], str],
) -> Path:
    """Move the evidence aside after a person has said to have followed the procedure.

    Args:
        path: the latch.
        evidence: what was read from it and shown.
        proven: the tree head that Trillian was just seen to prove against the whole journal.
        followed: the evidence's whole digest, where the person cannot be asked.
        ask: shows a question and returns what was typed.

    Returns:
        Where the evidence is now. Who resolved it, when and on which tree is in a file beside it.
    """
    if followed is None:
        wanted = evidence.digest[:8]
        answer = ask(
            f"Have you followed {PROCEDURE} to its end? Then type the first 8 digits of the"
            " evidence's digest, as `sigsum-ops oracle show` prints it"
        ).strip()
    else:
        wanted, answer = evidence.digest, followed
    if answer != wanted:
        raise UsageError(
            f"{answer[:70]!r} is not the digest of {path}: nothing was changed",
            hint="`sigsum-ops oracle show` prints it.",
        )
    now = datetime.now(UTC)
    aside = path.with_name(f"{path.name}.{now:%Y%m%dT%H%M%SZ}.{evidence.digest[:8]}")
    resolution = {
        "evidence_sha256": evidence.digest,
        "proven": _json(proven),
        "resolved_at": now.isoformat(timespec="seconds"),
        "resolved_by": os.environ.get("SUDO_USER") or getpass.getuser(),
    }
    try:
        if path.read_bytes() != evidence.data or os.path.lexists(aside):
            raise OpsError(f"{path}: changed while it was resolved: nothing was changed")
        # The reason first: a latch that is gone without one would be a riddle.
        write_durably(
            aside.with_name(f"{aside.name}.resolution"),
            (json.dumps(resolution, indent=2) + "\n").encode(),
            mode=0o640,
        )
        path.rename(aside)
        sync_directory(path.parent)
    except OSError as error:
        raise OpsError(f"{path}: cannot be moved aside: {error.strerror}") from error
    return aside


def _evidence(found: decide.Latch, context: dict[str, Any]) -> bytes:
    proof = found.proof
    fields = {
        **context,
        "reason": found.reason,
        "message": found.message,
        "journaled": _json(found.journaled),
        "requested": _json(found.requested),
        "proof": proof
        and {
            "old": _json(proof.old),
            "new": _json(proof.new),
            "path": [node.hex() for node in proof.path],
        },
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "procedure": PROCEDURE,
    }
    return (json.dumps(fields, indent=2) + "\n").encode()


def _json(head: TreeHead) -> dict[str, Any]:
    return {"size": head.size, "root_hash": head.root.hex()}
