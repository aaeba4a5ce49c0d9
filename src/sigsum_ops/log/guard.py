"""The start guard: may this primary start on this tree?

log-go never compares its saved tree head with its tree, so on another tree it signs a second root
for a size that it has signed before: a split view. The guard runs before every start and asks
Trillian for a consistency proof. It ends in one of three ways:

* ``Proven``: the tree extends the last signed tree head (the sth file), the largest tree that an
  earlier start has seen (the evidence file, so that a lost sth file does not erase history), and
  the one with which a promotion made this machine the primary;
* ``Refused``: something says no. A person has to look; until then nothing is signed;
* ``CannotTell``: nothing says no, but the proof cannot be had. Waiting may help.

The evidence is the whole tree of an earlier start, not only its signed part: log-go stores a tree
head after it has signed it, so what was integrated may have been signed without a trace here.

It also refuses a log that would sign without its secondary, but for one that has a permit to. It
judges by the oracle's configuration and the clock; that the permit ends is enforced in the oracle.
"""

from __future__ import annotations

import errno
import json
import sys
import time
import tomllib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.oracle.config import DEFAULT_PATH as DEFAULT_ORACLE
from sigsum_ops.hsm.oracle.config import LogRole, parse
from sigsum_ops.log.evidence import Evidence, format_evidence, parse_evidence, parse_promotion
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.statefiles import (
    EVIDENCE_FILE,
    PROMOTION_FILE,
    STARTUP_SUFFIX,
    parse_startup,
    parse_tree_id,
    read_if_there,
    remove_durably,
    write_durably,
)
from sigsum_ops.log.treehead import (
    EMPTY_TREE_HEAD,
    SignedTreeHead,
    TreeHead,
    parse_signed_tree_head,
)
from sigsum_ops.log.trillian import (
    CannotTell,
    TreeNotFound,
    TreeNotInitialised,
    Trillian,
    retry,
)

T = TypeVar("T")

DEFAULT_CONFIG = Path("/etc/sigsum/config.toml")
DEFAULT_LOG_KEY = Path("/etc/sigsum/log.pub")
DEFAULT_STATE_DIR = Path("/var/lib/sigsum-log")  # only where the configuration does not say
MARKER_FILE = "guard-refused.json"
METRICS_FILE = "guard.prom"
PROCEDURE = "docs/bcp/start-refused.md"

EXIT_PROVEN = 0
EXIT_REFUSED = 1
EXIT_CANNOT_TELL = 75  # EX_TEMPFAIL of sysexits.h

# log-go replicates only where both are set, and says nothing where it does not.
_REPLICATION = ("secondary-url", "secondary-pubkey-file")

# Reading a file failed because of the machine, not because of the file.
_PASSING = {errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class Refused(OpsError):  # noqa: N818 - an outcome
    """A definite no. ``reason`` is its stable name in the marker, the metric and the alerts."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        hint: str | None = None,
        earlier: Earlier | None = None,
        tree: TreeHead | None = None,
        tree_id: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.earlier = earlier
        self.tree = tree
        self.tree_id = tree_id


@dataclass(frozen=True)
class Earlier:
    """A tree head that the tree must extend, and where it is known from."""

    head: TreeHead
    source: Path


@dataclass(frozen=True)
class Config:
    """What the guard needs of log-go's configuration."""

    path: Path
    sth_file: Path
    tree_id_file: Path
    trillian: str
    replication: tuple[str, ...]  # those of its two settings that are set

    @property
    def replicated(self) -> bool:
        """Whether log-go waits for a secondary."""
        return self.replication == _REPLICATION


@dataclass(frozen=True)
class LocalState:
    """What this machine's files say; contradictions have been refused, signatures verified."""

    tree_id: int
    first_start: bool  # a startup file says that the log is new
    known: tuple[Earlier, ...]
    promoted: Earlier | None = None  # log-go will sign whatever the tree is: it must be just this


@dataclass(frozen=True)
class Proven:
    """The tree may be served and signed."""

    tree: TreeHead
    tree_id: int


@dataclass(frozen=True)
class Result:
    """How a run of the guard ended, for people (``message``) and for machines (``as_json``)."""

    exit_code: int
    message: str
    details: dict[str, Any]

    def as_json(self) -> str:
        """One object."""
        return json.dumps(self.details)


def run(
    *,
    config: Path = DEFAULT_CONFIG,
    log_key: Path = DEFAULT_LOG_KEY,
    oracle: Path = DEFAULT_ORACLE,
    state_dir: Path | None = None,
    wait: float | None = None,
    say: Callable[[str], None],
) -> Result:
    """Judge, record the outcome in the state directory, and never raise.

    Args:
        config: log-go's configuration.
        log_key: the log's public key.
        oracle: the oracle's configuration; read only where the log has no secondary.
        state_dir: where the guard keeps its files; without it, beside the sth file.
        wait: seconds to go on asking while it cannot tell; None is for ever.
        say: takes one line for each new reason why it cannot tell.
    """
    directory = state_dir or DEFAULT_STATE_DIR

    def attempt() -> Proven:
        nonlocal directory
        settings = read_config(config)
        directory = state_dir or settings.sth_file.parent
        key = read_log_key(log_key)
        check_replication(settings, key, oracle, datetime.now(UTC))
        local = read_local_state(settings, key, directory)
        with Trillian(settings.trillian) as trillian:
            proven = judge(local, trillian)
        record_proven(directory, proven, key)
        return proven

    try:
        proven = retry(attempt, wait=wait, say=lambda reason: say(f"cannot tell yet: {reason}"))
    except CannotTell as error:
        return Result(
            EXIT_CANNOT_TELL,
            f"cannot tell: {error.message}",
            {"outcome": "cannot-tell", "message": error.message},
        )
    except Refused as error:
        return _refuse(directory, error)
    except Exception as error:  # noqa: BLE001 - whatever happens, it must not look like a pass
        traceback.print_exc(file=sys.stderr)
        summary = "".join(traceback.format_exception_only(error)).strip()
        return _refuse(
            directory,
            Refused("internal-error", f"the guard itself failed: {summary}", hint="Report this."),
        )
    return Result(
        EXIT_PROVEN,
        f"proven: tree {proven.tree_id} ({proven.tree}) extends all that this machine knows"
        " to have been signed",
        {"outcome": "proven", "tree_id": proven.tree_id, "tree": _json(proven.tree)},
    )


def judge(local: LocalState, trillian: Trillian) -> Proven:
    """Compare the tree in Trillian with what is known of the log's past.

    Raises:
        Refused: it is not a proven extension, or not a tree that a primary may use.
        CannotTell: Trillian did not say.
    """
    tree_id = local.tree_id
    try:
        tree = trillian.get_tree(tree_id)
    except TreeNotFound as error:
        raise Refused(
            "tree-unknown",
            f"{error.message}: its database is another one, or the tree was lost",
            tree_id=tree_id,
        ) from error
    if tree.deleted:
        raise Refused("tree-deleted", f"Trillian's {tree.described} is deleted", tree_id=tree_id)
    if tree.type != "LOG":
        raise Refused(
            "tree-type",
            f"Trillian's {tree.described} is not of type LOG, which a primary needs",
            hint="A secondary's tree is PREORDERED_LOG. Only playbooks/promote.yml turns a"
            " secondary into a primary.",
            tree_id=tree_id,
        )
    if tree.state != "ACTIVE":
        raise Refused(
            "tree-state",
            f"Trillian's {tree.described} is not active",
            hint="A procedure that freezes a tree was left unfinished, or did so on purpose.",
            tree_id=tree_id,
        )
    try:
        head = trillian.latest_root(tree_id)
    except TreeNotInitialised as error:
        raise Refused(
            "tree-uninitialised",
            error.message,
            hint="If this log has never run, playbooks/site.yml finishes the tree's creation.",
            tree_id=tree_id,
        ) from error

    if local.first_start:
        _check_first_start(trillian, tree_id, head)
    for earlier in local.known:
        _check_extends(trillian, tree_id, head, earlier)
    if local.promoted and head != local.promoted.head:
        # It extends it, as one of those that are known.
        raise Refused(
            "startup-local-tree",
            "the tree has grown since the promotion, and startup=local-tree makes log-go sign"
            " whatever the tree holds",
            hint="Something else than this log writes to the tree. Find out what.",
            earlier=local.promoted,
            tree=head,
            tree_id=tree_id,
        )
    return Proven(head, tree_id)


def _check_first_start(trillian: Trillian, tree_id: int, head: TreeHead) -> None:
    if head != EMPTY_TREE_HEAD:
        raise Refused(
            "startup-tree-not-empty",
            "the startup file says that the log is new, but its tree is not empty",
            tree=head,
            tree_id=tree_id,
        )
    others = [tree for tree in trillian.list_trees() if tree.id != tree_id]
    if others:
        raise Refused(
            "startup-other-tree",
            "the startup file says that the log is new, but Trillian holds another tree: "
            + ", ".join(tree.described for tree in others),
            tree=head,
            tree_id=tree_id,
        )


def _check_extends(trillian: Trillian, tree_id: int, head: TreeHead, earlier: Earlier) -> None:
    def refuse(reason: str, message: str) -> Refused:
        return Refused(reason, message, earlier=earlier, tree=head, tree_id=tree_id)

    old = earlier.head
    if head.size < old.size:
        raise refuse("tree-smaller", "the tree is smaller than it was: an older database?")
    path = trillian.consistency_proof(tree_id, old.size, head.size)
    try:
        verify_consistency(old.size, old.root, head.size, head.root, path)
    except ProofError as error:
        if head.size == old.size:
            raise refuse(
                "tree-other-root", "the tree has the same size but another root: another tree"
            ) from error
        raise refuse(
            "tree-not-extension",
            f"the tree is larger, but does not extend what it was: another tree. {error.message}",
        ) from error


def read_config(path: Path) -> Config:
    """Read the few settings; log-go's defaults do not count, since they are never meant here."""
    tables = _read_toml(path)
    if tables is None:
        raise Refused("config", f"{path}: no such file")
    primary = tables.get("primary")

    def setting(table: Any, key: str, section: str = "", *, empty: bool = False) -> str:
        value = table.get(key, "" if empty else None) if isinstance(table, dict) else None
        if not isinstance(value, str) or not (value or empty):
            raise Refused("config", f"{path}: {key}{section} is missing or not a string")
        return value

    return Config(
        path=path,
        sth_file=Path(setting(primary, "sth-file", " in [primary]")),
        tree_id_file=Path(setting(tables, "trillian-tree-id-file")),
        trillian=setting(tables, "trillian-rpc-server"),
        replication=tuple(
            key for key in _REPLICATION if setting(primary, key, " in [primary]", empty=True)
        ),
    )


def check_replication(config: Config, log_key: PublicKey, oracle: Path, now: datetime) -> None:
    """Refuse a log that would sign without its secondary, unless its oracle has a permit for that.

    Args:
        config: log-go's.
        log_key: the log's.
        oracle: the oracle's configuration, where the permit is.
        now: with its offset.
    """
    if config.replicated:
        return
    if config.replication:
        (there,) = config.replication
        missing = next(key for key in _REPLICATION if key != there)
        raise Refused(
            "half-replicated",
            f"{config.path}: [primary] has {there} and no {missing}, so log-go would sign without"
            " its secondary, and not say so",
            hint="playbooks/site.yml writes both.",
        )
    until = _read_permit(oracle, log_key)
    if until is None or now >= until:
        why = f"its permit has ended ({until:%Y-%m-%dT%H:%M:%SZ})" if until else "it has no permit"
        raise Refused(
            "unreplicated",
            f"{config.path}: [primary] has neither {' nor '.join(_REPLICATION)}, so the log would"
            f" sign without a secondary, and {why} to ({oracle})",
            hint="playbooks/reseed.yml brings in a secondary. To let the log go on alone until a"
            " time: sigsum-ops promote --ungated-until TIME.",
        )


def _read_permit(path: Path, log_key: PublicKey) -> datetime | None:
    """Until when this log's oracle signs without a secondary."""
    tables = _read_toml(path)
    if tables is None:
        return None
    settings = _parse("config", path, lambda: parse(tables))
    if settings.public_key != log_key:
        raise Refused("config", f"{path}: is about the log {settings.public_key.hash}")
    return settings.role.ungated_until if isinstance(settings.role, LogRole) else None


def read_log_key(path: Path) -> PublicKey:
    """Read the log's public key."""
    data = _read(path)
    if data is None:
        raise Refused("log-key", f"{path}: no such file")
    return _parse("log-key", path, lambda: PublicKey.parse(data.decode("ascii")))


def read_local_state(config: Config, log_key: PublicKey, directory: Path) -> LocalState:
    """Read what this machine's files say of the log's past.

    Raises:
        Refused: they contradict each other, or one of them is not what it must be.
    """
    tree_id: int | None = None
    sth = _read_sth(config.sth_file, log_key)
    startup_file = config.sth_file.with_name(config.sth_file.name + STARTUP_SUFFIX)
    startup = _read(startup_file)
    evidence_file = directory / EVIDENCE_FILE
    evidence = _read_evidence("evidence", evidence_file, parse_evidence, log_key)
    promotion_file = config.sth_file.with_name(PROMOTION_FILE)
    promotion = _read_evidence("promotion", promotion_file, parse_promotion, log_key)
    known = []
    if sth:
        known.append(Earlier(sth.head, config.sth_file))
    if evidence:
        known.append(Earlier(evidence.head, evidence_file))
    if promotion:
        known.append(Earlier(promotion.head, promotion_file))

    def refuse(reason: str, message: str, hint: str | None = None) -> Refused:
        earlier = known[0] if known else None
        return Refused(reason, message, hint=hint, earlier=earlier, tree_id=tree_id)

    tree_id_data = _read(config.tree_id_file)
    if not tree_id_data:
        state = "empty" if tree_id_data is not None else "missing"
        raise refuse(
            f"tree-id-{state}",
            f"{config.tree_id_file}: {state}",
            "playbooks/site.yml writes it again where Trillian leaves no doubt about it."
            " Never create a new tree.",
        )
    tree_id = _parse("tree-id-malformed", config.tree_id_file, lambda: parse_tree_id(tree_id_data))
    if startup is None:
        if not sth:
            raise refuse(
                "sth-missing",
                f"{config.sth_file}: missing, and there is no startup file:"
                " what was signed is not known",
            )
        return LocalState(tree_id, first_start=False, known=tuple(known))
    mode = _parse("startup-malformed", startup_file, lambda: parse_startup(startup))
    if sth:
        raise refuse(
            "startup-and-sth",
            f"{startup_file}: left beside a signed tree head; log-go would sign again from it",
        )
    if mode == "local-tree":
        if not promotion or promotion.tree_id != tree_id:
            about = f"is about tree {promotion.tree_id}" if promotion else "is not there"
            raise refuse(
                "startup-local-tree",
                f"{startup_file}: startup=local-tree makes log-go sign whatever the tree holds, and"
                f" {promotion_file} {about}",
                "Only playbooks/promote.yml may do that.",
            )
        promoted = Earlier(promotion.head, promotion_file)
        return LocalState(tree_id, first_start=False, known=tuple(known), promoted=promoted)
    # A first start that failed before log-go wrote its sth file is allowed to be repeated.
    if evidence and (evidence.head != EMPTY_TREE_HEAD or evidence.tree_id != tree_id):
        raise refuse(
            "startup-evidence",
            f"{startup_file}: says that the log is new, but an earlier start has proven"
            f" tree {evidence.tree_id}",
        )
    if promotion:
        raise refuse(
            "startup-evidence",
            f"{startup_file}: says that the log is new, but this machine was promoted to be its"
            f" primary ({promotion_file})",
        )
    return LocalState(tree_id, first_start=True, known=tuple(known))


def _read_sth(path: Path, log_key: PublicKey) -> SignedTreeHead | None:
    data = _read(path)
    if data is None:
        return None
    sth = _parse("sth-malformed", path, lambda: parse_signed_tree_head(data))
    try:
        sth.verify(log_key)
    except ProofError as error:
        raise Refused(
            "sth-signature",
            f"{path}: not signed by the log's key {log_key.hex}",
            earlier=Earlier(sth.head, path),
        ) from error
    return sth


def _read_evidence(
    kind: str, path: Path, parse: Callable[[bytes], Evidence], log_key: PublicKey
) -> Evidence | None:
    data = _read(path)
    if data is None:
        return None
    evidence = _parse(f"{kind}-malformed", path, lambda: parse(data))
    if evidence.log_key_hash != log_key.hash:
        raise Refused(
            f"{kind}-log-key",
            f"{path}: is about the log with key hash {evidence.log_key_hash},"
            f" not about {log_key.hash}",
            earlier=Earlier(evidence.head, path),
        )
    return evidence


def record_proven(directory: Path, proven: Proven, log_key: PublicKey) -> None:
    """Keep the evidence, clear an earlier refusal, write the metrics.

    Raises:
        CannotTell: the disk does not take it. log-go would sign first and fail to store afterwards,
            so it must not start either; a freed disk lets it start without a person.
    """
    evidence = Evidence(proven.tree, proven.tree_id, log_key.hash)
    try:
        write_durably(directory / EVIDENCE_FILE, format_evidence(evidence, datetime.now(UTC)))
        write_durably(directory / METRICS_FILE, metrics(None, proven.tree.size))
        remove_durably(directory / MARKER_FILE)
    except OSError as error:
        raise CannotTell(f"proven, but {directory} cannot be written: {error}") from error


def metrics(refused: str | None, proven_size: int | None) -> bytes:
    """Metrics in Prometheus's text format."""
    label = f'{{reason="{refused}"}}' if refused else ""
    lines = [
        "# HELP sigsum_guard_refused 1 if the start guard refused the last start of the log.",
        "# TYPE sigsum_guard_refused gauge",
        f"sigsum_guard_refused{label} {int(refused is not None)}",
        "# HELP sigsum_guard_last_run_timestamp_seconds When the start guard last decided.",
        "# TYPE sigsum_guard_last_run_timestamp_seconds gauge",
        f"sigsum_guard_last_run_timestamp_seconds {time.time():.3f}",
    ]
    if proven_size is not None:
        lines += [
            "# HELP sigsum_guard_proven_size Size of the largest tree proven at a start.",
            "# TYPE sigsum_guard_proven_size gauge",
            f"sigsum_guard_proven_size {proven_size}",
        ]
    return "".join(f"{line}\n" for line in lines).encode()


def _refuse(directory: Path, refused: Refused) -> Result:
    """Leave the marker and the metric; failing to do so does not make it less of a refusal."""
    earlier, tree = refused.earlier, refused.tree
    details = {
        "outcome": "refused",
        "reason": refused.reason,
        "message": refused.message,
        "earlier": earlier and {**_json(earlier.head), "source": str(earlier.source)},
        "tree": tree and _json(tree),
        "tree_id": refused.tree_id,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "procedure": PROCEDURE,
    }
    lines = [f"REFUSED ({refused.reason}): {refused.message}"]
    if earlier:
        lines.append(f"  known earlier: {earlier.head} ({earlier.source})")
    if tree:
        lines.append(f"  tree now:      {tree} (Trillian tree {refused.tree_id})")
    if refused.hint:
        lines.append(f"  {refused.hint}")
    lines.append(f"  The log does not start and signs nothing. Procedure: {PROCEDURE}")
    marker = directory / MARKER_FILE
    try:
        write_durably(marker, (json.dumps(details, indent=2) + "\n").encode())
        write_durably(directory / METRICS_FILE, metrics(refused.reason, _proven_size(directory)))
    except OSError as error:
        lines.append(f"  The refusal could not be recorded in {directory}: {error}")
    else:
        lines.append(f"  Recorded in {marker}")
    return Result(EXIT_REFUSED, "\n".join(lines), details)


def _proven_size(directory: Path) -> int | None:
    try:
        return parse_evidence((directory / EVIDENCE_FILE).read_bytes()).head.size
    except (OSError, UsageError):
        return None


def _json(head: TreeHead) -> dict[str, Any]:
    return {"size": head.size, "root_hash": head.root.hex()}


def _read(path: Path) -> bytes | None:
    """Content or absence; an unreadable file is a refusal, a machine out of breath is not."""
    try:
        return read_if_there(path)
    except OSError as error:
        if error.errno in _PASSING:
            raise CannotTell(f"{path}: {error.strerror}") from error
        raise Refused("unreadable", f"{path}: cannot be read: {error.strerror}") from error


def _read_toml(path: Path) -> dict[str, Any] | None:
    data = _read(path)
    try:
        return None if data is None else tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused("config", f"{path}: not TOML: {error}") from error


def _parse(reason: str, path: Path, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except UnicodeDecodeError as error:
        raise Refused(reason, f"{path}: not ASCII") from error
    except UsageError as error:
        raise Refused(reason, f"{path}: {error.message}", hint=error.hint) from error
