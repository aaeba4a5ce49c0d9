"""``sigsum-ops drill handover``: the machines change places under load, there and back again.

Submitters offer their leaves to both machines, as they would if the DNS changed at once. How long
none of them was taken, and how long none was acknowledged, is seen from outside; so are that each
tree head extends the ones before, and that every leaf acknowledged with 200 is in the tree.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sigsum_ops.lab import drill
from sigsum_ops.lab.controller import Controller
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import PublicKey, load_public_key
from sigsum_ops.log.loadgen import Heads, Tell, following

LIMIT = 15.0  # seconds for which submitters may be refused
RATE = 5.0  # leaves per second
LONGEST = 900.0  # seconds for which there are leaves


@dataclass
class Handover(drill.Changed):
    """One of them: for how many seconds no leaf was taken, none acknowledged, and it lasted."""

    seconds_refused: float = 0.0
    seconds_unacknowledged: float = 0.0
    seconds: float = 0.0


def handovers(
    plan: drill.Plan, *, lab: Lab, out: Path | None = None, tell: Tell = lambda _text: None
) -> dict[str, Any]:
    """The verb: hand over ``plan.runs`` times; returns the result, and writes it to ``out``.

    Raises:
        OpsError: the lab does not run, or a handover failed; the machines stay as they are then.
    """
    plan.check()
    drill.has_both(lab)
    key = load_public_key(lab.state / "log-key.pub")
    runs: list[Handover] = []
    for number in range(plan.runs):
        run = asyncio.run(_run(plan, lab, key, f"{plan.seed}/{number}"))
        runs.append(run)
        tell(
            f"handover {number + 1} of {plan.runs}, {run.old} to {run.new}: refused for"
            f" {run.seconds_refused} s, none acknowledged for {run.seconds_unacknowledged} s,"
            f" {run.seconds} s in all; {run.acknowledged} leaves, {run.lost} lost"
        )
    result = {
        "passed": not any(
            run.lost or run.violations or run.seconds_refused > LIMIT for run in runs
        ),
        "limit_seconds": LIMIT,
        "runs": [asdict(run) for run in runs],
        "seed": plan.seed,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
    }
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


async def _run(plan: drill.Plan, lab: Lab, key: PublicKey, seed: str) -> Handover:
    urls = {name: drill.url(address) for name, address in lab.hosts().items()}
    old = await drill.primary(lab.hosts(), key)
    new = next(name for name in drill.MACHINES if name != old)
    run = Handover(old, new)
    load = drill.Load(f"{seed}/{time.time()}", int(LONGEST * RATE), RATE)
    async with LogClient(urls[old], timeout=2) as left, LogClient(urls[new], timeout=2) as right:
        heads = Heads(left, key)
        stop = asyncio.Event()
        submitting = asyncio.create_task(load.submit(left, stop, right))
        try:
            async with following(heads):
                await _more(load)
                begun = time.monotonic()
                await Controller(lab, plan.variables).run("handover", new)
                run.seconds = round(time.monotonic() - begun, 1)
            await _more(load)
        finally:
            stop.set()
            await submitting
        run.violations += heads.violations
        run.acknowledged = len(load.acknowledged)
        run.seconds_refused = longest(load.taken)
        run.seconds_unacknowledged = longest(load.noted)
        now = Heads(right, key)
        await now.look()
        await drill.extends(right, heads.latest, now, run, f"what {old} had published")
        run.lost = await drill.missing(right, now, load)
    return run


async def _more(load: drill.Load) -> None:
    """Wait until another leaf is acknowledged."""
    before = len(load.noted)
    async with asyncio.timeout(drill.PATIENCE):
        while len(load.noted) == before:
            await asyncio.sleep(0.1)


def longest(moments: Sequence[float]) -> float:
    """The longest time, in seconds, between two of these moments, of which there are two."""
    return round(max(later - earlier for earlier, later in pairwise(moments)), 1)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for a person."""
    runs = result["runs"]
    for what, said in (("refused", "refused"), ("unacknowledged", "not acknowledged")):
        seconds = [run[f"seconds_{what}"] for run in runs]
        yield f"{len(runs)} handovers: leaves {said} for {min(seconds)} to {max(seconds)} s"
    yield f"at most {result['limit_seconds']:.0f} s without a leaf taken are promised"
    lost = sum(run["lost"] for run in runs)
    yield f"{sum(run['acknowledged'] for run in runs)} leaves acknowledged with 200, {lost} lost"
    for run in runs:
        for violation in run["violations"]:
            yield f"VIOLATION: {violation}"
