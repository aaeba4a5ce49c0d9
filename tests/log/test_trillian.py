"""The client against recorded answers of Trillian 1.7.3, and against a server with its faults."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sigsum_ops
from sigsum_ops.log import trillian_pb2 as pb
from sigsum_ops.log.merkle import EMPTY_ROOT, verify_consistency
from sigsum_ops.log.treehead import MAX_NUMBER, TreeHead
from sigsum_ops.log.trillian import (
    CannotTell,
    Tree,
    TreeNotFound,
    TreeNotInitialised,
    Trillian,
    parse_log_root,
    retry,
)
from tests.log.fake_trillian import Failure, FakeTree, FakeTrillian, log_root

ID = 572797130572100021

# Answers of Trillian 1.7.3 with MariaDB 11.8, byte for byte.
LOG_ROOT = (
    "00010000000000000007204b6939132387c5bf27ebaf5ac122810ce866eb0c7bf44082364b35c06f713aa6"
    "18ea3ba42f61867900000000000000000000"
)
GET_TREE = (
    "08b5e3f3c0c9febef90710011801420a73696773756d2d6f70736a2c0a2a747970652e676f6f676c65617069732e63"
    "6f6d2f6d7973716c70622e53746f726167654f7074696f6e737a0082010c08d69989d806108085ef89038a010c08d6"
    "9989d806108085ef8903"
)
LIST_DELETED = f"0a7a{GET_TREE}980101a2010c08d19a89d80610c0c8829103"
PROOF_5_7 = (
    "1288011a20929a82444d49121b8f9f31e6a720898d3bc0e591699ac8133f3bc28b27ead1911a200a3cbf95255b4787"
    "0e5062c32214e1df457cf640991aa94ac276a4121b9775081a206b96e855fb1d7bac5169c84dc8444b9e638f983c8a"
    "9c90d0de211fd95bee19cc1a2086f9ec25a8a2b32a4bd733e04c213de63c8b0655bcb887b75cfd8b02691be0e5"
    f"1a3f423d{LOG_ROOT}"
)
PROOF_BEYOND = f"1a3f423d{LOG_ROOT}"
# Its TreeHead table could not be read (error 1146 in MariaDB): OK all the same, and size 0.
UNREADABLE = "121f421d0001000000000000000000000000000000000000000000000000000000"
ROOT_5 = bytes.fromhex("2f4e0d79b7e066069be4d391a858023d0acd245505ab6913a8fd69726b65741d")
ROOT_7 = bytes.fromhex("4b6939132387c5bf27ebaf5ac122810ce866eb0c7bf44082364b35c06f713aa6")


@pytest.fixture
def fake() -> Iterator[FakeTrillian]:
    with FakeTrillian(FakeTree(1, leaves=[b"%d" % i for i in range(7)])) as server:
        yield server


@pytest.fixture
def client(fake: FakeTrillian) -> Iterator[Trillian]:
    with Trillian(fake.address) as trillian:
        yield trillian


class Recorded:
    """A server that answers every call with the same bytes."""

    def __init__(self, answer: str) -> None:
        self._answer = bytes.fromhex(answer)

    def service(self, _details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: self._answer)


def ask(answer: str, method: str, *arguments: Any) -> Any:
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Recorded(answer)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Trillian(f"127.0.0.1:{port}") as trillian:
            return getattr(trillian, method)(*arguments)
    finally:
        server.stop(None).wait()


def test_recorded_answers() -> None:
    tree = Tree(ID, "LOG", "ACTIVE", "sigsum-ops", deleted=False)
    assert ask(GET_TREE, "get_tree", ID) == tree
    deleted = Tree(ID, "LOG", "ACTIVE", "sigsum-ops", deleted=True)
    assert ask(LIST_DELETED, "list_trees") == (deleted,)
    assert ask(f"123f423d{LOG_ROOT}", "latest_root", ID) == TreeHead(7, ROOT_7)
    path = ask(PROOF_5_7, "consistency_proof", ID, 5, 7)
    verify_consistency(5, ROOT_5, 7, ROOT_7, path)


def test_a_proof_beyond_the_tree_is_ok_without_a_proof() -> None:
    with pytest.raises(CannotTell, match="without a consistency proof from size 5 to 8"):
        ask(PROOF_BEYOND, "consistency_proof", ID, 5, 8)


def test_an_unreadable_tree_head_is_not_an_empty_tree() -> None:
    with pytest.raises(CannotTell, match="could not read its database"):
        ask(UNREADABLE, "latest_root", ID)


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (pb.ListTreesRequest(show_deleted=True), "0801"),
        (pb.GetTreeRequest(tree_id=1), "0801"),
        (pb.InitLogRequest(log_id=1), "0801"),
        (pb.GetLatestSignedLogRootRequest(log_id=1), "0801"),
        (
            pb.GetConsistencyProofRequest(log_id=1, first_tree_size=2, second_tree_size=3),
            "080110021803",
        ),
        (
            pb.CreateTreeRequest(
                tree=pb.Tree(
                    tree_state=pb.ACTIVE,
                    tree_type=pb.PREORDERED_LOG,
                    display_name="a",
                    max_root_duration={},
                )
            ),
            "0a09100118034201617a00",
        ),
    ],
)
def test_requests_on_the_wire(message: Any, wire: str) -> None:
    assert message.SerializeToString().hex() == wire


def test_generated_code_is_current(tmp_path: Path) -> None:
    """To regenerate: run this command in the repository's root with --python_out=src etc."""
    spec = find_spec("grpc_tools")
    assert spec
    assert spec.origin
    source = Path(sigsum_ops.__file__).parents[1]
    name = "sigsum_ops/log/trillian.proto"
    script = (
        # Not `python -m grpc_tools.protoc`: that needs pkg_resources, which setuptools dropped.
        "import sys; from grpc_tools import _protoc_compiler as protoc;"
        " sys.exit(protoc.run_main([argument.encode() for argument in sys.argv]))"
    )
    includes = [f"-I{source}", f"-I{Path(spec.origin).parent / '_proto'}"]
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([sys.executable, "-c", script, *includes, *outputs, name], check=True)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        path = name.replace(".proto", suffix)
        assert (tmp_path / path).read_text() == (source / path).read_text()


@given(size=st.integers(0, MAX_NUMBER), root=st.binary(min_size=32, max_size=32))
def test_log_root_round_trip(size: int, root: bytes) -> None:
    assert parse_log_root(log_root(size, root)) == TreeHead(size, root)


@given(st.binary(max_size=80))
def test_garbage_log_root(data: bytes) -> None:
    with pytest.raises(CannotTell):
        parse_log_root(data)


def test_malformed_log_roots() -> None:
    good = bytes.fromhex(LOG_ROOT)
    cuts = [good[:length] for length in range(len(good))]
    for wrong in [
        *cuts,
        good + b"\0",
        b"\0\2" + good[2:],
        log_root(0, b""),
        log_root(1, bytes(31)),
    ]:
        with pytest.raises(CannotTell):
            parse_log_root(wrong)
    # Metadata is allowed by the format, although MySQL storage has none.
    assert parse_log_root(good[:-2] + b"\0\1m") == TreeHead(7, ROOT_7)


def test_happy_path(fake: FakeTrillian, client: Trillian) -> None:
    head = client.latest_root(1)
    assert head == fake.trees[1].head
    path = client.consistency_proof(1, 3, 7)
    fake.trees[1].leaves = fake.trees[1].leaves[:3] if fake.trees[1].leaves else None
    verify_consistency(3, fake.trees[1].head.root, 7, head.root, path)
    created = client.create_tree("PREORDERED_LOG", "name")
    assert created == Tree(1001, "PREORDERED_LOG", "ACTIVE", "name", deleted=False)
    with pytest.raises(TreeNotInitialised):
        client.latest_root(1001)
    client.init_log(1001)
    client.init_log(1001)
    assert client.latest_root(1001) == TreeHead(0, EMPTY_ROOT)
    assert [tree.id for tree in client.list_trees()] == [1, 1001]


@pytest.mark.parametrize(("old", "new"), [(0, 7), (7, 7), (0, 0)])
def test_trivial_proofs_are_not_asked_for(
    fake: FakeTrillian, client: Trillian, old: int, new: int
) -> None:
    assert client.consistency_proof(1, old, new) == ()
    assert fake.calls == []


def test_unknown_and_deleted_trees(fake: FakeTrillian, client: Trillian) -> None:
    with pytest.raises(TreeNotFound):
        client.get_tree(2)
    # Only the admin call's word counts: the others find out by asking it again.
    for call in (client.latest_root, client.init_log, lambda i: client.consistency_proof(i, 1, 2)):
        with pytest.raises(CannotTell):
            call(2)
    fake.trees[1].deleted = True
    assert client.get_tree(1).deleted
    assert client.list_trees()[0].deleted
    with pytest.raises(CannotTell):
        client.latest_root(1)


def test_unknown_enum_values_have_a_name() -> None:
    assert ask("0801107b187b", "get_tree", 1) == Tree(
        1, "unknown (123)", "unknown (123)", "", False
    )


CALLS: dict[str, Any] = {
    "ListTrees": lambda client: client.list_trees(),
    "GetTree": lambda client: client.get_tree(1),
    "CreateTree": lambda client: client.create_tree("LOG", ""),
    "InitLog": lambda client: client.init_log(1),
    "GetLatestSignedLogRoot": lambda client: client.latest_root(1),
    "GetConsistencyProof": lambda client: client.consistency_proof(1, 1, 2),
}
# The only answers, other than OK, that say something about the tree.
DEFINITE = {
    ("GetTree", "NOT_FOUND"): TreeNotFound,
    ("GetLatestSignedLogRoot", "FAILED_PRECONDITION"): TreeNotInitialised,
    ("InitLog", "ALREADY_EXISTS"): None,
}


@pytest.mark.parametrize("method", CALLS)
def test_every_error_of_every_call(fake: FakeTrillian, client: Trillian, method: str) -> None:
    for code in (code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK):

        def fail(_method: str, code: str = code) -> None:
            raise Failure(code, "Error 1040 (08004): Too many connections")

        fake.before = fail
        expected = DEFINITE.get((method, code), CannotTell)
        if expected is None:
            CALLS[method](client)
            continue
        with pytest.raises(expected) as error:
            CALLS[method](client)
        if expected is CannotTell:
            assert code in error.value.message
            assert "Too many connections" in error.value.message


def test_a_server_that_hangs_meets_the_deadline(fake: FakeTrillian) -> None:
    released = threading.Event()

    def hang(_method: str) -> None:
        released.wait(10)

    fake.before = hang
    with Trillian(fake.address, deadline=0.2) as client:
        for call in CALLS.values():
            with pytest.raises(CannotTell, match="DEADLINE_EXCEEDED"):
                call(client)
    released.set()


def test_no_proxy_is_used(fake: FakeTrillian, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Trillian(fake.address) as client:
        assert client.latest_root(1).size == 7


def test_no_server() -> None:
    with FakeTrillian() as gone:
        address = gone.address
    with Trillian(address) as client, pytest.raises(CannotTell, match="UNAVAILABLE"):
        client.list_trees()


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def test_retry_says_each_reason_once_and_backs_off() -> None:
    answers = iter(["a", "a", "b", "a", "c", "b", "a"])

    def attempt() -> str:
        if reason := next(answers, None):
            raise CannotTell(reason)
        return "done"

    said: list[str] = []
    clock = Clock()
    assert retry(attempt, wait=None, say=said.append, clock=clock, sleep=clock.sleep) == "done"
    assert said == ["a", "b", "c"]
    assert clock.pauses == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("wait", [0.0, 0.1, 5.0, 60.0])
def test_retry_gives_up_in_time(wait: float) -> None:
    def attempt() -> None:
        raise CannotTell("down")

    clock = Clock()
    with pytest.raises(CannotTell, match="down"):
        retry(attempt, wait=wait, say=lambda _: None, clock=clock, sleep=clock.sleep)
    assert sum(clock.pauses) == pytest.approx(wait)


def test_retry_passes_other_errors_on_at_once() -> None:
    def attempt() -> None:
        raise TreeNotFound("no")

    with pytest.raises(TreeNotFound):
        retry(attempt, wait=None, say=lambda _: None)
