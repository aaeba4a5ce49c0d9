"""``sigsum-ops stress``: load for a log that the operator owns, and proof of what it acknowledged.

A run has five parts, one after the other: leaves are signed; they are submitted while the log's
tree heads are watched; the log is given time to publish them; each accepted leaf is submitted again
until it is acknowledged with 200; each leaf so acknowledged is proven to be in the published tree.
Every tree head seen has its signature checked and is proven to extend the one before.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import resource
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log import merkle
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.keys import load_private_key, load_public_key
from sigsum_ops.log.leaf import submit_token
from sigsum_ops.log.loadgen import (
    LEAVES_PER_SECOND,
    Attempt,
    Heads,
    Prepared,
    Tell,
    following,
    prepare,
    spread,
    submit,
)
from sigsum_ops.log.merkle import ProofError
from sigsum_ops.log.stress_report import plot, summary
from sigsum_ops.log.target import Target, choose_target, log_of_inventory

# A load beyond these takes an explicit option: one log's disk keeps every leaf for ever.
MAX_CLIENTS, MAX_SECONDS, MAX_LEAVES = 64, 300.0, 100_000


@dataclass(frozen=True)
class Load:
    """What to submit, and how hard.

    Without a ``rate``, each of ``clients`` submits the next leaf once its last was answered. With
    one (leaves per second, all clients together), leaves are due at even times; a log too slow for
    it makes them late, and their latency counts from when they were due.
    """

    seed: str
    clients: int = 16
    seconds: float | None = 10.0
    rate: float | None = None
    count: int | None = None
    drain: float = 90.0

    @property
    def leaves(self) -> int:
        """How many leaves to sign."""
        if self.count is not None:
            return self.count
        per_second = self.rate or LEAVES_PER_SECOND
        return math.ceil(per_second * (self.seconds or 0))

    def check(self, *, unlimited: bool = False) -> None:
        """Refuse what makes no sense, and what is more than a slip of the hand should do."""
        numbers = {
            "--concurrency": self.clients,
            "--duration": self.seconds,
            "--rate": self.rate,
            "--count": self.count,
        }
        for option, number in numbers.items():
            if number is not None and not (0 < number < math.inf):
                raise UsageError(f"{option} {number}: allowed is a number above 0")
        if not 0 <= self.drain < math.inf:
            raise UsageError(f"--drain {self.drain}: allowed is 0 or more seconds")
        limits = {"--concurrency": MAX_CLIENTS, "--duration": MAX_SECONDS, "--count": MAX_LEAVES}
        over = [name for name, limit in limits.items() if (numbers[name] or 0) > limit]
        if self.rate and self.leaves > MAX_LEAVES and not over:
            over.append("--rate")
        if over and not unlimited:
            raise UsageError(
                f"{' and '.join(over)}: more than {MAX_CLIENTS} clients, {MAX_SECONDS:g} s or"
                f" {MAX_LEAVES} leaves in one run",
                hint="A log keeps every leaf for ever. If that is what you want: --no-limits",
            )


def execute(
    load: Load,
    *,
    url: str | None = None,
    log_key: Path | None = None,
    inventory: Path | None = None,
    owned: bool = False,
    unlimited: bool = False,
    token_domain: str | None = None,
    token_key: Path | None = None,
    trillian_metrics: str | None = None,
    out: Path | None = None,
    tell: Tell = lambda _text: None,
) -> dict[str, Any]:
    """The verb: check everything, run, save, and return the ``summary``.

    Args:
        load: what to submit; refused beyond the limits unless ``unlimited``.
        url, log_key, inventory, owned: which log, see ``choose_target``.
        token_domain, token_key: for a log that limits rates; both or none.
        trillian_metrics, tell: see ``run``.
        out: directory for ``result.json`` and ``plot.png``; made if it is not there.
    """
    load.check(unlimited=unlimited)
    if (token_domain is None) != (token_key is None):
        raise UsageError("a submit token takes both --token-domain and --token-key")
    target = choose_target(
        url,
        load_public_key(log_key) if log_key else None,
        owned=owned,
        listed=lambda: log_of_inventory(inventory),
    )
    token = None
    if token_domain is not None and token_key is not None:
        token = submit_token(load_private_key(token_key), target.key, token_domain)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    done = asyncio.run(run(target, load, token=token, trillian_metrics=trillian_metrics, tell=tell))
    result = summary(done)
    if out is not None:
        (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        plot(done, out / "plot.png")
    return result


@dataclass
class Run:
    """Everything that a run saw; ``summary`` says what it means."""

    target: Target
    load: Load
    leaves: list[Prepared]
    heads: Heads
    began: datetime
    before: int  # leaves in the log's tree head at the start
    start: float
    end: float = 0.0  # of the load: its last answer
    cpu: float = 0.0  # our own processor seconds during the load
    sequenced: float | None = None  # leaves that Trillian integrated during the load
    attempts: dict[int, Attempt] = field(default_factory=dict)
    confirmed: set[int] = field(default_factory=set)  # acknowledged with 200
    proven: dict[int, int] = field(default_factory=dict)  # leaf to its index in the tree
    unproven: dict[int, str] = field(default_factory=dict)  # confirmed leaf to why not

    @property
    def accepted(self) -> set[int]:
        """The leaves that the log took, with 200 or 202."""
        return {i for i, attempt in self.attempts.items() if attempt.outcome in ("200", "202")}

    @property
    def passed(self) -> bool:
        """Whether leaves were acknowledged with 200, all of them are proven, and no head lied."""
        return bool(self.proven) and not self.unproven and not self.heads.violations


async def run(
    target: Target,
    load: Load,
    *,
    token: str | None = None,
    trillian_metrics: str | None = None,
    tell: Tell = lambda _text: None,
) -> Run:
    """Load the log, then prove what it acknowledged. The bounds of ``load`` are the caller's.

    Args:
        target: the log's URL and public key.
        load: what to submit.
        token: ``leaf.submit_token``, where the log limits rates.
        trillian_metrics: URL of the primary's Trillian signer's /metrics, if it can be reached.
        tell: called with a line for the person who waits.

    Raises:
        OpsError: the log cannot be reached, or its tree head is not signed by its key.
    """
    tell(f"signing {load.leaves} leaves")
    leaves = prepare(load.seed, load.leaves)
    async with LogClient(target.url, token=token) as client:
        heads = Heads(client, target.key)
        async with following(heads):
            counted = await _sequenced(trillian_metrics)
            run = Run(target, load, leaves, heads, datetime.now(UTC), heads.size, time.monotonic())
            await _load(run, client, tell)
            if counted is not None:
                run.sequenced = (await _sequenced(trillian_metrics) or counted) - counted
            await _confirm(run, client, tell)
            await _prove(run, client, tell)
    return run


async def _load(run: Run, client: LogClient, tell: Tell) -> None:
    stop = asyncio.Event()
    if run.load.seconds is not None:
        asyncio.get_running_loop().call_later(run.load.seconds, stop.set)

    async def watch() -> None:
        while True:
            tell(
                f"submitting: {time.monotonic() - run.start:.0f} s, {len(run.attempts)} answers,"
                f" {run.heads.size - run.before} leaves published"
            )
            await asyncio.sleep(1)

    watcher = asyncio.create_task(watch())
    used = resource.getrusage(resource.RUSAGE_SELF)
    try:
        await submit(
            client,
            run.leaves,
            run.attempts,
            stop,
            clients=run.load.clients,
            rate=run.load.rate,
        )
    finally:
        watcher.cancel()
    run.end = time.monotonic()
    now = resource.getrusage(resource.RUSAGE_SELF)
    run.cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


async def _confirm(run: Run, client: LogClient, tell: Tell) -> None:
    """Submit what was accepted again, until it is acknowledged with 200 or the drain time is over.

    That costs the log as much as the load did, so it waits for the tree to have grown by as many
    leaves first; where others submit too, that is early, and it waits for the next tree head.
    """
    until = time.monotonic() + run.load.drain
    run.confirmed = {i for i, attempt in run.attempts.items() if attempt.outcome == "200"}
    pending = run.accepted - run.confirmed
    tell(f"waiting until {len(pending)} leaves are published")
    await run.heads.wait(run.before + len(pending), until)

    async def again(index: int) -> None:
        with suppress(ApiError):
            if await client.add_leaf(run.leaves[index].body):
                run.confirmed.add(index)

    while pending:
        size = run.heads.size
        tell(f"asking again for {len(pending)} leaves, at size {size}")
        await spread(run.load.clients, sorted(pending), again)
        pending -= run.confirmed
        if not pending or not await run.heads.wait(size + 1, until):
            break


async def _prove(run: Run, client: LogClient, tell: Tell) -> None:
    """Prove each leaf that was acknowledged with 200 to be in the published tree.

    The log acknowledges what is in its *signed* tree head and publishes that a little later, once
    witnesses had their time; so a leaf that is not in the published tree gets as long as the drain.
    """
    until = time.monotonic() + run.load.drain

    async def prove(index: int) -> None:
        leaf_hash = run.leaves[index].leaf_hash
        try:
            proof = await client.get_inclusion_proof(head.size, leaf_hash)
            merkle.verify_inclusion(leaf_hash, proof.index, head.size, head.root, proof.path)
        except (ApiError, ProofError) as error:
            run.unproven[index] = error.message
        else:
            run.proven[index] = proof.index
            run.unproven.pop(index, None)

    run.unproven = dict.fromkeys(run.confirmed, "not asked for")
    while run.unproven:
        head = run.heads.latest
        tell(f"proving {len(run.unproven)} leaves at size {head.size}")
        if head.size:
            await spread(run.load.clients, sorted(run.unproven), prove)
        if not run.unproven or not await run.heads.wait(head.size + 1, until):
            break


async def _sequenced(url: str | None) -> float | None:
    """The sum of ``sequencer_sequenced`` over the trees of a Trillian signer."""
    if url is None:
        return None
    import aiohttp

    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            text = await response.text()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise OpsError(
            f"{url}: cannot read Trillian's metrics: {error}",
            hint="It is the signer's /metrics. Leave --trillian-metrics out if it is out of reach.",
        ) from error
    values = re.findall(r"^sequencer_sequenced(?:\{[^}]*\})? (\S+)", text, re.MULTILINE)
    return math.fsum(map(float, values))
