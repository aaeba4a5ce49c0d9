"""What witnesses have cosigned is learnt over HTTP; none of them cosigns anything new for it."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature

from sigsum_ops.errors import UsageError
from sigsum_ops.failover import look, witness
from sigsum_ops.failover.adopt import Places
from sigsum_ops.failover.witness import Answer, ask, latest, request, understood
from sigsum_ops.log.archive import Archive
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.policy import Entity
from sigsum_ops.log.treehead import TreeHead, parse_checkpoint, parse_signed_tree_head
from tests.failover.world import FOREIGN, KEY, SECRET, SIZE, head, secondary, signed

SENT = parse_signed_tree_head(signed(head()))
ORIGIN = f"sigsum.org/v1/tree/{KEY.hash}"


@dataclass
class Witness:
    """A witness that keeps to c2sp.org/tlog-witness, in the order of its rules."""

    known: TreeHead
    cosigned: list[TreeHead] = field(default_factory=list)

    def add_checkpoint(self, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        text = "text/plain"
        top, _, note = body.partition(b"\n\n")
        old_line, *proof_lines = top.decode("ascii").split("\n")
        word, _, number = old_line.partition(" ")
        if word != "old" or str(int(number)) != number or len(proof_lines) > 63:
            return 400, text, b"not such a request\n"
        old, path = int(number), [base64.b64decode(line, validate=True) for line in proof_lines]
        checkpoint, _, signatures = note.partition(b"\n\n")
        if not checkpoint.startswith(ORIGIN.encode() + b"\n"):
            return 404, text, b"unknown log\n"
        if not any(self.verifies(line, checkpoint + b"\n") for line in signatures.splitlines()):
            return 403, text, b"no signature of the log\n"
        new = parse_checkpoint(checkpoint + b"\n", KEY)
        if old > new.size:
            return 400, text, b"old size above the checkpoint's\n"
        if old != self.known.size:
            return 409, "text/x.tlog.size", b"%d\n" % self.known.size
        try:
            if old == 0 and path:
                raise ProofError("a proof from the empty tree")
            if old:
                verify_consistency(old, self.known.root, new.size, new.root, path)
        except ProofError:
            return 422, text, b"no such proof\n"
        self.known = new
        self.cosigned.append(new)
        return 200, text, b"\xe2\x80\x94 cosigned\n"

    @staticmethod
    def verifies(line: bytes, checkpoint: bytes) -> bool:
        """Whether a line of a signed note (c2sp.org/signed-note) is the log's signature."""
        dash, name, encoded = line.decode().split(" ")
        blob = base64.b64decode(encoded, validate=True)
        key_id = sha256(f"{ORIGIN}\n\x01".encode() + KEY.raw).digest()[:4]
        if (dash, name, blob[:4]) != ("\N{EM DASH}", ORIGIN, key_id):
            return False
        try:
            SECRET.public_key().verify(blob[4:], checkpoint)
        except InvalidSignature:
            return False
        return True


Respond = Callable[[bytes], tuple[int, str, bytes]]


@contextmanager
def serving(respond: Respond) -> Iterator[str]:
    """An HTTP server at a URL, with a prefix as one behind a bastion has."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path != "/prefix/add-checkpoint":
                self.send_error(404)
                return
            status, kind, answer = respond(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("Location", "/prefix/add-checkpoint")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/prefix"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asked(respond: Respond, slash: str = "") -> Answer:
    with serving(respond) as url:
        (answer,) = ask({"w": Entity(KEY, url + slash), "no-url": Entity(KEY, None)}, SENT, KEY)
        assert (answer.name, answer.url) == ("w", url + slash)
    return answer


@pytest.mark.parametrize("size", [0, 1, SIZE - 1, SIZE, SIZE + 1, 20])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_witness_tells_its_size_and_cosigns_nothing_new(size: int, slash: str) -> None:
    here = Witness(head(size))
    answer = asked(here.add_checkpoint, slash)
    assert (answer.size, answer.reason, answer.other_root) == (size, "", False)
    assert (here.known, set(here.cosigned)) == (head(size), {head(SIZE)} & {head(size)})


def test_one_that_has_another_tree_of_the_size() -> None:
    """The first is litewitness 0.9.0's answer, the second the specification's."""
    here = Witness(head(SIZE, FOREIGN))
    for respond in (here.add_checkpoint, lambda _: (409, "text/x.tlog.size", b"%d\n" % SIZE)):
        answer = asked(respond)
        assert (answer.size, answer.other_root) == (SIZE, True)
    assert here.cosigned == []


@pytest.mark.parametrize(
    ("status", "kind", "body", "reason"),
    [
        (404, "text/plain", b"", "answers with status 404"),
        (403, "text/plain", b"", "answers with status 403"),
        (307, "text/plain", b"", "answers with status 307"),
        (500, "text/x.tlog.size", b"12\n", "answers with status 500"),
        (409, "text/plain", b"12\n", "answers with status 409, but no size"),
        (409, "text/x.tlog.size", b"12", "answers with status 409, but no size"),
        (409, "text/x.tlog.size", b"012\n", "answers with status 409, but no size"),
        (409, "text/x.tlog.size", b"-1\n", "answers with status 409, but no size"),
        (409, "text/x.tlog.size", b"12\n12\n", "answers with status 409, but no size"),
        (409, "text/x.tlog.size", b"1" * 5000, "answers with status 409, but no size"),
        (409, "text/x.tlog.size", b"9" * 19 + b"\n", f"answers with size {'9' * 19}"),
    ],
)
def test_an_answer_that_tells_no_size(status: int, kind: str, body: bytes, reason: str) -> None:
    answer = asked(lambda _body: (status, kind, body))
    assert (answer.size, answer.reason, answer.other_root) == (None, reason, False)


def test_a_content_type_may_have_parameters() -> None:
    assert understood(12, 409, "text/x.tlog.size; charset=utf-8", b"13\n") == (13, "")


def test_a_witness_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    (answer,) = ask({"w": Entity(KEY, f"http://127.0.0.1:{port}")}, SENT, KEY)
    assert answer.size is None
    assert answer.reason.startswith("does not answer: ")


@pytest.mark.parametrize("url", ["no url", "ftp://127.0.0.1/", "http://"])
def test_what_is_no_url_of_a_witness(url: str) -> None:
    (answer,) = ask({"w": Entity(KEY, url)}, SENT, KEY)
    assert (answer.size, answer.reason.startswith("does not answer")) == (None, True)


def test_witnesses_that_say_nothing_are_waited_for_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(witness, "TIMEOUT", 3.0)  # of which who answers may need some
    begun = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        serving(Witness(head(3)).add_checkpoint) as url,
    ):
        mute = f"http://127.0.0.1:{silent.getsockname()[1]}"
        witnesses = {"a": Entity(KEY, mute), "b": Entity(KEY, url), "c": Entity(KEY, mute)}
        first, second, third = ask(witnesses, SENT, KEY)
    assert first.reason == third.reason == "does not answer in 3 s"
    assert second.size == 3
    assert time.monotonic() - begun < 2 * witness.TIMEOUT


def test_without_a_tree_head_nobody_can_be_asked() -> None:
    (answer,) = ask({"w": Entity(KEY, "http://127.0.0.1:1")}, None, KEY)
    assert (answer.size, "no tree head" in answer.reason) == (None, True)
    assert ask({}, SENT, KEY) == []


def test_the_largest_tree_head_is_sent_and_never_the_empty_one() -> None:
    """Whoever knows nothing of the log would take the empty tree's for its first."""
    few = [parse_signed_tree_head(signed(head(size))) for size in (0, 3, 12, 7)]
    assert latest(few) == few[2]
    assert latest(few[:1]) is None
    assert latest([]) is None


# Where the tree head comes from


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setattr(look, "ARCHIVE", tmp_path / "heads")
    monkeypatch.setattr(look, "POLICY", tmp_path / "policy")
    return secondary(tmp_path / "state")


def write_policy(url: str) -> None:
    text = f"witness w {'11' * 32} {url}\nwitness other {'22' * 32}\nquorum w\n"
    look.POLICY.write_text(text)


@pytest.mark.parametrize("source", ["given", "archive", "sth"])
def test_the_machine_asks_with_what_it_has(source: str, places: Places) -> None:
    sent: list[bytes] = []

    def respond(body: bytes) -> tuple[int, str, bytes]:
        sent.append(body)
        return Witness(head(15)).add_checkpoint(body)

    if source == "archive":
        with Archive.open(look.ARCHIVE, KEY) as archive:
            archive.append(SENT, "http://192.0.2.1:6965/", ())
    if source == "sth":
        places.sth.write_bytes(signed(head()))
    with serving(respond) as url:
        write_policy(url)
        (answer,) = look.witnesses(KEY, places, [SENT] if source == "given" else [])
    assert answer == {"name": "w", "url": url, "size": 15, "reason": "", "other_root": False}
    assert sent == [request(SENT, KEY)]


def test_damaged_evidence_keeps_nobody_from_asking_with_the_rest(places: Places) -> None:
    look.ARCHIVE.write_bytes(b"damaged")
    places.sth.write_bytes(signed(head(), SECRET)[:-3])
    with serving(Witness(head(15)).add_checkpoint) as url:
        write_policy(url)
        (answer,) = look.witnesses(KEY, places, [SENT])
    assert answer["size"] == 15


def test_a_machine_without_a_policy_or_with_one_that_cannot_be_read(places: Places) -> None:
    assert look.witnesses(KEY, places, [SENT]) == []
    look.POLICY.write_text("quorum none\n")
    assert look.witnesses(KEY, places, [SENT]) == []
    look.POLICY.write_text("nonsense\n")
    with pytest.raises(UsageError, match="unknown keyword"):
        look.witnesses(KEY, places, [SENT])
