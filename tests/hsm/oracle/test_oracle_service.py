"""The service: what it signs, that it always answers, and how it starts and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm import rehearsal
from sigsum_ops.hsm.oracle import approve, latch, service
from sigsum_ops.hsm.oracle import journal as journal_module
from sigsum_ops.hsm.oracle.approve import LogApprover, TrillianTree
from sigsum_ops.hsm.oracle.cosign import Cosigned, WitnessApprover
from sigsum_ops.hsm.oracle.journal import Journal, create
from sigsum_ops.hsm.oracle.latch import Latch
from sigsum_ops.hsm.oracle.metrics import Metrics
from sigsum_ops.hsm.oracle.service import Oracle, RateLimit, listen
from sigsum_ops.hsm.oracle.signer import SignerError, SoftwareSigner, WrongDevice
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.treehead import TreeHead
from sigsum_ops.service.systemd import credential
from tests.hsm.oracle import hsm
from tests.hsm.oracle.world import (
    FOREIGN,
    KEY,
    LEAVES,
    SECRET,
    World,
    ask,
    ask_on,
    checkpoint,
    head,
)
from tests.log.fake_trillian import Failure


class Device(SoftwareSigner):
    """A device that fails as a test wants."""

    def __init__(self) -> None:
        super().__init__(SECRET, KEY)
        self.before: Callable[[], None] = lambda: None
        self.signed: list[bytes] = []

    def sign(self, message: bytes, deadline: float) -> bytes:
        self.before()
        self.signed.append(message)
        return super().sign(message, deadline)


class Running:
    """An oracle without its socket."""

    def __init__(self, world: World, per_minute: int | None = None) -> None:
        self.world = world
        self.metrics = Metrics()
        self.device = Device()
        self.journal = Journal.open(world.journal, KEY.hash)
        self.latch = Latch(world.latch)
        self.tree = TrillianTree(world.trillian.address, world.tree_id, self.metrics)
        self.oracle = Oracle(
            LogApprover(KEY, self.journal, self.latch, self.tree, self.metrics),
            self.device,
            RateLimit(per_minute),
            self.metrics,
        )

    async def sign(self, size: int, leaves: list[bytes] = LEAVES) -> bool:
        return await self.ask(checkpoint(size, leaves))

    async def ask(self, data: bytes) -> bool:
        """Whether it was signed; a signature is checked."""
        counted = sum(self.metrics.requests.values())
        signature = await self.oracle.sign(data)
        assert sum(self.metrics.requests.values()) == counted + 1
        if signature is not None:
            KEY.verify(signature, data)
        return signature is not None

    def close(self) -> None:
        self.oracle.close()
        self.tree.__exit__()
        self.journal.close()

    def journaled(self, size: int) -> bytes | None:
        """What the file says, to another process."""
        with Journal.open(self.world.journal, KEY.hash, writable=False) as journal:
            return journal.root_at(size)


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    world.seed()
    oracle = Running(world)
    yield oracle
    oracle.close()


@contextmanager
def restarted(world: World) -> Iterator[Running]:
    oracle = Running(world)
    try:
        yield oracle
    finally:
        oracle.close()


# An honest log


async def test_a_growing_log(running: Running) -> None:
    assert await running.sign(0)
    for size in (1, 4, 4, 12):
        assert await running.sign(size)
    assert running.journal.records == 4
    running.world.grow(20)
    assert await running.sign(20)
    # Asked for again, smaller than the last: the log could not store it, and lost its secondary.
    running.world.trillian.calls.clear()
    for size in (4, 0, 12, 20):
        assert await running.sign(size)
    assert not running.world.trillian.calls
    assert running.metrics.requests == {"signed": 10}


async def test_it_is_journaled_before_the_device_is_asked(running: Running) -> None:
    seen: list[bytes | None] = []
    running.device.before = lambda: seen.append(running.journaled(5))
    assert await running.sign(5)
    assert seen == [head(5).root]


async def test_across_a_restart(running: Running) -> None:
    assert await running.sign(5)
    running.journal.close()  # as a killed oracle leaves it
    with restarted(running.world) as again:
        assert await again.sign(5)
        assert await again.sign(12)
        assert not await again.sign(6)
    running.journal = Journal.open(running.world.journal, KEY.hash)


# Not now


@pytest.mark.parametrize(
    "spoil",
    [
        lambda world: setattr(world.trillian, "root_is_unreadable", True),
        lambda world: world.tree_id.unlink(),
        lambda world: world.tree_id.write_text(""),
        lambda world: world.tree_id.write_text("tree-id=2\n"),
        lambda world: world.grow(4),
        lambda world: world.grow(0),
    ],
)
async def test_not_now(running: Running, spoil: Callable[[World], None]) -> None:
    assert await running.sign(5)
    spoil(running.world)
    assert not await running.sign(12)
    assert await running.sign(5)
    assert running.metrics.requests == {"signed": 2, "not-now": 1}
    assert not running.latch.latched
    assert running.journaled(12) is None


async def test_trillian_in_error_and_back(running: Running) -> None:
    def fail(_method: str) -> None:
        raise Failure("UNAVAILABLE")

    running.world.trillian.before = fail
    for _ in range(3):
        assert not await running.sign(5)
    running.world.trillian.before = lambda _method: None
    assert await running.sign(5)
    assert running.metrics.requests == {"signed": 1, "not-now": 3}


# Latch

WRONG = [
    ("another root for a size that was signed", 5, FOREIGN, 12),
    ("a larger foreign tree", 12, FOREIGN, 12),
    ("a root that nobody has", 9, [b"x"] * 9, 12),
]


@pytest.mark.parametrize(
    ("size", "leaves", "has"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
async def test_a_split_view_latches_for_good(
    running: Running, size: int, leaves: list[bytes], has: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert await running.sign(5)
    running.world.grow(has, leaves)
    assert not await running.sign(size, leaves)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    for words in (str(head(5)), str(head(size, leaves)), "docs/bcp/oracle-latched.md"):
        assert words in said
    evidence = json.loads(running.world.latch.read_text())
    assert evidence["journaled"] == {"size": 5, "root_hash": head(5).root.hex()}
    assert evidence["requested"]["root_hash"] == head(size, leaves).root.hex()
    assert bytes.fromhex(evidence["request"]) == checkpoint(size, leaves)
    assert evidence["tree_id"] == 1
    # Nothing is signed now, not even what was, nor after a restart.
    running.world.grow(12)
    for again in (5, 0, 12):
        assert not await running.sign(again)
    assert running.device.signed == [checkpoint(5)]
    assert running.metrics.requests == {"signed": 1, "latched": 4}
    running.journal.close()
    with restarted(running.world) as after:
        assert not await after.sign(5)
        assert b"\nsigsum_oracle_latched 1\n" in after.metrics.render(approve.OUTCOMES)
    running.journal = Journal.open(running.world.journal, KEY.hash)


async def test_a_latch_on_a_full_disk_still_holds(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    assert await running.sign(5)
    with monkeypatch.context() as patch:
        patch.setattr(latch, "write_durably", full)
        assert not await running.sign(5, FOREIGN)
        assert not await running.sign(5)
    assert not running.world.latch.exists()
    assert not await running.sign(5)
    assert running.world.latch.exists()


# Nothing else is signed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"SSHSIG\0\0\0\4file",
        checkpoint(5)[:-1],
        checkpoint(5) + b"extension\n",
        b"cosignature/v1\ntime 1700000000\n" + checkpoint(5),
        checkpoint(5).replace(KEY.hash.encode(), b"0" * 64),
    ],
)
async def test_nothing_else_is_signed(running: Running, data: bytes) -> None:
    assert not await running.ask(data)
    assert running.metrics.requests == {"malformed": 1}
    assert not running.device.signed


async def test_a_witness(tmp_path: Path) -> None:
    origins = (f"sigsum.org/v1/tree/{KEY.hash}", "other.example/log")
    body = checkpoint(5)
    message = f"cosignature/v1\ntime {time.time():.0f}\n".encode()
    metrics = Metrics()
    approver = WitnessApprover(origins, Cosigned.begin(tmp_path / "cosigned"))
    oracle = Oracle(approver, Device(), RateLimit(None), metrics)
    for good in (message + body, message + body.replace(origins[0].encode(), origins[1].encode())):
        signature = await oracle.sign(good)
        assert signature
        KEY.verify(signature, good)
    for bad in (body, message, message + body + b"x\n", message + body.replace(b"tree", b"trie")):
        assert await oracle.sign(bad) is None
    oracle.close()
    assert metrics.requests == {"signed": 2, "malformed": 4}


# It always answers


async def test_a_device_that_fails(running: Running) -> None:
    def fail() -> None:
        raise SignerError("unplugged")

    running.device.before = fail
    assert not await running.sign(5)
    running.device.before = lambda: None
    assert await running.sign(5)
    assert running.metrics.requests == {"device": 1, "signed": 1}
    assert running.journal.records == 2


async def test_a_bug_is_an_answer_too(running: Running) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    running.device.before = fail
    assert not await running.sign(5)
    running.device.before = lambda: None
    assert await running.sign(5)
    assert running.metrics.requests == {"internal": 1, "signed": 1}


async def test_a_device_that_hangs(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    running.device.before = lambda: (go.wait(10), None)[1]
    begin = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(service, "ANSWER_WITHIN", 0.3)
        patch.setattr(service, "WORK_FOR", 0.2)
        # One is stuck in the device, the others wait for the worker: all are answered.
        requests = (running.oracle.sign(checkpoint(size)) for size in (5, 12, 0))
        assert await asyncio.gather(*requests) == [None] * 3
    assert time.monotonic() - begin < 5
    go.set()
    running.device.before = lambda: None
    await asyncio.sleep(0.1)
    # What nobody waits for any more was not done.
    assert running.device.signed == [checkpoint(5)]
    assert running.journaled(12) is None
    assert await running.sign(12)
    assert running.metrics.requests == {"late": 3, "signed": 1}


async def test_trillian_that_hangs(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert approve.TRILLIAN_DEADLINE * 2 < service.WORK_FOR < service.ANSWER_WITHIN < 5
    go = threading.Event()
    assert await running.sign(5)
    running.world.trillian.before = lambda _method: (go.wait(10), None)[1]
    monkeypatch.setattr(running.tree._trillian, "_deadline", 0.2)
    begin = time.monotonic()
    assert not await running.sign(12)
    assert time.monotonic() - begin < 5
    assert await running.sign(5)  # needs no proof
    go.set()
    assert running.metrics.requests == {"signed": 2, "not-now": 1}


async def test_a_full_disk(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert not await running.sign(5)
    assert not running.device.signed
    assert await running.sign(5)
    assert running.metrics.requests == {"journal": 1, "signed": 1}


async def test_a_rate_limit(world: World) -> None:
    world.seed()
    oracle = Running(world, per_minute=2)
    assert [await oracle.sign(5) for _ in range(4)] == [True, True, False, False]
    assert oracle.metrics.requests == {"signed": 2, "rate-limited": 2}
    oracle.close()


def test_the_rate_limit_fills_evenly() -> None:
    now = [0.0]
    limit = RateLimit(60, lambda: now[0])
    assert [limit.take() for _ in range(61)].count(True) == 60
    now[0] = 1.5
    assert [limit.take(), limit.take()] == [True, False]
    now[0] = 1000
    assert [limit.take() for _ in range(100)].count(True) == 60


async def test_the_device_is_waited_for(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "RETRY_START", 0.01)
    answers: list[Exception | str] = [SignerError("away"), SignerError("away"), "a device"]

    def prove(_deadline: float) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(running.device, "prove", prove)
    assert await running.oracle.prove() == "a device"
    assert running.metrics.ready
    answers.append(WrongDevice("another"))
    with pytest.raises(WrongDevice):
        await running.oracle.prove()


# Metrics


async def test_metrics(running: Running) -> None:
    assert await running.sign(5)
    assert not await running.ask(b"x")
    lines = running.metrics.render(approve.OUTCOMES).decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values['sigsum_oracle_requests_total{outcome="signed"}'] == "1"
    assert values['sigsum_oracle_requests_total{outcome="malformed"}'] == "1"
    assert values['sigsum_oracle_requests_total{outcome="late"}'] == "0"
    assert values['sigsum_oracle_requests_total{outcome="permit-ended"}'] == "0"
    assert values["sigsum_oracle_ungated"] == "0"
    assert "sigsum_oracle_ungated_until_seconds" not in values
    assert values['sigsum_oracle_stages_total{stage="total"}'] == "2"
    assert values['sigsum_oracle_stages_total{stage="device"}'] == "1"
    assert 0 < float(values['sigsum_oracle_seconds_total{stage="journal"}']) < 1
    assert values["sigsum_oracle_journal_size"] == "5"
    assert values["sigsum_oracle_journal_records"] == "2"
    assert abs(float(values["sigsum_oracle_last_signed_timestamp_seconds"]) - time.time()) < 60
    for name in {line.split()[2] for line in lines if line.startswith("# TYPE")}:
        assert sum(line.startswith(f"# HELP {name} ") for line in lines) == 1


# The socket and the credential


def test_the_socket_is_for_its_group(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    listen(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    listen(path).close()  # what a killed oracle leaves is replaced
    with listen(path), pytest.raises(OpsError, match="another oracle"):
        listen(path)
    path.unlink()
    path.write_text("mine")
    with pytest.raises(OpsError, match="not a socket"):
        listen(path)
    assert path.read_text() == "mine"


def test_a_socket_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="cannot listen"):
        listen(tmp_path / "missing" / "agent.sock")


def test_the_passphrase_comes_from_systemd_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(OpsError, match="CREDENTIALS_DIRECTORY"):
        credential("x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(OpsError, match="cannot be read"):
        credential("x")
    for content, found in ((b"a b\n", "a b"), (b"a\n\n", "a\n"), ("ä".encode(), "ä")):
        (tmp_path / "x").write_bytes(content)
        assert credential("x") == found
    for content in (b"", b"\n", b"\xff"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(OpsError):
            credential("x")


# The program


class Program:
    """``sigsum-ops oracle run``, and systemd's ear."""

    def __init__(self, world: World, **environment: str) -> None:
        self.world = world
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = world.directory / "notify"
        address.unlink(missing_ok=True)
        self.ear.bind(str(address))
        self.ear.settimeout(20)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sigsum_ops.cli", "oracle", "run", "-c", world.config],
            env={**os.environ, "NOTIFY_SOCKET": str(address), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        while "READY=1" not in self.ear.recv(4096).decode():
            assert self.process.poll() is None

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and what it said."""
        if number:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=20)
        self.ear.close()
        return self.process.returncode, said


def openssh(world: World, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(world.socket)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_the_program_and_openssh(world: World) -> None:
    world.seed()
    program = Program(world)
    program.wait_until_ready()
    listed = openssh(world, "ssh-add", "-L")
    assert listed.stdout == f"{KEY.ssh} sigsum-oracle:{KEY.hash}\n"

    public, message = world.directory / "log.pub", world.directory / "message"
    public.write_text(listed.stdout)
    message.write_bytes(checkpoint(5))
    refused = openssh(world, "ssh-keygen", "-Y", "sign", "-n", "file", "-f", public, message)
    assert refused.returncode != 0
    assert "agent refused operation" in refused.stderr
    assert not message.with_suffix(".sig").exists()
    assert openssh(world, "ssh-add", "-T", public).returncode != 0
    assert openssh(world, "ssh-add", "-D").returncode != 0
    assert openssh(world, "ssh-add", world.key_file).returncode != 0

    signature = ask(world.socket, checkpoint(5))
    assert signature
    KEY.verify(signature, checkpoint(5))
    assert ask(world.socket, checkpoint(6)[:-1]) is None

    idle = socket.socket(socket.AF_UNIX)
    idle.connect(str(world.socket))
    code, said = program.end()
    assert code == 0, said
    assert idle.recv(1) == b""
    idle.close()
    assert not world.socket.exists()
    assert stat.S_IMODE(world.metrics.stat().st_mode) == 0o644
    assert 'requests_total{outcome="signed"} 1\n' in world.metrics.read_text()
    assert "Traceback" not in said
    assert "agent refused" not in said


def test_the_program_killed_and_started_again(world: World) -> None:
    world.seed()
    program = Program(world)
    program.wait_until_ready()
    assert ask(world.socket, checkpoint(12))
    program.end(signal.SIGKILL)
    world.grow(12, FOREIGN)
    begin = time.monotonic()
    program = Program(world)
    program.wait_until_ready()
    assert time.monotonic() - begin < 10
    assert ask(world.socket, checkpoint(12))
    assert ask(world.socket, checkpoint(12, FOREIGN)) is None
    assert ask(world.socket, checkpoint(12)) is None
    code, said = program.end()
    assert code == 0
    assert "LATCHED (other-root)" in said
    assert head(12, FOREIGN).root.hex() in said


def test_the_program_with_a_permit(world: World) -> None:
    """It signs larger tree heads until then, and not after; also when it is started again."""
    world.seed()
    until = int(time.time()) + 12
    world.until = datetime.fromtimestamp(until, UTC)
    program = Program(world)
    program.wait_until_ready()
    assert ask(world.socket, checkpoint(5))
    while not world.metrics.exists():  # written beside, and for the first time just now
        assert time.time() < until, "this machine is too slow for this test"
        time.sleep(0.05)
    assert f"\nsigsum_oracle_ungated_until_seconds {until}\n" in world.metrics.read_text()
    assert "\nsigsum_oracle_ungated 1\n" in world.metrics.read_text()
    assert time.time() < until, "this machine is too slow for this test"
    time.sleep(until - time.time())
    assert ask(world.socket, checkpoint(12)) is None
    assert ask(world.socket, checkpoint(5))
    assert ask(world.socket, checkpoint(0))
    code, said = program.end()
    assert code == 0
    assert "the permit to go on without a secondary ends 20" in said
    assert "nothing larger than size 5 is signed until playbooks/reseed.yml" in said
    assert 'requests_total{outcome="permit-ended"} 1\n' in world.metrics.read_text()
    assert "\nsigsum_oracle_ungated 0\n" in world.metrics.read_text()

    program = Program(world)
    program.wait_until_ready()
    assert ask(world.socket, checkpoint(12)) is None
    assert ask(world.socket, checkpoint(5))
    assert "the permit to go on without a secondary has ended: 20" in program.end()[1]

    world.until = None  # a secondary was re-seeded
    program = Program(world)
    program.wait_until_ready()
    assert ask(world.socket, checkpoint(12))
    program.end()


def test_a_permit_is_over_where_the_journal_is_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was put back by an hour since the last tree head."""
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "time", SimpleNamespace(time=lambda: time.time() + 3600))
        world.seed()
    for hours, ended in ((0.5, True), (2, False)):
        world.until = datetime.now(UTC) + timedelta(hours=hours)
        metrics = Metrics()
        with ExitStack() as stack:
            service._approver(world.settings, metrics, stack)
            assert metrics.permit
            assert metrics.permit.ended() is ended


def test_the_program_and_a_device(world: World) -> None:
    """Not ready before the device is; then it outlives the device's and the connector's absence."""
    world.seed()
    credentials = world.directory / "credentials"
    credentials.mkdir()
    (credentials / "hsm-passphrase").write_text(f"{hsm.PASSPHRASE}\n")
    with rehearsal.serve({hsm.SERIAL: world.directory / "device"}) as urls:
        url = urls[hsm.SERIAL]
        hsm.provision(url)
        rehearsal.strike(url, "unplug")
        world.hsm = (
            f'[hsm]\nconnector = "{url}"\nauthentication_key = {hsm.AUTHENTICATION_KEY}\n'
            f"signing_key = {hsm.SIGNING_KEY}\n"
            'passphrase_credential = "hsm-passphrase"\nrehearsal_device = true\n'
        )
        program = Program(world, CREDENTIALS_DIRECTORY=str(credentials))
        assert "waiting for the device" in program.ear.recv(4096).decode()
        assert not world.socket.exists()
        rehearsal.clear(url)
        program.wait_until_ready()

        # As log-go does it: one connection for all.
        with socket.socket(socket.AF_UNIX) as log:
            log.connect(str(world.socket))
            assert ask_on(log, checkpoint(5))
            rehearsal.strike(url, "hang@sign-eddsa")
            begin = time.monotonic()
            assert ask_on(log, checkpoint(12)) is None
            assert time.monotonic() - begin < 5
            rehearsal.clear(url)
            assert ask_on(log, checkpoint(12))
            rehearsal.strike(url, "unplug=1")
            assert ask_on(log, checkpoint(12)) is None
            time.sleep(1.1)
            assert ask_on(log, checkpoint(12))
            rehearsal.strike(url, "lose-sessions")
            assert ask_on(log, checkpoint(5))
    code, said = program.end()
    assert code == 0
    assert hsm.PASSPHRASE not in said
    assert f"YubiHSM {hsm.SERIAL} at {url}" in said


@pytest.mark.parametrize("spoiled", ["journal", "key", "damage"])
def test_the_program_does_not_start(world: World, spoiled: str) -> None:
    if spoiled != "journal":
        world.seed(TreeHead(0, bytes(32)))
    if spoiled == "damage":
        header, record = world.journal.read_bytes().splitlines(keepends=True)
        world.journal.write_bytes(header + record.replace(b"00", b"01", 1))
    config = world.config
    if spoiled == "key":
        other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        world.journal.unlink()
        create(world.journal, PublicKey(other).hash, head(0))
        config.write_text(config.read_text().replace(KEY.ssh, other.hex()))
    done = subprocess.run(
        [sys.executable, "-m", "sigsum_ops.cli", "oracle", "run", "-c", config],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    expected = {"journal": "no journal", "key": "not the pinned", "damage": "line 2"}
    assert expected[spoiled] in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not world.socket.exists()
