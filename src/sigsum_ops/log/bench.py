"""``sigsum-ops bench``: the settings of upstream's Ansible collection and ours, on one lab.

Or, with ``--change``, ours with some of them changed, and ours. In each round, first the other
side's settings are put in force, then ours, and under each is measured:

- the time from a submission to its verified proof, for a few submitters that poll as sigsum-submit
  does on an otherwise idle log;
- under the load of many clients, after a warm-up, how many leaves a second are accepted, and how
  many are published, that is: signed, and therefore stored by the secondary before.

A log publishes in steps, one each interval, so both rates are taken between two steps: the first
after the warm-up, and the first at least a window later. docs/performance.md says more.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log import merkle
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.loadgen import (
    LEAVES_PER_SECOND,
    POLL,
    Attempt,
    Heads,
    Prepared,
    Seen,
    Tell,
    following,
    prepare,
    spread,
    submit,
)
from sigsum_ops.log.merkle import ProofError
from sigsum_ops.log.target import Target, log_of_inventory
from sigsum_ops.site import ansible

PLAYBOOK = "sigsum_ops.site.bench_upstream"
CONVERGE = "sigsum_ops.site.site"
_UPSTREAM_INTERVAL = 30.0  # seconds, of the primary and of the secondary
# No step for so long is no publishing at all. Under load, steps were never more than two of the
# longest intervals apart.
_STEP_LIMIT = 3 * _UPSTREAM_INTERVAL
_DRAIN_LIMIT = 300.0
_START_LIMIT = 120.0
_SUBMIT_POLL = 2.0  # sigsum-submit's delay between two attempts
_GOLDEN = (math.sqrt(5) - 1) / 2
_SAMPLE = 100  # accepted leaves that are proven afterwards


@dataclass(frozen=True)
class Plan:
    """How long and how hard to measure; times in seconds.

    ``proofs`` submissions are timed, see ``starts``. With ``changes``, variables of roles and their
    values, ours is not compared with upstream's, but with ours changed.
    """

    seed: str
    rounds: int = 2
    clients: int = 64
    warmup: float = 35.0
    window: float = 60.0
    proofs: int = 20
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def sides(self) -> tuple[str, str]:
        """What is compared."""
        return ("changed" if self.changes else "upstream", "ours")

    def check(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("rounds", "clients", "warmup", "window", "proofs"):
            if not 0 < (number := getattr(self, name)) < 10_000:
                raise UsageError(f"--{name} {number}: allowed is a number above 0 and below 10000")


@dataclass(frozen=True)
class Rates:
    """Leaves per second over ``seconds``, in which the tree head changed ``steps`` times."""

    replicated_per_s: float
    accepted_per_s: float
    seconds: float
    steps: int


@dataclass(frozen=True)
class Sample:
    """One side in one round."""

    side: str
    round: int
    replicated_per_s: float
    accepted_per_s: float
    proof_s: list[float]
    window_s: float
    steps: int
    answers: dict[str, int]
    accepted: int
    unpublished: int
    tree_size: int


Switch = Callable[[str, int], None]


def execute(
    plan: Plan,
    *,
    inventory: Path | None = None,
    out: Path | None = None,
    tell: Tell = lambda _text: None,
) -> dict[str, Any]:
    """The verb: measure both sides on the inventory's lab, leave it with ours, return the result.

    Args:
        plan: what to measure.
        inventory: of a lab; the playbook refuses any other.
        out: file for the result as JSON, beside standard output.
        tell: called with a line for the person who waits.
    """
    plan.check()
    target = log_of_inventory(inventory)

    def switch(side: str, round_: int) -> None:
        if plan.changes:
            converge(plan.changes if side == "changed" else {}, inventory)
        put_in_force(side, offset(round_, plan.rounds), inventory)

    if plan.changes:
        tell("making sure that this is a lab")
        put_in_force("ours", 0, inventory)
    began, load_average = datetime.now(UTC), os.getloadavg()
    try:
        samples = asyncio.run(measure_all(target, plan, switch, tell))
    finally:
        tell("putting our settings back")
        switch("ours", 0)
    result = {
        **compare(samples, plan.sides),
        "began": began.isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load_average_before": [round(load, 2) for load in load_average],
        "plan": asdict(plan),
    }
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def offset(round_: int, rounds: int) -> float:
    """How much later than the secondary the primary starts, in seconds, under upstream's settings.

    Both have the same interval there, so what a leaf waits between the two is decided by when they
    were started. Rounds take the middles of equal parts of an interval; their mean favours nobody.
    """
    return _UPSTREAM_INTERVAL * (round_ % rounds + 0.5) / rounds


def put_in_force(side: str, offset_s: float, inventory: Path | None) -> None:
    """Run the playbook that switches a lab to one side's settings and restarts everything.

    Raises:
        OpsError: it failed; on a machine that is not a lab it always does, before any change.
    """
    variables = {"bench_state": "present" if side == "upstream" else "absent"}
    if side == "upstream":
        variables["bench_offset_s"] = str(round(offset_s))
    _play(
        PLAYBOOK,
        variables,
        inventory,
        hint="playbooks/bench_upstream.yml with -e bench_state=absent removes what it left.",
    )


def converge(changes: Mapping[str, str], inventory: Path | None) -> None:
    """Converge the site with some settings changed; what changed is restarted by its role.

    Raises:
        OpsError: it failed. A setting that the roles do not know, or of a wrong form, is refused by
            the inventory's check, before any change.
    """
    _play(CONVERGE, changes, inventory, hint="playbooks/site.yml puts the inventory's back.")


def parse_changes(words: Iterable[str]) -> dict[str, str]:
    """``VARIABLE=VALUE``, as often as wanted; the role's own specification judges the values."""
    changes = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier() or name in changes:
            raise UsageError(
                f"--change {word}: allowed is VARIABLE=VALUE, each variable once",
                hint="The variables are in roles/*/README.md.",
            )
        changes[name] = value
    return changes


def _play(
    playbook: str, variables: Mapping[str, str], inventory: Path | None, *, hint: str
) -> None:
    arguments = ("--extra-vars", json.dumps(variables), playbook)
    done = ansible.run("ansible-playbook", *arguments, inventory=inventory)
    if done.returncode != 0:
        raise OpsError(
            f"settings could not be put in force:\n{(done.stderr + done.stdout)[-2000:]}", hint=hint
        )


async def measure_all(target: Target, plan: Plan, switch: Switch, tell: Tell) -> list[Sample]:
    """Every side in every round, one after the other."""
    samples = []
    for round_ in range(plan.rounds):
        for side in plan.sides:
            name = f"round {round_ + 1} of {plan.rounds}, {side}"
            tell(f"{name}: restarting with its settings")
            leaves = (plan.warmup + plan.window + 2 * _UPSTREAM_INTERVAL) * LEAVES_PER_SECOND
            prepared, _ = await asyncio.gather(
                asyncio.to_thread(prepare, f"{plan.seed}/{side}/{round_}", int(leaves)),
                asyncio.to_thread(switch, side, round_),
            )
            sample = await measure(target, plan, prepared, side, round_, prefixed(tell, name))
            tell(
                f"{name}: {sample.replicated_per_s} replicated/s,"
                f" {sample.accepted_per_s} accepted/s,"
                f" proof after {_median(sample.proof_s)} s"
            )
            samples.append(sample)
    return samples


def prefixed(tell: Tell, name: str) -> Tell:
    """Say in each line what it is about."""
    return lambda text: tell(f"{name}: {text}")


async def measure(
    target: Target, plan: Plan, leaves: Sequence[Prepared], side: str, round_: int, tell: Tell
) -> Sample:
    """Measure the settings that are in force."""
    async with LogClient(target.url) as client:
        heads = Heads(client, target.key)
        await until_it_answers(heads)
        async with following(heads):
            tell(f"timing {plan.proofs} submissions to their proofs")
            proofs = await time_proofs(client, target, leaves[: plan.proofs])
            before = heads.size
            tell(f"loading with {plan.clients} clients")
            attempts: dict[int, Attempt] = {}
            rates = await rate_under_load(client, heads, plan, leaves[plan.proofs :], attempts)
            accepted = [i for i, one in attempts.items() if one.outcome in ("200", "202")]
            tell(f"waiting until all {len(accepted)} are published")
            await heads.wait(before + len(accepted), time.monotonic() + _DRAIN_LIMIT)
            unpublished = max(before + len(accepted) - heads.size, 0)
            if not unpublished:
                chosen = random.Random(plan.seed).sample(accepted, min(_SAMPLE, len(accepted)))  # noqa: S311
                await prove(client, heads, [leaves[plan.proofs + i] for i in chosen])
            if heads.violations:
                raise ProofError(f"the log published wrong tree heads: {heads.violations[0]}")
            return Sample(
                side=side,
                round=round_,
                replicated_per_s=round(rates.replicated_per_s, 1),
                accepted_per_s=round(rates.accepted_per_s, 1),
                proof_s=[round(seconds, 2) for seconds in proofs],
                window_s=round(rates.seconds, 1),
                steps=rates.steps,
                answers=dict(Counter(attempt.outcome for attempt in attempts.values())),
                accepted=len(accepted),
                unpublished=unpublished,
                tree_size=heads.size,
            )


async def until_it_answers(heads: Heads) -> None:
    """Look until there is a first tree head."""
    until = time.monotonic() + _START_LIMIT
    while True:
        try:
            return await heads.look()
        except ApiError:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(POLL)


async def time_proofs(client: LogClient, target: Target, leaves: Sequence[Prepared]) -> list[float]:
    """Seconds from the first add-leaf to the verified proof, of submissions spread over a while."""

    async def one(start: float, leaf: Prepared) -> float:
        await asyncio.sleep(start)
        return await time_proof(client, target, leaf)

    return await asyncio.gather(*map(one, starts(len(leaves)), leaves))


def starts(number: int) -> list[float]:
    """When to submit, in seconds, within two of upstream's intervals.

    Multiples of the golden ratio, so that the phases of any interval are met evenly; even times
    would meet one phase only where their distance is a multiple of the interval.
    """
    return sorted(2 * _UPSTREAM_INTERVAL * (n * _GOLDEN % 1) for n in range(number))


async def time_proof(client: LogClient, target: Target, leaf: Prepared) -> float:
    """Submit one leaf and collect its proof as sigsum-submit does, with its delay between polls."""
    start = time.monotonic()
    await client.add_leaf(leaf.body)
    while time.monotonic() < start + _DRAIN_LIMIT:
        try:
            if await client.add_leaf(leaf.body):
                signed = (await client.get_tree_head()).signed
                signed.verify(target.key)
                await _prove(client, signed.head.size, signed.head.root, leaf)
                return time.monotonic() - start
        except ApiError:
            pass  # signed but not published yet, or a busy log: ask again, as sigsum-submit does
        await asyncio.sleep(_SUBMIT_POLL)
    raise OpsError(f"a leaf has no proof after {_DRAIN_LIMIT:g} s")


async def rate_under_load(
    client: LogClient,
    heads: Heads,
    plan: Plan,
    leaves: Sequence[Prepared],
    attempts: dict[int, Attempt],
) -> Rates:
    """Load the log until there are two steps of its tree head to measure between."""
    stop = asyncio.Event()
    load = asyncio.create_task(submit(client, leaves, attempts, stop, clients=plan.clients))
    try:
        await asyncio.sleep(plan.warmup)
        start = await _step(heads, time.monotonic())
        # A step may be seen a poll late or early; two intervals of a half window are a window.
        end = await _step(heads, start.at + plan.window - 2 * POLL)
        if load.done():
            raise OpsError(
                f"all {len(leaves)} prepared leaves were used up before the window's end",
                hint="This log is faster than the bench is made for: shorten --window.",
            )
    finally:
        stop.set()
        await load
    return rates(heads.seen, attempts, start, end)


async def _step(heads: Heads, after: float) -> Seen:
    """The first change of the tree head after an instant; if none comes, when it was given up."""
    until = max(after, time.monotonic()) + _STEP_LIMIT
    while time.monotonic() < until:
        if heads.seen[-1].at > after:
            return next(seen for seen in heads.seen if seen.at > after)
        await asyncio.sleep(POLL)
    return Seen(time.monotonic(), heads.size)


def rates(seen: Sequence[Seen], attempts: Mapping[int, Attempt], start: Seen, end: Seen) -> Rates:
    """What was published and accepted between two steps of the tree head."""
    seconds = end.at - start.at
    accepted = sum(
        attempt.outcome in ("200", "202") and start.at < attempt.done <= end.at
        for attempt in attempts.values()
    )
    return Rates(
        replicated_per_s=(end.size - start.size) / seconds,
        accepted_per_s=accepted / seconds,
        seconds=seconds,
        steps=sum(start.at < head.at <= end.at for head in seen),
    )


async def prove(client: LogClient, heads: Heads, leaves: Sequence[Prepared]) -> None:
    """Prove leaves to be in the newest published tree.

    Raises:
        ApiError, ProofError: one is not.
    """
    head = heads.latest

    async def one(leaf: Prepared) -> None:
        await _prove(client, head.size, head.root, leaf)

    await spread(8, leaves, one)


async def _prove(client: LogClient, size: int, root: bytes, leaf: Prepared) -> None:
    proof = await client.get_inclusion_proof(size, leaf.leaf_hash)
    merkle.verify_inclusion(leaf.leaf_hash, proof.index, size, root, proof.path)


def compare(samples: Sequence[Sample], sides: Sequence[str]) -> dict[str, Any]:
    """Medians of each side over its rounds, and how many times better the last one, ours, is."""
    result: dict[str, Any] = {}
    for side in sides:
        runs = [sample for sample in samples if sample.side == side]
        result[side] = {
            "replicated_per_s": _median(run.replicated_per_s for run in runs),
            "accepted_per_s": _median(run.accepted_per_s for run in runs),
            "proof_p50_s": _median(seconds for run in runs for seconds in run.proof_s),
        }
    theirs, ours = (result[side] for side in sides)
    result["ratio"] = {
        "replicated_per_s": _ratio(ours["replicated_per_s"], theirs["replicated_per_s"]),
        "accepted_per_s": _ratio(ours["accepted_per_s"], theirs["accepted_per_s"]),
        "proof_p50_s": _ratio(theirs["proof_p50_s"], ours["proof_p50_s"]),
    }
    result["runs"] = [asdict(sample) for sample in samples]
    return result


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The comparison for a person."""
    sides = [side for side in ("upstream", "changed", "ours") if side in result]
    yield f"{'':22}{sides[0]:>10}{sides[1]:>10}{'better':>14}"
    for name, title in (
        ("replicated_per_s", "replicated, leaves/s"),
        ("accepted_per_s", "accepted, leaves/s"),
        ("proof_p50_s", "proof after, s"),
    ):
        theirs, ours, ratio = (result[side][name] for side in (*sides, "ratio"))
        yield f"{title:22}{theirs:>10}{ours:>10}{'-' if ratio is None else f'{ratio} times':>14}"


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def _ratio(better: float, worse: float) -> float | None:
    return round(better / worse, 2) if worse else None
