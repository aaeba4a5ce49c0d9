"""How long a log takes no leaves while something is done to it, as seen by who submits.

One leaf is submitted again and again: the log hands it to its database each time, and has one leaf
more in the end. Of several machines each is asked, and the log takes leaves while one of them does.
playbooks/upgrade.yml and handover.yml run this beside themselves::

    python -m sigsum_ops.log.writes FILE URL...

wait until the file says ``ready``, do their work, remove the file, and read the one JSON object
that is printed then. A URL may be ``"ADDRESS URL"``, for a machine to which the name does not lead.
A playbook that dies leaves this behind; so it ends as the next begins, whose file has the same name
up to the last hyphen.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.loadgen import prepare

PERIOD = 0.1  # seconds between two submissions
# What a busy log may take for one leaf. A longer gap between two that were taken is an outage.
USUAL = 1.0
# Seconds until the leaf is acknowledged with 200, two of a log's intervals and more; before that a
# healthy log may answer it with 500. One without its secondary acknowledges nothing.
BEGINNING = 25.0
# Seconds after which a log that nobody serves is not waited for: an interrupted procedure goes on.
NOBODY = 3.0
# What machines answer of which none is a primary: a secondary knows no such page, and the proxy
# before it says where to go.
SILENT = {"connection", "404", "503"}
# What a log says that limits who may submit (log.md, section 4): it will not take this leaf later.
LIMITED = "429"
PATIENCE = 1800.0  # seconds after which nobody waits for the result any more


def report(
    taken: Sequence[float], errors: Counter[str], ready: float, ended: float
) -> dict[str, Any]:
    """Longest and summed outage in seconds, None where that is not known.

    Args:
        taken: when each leaf that was taken was answered, in seconds, ascending.
        errors: how often each other answer came.
        ready: when the work began. Where no leaf was taken before, an outage is not seen.
        ended: when the work ended. An outage that goes on is as long as it is by then.
    """
    known = bool(taken) and taken[0] <= ready
    gaps = [after - before for before, after in itertools.pairwise([*taken, ended])]
    outages = [gap for gap in gaps if gap > USUAL]
    return {
        "taken": len(taken),
        "longest_s": round(max(outages, default=0.0), 1) if known else None,
        "total_s": round(sum(outages), 1) if known else None,
        "refused_still": known and gaps[-1] > USUAL,
        "errors": dict(errors),
    }


def alone(going: Path) -> None:
    """Have those end that playbooks left behind which died."""
    begin, _, _ = going.name.rpartition("-")
    for other in going.parent.glob(f"{begin}-*"):
        if other != going:
            with suppress(OSError):  # somebody else's
                other.unlink()


async def watch(urls: Sequence[str], going: Path) -> dict[str, Any]:
    """Submit until the file is gone; see ``report``."""
    (leaf,) = prepare(secrets.token_hex(8), 1)
    taken: list[float] = []
    serving: set[str] = set()  # who has taken the leaf, though it may be lost still
    errors: Counter[str] = Counter()
    begun = time.monotonic()
    alone(going)

    def wanted() -> bool:
        return going.exists() and time.monotonic() < begun + PATIENCE

    async def submit(url: str) -> None:
        address, _, there = url.rpartition(" ")
        async with LogClient(there, timeout=2, address=address or None) as client:
            while wanted():
                try:
                    acknowledged = await client.add_leaf(leaf.body)
                    serving.add(url)
                    if taken or acknowledged:
                        taken.append(time.monotonic())
                except ApiError as error:
                    errors[error.kind] += 1
                await asyncio.sleep(PERIOD)

    began = ended = math.inf

    def ready() -> bool:
        """Whether there is nothing to wait for any more."""
        waited = time.monotonic() - begun
        silent = waited > NOBODY and not serving and errors.keys() <= SILENT
        return bool(taken) or LIMITED in errors or silent or waited > BEGINNING

    async def wait() -> None:
        nonlocal began, ended
        while going.exists() and not ready():
            await asyncio.sleep(PERIOD)
        began = time.monotonic()
        with suppress(FileNotFoundError), going.open("r+") as file:  # not made anew
            file.write("ready\n")
        while wanted():
            await asyncio.sleep(PERIOD)
        ended = time.monotonic()

    await asyncio.gather(wait(), *map(submit, urls))
    return report(taken, errors, began, ended)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(watch(sys.argv[2:], Path(sys.argv[1])))))
