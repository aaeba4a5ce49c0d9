"""The client against an honest log in this process, and against answers that are not log.md's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.errors import UsageError
from sigsum_ops.log import merkle
from sigsum_ops.log.api import ApiError, InclusionProof, LogClient
from sigsum_ops.log.leaf import LeafRequest

if TYPE_CHECKING:
    from tests.log.conftest import MemoryLog, StartLog

NODE = "ab" * 32
SUBMITTER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)


def fill(log: MemoryLog, number: int) -> list[LeafRequest]:
    """Leaves that are in the published tree from the start."""
    requests = [LeafRequest.sign(SUBMITTER, bytes([i]) * 32) for i in range(number)]
    for request in requests:
        log.add(bytes(request.leaf))
    log.size = number
    return requests


@pytest.mark.parametrize("prefix", ["", "sigsum", "a/b"])
async def test_a_leaf_is_accepted_then_published_then_proven(
    start_log: StartLog, prefix: str
) -> None:
    log = await start_log(prefix=prefix, interval=3600)
    fill(log, 6)
    request = LeafRequest.sign(SUBMITTER, b"m" * 32)
    async with LogClient(log.url) as client:
        assert await client.add_leaf(request.body) is False
        log.size = 7
        assert await client.add_leaf(request.body) is True
        signed = (await client.get_tree_head()).signed
        signed.verify(log.key)
        proof = await client.get_inclusion_proof(7, request.leaf.hash)
        assert proof.index == 6
        merkle.verify_inclusion(request.leaf.hash, 6, 7, signed.head.root, proof.path)
        merkle.verify_consistency(
            3, log.root(3), 7, signed.head.root, await client.get_consistency_proof(3, 7)
        )
        assert (await client.get_leaves(5, 7))[1] == request.leaf


async def test_proofs_that_need_no_asking_are_not_asked_for(start_log: StartLog) -> None:
    log = await start_log(interval=3600)
    [request] = fill(log, 1)
    async with LogClient(log.url) as client:
        assert await client.get_inclusion_proof(1, request.leaf.hash) == InclusionProof(0, ())
        assert await client.get_consistency_proof(0, 5) == ()
        assert await client.get_consistency_proof(5, 5) == ()
    assert log.requests == []


async def test_a_leaf_that_is_not_in_the_tree_is_status_404(start_log: StartLog) -> None:
    log = await start_log(interval=3600)
    fill(log, 3)
    async with LogClient(log.url) as client:
        with pytest.raises(ApiError, match="Not Found") as error:
            await client.get_inclusion_proof(3, bytes(32))
    assert (error.value.status, error.value.kind) == (404, "404")


async def test_the_token_is_sent(start_log: StartLog) -> None:
    log = await start_log(token="example.org 00")
    body = LeafRequest.sign(SUBMITTER, b"m" * 32).body
    async with LogClient(log.url, token="example.org 00") as client:
        assert await client.add_leaf(body) is False
    async with LogClient(log.url) as client:
        with pytest.raises(ApiError, match="rate-limit") as error:
            await client.add_leaf(body)
    assert error.value.status == 429


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "leaf_index=1\n",
        f"leaf_index=1\nnode_hash={NODE}",
        f"leaf_index=1\n\nnode_hash={NODE}\n",
        f"leaf_index=1\r\nnode_hash={NODE}\r\n",
        f"leaf_index=01\nnode_hash={NODE}\n",
        f"leaf_index=-1\nnode_hash={NODE}\n",
        f"leaf_index=\u0661\nnode_hash={NODE}\n",
        f"node_hash={NODE}\nleaf_index=1\n",
        f"leaf_index=1\nnode_hash={NODE.upper()}\n",
        f"leaf_index=1\nnode_hash={NODE[2:]}\n",
        f"leaf_index=1\nnode_hash={NODE}\nextra=1\n",
        "leaf_index=1\n" + f"node_hash={NODE}\n" * 64,
    ],
)
async def test_a_malformed_inclusion_proof_is_refused(start_log: StartLog, answer: str) -> None:
    log = await start_log(answer=answer, interval=3600)
    [request, *_] = fill(log, 2)
    async with LogClient(log.url) as client:
        with pytest.raises(ApiError, match="malformed") as error:
            await client.get_inclusion_proof(2, request.leaf.hash)
    assert error.value.kind == "malformed"


@pytest.mark.parametrize(
    "answer", ["", "size=1\n", f"size=1\nroot_hash={NODE}\nsignature={NODE}\n"]
)
async def test_a_malformed_tree_head_is_refused(start_log: StartLog, answer: str) -> None:
    log = await start_log(answer=answer)
    async with LogClient(log.url) as client:
        with pytest.raises(ApiError, match="malformed"):
            await client.get_tree_head()


LEAF = f"leaf={NODE} {NODE}{NODE} {NODE}\n"


@pytest.mark.parametrize("answer", ["", LEAF * 3, LEAF.replace(" ", "  "), LEAF[:-1]])
async def test_malformed_leaves_are_refused(start_log: StartLog, answer: str) -> None:
    log = await start_log(answer=answer, interval=3600)
    fill(log, 2)
    async with LogClient(log.url) as client:
        with pytest.raises(ApiError, match="malformed"):
            await client.get_leaves(0, 2)


async def test_an_endless_answer_is_cut_off(start_log: StartLog) -> None:
    log = await start_log(answer="x" * (5 << 20))
    async with LogClient(log.url) as client:
        with pytest.raises(ApiError, match="more than"):
            await client.get_tree_head()


async def test_no_log_there_is_said_with_its_address() -> None:
    async with LogClient("http://127.0.0.1:1") as client:
        with pytest.raises(ApiError, match=r"http://127\.0\.0\.1:1/get-tree-head") as error:
            await client.get_tree_head()
    assert error.value.kind == "connection"


async def test_a_log_that_does_not_answer_is_a_timeout(start_log: StartLog) -> None:
    log = await start_log()
    async with LogClient(log.url, timeout=1e-6) as client:
        with pytest.raises(ApiError, match="no answer") as error:
            await client.get_tree_head()
    assert error.value.kind == "timeout"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "log.example.org",
        "ftp://h/",
        "http://",
        "http://h/?q",
        "http://u:p@h/",
        "http://h:99999/",
    ],
)
def test_a_url_that_no_log_has_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        LogClient(url)
