"""A Trillian log server in this process, which answers as Trillian 1.7.3 was seen to answer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc

from sigsum_ops.log import trillian_pb2 as pb
from sigsum_ops.log.treehead import TreeHead
from tests.log import rfc9162


@dataclass
class FakeTree:
    """One tree; ``leaves`` is None until it is initialised."""

    id: int
    type: str = "LOG"
    state: str = "ACTIVE"
    display_name: str = "sigsum-ops"
    deleted: bool = False
    leaves: list[bytes] | None = field(default_factory=list)

    @property
    def head(self) -> TreeHead:
        assert self.leaves is not None
        return TreeHead(len(self.leaves), rfc9162.root(self.leaves))

    @property
    def message(self) -> Any:
        return pb.Tree(
            tree_id=self.id,
            tree_type=pb.TreeType.Value(self.type),
            tree_state=pb.TreeState.Value(self.state),
            display_name=self.display_name,
            deleted=self.deleted,
        )


def log_root(size: int, root: bytes) -> bytes:
    """LogRootV1 as Trillian's MySQL storage makes it: revision 0, no metadata."""
    return struct.pack(">HQB", 1, size, len(root)) + root + struct.pack(">QQH", 1700 * 10**15, 0, 0)


class FakeTrillian:
    """Trees by number, and the faults that a test wants.

    ``before`` runs before each call with the method's name, in the server's thread: it may change
    the trees, wait, or refuse by ``fail``.
    """

    def __init__(self, *trees: FakeTree) -> None:
        self.trees = {tree.id: tree for tree in trees}
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda _method: None
        self.after: Callable[[str], None] = lambda _method: None
        self.list_is_cut_short = False  # a database error in the middle: no error is passed on
        self.root_is_unreadable = False  # likewise
        self._server = grpc.server(ThreadPoolExecutor(4))
        methods = {
            "TrillianAdmin": (self.ListTrees, self.GetTree, self.CreateTree, self.UpdateTree),
            "TrillianLog": (self.InitLog, self.GetLatestSignedLogRoot, self.GetConsistencyProof),
        }
        for service, handlers in methods.items():
            self._server.add_generic_rpc_handlers(
                [
                    grpc.method_handlers_generic_handler(
                        f"trillian.{service}", {f.__name__: self._handler(f) for f in handlers}
                    )
                ]
            )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> FakeTrillian:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait()

    def _handler(self, function: Callable[[Any], Any]) -> Any:
        name = function.__name__
        request_type = getattr(pb, f"{name}Request")

        def handle(request: Any, context: Any) -> Any:
            self.calls.append(name)
            try:
                self.before(name)
                response = function(request)
                self.after(name)
            except Failure as failure:
                context.abort(failure.code, failure.details)
            return response

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=request_type.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    # The calls, by the names that they have in Trillian.

    def ListTrees(self, request: Any) -> Any:  # noqa: N802
        shown = [t for t in self.trees.values() if request.show_deleted or not t.deleted]
        return pb.ListTreesResponse(
            tree=[] if self.list_is_cut_short else [tree.message for tree in shown]
        )

    def GetTree(self, request: Any) -> Any:  # noqa: N802
        return self._tree(request.tree_id).message  # deleted ones too

    def CreateTree(self, request: Any) -> Any:  # noqa: N802
        if not request.tree.HasField("max_root_duration"):
            raise Failure("INVALID_ARGUMENT", "max_root_duration malformed")
        tree = FakeTree(
            max([*self.trees, 1000]) + 1,
            pb.TreeType.Name(request.tree.tree_type),
            pb.TreeState.Name(request.tree.tree_state),
            request.tree.display_name,
            leaves=None,
        )
        self.trees[tree.id] = tree
        return tree.message

    def UpdateTree(self, request: Any) -> Any:  # noqa: N802
        tree = self._tree(request.tree.tree_id)
        for path in request.update_mask.paths:
            if path == "tree_state":
                tree.state = pb.TreeState.Name(request.tree.tree_state)
            elif path == "tree_type":
                wanted = pb.TreeType.Name(request.tree.tree_type)
                if (tree.type, wanted, tree.state) != ("PREORDERED_LOG", "LOG", "FROZEN"):
                    raise Failure("INVALID_ARGUMENT", "readonly field changed: tree_type")
                tree.type = wanted
            else:
                raise Failure("INVALID_ARGUMENT", f"invalid update_mask path: {path}")
        return tree.message

    def InitLog(self, request: Any) -> Any:  # noqa: N802
        tree = self._living(request.log_id)
        if tree.leaves is not None or self.root_is_unreadable:
            raise Failure("ALREADY_EXISTS", "log is already initialised")
        tree.leaves = []
        return pb.InitLogResponse(created=self._root(tree))

    def GetLatestSignedLogRoot(self, request: Any) -> Any:  # noqa: N802
        tree = self._living(request.log_id)
        return pb.GetLatestSignedLogRootResponse(signed_log_root=self._root(tree))

    def GetConsistencyProof(self, request: Any) -> Any:  # noqa: N802
        old, new = request.first_tree_size, request.second_tree_size
        if not 0 < old <= new:
            raise Failure("INVALID_ARGUMENT", "FirstTreeSize: want > 0, <= SecondTreeSize")
        tree = self._living(request.log_id)
        response = pb.GetConsistencyProofResponse(signed_log_root=self._root(tree))
        if not self.root_is_unreadable and new <= tree.head.size:
            assert tree.leaves is not None
            response.proof.hashes.extend(rfc9162.consistency(old, tree.leaves[:new]))
        return response

    def _tree(self, tree_id: int) -> FakeTree:
        if tree_id not in self.trees:
            raise Failure("NOT_FOUND", f"tree {tree_id} not found")
        return self.trees[tree_id]

    def _living(self, tree_id: int) -> FakeTree:
        tree = self._tree(tree_id)
        if tree.deleted:
            raise Failure("NOT_FOUND", f"tree {tree_id} not found")
        return tree

    def _root(self, tree: FakeTree) -> Any:
        if self.root_is_unreadable:
            return pb.SignedLogRoot(log_root=log_root(0, b""))
        if tree.leaves is None:
            raise Failure("FAILED_PRECONDITION", "tree needs initialising")
        return pb.SignedLogRoot(log_root=log_root(tree.head.size, tree.head.root))


class Failure(Exception):  # noqa: N818
    """What a call answers instead, by gRPC's name for the code."""

    def __init__(self, code: str, details: str = "as the test wants it") -> None:
        super().__init__(details)
        self.code = grpc.StatusCode[code]
        self.details = details
