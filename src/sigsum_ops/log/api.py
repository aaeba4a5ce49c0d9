"""A log's public HTTP interface, log.md version 1 section 3, and nothing but what it allows.

Answers are parsed strictly: a key out of place, an odd number of hex digits or a missing newline is
an error. Proofs and signatures come back unverified; ``merkle`` and ``treehead`` verify them.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log.leaf import TOKEN_HEADER, Leaf
from sigsum_ops.log.treehead import CosignedTreeHead, parse_cosigned_tree_head

TIMEOUT = 30.0  # seconds for one request, as sigsum-submit has it
# A get-leaves answer has at most 269 bytes a leaf; logs answer with 512 or some thousands of them.
_MAX_BODY = 4 << 20
# Inclusion and consistency paths in a tree of less than 2^63 leaves (sigsum-go has the same limit).
_MAX_PATH = 63
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class ApiError(OpsError):
    """The log did not give what was asked for.

    Attributes:
        status: the HTTP status, or None where there was no complete answer.
        kind: one word for statistics: the status, ``timeout``, ``connection`` or ``malformed``.
    """

    def __init__(self, message: str, *, kind: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


@dataclass(frozen=True)
class InclusionProof:
    """Where a leaf stands (from 0), and the path from it to the root."""

    index: int
    path: tuple[bytes, ...]


class _Always(AbstractResolver):
    """Every name has this one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        del family  # the address has its own
        version = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        found = ResolveResult(
            hostname=host, host=self._address, port=port, family=version, proto=0, flags=0
        )
        return [found]

    async def close(self) -> None:
        pass


class LogClient:
    """A session with one log; use it as an async context manager.

    Connections are kept and their number is not limited here: one for each request under way.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = TIMEOUT,
        address: str | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: the log's URL, with its prefix if it has one.
            token: value of the ``sigsum-token`` header, for logs that limit rates.
            timeout: seconds for one request, from connecting to the last byte.
            address: the IP address to connect to, whatever the URL's name resolves to.
        """
        self._base = _checked(url)
        self._add_leaf = self._base / "add-leaf"
        self._headers = {TOKEN_HEADER: token} if token else {}
        self._timeout = timeout
        self._resolver = _Always(address) if address else None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=self._resolver),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=["Accept", "Accept-Encoding", "Content-Type"],
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def add_leaf(self, body: bytes) -> bool:
        """Submit a ``LeafRequest.body``.

        Returns:
            True once the leaf is inside the log's signed tree head (status 200), False while it is
            only accepted (202) and has to be submitted again to learn more.
        """
        status, answer = await self._request("POST", self._add_leaf, body)
        if status not in (200, 202):
            raise _refusal(self._add_leaf, status, answer)
        return status == 200

    async def get_tree_head(self) -> CosignedTreeHead:
        """The latest published tree head with the cosignatures it has."""
        url = self._base / "get-tree-head"
        answer = await self._get(url)
        try:
            return parse_cosigned_tree_head(answer)
        except OpsError as error:
            raise _malformed(url, error.message) from error

    async def get_inclusion_proof(self, size: int, leaf_hash: bytes) -> InclusionProof:
        """The proof that a leaf is in the tree of ``size``; status 404 says that it is not.

        For size 1 the proof is known to be empty, and a log refuses to be asked.
        """
        if size == 1:
            return InclusionProof(0, ())
        url = self._base / "get-inclusion-proof" / str(size) / leaf_hash.hex()
        lines = _Lines(url, await self._get(url))
        return InclusionProof(lines.number("leaf_index"), lines.path())

    async def get_consistency_proof(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """The proof that one tree extends the other; empty, unasked, where none is needed."""
        if old_size in (0, new_size):
            return ()
        url = self._base / "get-consistency-proof" / str(old_size) / str(new_size)
        return _Lines(url, await self._get(url)).path()

    async def get_leaves(self, start: int, end: int) -> list[Leaf]:
        """Leaves from ``start`` up to, not including, ``end``; one or more, as the log likes."""
        url = self._base / "get-leaves" / str(start) / str(end)
        lines = _Lines(url, await self._get(url))
        leaves = []
        while not lines.done:
            leaves.append(Leaf(*lines.hexes("leaf", 32, 64, 32)))
        if not 0 < len(leaves) <= end - start:
            raise _malformed(url, f"{len(leaves)} leaves")
        return leaves

    async def _get(self, url: URL) -> bytes:
        status, answer = await self._request("GET", url)
        if status != 200:
            raise _refusal(url, status, answer)
        return answer

    async def _request(self, method: str, url: URL, body: bytes | None = None) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("LogClient is used outside its context")
        try:
            async with self._session.request(
                method, url, data=body, headers=self._headers, allow_redirects=False
            ) as response:
                answer = bytearray()
                async for chunk in response.content.iter_any():
                    answer += chunk
                    if len(answer) > _MAX_BODY:
                        raise _malformed(url, f"more than {_MAX_BODY} bytes")
                return response.status, bytes(answer)
        except TimeoutError as error:
            raise ApiError(f"{url}: no answer in {self._timeout:g} s", kind="timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiError(f"{url}: {error or type(error).__name__}", kind="connection") from error


class _Lines:
    """The lines of an answer, read in order: ``key=value``, each ended by one newline."""

    def __init__(self, url: URL, answer: bytes) -> None:
        self._url = url
        if not answer.endswith(b"\n") or not answer.isascii():
            raise _malformed(url, "not ASCII lines, each ended by a newline")
        self._lines = answer[:-1].decode().split("\n")
        self._lines.reverse()

    @property
    def done(self) -> bool:
        return not self._lines

    def value(self, key: str) -> str:
        line = self._lines.pop() if self._lines else ""
        name, separator, value = line.partition("=")
        if name != key or not separator:
            raise _malformed(self._url, f"{line[:80]!r} where {key}=… belongs")
        return value

    def number(self, key: str) -> int:
        value = self.value(key)
        if not _NUMBER.fullmatch(value):
            raise _malformed(self._url, f"{key}={value[:80]!r} is no decimal number")
        return int(value)

    def hexes(self, key: str, *sizes: int) -> list[bytes]:
        """One line of space-separated hex values of these numbers of bytes."""
        value = self.value(key)
        words = value.split(" ")
        pattern = " ".join(f"[0-9a-f]{{{2 * size}}}" for size in sizes)
        if not re.fullmatch(pattern, value):
            raise _malformed(self._url, f"{key}={value[:80]!r} is not hex of {sizes} bytes")
        return [bytes.fromhex(word) for word in words]

    def path(self) -> tuple[bytes, ...]:
        """The rest: one or more node hashes."""
        hashes: list[bytes] = []
        while not self.done or not hashes:
            hashes += self.hexes("node_hash", 32)
            if len(hashes) > _MAX_PATH:
                raise _malformed(self._url, "the path is longer than any tree is deep")
        return tuple(hashes)


def _checked(text: str) -> URL:
    hint = "Such as: https://log.example.org/prefix   or   http://192.0.2.1:6965"
    try:
        url = URL(text)
    except ValueError as error:
        raise UsageError(f"not a URL: {text!r}: {error}", hint=hint) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(f"not an http or https URL: {text!r}", hint=hint)
    if url.query_string or url.fragment or url.user or url.password:
        raise UsageError(f"a log's URL has no user, query or fragment: {text!r}", hint=hint)
    return url


def _malformed(url: URL, what: str) -> ApiError:
    return ApiError(f"{url}: malformed answer: {what}", kind="malformed")


def _refusal(url: URL, status: int, answer: bytes) -> ApiError:
    reason = answer[:200].decode("ascii", "replace").strip()
    return ApiError(f"{url}: status {status}: {reason}", kind=str(status), status=status)
