"""One device: it takes frames and answers them, keeps sessions, and remembers its state.

Not thread-safe: the connector hands it one frame at a time, as the real one does.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest

from yubihsm.defs import ALGORITHM, AUDIT, COMMAND, ERROR, OBJECT

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.rehearsal import channel, commands, devicelog, frames
from sigsum_ops.hsm.rehearsal.channel import Channel
from sigsum_ops.hsm.rehearsal.commands import Call, Rights
from sigsum_ops.hsm.rehearsal.frames import DeviceError, Fields, Frame
from sigsum_ops.hsm.rehearsal.state import Firmware, State, StateFile

FIRMWARE: Firmware = (2, 4, 0)
MAX_SESSIONS = 16
IDLE_SECONDS = 30.0
_TICKS_PER_SECOND = 100  # not documented; what real logs show is not far from it


def _ignore(_: int) -> None:
    pass


@dataclass
class _Session:
    channel: Channel
    rights: Rights
    used: float  # when it was last heard of
    host_cryptogram: bytes | None  # that it still has to show; None once it is authenticated


class Device:
    """A powered device.

    ``before`` and ``after`` are called with each command's code, also the ones inside of sessions:
    before it is carried out, and once it is done and kept, before the reply. What they raise ends
    the command there.
    """

    def __init__(
        self,
        file: StateFile,
        *,
        firmware: Firmware | None = None,
        clock: Callable[[], float] = time.monotonic,
        before: Callable[[int], None] = _ignore,
        after: Callable[[int], None] = _ignore,
    ) -> None:
        """Give the device power; a new one has the firmware that is asked for.

        Raises:
            OpsError: what is kept of it cannot be read, or cannot be written.
        """
        self._file = file
        self._clock = clock
        self._before = before
        self._after = after
        self._sessions: dict[int, _Session] = {}
        self._booted = clock()
        state = file.load()
        if state is not None and firmware not in (None, state.firmware):
            raise OpsError(
                f"device {file.serial} has firmware {'.'.join(map(str, state.firmware))}",
                hint="A device keeps its firmware. Choose another serial number or directory.",
            )
        self.state = state or State.factory(file.serial, firmware or FIRMWARE)
        if state is not None:
            self._boot()
        try:
            self._keep()
        except OSError as error:
            raise OpsError(f"{file.path} could not be written: {error.strerror}") from error

    def handle(self, encoded: bytes) -> bytes:
        """Answer a frame. Whatever is not one, or is refused, gets an error frame."""
        now = self._clock()
        for sid, session in list(self._sessions.items()):
            if now - session.used >= IDLE_SECONDS:
                del self._sessions[sid]
        try:
            return self._answer(encoded).encode()
        except DeviceError as error:
            return frames.failure(error.code).encode()

    def power_cycle(self) -> None:
        """Take the device's power away and give it back."""
        self.lose_sessions()
        self._booted = self._clock()
        self._boot()
        self._save()

    def lose_sessions(self) -> None:
        """Forget all sessions."""
        self._sessions.clear()

    def fill_log(self) -> None:
        """Fill the log with boots."""
        while not self.state.log.full:
            self.state.log.boot(forced=False)
        self._save()

    def _answer(self, encoded: bytes) -> Frame:
        if len(encoded) > commands.message_limit(self.state.firmware):
            raise DeviceError(ERROR.WRONG_LENGTH)
        frame = frames.parse(encoded)
        if frame.command == COMMAND.SESSION_MESSAGE:
            return self._session_message(frame.data)
        self._before(frame.command)
        if frame.command == COMMAND.CREATE_SESSION:
            answer = self._create_session(frame.data)
        elif frame.command == COMMAND.AUTHENTICATE_SESSION:
            answer = self._authenticate_session(frame.data)
        elif frame.command in commands.PLAIN:
            call = Call(self.state, Rights(devicelog.NOTHING, 0, 0, 0), Fields(frame.data))
            answer = commands.PLAIN[frame.command](call)
        else:
            raise DeviceError(ERROR.INVALID_COMMAND)
        self._after(frame.command)
        return frames.reply(frame.command, answer)

    def _create_session(self, data: bytes) -> bytes:
        fields = Fields(data)
        key_id, host = fields.number(2), fields.rest()
        answer, error = b"", None
        try:
            answer = self._begin(key_id, host)
        except DeviceError as refused:
            error = refused.code
        self._log_session(COMMAND.CREATE_SESSION, len(data), key_id, error)
        return answer

    def _begin(self, key_id: int, host: bytes) -> bytes:
        """Begin a session and return the reply; an asymmetric one needs no second step."""
        key = self.state.store.find(OBJECT.AUTHENTICATION_KEY, key_id)
        sid = next((sid for sid in range(MAX_SESSIONS) if sid not in self._sessions), None)
        if sid is None:
            raise DeviceError(ERROR.SESSIONS_FULL)
        symmetric = key.algorithm == ALGORITHM.AES128_YUBICO_AUTHENTICATION
        if len(host) != (channel.CHALLENGE_SIZE if symmetric else channel.POINT_SIZE):
            raise DeviceError(ERROR.WRONG_LENGTH)
        expected = None
        if symmetric:
            challenge = secrets.token_bytes(channel.CHALLENGE_SIZE)
            secure, shown, expected = channel.begin_symmetric(sid, key.body, host, challenge)
            answer = challenge + shown
        else:
            own = self.state.private_key()
            secure, point, receipt = channel.begin_asymmetric(sid, own, key.body, host)
            answer = point + receipt
            self._count_authentication()
        rights = Rights(key_id, key.capabilities, key.delegated, key.domains)
        self._sessions[sid] = _Session(secure, rights, self._clock(), expected)
        return bytes([sid]) + answer

    def _authenticate_session(self, data: bytes) -> bytes:
        session = self._sessions.get(data[0]) if data else None
        if session is None or session.host_cryptogram is None:
            raise DeviceError(ERROR.INVALID_SESSION)
        error = None
        try:
            shown = session.channel.verify(COMMAND.AUTHENTICATE_SESSION, data)[1:]
            if not compare_digest(shown, session.host_cryptogram):
                raise DeviceError(ERROR.AUTHENTICATION_FAILED)
            session.host_cryptogram = None
            session.used = self._clock()
            self._count_authentication()
        except DeviceError as refused:
            error = refused.code
            del self._sessions[session.channel.sid]
        self._log_session(COMMAND.AUTHENTICATE_SESSION, len(data), session.rights.key, error)
        return b""

    def _session_message(self, data: bytes) -> Frame:
        session = self._sessions.get(data[0]) if data else None
        if session is None or session.host_cryptogram is not None:
            raise DeviceError(ERROR.INVALID_SESSION)
        sid = session.channel.sid
        try:
            plain = session.channel.open(data)
        except DeviceError as error:
            if error.code == ERROR.AUTHENTICATION_FAILED:
                del self._sessions[sid]
            raise
        session.used = self._clock()
        command = plain[0] if plain else 0
        self._before(command)
        if sid not in self._sessions:
            raise DeviceError(ERROR.INVALID_SESSION)
        answer = self._carry_out(session, plain)
        done = answer.command == command | 0x80
        if done and command == COMMAND.CLOSE_SESSION:
            del self._sessions[sid]
        if done and command == COMMAND.RESET_DEVICE:
            self.lose_sessions()
            self._booted = self._clock()
        self._after(command)
        return session.channel.seal(answer)

    def _carry_out(self, session: _Session, plain: bytes) -> Frame:
        """Do what the decrypted message asks for; what is refused gets an error frame."""
        try:
            command, data = frames.parse(plain)
            if self._log_blocks and command not in commands.EVEN_IF_LOG_FULL:
                raise DeviceError(ERROR.LOG_FULL)
        except DeviceError as error:
            return frames.failure(error.code)
        call = Call(self.state, session.rights, Fields(data))
        try:
            reply = commands.execute(call, command)
            if len(reply) > channel.largest_reply(commands.message_limit(self.state.firmware)):
                raise DeviceError(ERROR.WRONG_LENGTH)
            answer = frames.reply(command, reply)
            result = answer.command
        except DeviceError as error:
            answer = frames.failure(error.code)
            result = error.code
        if command != COMMAND.RESET_DEVICE or answer.command == COMMAND.ERROR:
            self._log(command, len(data), call.rights.key, call.target, call.second, result)
        try:
            self._save()
        except DeviceError as error:
            return frames.failure(error.code)
        return answer

    def _log_session(self, command: int, length: int, key_id: int, error: ERROR | None) -> None:
        result = command | 0x80 if error is None else error
        self._log(command, length, devicelog.NOTHING, key_id, devicelog.NOTHING, result)
        self._save()
        if error is not None:
            raise DeviceError(error)

    def _log(
        self, command: int, length: int, session: int, target: int, second: int, result: int
    ) -> None:
        """Log a command, if it is audited by the settings that it left, and there is room."""
        audited = self.state.options.command_audit.get(command, AUDIT.OFF) != AUDIT.OFF
        if audited and not self._log_blocks:
            tick = int((self._clock() - self._booted) * _TICKS_PER_SECOND) % 2**32
            self.state.log.append(command, length, session, target, second, result, tick)

    @property
    def _log_blocks(self) -> bool:
        return self.state.options.force_audit != AUDIT.OFF and self.state.log.full

    def _count_authentication(self) -> None:
        if self._log_blocks:
            self.state.log.count_authentication()

    def _boot(self) -> None:
        self.state.log.boot(forced=self.state.options.force_audit != AUDIT.OFF)

    def _keep(self) -> None:
        """Write the state; OSError leaves the file as it was."""
        text = self.state.to_json()
        self._file.save(text)
        self._kept = text
        self._kept_changes = self.state.changes

    def _save(self) -> None:
        """Write the state if it changed; where that fails, it is as if nothing had changed.

        Raises:
            DeviceError: STORAGE_FAILED.
        """
        if self.state.changes == self._kept_changes:
            return
        try:
            self._keep()
        except OSError:
            self.state = State.from_json(self._kept)
            self._kept_changes = self.state.changes
            raise DeviceError(ERROR.STORAGE_FAILED) from None
