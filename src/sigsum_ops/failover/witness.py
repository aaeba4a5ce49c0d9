"""Up to which size each witness has cosigned this log, asked without a new signature of the log.

A witness cosigns only what extends the last tree head that it cosigned, so a log that goes on from
a smaller tree would never be cosigned again. It tells its size to whoever sends a tree head that
the log has signed together with an old size that is not its own (c2sp.org/tlog-witness): status 409
and the size. The old size that is sent is the tree head's own, so that the proof between the two is
the empty one. A witness that is exactly there compares the roots: it answers 200 and has cosigned
again what it has cosigned before, or it has cosigned another tree of that size and says so, by 409
and the same size (the specification) or by 422 (litewitness 0.9.0). An old size of 0 would not do:
a witness that knows nothing of the log yet would take the tree head for the first one.

The machine that is to be the primary asks: it is the one that must reach the witnesses.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import aiohttp

from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.policy import Entity
from sigsum_ops.log.treehead import MAX_NUMBER, SignedTreeHead, key_id, log_origin

TIMEOUT = 10.0  # seconds for one witness; all are asked at the same time
_SIZE_TYPE = "text/x.tlog.size"
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_LONGEST = 64  # bytes of an answer that are looked at


@dataclass(frozen=True)
class Answer:
    """What a witness said: the size that it has cosigned last, or None and why not.

    ``other_root``: it has cosigned another tree of the size that was sent.
    """

    name: str
    url: str
    size: int | None
    reason: str = ""
    other_root: bool = False


def latest(signed: Iterable[SignedTreeHead]) -> SignedTreeHead | None:
    """The largest of them that a witness can be asked with: not the empty tree's."""
    return max(
        (one for one in signed if one.head.size > 0), key=lambda one: one.head.size, default=None
    )


def request(signed: SignedTreeHead, log_key: PublicKey) -> bytes:
    """The body of an add-checkpoint for which no witness can cosign anything new."""
    origin = log_origin(log_key)
    signature = base64.b64encode(key_id(origin, log_key) + signed.signature)
    return b"".join(
        (
            b"old %d\n\n" % signed.head.size,
            signed.head.checkpoint(log_key) + b"\n",
            f"\N{EM DASH} {origin} ".encode() + signature + b"\n",
        )
    )


def understood(sent: int, status: int, content_type: str, body: bytes) -> tuple[int | None, str]:
    """The size that an answer tells, or None and what is wrong with it.

    Args:
        sent: the size of the tree head that was sent, and the old size.
        status: of HTTP.
        content_type: the header, with parameters if there are any.
        body: the first bytes.
    """
    if status in (200, 422):
        return sent, ""
    if status != 409:
        return None, f"answers with status {status}"
    match = _SIZE.fullmatch(body)
    if content_type.partition(";")[0].strip() != _SIZE_TYPE or not match:
        return None, "answers with status 409, but no size"
    size = int(match[1])
    return (size, "") if size <= MAX_NUMBER else (None, f"answers with size {size}")


def ask(
    witnesses: Mapping[str, Entity], signed: SignedTreeHead | None, log_key: PublicKey
) -> list[Answer]:
    """Ask each witness that has a URL, all at the same time.

    Args:
        witnesses: of the policy, by name.
        signed: the last tree head of the log that is at hand; None where there is none.
        log_key: the log's.
    """
    asked = {name: witness.url for name, witness in witnesses.items() if witness.url}
    if signed is None:
        reason = "no tree head of the log is at hand, with which it could be asked"
        return [Answer(name, url, None, reason) for name, url in asked.items()]
    return asyncio.run(_ask(asked, signed, log_key)) if asked else []


async def _ask(
    asked: Mapping[str, str], signed: SignedTreeHead, log_key: PublicKey
) -> list[Answer]:
    body = request(signed, log_key)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return await asyncio.gather(
            *(_one(session, name, url, signed.head.size, body) for name, url in asked.items())
        )


async def _one(
    session: aiohttp.ClientSession, name: str, url: str, sent: int, body: bytes
) -> Answer:
    try:
        async with session.post(
            f"{url.rstrip('/')}/add-checkpoint", data=body, allow_redirects=False
        ) as answer:
            said = bytearray()
            while len(said) < _LONGEST and (chunk := await answer.content.read(_LONGEST)):
                said += chunk
            kind = answer.headers.get("Content-Type", "")
            size, reason = understood(sent, answer.status, kind, bytes(said))
            other = size == sent and answer.status != 200
            return Answer(name, url, size, reason, other_root=other)
    except TimeoutError:
        return Answer(name, url, None, f"does not answer in {TIMEOUT:.0f} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:  # the last: it is no URL
        return Answer(name, url, None, f"does not answer: {error or type(error).__name__}")
