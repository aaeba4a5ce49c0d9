"""Following logs over HTTP: what they publish is kept, what contradicts it is evidence."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sigsum_ops import cli
from sigsum_ops.errors import UsageError
from sigsum_ops.log import archive as archives
from sigsum_ops.log import follow as module
from sigsum_ops.log.archive import Archive, ArchiveError, check, evidence, read, seen, unproven
from sigsum_ops.log.follow import Answer, Follower, Outcome, Settings, following, load
from sigsum_ops.log.keys import PublicKey, public_key_of
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.treehead import TreeHead
from tests.log import rfc9162
from tests.log.conftest import LOG_KEY, MemoryLog

KEY = public_key_of(LOG_KEY)
LEAVES = [bytes([n]) * 128 for n in range(100)]
OTHER_LEAVES = [bytes([n + 100]) * 128 for n in range(100)]
GARBAGE = "node_hash=" + "ab" * 32 + "\n"


class Log(MemoryLog):
    """A machine of the log, of which the answer to one kind of request can be replaced."""

    tree_head: str | int | None = None
    proof: str | int | None = None

    def show(self, size: int, leaves: list[bytes] = LEAVES) -> None:
        self.leaves, self.size = list(leaves), size

    async def _get_tree_head(self, request: web.Request) -> web.Response:
        return _replaced(self.tree_head) or await super()._get_tree_head(request)

    async def _get_consistency_proof(self, request: web.Request) -> web.Response:
        self.requests.append("asked for a proof")
        return _replaced(self.proof) or await super()._get_consistency_proof(request)

    @property
    def proofs(self) -> int:
        """How many were asked for since the last time that this was asked."""
        number = self.requests.count("asked for a proof")
        self.requests.clear()
        return number


def _replaced(answer: str | int | None) -> web.Response | None:
    if isinstance(answer, int):
        return web.Response(status=answer, text="as the test wants it\n")
    return None if answer is None else web.Response(text=answer)


@asynccontextmanager
async def served(number: int) -> AsyncIterator[list[Log]]:
    async with AsyncExitStack() as stack:
        logs = []
        for _ in range(number):
            log = Log()
            server = await stack.enter_async_context(TestServer(log.application()))
            log.url = str(server.make_url("/"))
            logs.append(log)
        yield logs


class World:
    """One or more machines, and what follows them."""

    def __init__(self, logs: list[Log], archive: Archive, follower: Follower) -> None:
        self.log, *self.others = logs
        self.archive = archive
        self.follower = follower

    async def look(self, log: Log | None = None) -> Answer:
        return await self.follower.look((log or self.log).url)

    async def outcome(self, log: Log | None = None) -> Outcome:
        return (await self.look(log)).outcome

    @property
    def sizes(self) -> list[int]:
        """Of what is in the archive, all verified."""
        path = self.archive.path
        return [one.head.size for one in read(path, KEY)] if self.archive.heads else []

    @property
    def unproven(self) -> list[int]:
        """Sizes of what is beside the archive."""
        found = unproven(self.archive.path, KEY)
        assert sorted(self.archive.unproven, key=lambda one: one.head.size) == found
        return [one.head.size for one in found]

    @property
    def evidence(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in evidence(self.archive.path)]


@asynccontextmanager
async def world(directory: Path, machines: int = 1) -> AsyncIterator[World]:
    async with served(machines) as logs:
        urls = tuple(log.url for log in logs)
        settings = Settings(KEY, urls, directory / "heads", 0.01, None)
        async with following(settings) as (archive, follower):
            yield World(logs, archive, follower)


# --- an honest log ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 100), max_size=12))
@settings(max_examples=20, deadline=None)
def test_whatever_an_honest_log_shows_goes_together(sizes: list[int]) -> None:
    """What grows is kept, each once; what shrinks is proven, by a machine that has all leaves."""

    async def scenario(directory: Path) -> None:
        async with world(directory, 2) as it:
            it.others[0].show(100)
            kept: list[int] = []
            for size in sizes:
                it.log.show(size)
                new = not kept or size > kept[-1]
                assert await it.outcome() == (Outcome.KEPT if new else Outcome.KNOWN)
                kept += [size] * new
                assert it.sizes == kept
            assert it.evidence == []
            assert it.unproven == []

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scenario(Path(directory)))


async def test_an_unchanged_head_costs_one_small_request(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.log.show(40)
        await it.look()
        before = [(path, path.stat()) for path in tmp_path.iterdir()]
        it.log.requests.clear()
        for _ in range(10):
            assert await it.outcome() == Outcome.KNOWN
        assert it.log.requests == ["GET /get-tree-head"] * 10
        assert [(path, path.stat()) for path in tmp_path.iterdir()] == before


async def test_a_smaller_head_is_proven_once(tmp_path: Path) -> None:
    """As of a former primary that goes on repeating its own."""
    async with world(tmp_path, 2) as it:
        old, *_ = it.others
        for size in (10, 30):
            it.log.show(size)
            await it.look()
        assert it.log.proofs == 1
        old.show(10)  # it is in the archive
        assert await it.outcome(old) == Outcome.KNOWN
        old.show(20)  # it is not, and a machine whose tree ends there cannot prove what comes later
        for _ in range(5):
            assert await it.outcome(old) == Outcome.KNOWN
        assert (it.log.proofs, old.proofs) == (1, 1)
        assert it.sizes == [10, 30]
        assert it.follower.seen > 0


async def test_the_time_of_the_largest_head_is_not_that_of_a_smaller_one(tmp_path: Path) -> None:
    async with world(tmp_path, 2) as it:
        it.log.show(30)
        await it.look()
        it.follower.seen = 5.0
        it.others[0].show(20)
        assert await it.outcome(it.others[0]) == Outcome.KNOWN
        assert it.follower.seen == 5.0
        await it.look()
        assert time.time() - it.follower.seen < 60


async def test_an_archive_goes_on_where_it_ended(tmp_path: Path) -> None:
    for size in (5, 9):
        async with world(tmp_path) as it:
            it.log.show(size)
            assert await it.outcome() == Outcome.KEPT
    assert check(tmp_path / "heads", KEY).heads == 2


# --- split views --------------------------------------------------------------------------------


def verified(found: dict[str, Any]) -> tuple[TreeHead, TreeHead]:
    """The two tree heads of a piece of evidence, with both signatures verified, as anybody may."""
    heads = []
    for name in ("kept", "found"):
        fields = found[name]
        head = TreeHead(fields["size"], bytes.fromhex(fields["root_hash"]))
        key = PublicKey.from_ssh(found["log_public_key"])
        key.verify(bytes.fromhex(fields["signature"]), head.checkpoint(key))
        heads.append(head)
    return heads[0], heads[1]


@given(st.integers(1, 60), st.integers(0, 40))
@settings(max_examples=15, deadline=None)
def test_a_second_history_is_evidence_and_following_goes_on(size: int, more: int) -> None:
    """The same size is shown by two signatures; a larger or smaller one by the log's own proof."""

    async def scenario(directory: Path) -> None:
        async with world(directory) as it:
            it.log.show(size)
            await it.look()
            shared = size // 2
            second = [*LEAVES[:shared], *OTHER_LEAVES[shared:]]
            it.log.show(size + more, second)
            assert await it.outcome() == Outcome.SPLIT_VIEW
            assert await it.outcome() == Outcome.SPLIT_VIEW
            (found,) = it.evidence
            kept, other = verified(found)
            assert kept == TreeHead(size, rfc9162.root(LEAVES[:size]))
            assert other == TreeHead(size + more, rfc9162.root(second[: size + more]))
            if more:
                assert found["kind"] == "not-proven"
                path = found["proof"]["node_hashes"]
                sizes = (found["proof"]["old_size"], found["proof"]["new_size"])
                assert sizes == (size, size + more)
                with pytest.raises(ProofError):
                    verify_consistency(
                        kept.size, kept.root, other.size, other.root, list(map(bytes.fromhex, path))
                    )
            else:
                assert (found["kind"], found["proof"]) == ("other-root", None)
            it.log.show(size + 20)
            assert await it.outcome() == Outcome.KEPT
            assert it.sizes == [size, size + 20]
            assert len(it.evidence) == 1

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scenario(Path(directory)))


async def test_a_second_root_of_a_size_long_ago(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        for size in (5, 9, 20):
            it.log.show(size)
            await it.look()
        it.log.show(9, OTHER_LEAVES)
        assert await it.outcome() == Outcome.SPLIT_VIEW
        (found,) = it.evidence
        assert found["kind"] == "other-root"
        assert [head.size for head in verified(found)] == [9, 9]


async def test_a_smaller_head_of_another_history(tmp_path: Path) -> None:
    async with world(tmp_path, 2) as it:
        it.log.show(20)
        await it.look()
        it.others[0].show(15, OTHER_LEAVES)
        assert await it.outcome(it.others[0]) == Outcome.SPLIT_VIEW
        (found,) = it.evidence
        assert found["kind"] == "not-proven"
        assert [head.size for head in verified(found)] == [20, 15]
        assert (found["proof"]["old_size"], found["proof"]["new_size"]) == (15, 20)
        assert found["found"]["url"] == it.others[0].url


async def test_an_empty_tree_has_one_root(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.log.show(0)
        it.log.forge = lambda _size: b"x" * 32
        assert await it.outcome() == Outcome.UNPROVEN  # there is nothing yet to set it against
        assert it.unproven == []
        it.log.forge = lambda _size: None
        it.log.show(5)
        assert await it.outcome() == Outcome.KEPT
        it.log.show(0)
        assert await it.outcome() == Outcome.KNOWN
        it.log.forge = lambda _size: b"x" * 32
        assert await it.outcome() == Outcome.SPLIT_VIEW
        assert it.sizes == [5]


async def test_evidence_that_the_disk_does_not_take_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with world(tmp_path) as it:
        it.log.show(9)
        await it.look()
        it.log.show(9, OTHER_LEAVES)
        with monkeypatch.context() as patch:
            patch.setattr(archives, "write_durably", fails)
            for _ in range(2):
                with pytest.raises(ArchiveError, match="No space left"):
                    await it.look()
        assert "SPLIT VIEW" in caplog.text
        assert "EVIDENCE NOT KEPT" in caplog.text
        assert await it.outcome() == Outcome.SPLIT_VIEW
        assert len(it.evidence) == 1


# --- signed, and not proven ---------------------------------------------------------------------


async def test_what_a_log_showed_before_it_died_is_not_forgotten(tmp_path: Path) -> None:
    """A promotion has to cover it; the proof can be had from the machine that was promoted."""
    async with world(tmp_path) as it:
        it.log.show(9)
        await it.look()
        it.log.show(14)
        it.log.proof = 500
        assert await it.outcome() == Outcome.UNPROVEN
        it.log.tree_head = 500
        assert await it.outcome() == Outcome.NO_ANSWER
        assert (it.sizes, it.unproven) == ([9], [14])
    assert [one.head.size for one in seen(tmp_path / "heads", KEY)] == [14, 9]
    async with world(tmp_path) as it:  # another machine, after a restart
        it.log.show(12)
        assert await it.outcome() == Outcome.KEPT
        assert (it.sizes, it.unproven) == ([9, 12], [14])
        it.log.show(20)
        assert await it.outcome() == Outcome.KEPT
        assert (it.sizes, it.unproven, it.evidence) == ([9, 12, 20], [], [])
        assert it.log.requests[-1] == "GET /get-consistency-proof/14/20"
    assert [one.head.size for one in seen(tmp_path / "heads", KEY)] == [20]


async def test_the_very_first_can_be_the_one_that_is_proven_later(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.log.show(9)
        await it.look()
        it.log.show(14)
        it.log.proof = 500
        await it.look()
        it.log.proof = None
        assert await it.outcome() == Outcome.KEPT
        assert (it.sizes, it.unproven) == ([9, 14], [])


async def test_a_second_history_shows_when_a_proof_can_be_had(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as it:
        it.log.show(9)
        await it.look()
        it.log.show(14, OTHER_LEAVES)
        it.log.proof = 500
        assert await it.outcome() == Outcome.UNPROVEN
        it.log.show(20)
        it.log.proof = None
        assert await it.outcome() == Outcome.KEPT  # of itself, there is nothing against it
        assert (it.sizes, it.unproven) == ([9, 20], [])
        (found,) = it.evidence
        assert [head.size for head in verified(found)] == [20, 14]
        assert "SPLIT VIEW (not-proven)" in caplog.text


async def test_the_unproven_do_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_EVIDENCE", 3)
    async with world(tmp_path) as it:
        it.log.show(9)
        await it.look()
        it.log.proof = 500
        for size in (20, 10, 30, 40, 15):
            it.log.show(size)
            assert await it.outcome() == Outcome.UNPROVEN
        assert it.unproven == [20, 30, 40]


# --- what shows nothing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        404,
        500,
        301,
        "",
        "size=5\n",
        "<html>502 Bad Gateway</html>\n",
        f"size=-1\nroot_hash={'ab' * 32}\nsignature={'ab' * 64}\n",
        f"size=5\nroot_hash={'ab' * 32}\nsignature={'ab' * 64}\n",
    ],
)
async def test_nonsense_is_never_evidence(tmp_path: Path, answer: str | int) -> None:
    async with world(tmp_path) as it:
        for heads in (0, 1):
            it.log.tree_head = answer
            said = await it.look()
            assert said.outcome == Outcome.NO_ANSWER
            assert it.log.url in said.text
            assert (it.archive.heads, it.evidence) == (heads, [])
            it.log.tree_head = None
            it.log.show(9)
            await it.look()


async def test_another_logs_signature_is_never_evidence(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.log.show(9)
        await it.look()
        it.log.key = PublicKey(bytes(32))  # another origin, signed with the same key
        it.log.show(12)
        said = await it.look()
        assert said.outcome == Outcome.NO_ANSWER
        assert "signature is not by the key" in said.text
        assert (it.sizes, it.evidence) == ([9], [])


@pytest.mark.parametrize("answer", [404, 500, "", "node_hash=zz\n", "<html>\n"])
@pytest.mark.parametrize("size", [5, 12])
async def test_without_a_proof_nothing_is_known(
    tmp_path: Path, answer: str | int, size: int
) -> None:
    async with world(tmp_path) as it:
        it.log.show(9)
        await it.look()
        it.log.show(size, OTHER_LEAVES)
        it.log.proof = answer
        for _ in range(2):
            assert await it.outcome() == Outcome.UNPROVEN
        assert (it.sizes, it.unproven, it.evidence) == ([9], [size], [])


@pytest.mark.parametrize("answer", [500, GARBAGE])
async def test_one_proof_that_verifies_is_enough(tmp_path: Path, answer: str | int) -> None:
    async with world(tmp_path, 3) as it:
        it.log.show(9)
        await it.look()
        it.log.show(14)
        it.log.proof = it.others[0].proof = answer
        it.others[1].show(14)
        assert await it.outcome() == Outcome.KEPT
        assert (it.sizes, it.evidence) == ([9, 14], [])


async def test_proofs_of_which_none_verifies(tmp_path: Path) -> None:
    async with world(tmp_path, 2) as it:
        it.log.show(9)
        await it.look()
        it.log.show(14)
        it.log.proof, it.others[0].proof = GARBAGE, 500
        assert await it.outcome() == Outcome.SPLIT_VIEW
        (found,) = it.evidence
        assert found["proof"]["node_hashes"] == ["ab" * 32]
        assert found["message"].startswith(it.log.url)


async def test_nobody_there(tmp_path: Path) -> None:
    settings = Settings(KEY, ("http://127.0.0.1:1/",), tmp_path / "heads", 1, None)
    async with following(settings) as (archive, follower):
        answer = await follower.look("http://127.0.0.1:1/")
        assert answer.outcome == Outcome.NO_ANSWER
        assert archive.last is None


# --- the configuration --------------------------------------------------------------------------

TOML = f'public_key = "{KEY.ssh}"\nurls = ["http://192.0.2.1:6965"]\nfile = "/f"\n'


def test_defaults(tmp_path: Path) -> None:
    path = tmp_path / "archive.toml"
    path.write_text(TOML)
    assert load(path) == Settings(KEY, ("http://192.0.2.1:6965",), Path("/f"), 5, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "urls is missing"),
        (TOML.replace('["http://192.0.2.1:6965"]', "[]"), "urls is '\\[\\]': allowed is at least"),
        (TOML.replace('["http://192.0.2.1:6965"]', '["http://h", "http://h"]'), "each once"),
        (TOML.replace('["http://192.0.2.1:6965"]', "[5]"), "at least one URL"),
        (TOML.replace("http://", "ftp://"), "not an http or https URL"),
        (TOML.replace("192.0.2.1", "192.0.2.1/ä "), "printable ASCII"),
        (TOML.replace("ssh-ed25519", "ssh-rsa"), "not an Ed25519 public key"),
        (TOML.replace("/f", "f"), "file is 'f': allowed is an absolute path"),
        (TOML + "interval = 0\n", "interval is '0': allowed is a number from 1 to 3600"),
        (TOML + "intervall = 5\n", "intervall is not a setting"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "archive.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as refusal:
        load(path)
    assert str(path) in refusal.value.message


# --- the command --------------------------------------------------------------------------------


class Site:
    """A directory with a configuration for logs that are served."""

    def __init__(self, directory: Path, *logs: Log) -> None:
        self.archive = directory / "heads"
        self.metrics_file = directory / "metrics.prom"
        self.config = directory / "archive.toml"
        self.key = directory / "log.pub"
        self.key.write_text(KEY.ssh + "\n")
        self.config.write_text(
            f'public_key = "{KEY.ssh}"\nurls = {json.dumps([log.url for log in logs])}\n'
            f'file = "{self.archive}"\ninterval = 1\nmetrics_file = "{self.metrics_file}"\n'
        )

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Run the command in a thread, beside the logs."""
        done = await asyncio.to_thread(CliRunner().invoke, cli.app, ["archive", *arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    async def once(self) -> tuple[int, dict[str, Any]]:
        code, out = await self.run("follow", "--once", "--json", f"--config={self.config}")
        return code, json.loads(out)

    @property
    def metrics(self) -> dict[str, float]:
        rows = self.metrics_file.read_text().splitlines()
        pairs = (row.split(" ") for row in rows if not row.startswith("#"))
        return {name.removeprefix("sigsum_head_archive_"): float(at) for name, at in pairs}


async def test_following_once(tmp_path: Path) -> None:
    async with served(2) as (log, other):
        site = Site(tmp_path, log, other)
        other.tree_head = 404
        log.show(20)
        code, report = await site.once()
        assert code == 0
        assert (report["heads"], report["last"]["size"], report["split_views"]) == (1, 20, [])
        assert [answer["outcome"] for answer in report["answers"]] == ["kept", "no-answer"]
        assert site.metrics["last_size"] == 20
        assert time.time() - site.metrics["last_seen_timestamp_seconds"] < 60
        log.tree_head = 404
        assert (await site.once())[0] == 75
        log.tree_head = None
        log.show(30)
        log.proof = 500
        assert (await site.once())[0] == 75
        assert site.metrics["unproven"] == 1
        log.proof = None
        assert (await site.once())[0] == 0
        assert {**site.metrics, "last_seen_timestamp_seconds": 0} == {
            "heads": 2,
            "last_size": 30,
            "last_seen_timestamp_seconds": 0,
            "unproven": 0,
            "split_view": 0,
        }


async def test_a_split_view_is_said_until_a_person_moves_the_evidence(tmp_path: Path) -> None:
    async with served(1) as (log,):
        site = Site(tmp_path, log)
        log.show(20)
        await site.once()
        log.show(20, OTHER_LEAVES)
        code, report = await site.once()
        assert (code, report["answers"][0]["outcome"]) == (1, "split-view")
        log.show(25)
        code, report = await site.once()
        assert (code, report["answers"][0]["outcome"]) == (1, "kept")
        assert report["split_views"] == list(map(str, evidence(site.archive)))
        assert site.metrics["split_view"] == 1
        log.show(30)
        log.proof = 500
        assert (await site.once())[0] == 1
        code, out = await site.run("check", str(site.archive), f"--log-key={site.key}")
        assert code == 1
        assert "SPLIT VIEW" in out
        assert "not proven to go with these: size 30, root" in out
        code, out = await site.run("follow", "--once", f"--config={site.config}")
        assert code == 1
        assert report["split_views"][0] in out


async def test_checking_and_showing(tmp_path: Path) -> None:
    async with served(1) as (log,):
        site = Site(tmp_path, log)
        for size in (7, 20):
            log.show(size)
            await site.once()
    which = (str(site.archive), f"--log-key={site.key}")
    code, out = await site.run("check", *which, "--json")
    shown = json.loads(out)
    assert (code, shown["heads"], shown["unfinished_bytes"]) == (0, 2, 0)
    assert (shown["unproven"], shown["split_views"]) == ([], [])
    assert (shown["first"]["size"], shown["last"]["size"]) == (7, 20)
    code, out = await site.run("check", *which)
    assert code == 0
    assert out.startswith(f"{site.archive}: 2 tree heads")
    assert log.url in out
    code, out = await site.run("show", *which)
    roots = [rfc9162.root(LEAVES[:size]).hex() for size in (7, 20)]
    assert out.splitlines() == [f"size 7, root {roots[0]}", f"size 20, root {roots[1]}"]
    _, out = await site.run("show", *which, "--json")
    assert [head["root_hash"] for head in json.loads(out)["heads"]] == roots
    _, out = await site.run("show", *which, "--last")
    signature = LOG_KEY.sign(TreeHead(20, bytes.fromhex(roots[1])).checkpoint(KEY)).hex()
    assert out == f"size=20\nroot_hash={roots[1]}\nsignature={signature}\n"
    _, out = await site.run("show", *which, "--last", "--json")
    assert json.loads(out) == {"size": 20, "root_hash": roots[1], "signature": signature}
    _, out = await site.run("check-config", str(site.config), "--json")
    assert json.loads(out) == {"key_hash": KEY.hash, "urls": [log.url]}
    with pytest.raises(UsageError, match="--json goes with --once"):
        await site.run("follow", "--json", f"--config={site.config}")


# --- the service --------------------------------------------------------------------------------


async def eventually(holds: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        await asyncio.sleep(0.05)


@asynccontextmanager
async def service(site: Site) -> AsyncIterator[subprocess.Popen[str]]:
    """The service as systemd runs it, from when it says that it is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        address = site.config.with_name("notify")
        address.unlink(missing_ok=True)
        notified.bind(str(address))
        program = str(Path(sys.executable).with_name("sigsum-ops"))
        process = subprocess.Popen(
            [program, "archive", "follow", f"--config={site.config}"],
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            notified.settimeout(20)
            assert await asyncio.to_thread(notified.recv, 100) == b"READY=1"
            yield process
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)


def _heads(site: Site) -> list[int]:
    return [one.head.size for one in read(site.archive, KEY)]


async def test_the_service_follows_whichever_machine_answers(tmp_path: Path) -> None:
    async with served(2) as (first, second):
        site = Site(tmp_path, first, second)
        first.show(10)
        second.tree_head = 404
        async with service(site) as process:
            await eventually(lambda: site.archive.stat().st_size > 200)
            assert _heads(site) == [10]
            second.tree_head, first.tree_head = None, 404  # promoted
            second.show(15)
            await eventually(lambda: _heads(site) == [10, 15])
            first.tree_head = None  # the old one returns
            await asyncio.sleep(1.5)
            second.show(16, OTHER_LEAVES)
            await eventually(lambda: bool(evidence(site.archive)))
            second.show(18)
            await eventually(lambda: _heads(site) == [10, 15, 18])
            process.send_signal(signal.SIGTERM)
            _, said = await asyncio.to_thread(process.communicate, timeout=20)
            assert process.returncode == 0
        assert said.count("SPLIT VIEW (not-proven)") == 1
        assert f"{second.url}: following" in said
        assert (site.metrics["split_view"], site.metrics["last_size"]) == (1, 18)
    check(site.archive, KEY)


async def test_a_service_that_is_killed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async with served(1) as (log,):
        site = Site(tmp_path, log)
        for size in (3, 4, 9):
            log.show(size)
            async with service(site) as process:
                await eventually(lambda: site.archive.stat().st_size > 200)
                await eventually(lambda: _heads(site)[-1] == size)  # noqa: B023
                process.kill()
        assert _heads(site) == [3, 4, 9]


async def test_a_damaged_archive_ends_the_service(tmp_path: Path) -> None:
    async with served(1) as (log,):
        site = Site(tmp_path, log)
        log.show(5)
        await site.once()
        site.archive.write_bytes(site.archive.read_bytes().replace(b" ", b"_", 1))
        with pytest.raises(ArchiveError, match="line 1"):
            await module.serve(load(site.config))


async def test_a_full_disk_ends_the_service_which_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with served(1) as (log,):
        site = Site(tmp_path, log)
        log.show(5)
        await site.once()
        log.show(6)
        before = site.archive.read_bytes()
        monkeypatch.setattr(os, "fdatasync", fails)
        with pytest.raises(ArchiveError, match="cannot be written"):
            await module.serve(load(site.config))
        monkeypatch.undo()
        assert site.archive.read_bytes() == before
        assert (await site.once())[0] == 0
        assert _heads(site) == [5, 6]
