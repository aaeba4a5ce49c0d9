"""A small honest log in this process, and the ways in which a log can be dishonest or broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.log import merkle
from sigsum_ops.log.keys import PublicKey, public_key_of
from sigsum_ops.log.leaf import LeafRequest
from sigsum_ops.log.treehead import TreeHead
from tests.log import rfc9162

LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@dataclass
class MemoryLog:
    """A log with one step of publishing: what is accepted is signed at the next ``interval``."""

    interval: float = 0.05
    prefix: str = ""
    pause: float = 0.0  # seconds that add-leaf takes
    token: str | None = None  # what it asks for, in place of limits and DNS
    url: str = ""
    key: PublicKey = field(default_factory=lambda: public_key_of(LOG_KEY))
    leaves: list[bytes] = field(default_factory=list)
    index: dict[bytes, int] = field(default_factory=dict)
    size: int = 0
    requests: list[str] = field(default_factory=list)
    # The faults
    answer_add_leaf: Callable[[int], int | None] = lambda _n: None  # n-th request to a status
    forget: Callable[[int], bool] = lambda _n: False  # acknowledge the n-th with 200, keep nothing
    forge: Callable[[int], bytes | None] = lambda _size: None  # another root than the tree's
    answer: str | None = None  # of every GET, instead of the true one

    def application(self) -> web.Application:
        app = web.Application()
        base = f"/{self.prefix}/" if self.prefix else "/"
        app.add_routes(
            [
                web.post(base + "add-leaf", self._add_leaf),
                web.get(base + "get-tree-head", self._get_tree_head),
                web.get(base + "get-inclusion-proof/{size}/{hash}", self._get_inclusion_proof),
                web.get(base + "get-consistency-proof/{old}/{new}", self._get_consistency_proof),
                web.get(base + "get-leaves/{start}/{end}", self._get_leaves),
            ]
        )
        return app

    async def publish_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.interval)
            self.size = len(self.leaves)

    def add(self, data: bytes) -> None:
        self.index[merkle.leaf_hash(data)] = len(self.leaves)
        self.leaves.append(data)

    def root(self, size: int) -> bytes:
        return self.forge(size) or rfc9162.root(self.leaves[:size])

    async def _add_leaf(self, request: web.Request) -> web.Response:
        number = len([line for line in self.requests if line.startswith("POST")])
        self.requests.append(f"POST {request.path}")
        await asyncio.sleep(self.pause)
        if self.token is not None and request.headers.get("sigsum-token") != self.token:
            return web.Response(status=429, text="rate-limit for unknown domain exceeded\n")
        if (status := self.answer_add_leaf(number)) is not None:
            return web.Response(status=status, text="as the test wants it\n")
        values = dict(line.split("=") for line in (await request.text()).splitlines())
        assert list(values) == ["message", "signature", "public_key"]
        leaf_request = LeafRequest(
            bytes.fromhex(values["message"]),
            bytes.fromhex(values["signature"]),
            PublicKey.from_hex(values["public_key"]),
        )
        leaf_request.verify()
        if self.forget(number):
            return web.Response(status=200)
        leaf = leaf_request.leaf
        if leaf.hash not in self.index:
            self.add(bytes(leaf))
        if self.index[leaf.hash] < self.size:
            return web.Response(status=200)
        return web.Response(status=202, text="(202) Accepted\n")

    async def _get_tree_head(self, request: web.Request) -> web.Response:
        head = TreeHead(self.size, self.root(self.size))
        signature = LOG_KEY.sign(head.checkpoint(self.key))
        return self._answer(
            request,
            f"size={head.size}\nroot_hash={head.root.hex()}\nsignature={signature.hex()}\n",
        )

    async def _get_inclusion_proof(self, request: web.Request) -> web.Response:
        size = int(request.match_info["size"])
        index = self.index.get(bytes.fromhex(request.match_info["hash"]), size)
        if size < 2 or size > self.size:
            return web.Response(status=400, text="size\n")
        if index >= size:
            return web.Response(status=404, text="(404) Not Found\n")
        path = rfc9162.inclusion(index, self.leaves[:size])
        return self._answer(request, f"leaf_index={index}\n" + _nodes(path))

    async def _get_consistency_proof(self, request: web.Request) -> web.Response:
        old, new = int(request.match_info["old"]), int(request.match_info["new"])
        if not 0 < old < new <= self.size:
            return web.Response(status=400, text="sizes\n")
        return self._answer(request, _nodes(rfc9162.consistency(old, self.leaves[:new])))

    async def _get_leaves(self, request: web.Request) -> web.Response:
        start, end = int(request.match_info["start"]), int(request.match_info["end"])
        if not start < end <= self.size:
            return web.Response(status=400, text="range\n")
        return self._answer(
            request,
            "".join(
                f"leaf={data[:32].hex()} {data[32:96].hex()} {data[96:].hex()}\n"
                for data in self.leaves[start:end]
            ),
        )

    def _answer(self, request: web.Request, text: str) -> web.Response:
        self.requests.append(f"GET {request.path}")
        return web.Response(text=text if self.answer is None else self.answer)


def _nodes(path: list[bytes]) -> str:
    return "".join(f"node_hash={node.hex()}\n" for node in path)


class StartLog(Protocol):
    """Make a ``MemoryLog`` with these fields and serve it on loopback until the test ends."""

    async def __call__(self, **fields: Any) -> MemoryLog: ...


@pytest.fixture
async def start_log() -> AsyncIterator[StartLog]:
    servers: list[TestServer] = []
    tasks: list[asyncio.Task[None]] = []

    async def start(**fields: Any) -> MemoryLog:
        log = MemoryLog(**fields)
        server = TestServer(log.application())
        await server.start_server()
        servers.append(server)
        tasks.append(asyncio.create_task(log.publish_for_ever()))
        log.url = str(server.make_url("/" + log.prefix))
        return log

    yield start
    for task in tasks:
        task.cancel()
    for server in servers:
        await server.close()
