"""Submitting prepared leaves to a log, and watching the tree heads that it publishes meanwhile.

``stress`` and ``bench`` are made of this. Times are in seconds; instants are ``time.monotonic``'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.log import merkle
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.keys import BadSignature, PublicKey
from sigsum_ops.log.leaf import LeafRequest
from sigsum_ops.log.merkle import ProofError

if TYPE_CHECKING:
    from sigsum_ops.log.treehead import TreeHead

POLL = 0.25  # between two looks at the tree head: the resolution of every publishing time
# Where the number of leaves follows from how fast the log is, as many are signed beforehand as
# twice the fastest log measured would take.
LEAVES_PER_SECOND = 1000

Tell = Callable[[str], None]
T = TypeVar("T")


class Prepared(NamedTuple):
    """A signed leaf, ready to be sent."""

    body: bytes
    leaf_hash: bytes


class Attempt(NamedTuple):
    """One submission: when it was due and answered, and by what (a status or ``ApiError.kind``)."""

    due: float
    done: float
    outcome: str


class Seen(NamedTuple):
    """When a tree head of a new size was first seen."""

    at: float
    size: int


def prepare(seed: str, number: int) -> list[Prepared]:
    """Sign leaves, all by one key.

    The same seed makes the same leaves: on a log that has them they show that it still does.
    """
    key = Ed25519PrivateKey.from_private_bytes(sha256(f"{seed}/key".encode()).digest())
    requests = (
        LeafRequest.sign(key, sha256(f"{seed}/{index}".encode()).digest())
        for index in range(number)
    )
    return [Prepared(request.body, request.leaf.hash) for request in requests]


class Heads:
    """The tree heads that a log published while we looked, each verified against the one before."""

    def __init__(self, client: LogClient, key: PublicKey) -> None:
        self._client = client
        self._key = key
        self._latest: TreeHead | None = None
        self.seen: list[Seen] = []
        self.violations: list[str] = []
        self.errors: Counter[str] = Counter()

    @property
    def latest(self) -> TreeHead:
        """The newest verified tree head; there is one once ``look`` has returned."""
        if self._latest is None:
            raise RuntimeError("no tree head was looked at yet")
        return self._latest

    @property
    def size(self) -> int:
        return self.latest.size

    async def look(self) -> None:
        """Fetch and verify the present tree head.

        Raises:
            ApiError: the log does not answer.
            ProofError: what it published is not signed by its key, or no extension of the last.
        """
        signed = (await self._client.get_tree_head()).signed
        at = time.monotonic()
        head = signed.head
        try:
            signed.verify(self._key)
        except BadSignature as error:
            raise BadSignature(
                f"tree head of size {head.size}: {error.message}",
                hint="Either the log is another one, or the key is.",
            ) from error
        if (last := self._latest) is not None:
            if head.size < last.size:
                raise ProofError(f"the tree head went back from size {last.size} to {head.size}")
            path = await self._client.get_consistency_proof(last.size, head.size)
            merkle.verify_consistency(last.size, last.root, head.size, head.root, path)
        if last is None or head.size > last.size:
            self.seen.append(Seen(at, head.size))
            self._latest = head

    async def follow(self) -> None:
        """Look for ever; keep what is wrong instead of raising it."""
        while True:
            try:
                await self.look()
            except ProofError as error:
                if error.message not in self.violations:
                    self.violations.append(error.message)
            except ApiError as error:
                self.errors[error.kind] += 1
            await asyncio.sleep(POLL)

    async def wait(self, size: int, until: float) -> bool:
        """Wait for a tree head of at least ``size`` leaves; False if there was none in time."""
        while self.size < size and time.monotonic() < until:
            await asyncio.sleep(POLL)
        return self.size >= size


@asynccontextmanager
async def following(heads: Heads) -> AsyncIterator[None]:
    """Look once, so that a wrong key or address fails here; then go on looking within the block."""
    await heads.look()
    task = asyncio.create_task(heads.follow())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def submit(
    client: LogClient,
    leaves: Sequence[Prepared],
    attempts: dict[int, Attempt],
    stop: asyncio.Event,
    *,
    clients: int,
    rate: float | None = None,
) -> None:
    """Submit leaves in order, each once, until they are used up or ``stop`` is set.

    ``attempts`` is filled while it runs, so that others can watch: index of the leaf to attempt.
    """
    start = time.monotonic()

    async def send(index: int) -> None:
        due = start + index / rate if rate else time.monotonic()
        if (early := due - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), early)
        if stop.is_set():
            return
        try:
            outcome = "200" if await client.add_leaf(leaves[index].body) else "202"
        except ApiError as error:
            outcome = error.kind
        attempts[index] = Attempt(due, time.monotonic(), outcome)

    await spread(clients, range(len(leaves)), send)


async def spread(workers: int, items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do ``work`` on each item, in order, so many at a time."""
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(workers)))
