"""How long a log takes no leaves while something is done to it, as seen by who submits.

One leaf is submitted again and again: the log hands it to its database each time, and has one leaf
more in the end. playbooks/upgrade.yml runs this beside itself::

    python -m sigsum_ops.log.writes URL FILE

waits until the file says ``ready``, does its work, removes the file, and reads the one JSON object
that is printed then.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.loadgen import prepare

PERIOD = 0.1  # seconds between two submissions
# What a busy log may take for one leaf. A longer gap between two that were taken is an outage.
USUAL = 1.0
# Seconds until the leaf is acknowledged with 200; before that a healthy log may answer it with 500.
BEGINNING = 90.0
PATIENCE = 1800.0  # seconds after which nobody waits for the result any more


def report(taken: Sequence[float], errors: Counter[str]) -> dict[str, Any]:
    """Longest and summed outage in seconds, None where no leaf was taken.

    Args:
        taken: when each leaf that was taken was answered, in seconds, ascending.
        errors: how often each other answer came.
    """
    gaps = [after - before for before, after in itertools.pairwise(taken)]
    outages = [gap for gap in gaps if gap > USUAL]
    return {
        "taken": len(taken),
        "longest_s": round(max(outages, default=0.0), 1) if taken else None,
        "total_s": round(sum(outages), 1) if taken else None,
        "errors": dict(errors),
    }


async def watch(url: str, going: Path) -> dict[str, Any]:
    """Submit until the file is gone; see ``report``."""
    (leaf,) = prepare(secrets.token_hex(8), 1)
    taken: list[float] = []
    errors: Counter[str] = Counter()
    begun, ready = time.monotonic(), False
    async with LogClient(url, timeout=2) as client:
        while going.exists() and time.monotonic() < begun + PATIENCE:
            try:
                acknowledged = await client.add_leaf(leaf.body)
                if taken or acknowledged:
                    taken.append(time.monotonic())
            except ApiError as error:
                errors[error.kind] += 1
            if not ready and (taken or time.monotonic() > begun + BEGINNING):
                with going.open("r+") as file:  # not made anew where it is gone
                    file.write("ready\n")
                ready = True
            await asyncio.sleep(PERIOD)
    return report(taken, errors)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(watch(sys.argv[1], Path(sys.argv[2])))))
