"""The oracle as a service: its socket, its one worker, its deadlines, metrics, start and end.

Connections live on an event loop, where being silent costs nothing and a deadline is one wait;
everything that may block (Trillian, the disk, the device) happens in one worker thread, one request
after the other, as journal and device want it. So the loop answers in time whatever the worker is
stuck in, and the worker gives up by its own deadlines soon after.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.oracle import PROCEDURE
from sigsum_ops.hsm.oracle.agent import Agent
from sigsum_ops.hsm.oracle.approve import (
    OUTCOMES,
    Approver,
    LogApprover,
    Refused,
    TrillianTree,
)
from sigsum_ops.hsm.oracle.config import HsmKey, LogRole, Settings
from sigsum_ops.hsm.oracle.cosign import Cosigned, WitnessApprover
from sigsum_ops.hsm.oracle.journal import Journal
from sigsum_ops.hsm.oracle.latch import Latch
from sigsum_ops.hsm.oracle.metrics import Metrics
from sigsum_ops.hsm.oracle.permit import Permit
from sigsum_ops.hsm.oracle.signatures import Counter
from sigsum_ops.hsm.oracle.signer import HsmSigner, Signer, SignerError, SoftwareSigner, WrongDevice
from sigsum_ops.log.keys import load_private_key
from sigsum_ops.log.merkle import ProofError
from sigsum_ops.log.statefiles import write_durably
from sigsum_ops.service.systemd import credential, notify

log = logging.getLogger("sigsum-oracle")

# log-go waits for ever and gives nothing else to its only connection meanwhile.
WORK_FOR = 3.5  # seconds from the request on, in which the worker tries
ANSWER_WITHIN = 4.5  # seconds after which the answer is failure whatever the worker does
METRICS_EVERY = 10.0  # seconds
TEST = b"sigsum-ops: a standby was asked for a signature; this is no tree head\n"
RETRY_START = 1.0  # seconds between attempts to find the device at the start


class RateLimit:
    """A bucket of one minute's signatures that fills evenly."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute or 0)
        self._at = clock()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        if self._per_minute is None:
            return True
        now = self._clock()
        filled = self._left + (now - self._at) * self._per_minute / 60
        self._left, self._at = min(filled, self._per_minute), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Oracle:
    """Answers requests to sign. Everything but ``sign`` happens in its worker."""

    def __init__(
        self, approver: Approver, signer: Signer, limit: RateLimit, metrics: Metrics
    ) -> None:
        self._approver = approver
        self._signer = signer
        self._limit = limit
        self._metrics = metrics
        self._worker = ThreadPoolExecutor(1, "worker")
        self._said = ""

    async def sign(self, data: bytes) -> bytes | None:
        """A signature, or None; in less than five seconds, whatever happens."""
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + WORK_FOR
        with self._metrics.timed("total"):
            try:
                work = loop.run_in_executor(self._worker, self._sign, data, deadline)
                signature = await asyncio.wait_for(work, ANSWER_WITHIN)
            except TimeoutError:
                refusal = Refused("late", "no answer in time from disk or device")
            except Refused as error:
                refusal = error
            # A bug here must not look like a signature, nor end the log's connection.
            except Exception:
                log.exception("the oracle itself failed")
                refusal = Refused("internal", "the oracle itself failed")
            else:
                self._given()
                return signature
        self._refused(refusal)
        return None

    async def prove(self) -> str:
        """Wait until the pinned key is proven, for as long as the device is away.

        Raises:
            WrongDevice: it is there, and not the one.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                where = await loop.run_in_executor(
                    self._worker, lambda: self._signer.prove(time.monotonic() + WORK_FOR)
                )
            except WrongDevice:
                raise
            except SignerError as error:
                self._say(f"waiting for the device: {error.message}")
                notify(f"STATUS=waiting for the device: {error.message}")
                await asyncio.sleep(RETRY_START)
            else:
                self._metrics.ready = True
                return where

    def close(self) -> None:
        """Wait for the worker, which gives up soon, and let go of the device."""
        self._worker.submit(self._signer.close)
        self._worker.shutdown()

    def _sign(self, data: bytes, deadline: float) -> bytes:
        # In the worker. Whoever asked may be gone by now; do nothing for nobody.
        if time.monotonic() >= deadline:
            raise Refused("late", "too many requests wait")
        if not self._limit.take():
            raise Refused("rate-limited", "more than signatures_per_minute")
        new = self._approver.approve(data)
        if new:
            log.info("%s", new)
        try:
            with self._metrics.timed("device"):
                return self._signer.sign(data, deadline)
        except (SignerError, ProofError) as error:
            raise Refused("device", f"no signature from the device: {error}") from error

    def _given(self) -> None:
        self._metrics.requests["signed"] += 1
        self._metrics.last_signed = time.time()
        if self._said:
            log.info("signing again")
        self._said = ""

    def _refused(self, refusal: Refused) -> None:
        self._metrics.requests[refusal.outcome] += 1
        if refusal.news:
            log.critical("%s", refusal)
            notify("STATUS=LATCHED")
        else:
            self._say(str(refusal))

    def _say(self, message: str) -> None:
        """Log a reason when it is another than the last time: log-go asks again and again."""
        if message != self._said:
            log.warning("%s", message)
        self._said = message


def run(settings: Settings) -> None:
    """Serve until SIGTERM.

    Raises:
        OpsError: the journal, the key or the device is not what it must be.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    metrics = Metrics()
    with ExitStack() as stack:
        approver = _approver(settings, metrics, stack)
        oracle = Oracle(
            approver,
            _signer(settings, metrics, stack),
            RateLimit(settings.signatures_per_minute),
            metrics,
        )
        stack.callback(oracle.close)
        asyncio.run(_serve(settings, oracle, metrics))


def prove(settings: Settings) -> str:
    """Have the device show the pinned key, and make a signature of what is no tree head.

    For a standby, whose oracle does not run: what is signed is counted as the oracle's own.

    Returns:
        Where the device is.

    Raises:
        OpsError: it does not sign with that key, or an oracle runs.
    """
    with ExitStack() as stack:
        if settings.journal.exists():
            stack.enter_context(Journal.open(settings.journal, settings.public_key.hash))
        signer = _signer(settings, Metrics(), stack)
        stack.callback(signer.close)
        deadline = time.monotonic() + WORK_FOR
        where = signer.prove(deadline)
        signer.sign(TEST, deadline)
        return where


async def _serve(settings: Settings, oracle: Oracle, metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    writing = asyncio.create_task(_write_metrics(settings.metrics_file, metrics))
    stopping = asyncio.create_task(stop.wait())
    proving = asyncio.create_task(oracle.prove())
    try:
        await asyncio.wait({proving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not proving.done():
            return
        log.info("key %s proven: %s", settings.public_key.hash, await proving)
        agent = Agent(settings.public_key, f"sigsum-oracle:{settings.public_key.hash}", oracle.sign)
        listening = listen(settings.socket)
        server = await asyncio.start_unix_server(agent.serve, sock=listening)
        try:
            notify("READY=1\nSTATUS=" + ("LATCHED" if metrics.latched else "signing"))
            await stopping
        finally:
            notify("STOPPING=1")
            # Not wait_closed: clients such as log-go never hang up.
            server.close()
            settings.socket.unlink(missing_ok=True)
    finally:
        for task in (proving, stopping, writing):
            task.cancel()
        metrics.ready = False
        _write(settings.metrics_file, metrics)


def _approver(settings: Settings, metrics: Metrics, stack: ExitStack) -> Approver:
    role = settings.role
    if not isinstance(role, LogRole):
        handshake_key = settings.public_key if role.bastion else None
        return WitnessApprover(role.origins, Cosigned(settings.cosigned), handshake_key)
    journal = stack.enter_context(Journal.open(settings.journal, settings.public_key.hash))
    if journal.cut:
        log.warning(
            "%s: cut off an unfinished last line of %d bytes, which was never acknowledged",
            journal.path,
            journal.cut,
        )
    latch = Latch(settings.latch)
    if latch.latched:
        log.critical(
            "LATCHED: %s is there, so nothing is signed. Procedure: %s", latch.path, PROCEDURE
        )
    tree = stack.enter_context(TrillianTree(role.trillian, role.tree_id_file, metrics))
    permit = None
    if role.ungated_until:
        permit = Permit(role.ungated_until, settings.permit_ended, journal.last.time)
        log.warning(
            "the permit to go on without a secondary %s %s",
            "has ended:" if permit.ended() else "ends",
            role.ungated_until.isoformat(),
        )
    return LogApprover(settings.public_key, journal, latch, tree, metrics, permit)


def _signer(settings: Settings, metrics: Metrics, stack: ExitStack) -> Signer:
    key = settings.key
    if isinstance(key, HsmKey):
        return HsmSigner(
            key.connector,
            authentication_key=key.authentication_key,
            signing_key=key.signing_key,
            passphrase=credential(key.passphrase_credential),
            pinned=settings.public_key,
            metrics=metrics,
            counter=stack.enter_context(Counter.open(settings.signatures)),
            rehearsal_allowed=key.rehearsal_device,
        )
    return SoftwareSigner(load_private_key(key.file), settings.public_key)


def listen(path: Path) -> socket.socket:
    """A listening socket for this process's group, in place of one that a killed oracle has left.

    Raises:
        OpsError: another oracle answers there, or it cannot be made.
    """
    listening = socket.socket(socket.AF_UNIX)
    try:
        if path.exists():
            _remove_stale(path)
        # Nobody can connect between bind and chmod.
        previous = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(previous)
        path.chmod(0o660)
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise OpsError(f"{path}: cannot listen: {error.strerror or error}") from error
    except OpsError:
        listening.close()
        raise
    return listening


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OpsError(f"{path}: is there, and not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OpsError(f"{path}: another oracle answers there")


async def _write_metrics(path: Path, metrics: Metrics) -> None:
    while True:
        await asyncio.to_thread(_write, path, metrics)
        await asyncio.sleep(METRICS_EVERY)


def _write(path: Path, metrics: Metrics) -> None:
    try:
        write_durably(path, metrics.render(OUTCOMES))
    except OSError as error:
        log.warning("%s: metrics cannot be written: %s", path, error.strerror)
