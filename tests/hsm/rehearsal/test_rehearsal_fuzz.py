"""Whatever arrives is answered with a frame, and neither state nor sessions suffer."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, COMMAND, ERROR, OBJECT
from yubihsm.objects import AsymmetricKey, HmacKey, Opaque

from sigsum_ops.hsm.rehearsal.device import MAX_SESSIONS, Device
from sigsum_ops.hsm.rehearsal.state import State
from sigsum_ops.hsm.rehearsal.store import FACTORY_SECRET
from tests.hsm.rehearsal.client import ALL, NONE, Clock, Direct, Memory, wrap_key


@cache
def furniture() -> str | None:
    """The state of a device with an object of each kind."""
    file = Memory()
    session = log_in(YubiHsm(Direct(Device(file))))
    for algorithm in (ALGORITHM.EC_ED25519, ALGORITHM.EC_P256, ALGORITHM.EC_P521):
        AsymmetricKey.generate(session, 500 + algorithm, "", 1, ALL, algorithm)
    wrap_key(session, bytes(16), 400, ALL, ALL)
    HmacKey.generate(session, 300, "", 1, ALL)
    Opaque.put(session, 500 + ALGORITHM.EC_P256, "", 1, NONE, ALGORITHM.OPAQUE_DATA, b"x")
    return file.text


class Furnished:
    """That device, a client, and a clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.file = Memory(furniture())
        self.device = Device(self.file, clock=self.clock)
        self.hsm = YubiHsm(Direct(self.device))

    def check(self, open_sessions: int = 0) -> None:
        """No other session is open, and the file is what the device knows."""
        assert self.file.text is not None
        assert State.from_json(self.file.text).to_json() == self.device.state.to_json()
        self.device.state.reset()  # or the factory's key might be gone
        for _ in range(MAX_SESSIONS - open_sessions):
            log_in(self.hsm)


def log_in(hsm: YubiHsm) -> AuthSession:
    return hsm.create_session(1, FACTORY_SECRET[:16], FACTORY_SECRET[16:])


IDS = st.sampled_from([0, 1, 300, 400, 500 + 46, 500 + 12, 500 + 14, 7, 0xFFFF])
PIECES = st.one_of(
    IDS.map(lambda n: n.to_bytes(2, "big")),
    st.sampled_from([bytes([n]) for n in (*OBJECT, *ALGORITHM)]),
    st.sampled_from([b"\0\1", b"\xff\xff", bytes(8), b"\xff" * 8, bytes(40), bytes(32)]),
    st.binary(max_size=100),
)
DATA = st.lists(PIECES, max_size=8).map(b"".join)
CODES = st.one_of(st.sampled_from([int(c) for c in COMMAND]), st.integers(0, 255))
QUICK = settings(max_examples=100, deadline=None)


def is_frame(answer: bytes, *commands: int) -> bool:
    """One whole frame, a reply to one of the commands or an error."""
    whole = len(answer) == 3 + int.from_bytes(answer[1:3], "big")
    if answer[0] == COMMAND.ERROR:
        return whole and len(answer) == 4 and answer[3] in set(ERROR)
    return whole and answer[0] in {command | 0x80 for command in commands}


@QUICK
@given(st.lists(st.one_of(st.binary(max_size=300), st.binary(min_size=3100, max_size=3300))))
def test_bytes(frames: list[bytes]) -> None:
    world = Furnished()
    for frame in frames:
        assert is_frame(world.device.handle(frame), *frame[:1])
    world.clock.now += 30  # what was begun and not finished
    world.check()


@QUICK
@given(st.lists(st.tuples(CODES, DATA), max_size=30))
def test_frames_outside_of_a_session(frames: list[tuple[int, bytes]]) -> None:
    world = Furnished()
    for command, data in frames:
        frame = bytes([command]) + len(data).to_bytes(2, "big") + data
        assert is_frame(world.device.handle(frame), command)
    world.clock.now += 30
    world.check()


@QUICK
@given(st.lists(st.tuples(CODES.filter(lambda c: c != COMMAND.CLOSE_SESSION), DATA), max_size=30))
def test_commands_of_an_authenticated_client(messages: list[tuple[int, bytes]]) -> None:
    world = Furnished()
    session = log_in(world.hsm)
    for command, data in messages:
        plain = bytes([command]) + len(data).to_bytes(2, "big") + data
        answer = unpadded(session._secure_transceive(plain))
        assert is_frame(answer, command)
        if answer[0] == COMMAND.RESET_DEVICE | 0x80:
            session = log_in(world.hsm)
    world.check(open_sessions=1)


@QUICK
@given(st.binary(max_size=200))
def test_an_authenticated_client_that_sends_no_frame(plain: bytes) -> None:
    world = Furnished()
    session = log_in(world.hsm)
    answer = unpadded(session._secure_transceive(plain))
    assert is_frame(answer, *plain[:1])
    if answer[0] != COMMAND.CLOSE_SESSION | 0x80:
        assert session.send_secure_cmd(COMMAND.ECHO, b"x") == b"x"
        session.close()
    world.check()


def unpadded(padded: bytes) -> bytes:
    return padded.rstrip(b"\0")[:-1]


def test_the_client_of_the_fuzzing_is_not_blind() -> None:
    """It gets through to commands, and does not only collect errors."""
    session = log_in(Furnished().hsm)
    answer = session._secure_transceive(bytes([COMMAND.LIST_OBJECTS, 0, 0]))
    assert unpadded(answer)[0] == COMMAND.LIST_OBJECTS | 0x80
    key_id = (500 + ALGORITHM.EC_ED25519).to_bytes(2, "big")
    answer = session._secure_transceive(bytes([COMMAND.SIGN_EDDSA, 0, 2]) + key_id)
    assert unpadded(answer)[:3] == bytes([COMMAND.SIGN_EDDSA | 0x80, 0, 64])
