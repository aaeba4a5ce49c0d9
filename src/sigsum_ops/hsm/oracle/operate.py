"""What an operator does beside the oracle: seed its journal, look at it, resolve a latch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.oracle import PROCEDURE, latch
from sigsum_ops.hsm.oracle.config import LogRole, Settings
from sigsum_ops.hsm.oracle.journal import Journal, Record, create
from sigsum_ops.log.evidence import parse_promotion
from sigsum_ops.log.guard import Earlier, LocalState, Proven, judge
from sigsum_ops.log.statefiles import PROMOTION_FILE, parse_tree_id
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, TreeHead, parse_cosigned_tree_head
from sigsum_ops.log.trillian import Trillian, retry

Say = Callable[[str], None]

WAIT = 30.0  # seconds for Trillian to come up


@dataclass(frozen=True)
class Seeded:
    """The journal's last tree head, and whether anything had to be written for it."""

    last: TreeHead
    changed: bool


def seed_empty(settings: Settings, *, say: Say, wait: float = WAIT) -> Seeded:
    """Begin the journal of a new log, whose tree in Trillian is proven to be its only and empty.

    Raises:
        OpsError: the tree is not, Trillian does not say, or there is a journal already.
    """
    role = _log_role(settings)
    _prove(role, (), say, wait, first_start=True)
    create(settings.journal, settings.public_key.hash, EMPTY_TREE_HEAD)
    return Seeded(EMPTY_TREE_HEAD, changed=True)


def seed_signed(settings: Settings, sth: Path, *, say: Say, wait: float = WAIT) -> Seeded:
    """Begin the journal with a tree head that this log has signed and that this tree extends.

    Where there is a journal, as on a machine that was the primary before, the tree must extend its
    last tree head too, and the signed one is added.

    Args:
        settings: the oracle's.
        sth: log-go's sth file, or an answer to get-tree-head.
        say: takes one line for each reason to wait.
        wait: seconds for Trillian to answer.

    Raises:
        OpsError: the tree does not extend both, and nothing was changed.
    """
    role = _log_role(settings)
    signed = Earlier(_signed_head(settings, sth), sth)
    _refuse_latched(settings)
    return _seed(settings, role, signed, say, wait)


def seed_promoted(settings: Settings, *, say: Say, wait: float = WAIT) -> Seeded:
    """Begin the journal with the tree head with which a promotion made this machine the primary.

    The promotion's record is beside the tree-id file. Its tree head need not be signed yet, so the
    tree must be exactly this; otherwise as ``seed_signed``. Where the journal has it already,
    nothing is written: also beside a running oracle, after log and tree have grown.

    Args:
        settings: the oracle's.
        say: takes one line for each reason to wait.
        wait: seconds for Trillian to answer.

    Raises:
        OpsError: the record is another log's or tree's, the tree is not exactly as it says, or does
            not extend the journal. Nothing was changed.
    """
    role = _log_role(settings)
    record = role.tree_id_file.with_name(PROMOTION_FILE)
    promoted = Earlier(_promoted_head(settings, role, record), record)
    _refuse_latched(settings)
    if settings.journal.exists():
        with Journal.open(settings.journal, settings.public_key.hash, writable=False) as journal:
            last = Earlier(journal.last.head, journal.path)
            journaled = journal.root_at(promoted.head.size)
        if journaled == promoted.head.root:
            _prove(role, (promoted, last), say, wait)
            return Seeded(last.head, changed=False)
    return _seed(settings, role, promoted, say, wait, promoted=promoted)


def _seed(
    settings: Settings,
    role: LogRole,
    wanted: Earlier,
    say: Say,
    wait: float,
    *,
    promoted: Earlier | None = None,
) -> Seeded:
    head = wanted.head
    if not settings.journal.exists():
        _prove(role, (wanted,), say, wait, promoted=promoted)
        create(settings.journal, settings.public_key.hash, head)
        return Seeded(head, changed=True)
    with Journal.open(settings.journal, settings.public_key.hash) as journal:
        journaled = journal.root_at(head.size)
        if journaled not in (None, head.root):
            raise OpsError(
                f"{wanted.source}: the log has two roots for size {head.size}: {head.root.hex()},"
                f" and in {journal.path} {journaled and journaled.hex()}",
                hint="This is a split view. Keep both files; do not start the log.",
            )
        last = Earlier(journal.last.head, journal.path)
        _prove(role, (wanted, last), say, wait, promoted=promoted)
        larger = head.size > journal.last.head.size
        if larger:
            journal.append(head)
        return Seeded(journal.last.head, changed=larger)


def show(settings: Settings, size: int | None = None) -> dict[str, Any]:
    """What the journal and the latch hold; can be asked while the oracle runs."""
    _log_role(settings)
    evidence = latch.read(settings.latch)
    with Journal.open(settings.journal, settings.public_key.hash, writable=False) as journal:
        shown: dict[str, Any] = {
            "log_key_hash": settings.public_key.hash,
            "latched": evidence is not None,
            "latch": evidence
            and {
                "path": str(settings.latch),
                "sha256": evidence.digest,
                "evidence": evidence.as_json(),
            },
            "journal": {
                "path": str(settings.journal),
                "records": journal.records,
                "first": _record(journal.first),
                "last": _record(journal.last),
                "unfinished_bytes": journal.cut,
            },
        }
        if size is not None:
            root = journal.root_at(size)
            shown["asked"] = {"size": size, "root_hash": root and root.hex()}
    return shown


def resolve(
    settings: Settings,
    *,
    followed: str | None,
    ask: Callable[[str], str],
    say: Say,
    wait: float = WAIT,
) -> dict[str, Any]:
    """Let the oracle sign again, on a tree that is proven to extend all that is journaled.

    Raises:
        OpsError: the oracle runs, or is not latched, or the tree is still another one.
        UsageError: the person did not confirm.
    """
    role = _log_role(settings)
    evidence = latch.read(settings.latch)
    if evidence is None:
        raise OpsError(f"{settings.latch}: not there, so the oracle is not latched")
    # Held until the end, so that no oracle can start meanwhile.
    with Journal.open(settings.journal, settings.public_key.hash) as journal:
        last = journal.last.head
        say(evidence.data.decode(errors="backslashreplace").rstrip())
        say(f"last journaled: {last}")
        proven = _prove(role, (Earlier(last, journal.path),), say, wait)
        say(f"tree now:       {proven.tree} (Trillian tree {proven.tree_id}), which extends it")
        aside = latch.resolve(
            settings.latch, evidence, proven=proven.tree, followed=followed, ask=ask
        )
    return {"evidence": str(aside), "sha256": evidence.digest}


def _prove(
    role: LogRole,
    known: tuple[Earlier, ...],
    say: Say,
    wait: float,
    *,
    first_start: bool = False,
    promoted: Earlier | None = None,
) -> Proven:
    """Ask the guard's judgement on the tree that log-go would serve."""
    local = LocalState(_tree_id(role), first_start=first_start, known=known, promoted=promoted)
    with Trillian(role.trillian) as trillian:
        return retry(lambda: judge(local, trillian), wait=wait, say=say)


def _tree_id(role: LogRole) -> int:
    try:
        return parse_tree_id(role.tree_id_file.read_bytes())
    except OSError as error:
        raise OpsError(f"{role.tree_id_file}: cannot be read: {error.strerror}") from error
    except UsageError as error:
        raise OpsError(f"{role.tree_id_file}: {error.message}") from error


def _signed_head(settings: Settings, path: Path) -> TreeHead:
    try:
        signed = parse_cosigned_tree_head(path.read_bytes()).signed
        signed.verify(settings.public_key)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except OpsError as error:
        raise UsageError(
            f"{path}: not a tree head that this log signed: {error.message}"
        ) from error
    return signed.head


def _promoted_head(settings: Settings, role: LogRole, path: Path) -> TreeHead:
    try:
        promoted = parse_promotion(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"{path}: not a promotion's record: {error.message}") from error
    if promoted.log_key_hash != settings.public_key.hash:
        raise OpsError(
            f"{path}: is about the log with key hash {promoted.log_key_hash},"
            f" not about {settings.public_key.hash}"
        )
    if promoted.tree_id != (tree_id := _tree_id(role)):
        raise OpsError(
            f"{path}: is about tree {promoted.tree_id}, but {role.tree_id_file} names {tree_id}"
        )
    return promoted.head


def _refuse_latched(settings: Settings) -> None:
    if latch.read(settings.latch) is not None:
        raise OpsError(f"{settings.latch}: latched", hint=f"Follow {PROCEDURE} first.")


def _log_role(settings: Settings) -> LogRole:
    if not isinstance(settings.role, LogRole):
        raise UsageError("a witness's oracle keeps no journal")
    return settings.role


def _record(record: Record) -> dict[str, Any]:
    return {
        "size": record.head.size,
        "root_hash": record.head.root.hex(),
        "time": datetime.fromtimestamp(record.time, UTC).isoformat(timespec="seconds"),
    }
