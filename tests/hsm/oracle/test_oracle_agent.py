"""The ssh-agent protocol: every request is answered, and none out of step."""

from __future__ import annotations

import asyncio
import base64
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sigsum_ops.hsm.oracle import agent
from sigsum_ops.hsm.oracle.agent import Agent, ListRequest, SignRequest, key_blob, parse, string
from sigsum_ops.log.keys import public_key_of

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(SECRET)
BLOB = key_blob(KEY)
FAILURE = b"\x05"
LIST = b"\x0b"


def sign_request(data: bytes, blob: bytes = BLOB, flags: int = 0) -> bytes:
    return b"\x0d" + string(blob) + string(data) + struct.pack(">I", flags)


def signed(data: bytes) -> bytes:
    return b"\x0e" + string(string(b"ssh-ed25519") + string(SECRET.sign(data)))


async def sign(data: bytes) -> bytes | None:
    """Signs what begins with yes."""
    return SECRET.sign(data) if data.startswith(b"yes") else None


@asynccontextmanager
async def serving(signer: agent.Signer = sign) -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "agent.sock")
        server = await asyncio.start_unix_server(Agent(KEY, "a comment", signer).serve, str(path))
        try:
            yield path
        finally:
            server.close()


class Client:
    """A connection that sends messages and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, path: Path) -> Client:
        return cls(*await asyncio.open_unix_connection(str(path)))

    async def read(self) -> bytes:
        (length,) = struct.unpack(">I", await self.reader.readexactly(4))
        return await self.reader.readexactly(length)

    async def ask(self, frame: bytes) -> bytes:
        self.writer.write(string(frame))
        return await asyncio.wait_for(self.read(), 5)


def test_key_blob_is_the_one_in_the_public_key_line() -> None:
    assert base64.b64encode(BLOB).decode() == KEY.ssh.split()[1]


def test_parse() -> None:
    assert parse(LIST, BLOB) == ListRequest()
    assert parse(sign_request(b"x"), BLOB) == SignRequest(b"x")
    assert parse(sign_request(b""), BLOB) == SignRequest(b"")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0",
        LIST + b"\0",
        b"\x01",  # the first version's list
        b"\x0d",
        sign_request(b"x")[:-1],
        sign_request(b"x") + b"\0",
        sign_request(b"x", flags=2),  # RSA with SHA-256
        sign_request(b"x", flags=1 << 31),
        sign_request(b"x", blob=BLOB[:-1]),
        sign_request(b"x", blob=key_blob(public_key_of(Ed25519PrivateKey.generate()))),
        sign_request(b"x", blob=b""),
        b"\x0d" + struct.pack(">I", 0xFFFFFFFF) + BLOB,
        b"\x0d" + string(BLOB) + struct.pack(">I", 0xFFFFFFFF) + b"x",
        b"\x11" + string(b"ssh-ed25519"),  # add a key
        b"\x12",
        b"\x13",  # remove all keys
        b"\x16" + string(b"password"),  # lock
        b"\x1b" + string(b"session-bind@openssh.com") + BLOB,
        b"\xff",
    ],
)
async def test_everything_else_is_answered_with_failure(frame: bytes) -> None:
    assert parse(frame, BLOB) is None
    assert await Agent(KEY, "", sign).answer(frame) == FAILURE


async def test_a_connection() -> None:
    async with serving() as path:
        client = await Client.connect(path)
        assert await client.ask(LIST) == b"\x0c\0\0\0\x01" + string(BLOB) + string(b"a comment")
        assert await client.ask(sign_request(b"yes")) == signed(b"yes")
        assert await client.ask(sign_request(b"no")) == FAILURE
        assert await client.ask(b"") == FAILURE
        assert await client.ask(sign_request(b"yes" + bytes(100_000))) == signed(
            b"yes" + bytes(100_000)
        )
        client.writer.close()


async def test_answers_come_in_the_order_of_the_requests() -> None:
    async def slow(data: bytes) -> bytes | None:
        await asyncio.sleep(0.05 if data == b"yes 0" else 0)
        return await sign(data)

    async with serving(slow) as path:
        client = await Client.connect(path)
        client.writer.write(b"".join(string(sign_request(b"yes %d" % i)) for i in range(5)))
        for i in range(5):
            assert await client.read() == signed(b"yes %d" % i)
        client.writer.close()


async def test_one_connection_does_not_wait_for_another() -> None:
    never = asyncio.Event()

    async def stuck(data: bytes) -> bytes | None:
        if data == b"stuck":
            await never.wait()
        return await sign(data)

    async with serving(stuck) as path:
        one, other = await Client.connect(path), await Client.connect(path)
        one.writer.write(string(sign_request(b"stuck")))
        assert await other.ask(sign_request(b"yes")) == signed(b"yes")
        never.set()
        assert await one.read() == FAILURE
        one.writer.close()
        other.writer.close()


async def test_byte_by_byte() -> None:
    async with serving() as path:
        client = await Client.connect(path)
        for byte in string(sign_request(b"yes")) + string(LIST):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert await client.read() == signed(b"yes")
        assert (await client.read())[:1] == b"\x0c"
        client.writer.close()


async def test_the_longest_message_and_one_that_is_longer() -> None:
    async with serving() as path:
        client = await Client.connect(path)
        assert await client.ask(bytes(agent.MAX_FRAME)) == FAILURE
        assert (await client.ask(LIST))[:1] == b"\x0c"
        client.writer.write(struct.pack(">I", agent.MAX_FRAME + 1))
        assert await client.read() == FAILURE
        assert await client.reader.read() == b""
        # It alone: others are served.
        other = await Client.connect(path)
        assert (await other.ask(LIST))[:1] == b"\x0c"
        other.writer.close()


async def test_clients_that_leave_in_the_middle() -> None:
    async with serving() as path:
        for sent in (b"", b"\0", b"\0\0\0\x09", string(sign_request(b"yes"))[:-2]):
            client = await Client.connect(path)
            client.writer.write(sent)
            client.writer.close()
            await client.writer.wait_closed()
        gone = await Client.connect(path)
        gone.writer.write(string(LIST) * 100)
        gone.writer.transport.abort()
        client = await Client.connect(path)
        assert (await client.ask(LIST))[:1] == b"\x0c"
        client.writer.close()


# Bytes that look like a message more often than random ones do.
FRAMES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        sign_request, st.binary(max_size=20), st.sampled_from([BLOB, b""]), st.integers(0, 3)
    ),
    st.builds(
        lambda kind, parts: bytes([kind]) + b"".join(map(string, parts)),
        st.integers(0, 30),
        st.lists(st.one_of(st.just(BLOB), st.binary(max_size=9)), max_size=3),
    ),
)


@given(st.lists(FRAMES, max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_messages_leave_the_connection_in_step(frames: list[bytes]) -> None:
    async def scenario() -> None:
        async with serving() as path:
            client = await Client.connect(path)
            for number, frame in enumerate(frames):
                assert (await client.ask(frame))[0] in (5, 12, 14)
                message = b"yes %d" % number
                assert await client.ask(sign_request(message)) == signed(message)
            client.writer.close()

    asyncio.run(scenario())


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_hurt_nobody_else(data: bytes) -> None:
    async def scenario() -> None:
        async with serving() as path:
            vandal, client = await Client.connect(path), await Client.connect(path)
            vandal.writer.write(data)
            assert await client.ask(sign_request(b"yes")) == signed(b"yes")
            vandal.writer.close()
            client.writer.close()

    asyncio.run(scenario())
