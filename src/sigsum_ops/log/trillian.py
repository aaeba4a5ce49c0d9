"""A client for the few calls to Trillian 1.7.3 that decide whether a log may start.

Trillian's answers fall into three: what was asked for; a definite no about that tree
(``TreeNotFound``, ``TreeNotInitialised``); and everything else, ``CannotTell``, which says nothing
about the tree and may pass. What its answers look like was recorded from Trillian 1.7.3 with MySQL
storage on MariaDB 11.8; the traps are noted where they are avoided.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from sigsum_ops.errors import OpsError
from sigsum_ops.log import trillian_pb2 as pb
from sigsum_ops.log.merkle import HASH_SIZE
from sigsum_ops.log.treehead import TreeHead

T = TypeVar("T")

CALL_DEADLINE = 5.0  # seconds; each of these calls is a few rows from the database
_FIRST_PAUSE = 0.25  # seconds between attempts, doubled up to the longest
_LONGEST_PAUSE = 2.0
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # the address is on loopback, whatever the environment says
    # A channel's own back-off grows to two minutes, and channels share it: after a long outage the
    # first calls would fail without being tried.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class TrillianError(OpsError):
    """Trillian did not answer what was asked."""


class CannotTell(TrillianError):  # noqa: N818 - named for what it means to the caller
    """Trillian is not up, in error, or answered without what is needed: ask again later."""


class TreeNotFound(TrillianError):  # noqa: N818
    """Trillian's database has no such tree."""


class TreeNotInitialised(TrillianError):  # noqa: N818
    """The tree was created, but never given its first root."""


@dataclass(frozen=True)
class Tree:
    """A tree as Trillian describes it; type and state by their names in Trillian's protocol."""

    id: int
    type: str
    state: str
    display_name: str
    deleted: bool

    @property
    def described(self) -> str:
        """For messages: everything that distinguishes the tree."""
        deleted = ", marked as deleted" if self.deleted else ""
        return f"tree {self.id} ({self.type}, {self.state}, {self.display_name!r}{deleted})"


class Trillian:
    """A connection to a Trillian log server, which serves the admin calls too.

    Connects when first used. Each call takes at most ``deadline`` seconds.
    """

    def __init__(self, address: str, *, deadline: float = CALL_DEADLINE) -> None:
        self.address = address
        self._deadline = deadline
        self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)

    def __enter__(self) -> Trillian:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def list_trees(self) -> tuple[Tree, ...]:
        """All trees, those marked as deleted too, in the order of their ids.

        Trap: a database error in the middle of the list ends the list without an error, so a
        missing tree is no proof of absence; ``get_tree`` is.
        """
        response = self._call(
            "Admin/ListTrees", pb.ListTreesRequest(show_deleted=True), pb.ListTreesResponse
        )
        return tuple(sorted((_tree(tree) for tree in response.tree), key=lambda tree: tree.id))

    def get_tree(self, tree_id: int) -> Tree:
        """One tree, also when it is marked as deleted.

        Raises:
            TreeNotFound: the database was read and has no such tree.
        """
        try:
            response = self._call("Admin/GetTree", pb.GetTreeRequest(tree_id=tree_id), pb.Tree)
        except _NotFound as error:
            raise TreeNotFound(f"Trillian at {self.address} has no tree {tree_id}") from error
        return _tree(response)

    def create_tree(self, tree_type: str, display_name: str) -> Tree:
        """Create a tree, active and without a root yet; ``init_log`` comes next.

        After ``CannotTell`` it may exist all the same: list before creating another.
        """
        wanted = pb.Tree(
            tree_state=pb.ACTIVE,
            tree_type=pb.TreeType.Value(tree_type),
            display_name=display_name,
        )
        # Required; zero: no new revision of an unchanged root, which nobody here reads.
        wanted.max_root_duration.SetInParent()
        return _tree(self._call("Admin/CreateTree", pb.CreateTreeRequest(tree=wanted), pb.Tree))

    def update_tree(
        self, tree_id: int, *, state: str | None = None, tree_type: str | None = None
    ) -> Tree:
        """Change a tree's state or type; Trillian allows PREORDERED_LOG to LOG, of a frozen tree.

        Trap: it may have happened after ``CannotTell``, and success is not what was stored: read
        it back with ``get_tree``.
        """
        tree, mask = pb.Tree(tree_id=tree_id), []
        if state is not None:
            tree.tree_state = pb.TreeState.Value(state)
            mask.append("tree_state")
        if tree_type is not None:
            tree.tree_type = pb.TreeType.Value(tree_type)
            mask.append("tree_type")
        request = pb.UpdateTreeRequest(tree=tree)
        request.update_mask.paths.extend(mask)
        return _tree(self._call("Admin/UpdateTree", request, pb.Tree))

    def init_log(self, tree_id: int) -> None:
        """Give a new tree its first root, or leave the one that it has.

        Trap: "already exists" is also the answer when the root could not be read, so read it back.
        """
        try:
            self._call("Log/InitLog", pb.InitLogRequest(log_id=tree_id), pb.InitLogResponse)
        except _AlreadyExists:
            return

    def latest_root(self, tree_id: int) -> TreeHead:
        """The tree's size and root as of now.

        Raises:
            TreeNotInitialised: the tree exists and has no root.
        """
        try:
            response = self._call(
                "Log/GetLatestSignedLogRoot",
                pb.GetLatestSignedLogRootRequest(log_id=tree_id),
                pb.GetLatestSignedLogRootResponse,
            )
        except _FailedPrecondition as error:
            raise TreeNotInitialised(f"tree {tree_id} in Trillian has no root yet") from error
        return parse_log_root(response.signed_log_root.log_root)

    def consistency_proof(self, tree_id: int, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """The path from ``old_size`` to ``new_size``, unverified; see ``merkle``.

        Trap: for a size beyond the tree the answer is OK without a proof. Old size 0 is an error
        to Trillian, and proves anything; equal sizes need no path either: it is not asked then.
        """
        if old_size in (0, new_size):
            return ()
        response = self._call(
            "Log/GetConsistencyProof",
            pb.GetConsistencyProofRequest(
                log_id=tree_id, first_tree_size=old_size, second_tree_size=new_size
            ),
            pb.GetConsistencyProofResponse,
        )
        path = tuple(response.proof.hashes)
        if not path:
            raise CannotTell(
                f"Trillian answered without a consistency proof from size {old_size} to {new_size}"
            )
        if any(len(value) != HASH_SIZE for value in path):
            raise CannotTell(
                f"Trillian answered a proof with hashes that are not {HASH_SIZE} bytes"
            )
        return path

    def _call(self, method: str, request: Any, response_type: Any) -> Any:
        call = self._channel.unary_unary(
            f"/trillian.Trillian{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        try:
            return call(request, timeout=self._deadline)
        except grpc.RpcError as error:
            # Database errors come as UNKNOWN with MariaDB's own words, or as INTERNAL.
            code, details = error.code(), error.details()
            name = method.partition("/")[2]
            kind = _DEFINITE.get(code, CannotTell)
            raise kind(
                f"Trillian at {self.address} answered {name} with {code.name}: {details}"
            ) from error


class _NotFound(CannotTell):
    """Definite only where ``get_tree`` says so."""


class _AlreadyExists(CannotTell):
    """Definite only for ``init_log``."""


class _FailedPrecondition(CannotTell):
    """Definite only for ``latest_root``."""


_DEFINITE = {
    grpc.StatusCode.NOT_FOUND: _NotFound,
    grpc.StatusCode.ALREADY_EXISTS: _AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: _FailedPrecondition,
}


def _tree(tree: Any) -> Tree:
    return Tree(
        id=tree.tree_id,
        type=_name(pb.TreeType, tree.tree_type),
        state=_name(pb.TreeState, tree.tree_state),
        display_name=tree.display_name,
        deleted=tree.deleted,
    )


def _name(enum: Any, value: int) -> str:
    return str(enum.Name(value)) if value in enum.values() else f"unknown ({value})"


def parse_log_root(data: bytes) -> TreeHead:
    """Decode Trillian's LogRoot, version 1, in TLS presentation language (RFC 5246 section 4).

    ``uint16 version; uint64 tree_size; opaque root_hash<0..128>; uint64 timestamp_nanos;
    uint64 revision; opaque metadata<0..65535>``

    Trap: when the query for the latest root fails, MySQL storage drops the error and answers a
    root of size 0 with an empty hash. It must not be taken for a tree that has shrunk, so a hash
    that is not 32 bytes long is ``CannotTell``; a real empty tree has the empty tree's root.
    """
    try:
        version, size, hash_size = struct.unpack_from(">HQB", data)
        root = data[11 : 11 + hash_size]
        metadata_size = struct.unpack_from(">QQH", data, 11 + hash_size)[2]
    except struct.error as error:
        raise CannotTell(f"Trillian answered a log root of {len(data)} bytes, cut off") from error
    if version != 1 or len(data) != 29 + hash_size + metadata_size:
        raise CannotTell(f"Trillian answered a log root in another format: {data.hex()}")
    if hash_size != HASH_SIZE:
        raise CannotTell(
            f"Trillian answered a root hash of {hash_size} bytes: it could not read its database"
        )
    return TreeHead(size, root)


def retry(
    attempt: Callable[[], T],
    *,
    wait: float | None,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Repeat ``attempt`` while it raises CannotTell, for ``wait`` seconds (None: for ever).

    Each distinct reason is said once. When the time is over, the last CannotTell is raised; an
    attempt under way is not cut short.
    """
    end = None if wait is None else clock() + wait
    said: set[str] = set()
    pause = _FIRST_PAUSE
    while True:
        try:
            return attempt()
        except CannotTell as error:
            if error.message not in said:
                said.add(error.message)
                say(error.message)
            left = pause if end is None else end - clock()
            if left <= 0:
                raise
        sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
