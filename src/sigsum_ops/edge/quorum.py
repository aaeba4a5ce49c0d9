"""Whether a log's newest tree head is cosigned as a policy wants it.

log-go serves a tree head with whatever cosignatures it has, also with too few. So nothing here
calls one cosigned that has no quorum, and each cosignature is verified.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from sigsum_ops.edge import policies
from sigsum_ops.errors import OpsError
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import BadSignature, PublicKey
from sigsum_ops.log.policy import Policy
from sigsum_ops.log.treehead import CosignedTreeHead, cosignature_message, log_origin

AGAIN = 1.0  # seconds between two looks


@dataclass(frozen=True)
class Judged:
    """A tree head's size, when each witness of the policy cosigned it, and whether that is enough.

    ``cosigned`` are Unix times by the witness's name, None for one that is missing.
    """

    size: int
    cosigned: dict[str, int | None]
    ok: bool

    def as_json(self) -> dict[str, Any]:
        """The same."""
        return {"ok": self.ok, "size": self.size, "cosigned": self.cosigned}


def judge(policy: Policy, log_key: PublicKey, answer: CosignedTreeHead, since: int = 0) -> Judged:
    """Count the cosignatures.

    Args:
        policy: whose cosignatures are wanted.
        log_key: the log's.
        answer: what get-tree-head answered.
        since: older cosignatures (Unix seconds) do not count.

    Raises:
        BadSignature: the log itself has not signed it.
    """
    answer.signed.verify(log_key)
    found = {cosignature.key_hash: cosignature for cosignature in answer.cosignatures}
    cosigned: dict[str, int | None] = {}
    for name, witness in policy.witnesses.items():
        cosignature = found.get(witness.key.hash)
        cosigned[name] = None
        if cosignature and cosignature.timestamp >= since:
            head, at = answer.signed.head, cosignature.timestamp
            message = cosignature_message(log_origin(log_key), at, head)
            try:
                witness.key.verify(cosignature.signature, message)
            except BadSignature:
                continue
            cosigned[name] = at
    there = {name for name, at in cosigned.items() if at is not None}
    return Judged(answer.signed.head.size, cosigned, policies.counts(policy, there))


def look(policy: Policy, log_key: PublicKey, url: str, wait: float = 0) -> Judged:
    """Ask the log for its newest tree head.

    Args:
        policy: whose cosignatures are wanted.
        log_key: the log's.
        url: the log's.
        wait: seconds in which a quorum may come; with it, only cosignatures from now on count.

    Raises:
        OpsError: the log does not answer in that time, or with what it has not signed.
    """
    return asyncio.run(_look(policy, log_key, url, wait))


async def _look(policy: Policy, log_key: PublicKey, url: str, wait: float) -> Judged:
    since, end = int(time.time()) if wait else 0, time.monotonic() + wait
    async with LogClient(url) as client:
        while True:
            try:
                judged = judge(policy, log_key, await client.get_tree_head(), since)
                if judged.ok or time.monotonic() >= end:
                    return judged
            except OpsError:
                if time.monotonic() >= end:
                    raise
            await asyncio.sleep(AGAIN)
