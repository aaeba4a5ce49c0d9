"""The server's side of the ssh-agent protocol (draft-ietf-sshm-ssh-agent) for one Ed25519 key.

Two requests are known: list the keys, and sign with ssh-ed25519 and flags 0. Everything else is
answered with failure, as the draft wants it (section 3.1). A client may be silent for as long as it
likes; log-go is, and never comes back once its connection was closed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sigsum_ops.log.keys import PublicKey

FAILURE = 5
REQUEST_IDENTITIES, IDENTITIES_ANSWER = 11, 12
SIGN_REQUEST, SIGN_RESPONSE = 13, 14

# OpenSSH's own limit. What announces more is not this protocol, and where its next message would
# begin is not known: it gets its answer, and is the only one to be hung up on.
MAX_FRAME = 256 * 1024

ALGORITHM = b"ssh-ed25519"

Signer = Callable[[bytes], Awaitable[bytes | None]]


@dataclass(frozen=True)
class SignRequest:
    """Sign these bytes with the one key."""

    data: bytes


@dataclass(frozen=True)
class ListRequest:
    """List the keys."""


def parse(frame: bytes, key_blob: bytes) -> SignRequest | ListRequest | None:
    """What a message (without its length) asks for; None where the answer is failure."""
    if frame == bytes([REQUEST_IDENTITIES]):
        return ListRequest()
    if frame[:1] != bytes([SIGN_REQUEST]):
        return None
    try:
        blob, rest = _string(frame[1:])
        data, flags = _string(rest)
    except ValueError:
        return None
    # Other flags choose a hash for RSA keys.
    if blob != key_blob or flags != bytes(4):
        return None
    return SignRequest(data)


def string(data: bytes) -> bytes:
    """A string of RFC 4251 section 5."""
    return struct.pack(">I", len(data)) + data


def key_blob(key: PublicKey) -> bytes:
    """The public key as SSH has it (RFC 8709 section 4)."""
    return string(ALGORITHM) + string(key.raw)


class Agent:
    """Serves connections; ``sign`` gets what is to be signed and returns a signature, or None.

    ``sign`` must return in time whatever happens: its caller waits for it.
    """

    def __init__(self, key: PublicKey, comment: str, sign: Signer) -> None:
        self._blob = key_blob(key)
        self._identities = (
            struct.pack(">BI", IDENTITIES_ANSWER, 1) + string(self._blob) + string(comment.encode())
        )
        self._sign = sign

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's messages, in their order, until the client closes it."""
        try:
            while True:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                if length > MAX_FRAME:
                    writer.write(string(bytes([FAILURE])))
                    await writer.drain()
                    return
                answer = await self.answer(await reader.readexactly(length))
                writer.write(string(answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the oracle ends
        finally:
            writer.close()

    async def answer(self, frame: bytes) -> bytes:
        """The answer to one message, both without their length."""
        request = parse(frame, self._blob)
        if isinstance(request, ListRequest):
            return self._identities
        if request and (signature := await self._sign(request.data)):
            return bytes([SIGN_RESPONSE]) + string(string(ALGORITHM) + string(signature))
        return bytes([FAILURE])


def _string(data: bytes) -> tuple[bytes, bytes]:
    """The string at the beginning, and what follows it."""
    if len(data) < 4:
        raise ValueError("cut off")
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise ValueError("cut off")
    return data[4 : 4 + length], data[4 + length :]
