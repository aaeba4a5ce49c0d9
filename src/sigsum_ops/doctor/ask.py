"""What the users of a log get from it, asked by the controller."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sigsum_ops.edge import quorum
from sigsum_ops.errors import OpsError
from sigsum_ops.failover import outside
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.policy import NONE, Policy

WAIT = 30.0  # seconds for leaves to be published and for witnesses: three of log-go's rounds


def ask(
    url: str, key: PublicKey, policy: Policy | None = None, size: int = 0, *, wait: float = WAIT
) -> dict[str, Any]:
    """Ask for the tree head until it is as it should be, or it was waited long enough.

    Args:
        url: where its users find the log. Its name must lead to the primary, and to nothing else.
        key: the log's.
        policy: whose witnesses cosign; None for no witnesses.
        size: of the primary's tree, which the log must come to publish.
        wait: for how many seconds; a cosignature from before then does not count.

    Returns:
        ``size`` as published, ``cosigned`` and ``quorum`` by the policy, ``waited`` in seconds,
        ``names`` with what is wrong with the URL; ``error`` where the log does not answer.
    """
    return asyncio.run(asked(url, key, policy or Policy(quorum=NONE), size, wait))


async def asked(url: str, key: PublicKey, policy: Policy, size: int, wait: float) -> dict[str, Any]:
    """``ask``, in a loop that runs."""
    found: dict[str, Any] = {}
    begin, since = time.monotonic(), int(time.time())
    async with LogClient(url) as client:
        while True:
            waited = time.monotonic() - begin
            try:
                head = quorum.judge(policy, key, await client.get_tree_head(), since)
            except OpsError as error:
                return {**found, "error": error.message}
            if not found:
                found["names"] = [each.message for each in await outside.names(url, key, 0)]
            found |= {
                "size": head.size,
                "cosigned": head.cosigned,
                "quorum": head.ok,
                "waited": waited,
            }
            if (head.size >= size and all(head.cosigned.values())) or waited >= wait:
                return found
            await asyncio.sleep(quorum.AGAIN)
