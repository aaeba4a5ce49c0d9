"""One YubiHSM 2 behind a connector, over python-yubihsm: typed values, readable errors.

A ``Device`` is the unauthenticated connection, a ``Session`` an authenticated one; both are context
managers. Whoever must keep a record sets ``observe``, which is called once for every command that
was sent, with its arguments, except keys and passphrases, and its result or error. A session that
idles for 30 s is gone, so open one for a few commands, never across a question to a person.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yubihsm.backends.http import HttpBackend
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, AUDIT, COMMAND, ERROR, OBJECT, OPTION
from yubihsm.exceptions import (
    YubiHsmAuthenticationError,
    YubiHsmConnectionError,
    YubiHsmDeviceError,
    YubiHsmError,
)
from yubihsm.objects import AsymmetricKey, AuthenticationKey, ObjectInfo, WrapKey

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.devicelog import ENTRY_SIZE as LOG_ENTRY_SIZE
from sigsum_ops.hsm.plan import ObjectSpec

T = TypeVar("T")

DEFAULT_PASSWORD = b"password"

TIMEOUT = (5.0, 30.0)  # seconds: to connect, for an answer (a reset takes a few)
RESTART_SECONDS = 30.0  # what a device may take to come back after a reset; it takes about 5

# What a device says when it no longer knows the session: it restarted, or 30 s went by.
_SESSION_LOST = {ERROR.INVALID_SESSION, ERROR.AUTHENTICATION_FAILED, ERROR.SESSION_FAILED}


class DeviceError(OpsError):
    """The device or the way to it failed."""


class Unreachable(DeviceError):  # noqa: N818 - a state
    """No answer, or none of a YubiHSM. Whether the last command was carried out is not known."""


class Refused(DeviceError):  # noqa: N818 - an answer
    """The device said no, with ``code``."""

    def __init__(self, message: str, code: ERROR, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class WrongSecret(DeviceError):  # noqa: N818 - an answer
    """The authentication key is there, but its passphrase is another."""


@dataclass(frozen=True)
class Identity:
    """What the device says of itself before anyone authenticates."""

    serial: int
    firmware: tuple[int, int, int]
    part_number: str | None  # from firmware 2.4.0
    algorithms: frozenset[ALGORITHM]
    log_size: int  # entries that the device's log can hold
    log_used: int


@dataclass(frozen=True)
class Storage:
    """GET_STORAGE_INFO; a page has ``page_size`` bytes."""

    records: int
    free_records: int
    pages: int
    free_pages: int
    page_size: int


@dataclass(frozen=True)
class Log:
    """GET_LOG_ENTRIES: what could not be logged for want of room, and the entries, oldest first."""

    unlogged_boots: int
    unlogged_authentications: int
    entries: tuple[bytes, ...]


@dataclass(frozen=True)
class Exchange:
    """A command and what came of it.

    ``arguments`` and ``result`` are those of the method of Device or Session that sent it, without
    keys and passphrases; ``result`` is what it returns. ``error`` is None, the device's error, or
    ``NO_REPLY``: the device may have done it or not.
    """

    session_key: int | None
    command: COMMAND
    arguments: tuple[Any, ...]
    result: Any
    error: ERROR | Literal["no-reply"] | None


NO_REPLY: Literal["no-reply"] = "no-reply"
Observer = Callable[[Exchange], None]


def authentication_keys(passphrase: bytes | bytearray) -> tuple[bytes, bytes]:
    """K-ENC and K-MAC of a passphrase, as every YubiHSM tool derives them."""
    kdf = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=b"Yubico", iterations=10000)
    key = kdf.derive(passphrase)
    return key[:16], key[16:]


class Device:
    """A device that was asked who it is. ``where`` names it in messages.

    ``observe`` may be set once it is known which device this is.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.observe: Observer = lambda _: None
        self.identity: Identity
        self.where = f"the device at {self.url}"
        with self._readable(None, in_session=False):
            self._hsm = YubiHsm(_backend(self.url))
        self.identify()
        self.where = f"YubiHSM {self.identity.serial} at {self.url}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._hsm.close()

    def identify(self) -> Identity:
        """Ask again who this is: someone may have put another device into its place.

        ``identity`` is the last answer.
        """
        info = self.send(None, COMMAND.DEVICE_INFO, (), self._hsm.get_device_info)
        self.identity = Identity(
            info.serial,
            info.version,
            (info.part_number or "").rstrip("\0") or None,
            frozenset(info.supported_algorithms),
            info.log_size,
            info.log_used,
        )
        return self.identity

    @contextmanager
    def session(self, key: int, passphrase: bytes | bytearray) -> Iterator[Session]:
        """Authenticate with authentication key ``key``; the session is closed at the end.

        Raises:
            WrongSecret: the key is there, the passphrase is not its.
            Refused: OBJECT_NOT_FOUND, there is no such key.
        """
        enc, mac = authentication_keys(passphrase)
        session = Session(
            self,
            self.send(
                None,
                COMMAND.CREATE_SESSION,
                (key,),
                lambda: self._hsm.create_session(key, enc, mac),
            ),
            key,
        )
        try:
            yield session
        finally:
            # A session that cannot be closed ends by itself in 30 s.
            with suppress(DeviceError):
                session.close()

    def opens(self, key: int, passphrase: bytes | bytearray) -> bool:
        """Whether this passphrase opens a session with this key."""
        try:
            with self.session(key, passphrase):
                return True
        except WrongSecret:
            return False
        except Refused as refusal:
            if refusal.code == ERROR.OBJECT_NOT_FOUND:
                return False
            raise

    def send(
        self,
        session_key: int | None,
        command: COMMAND,
        arguments: tuple[Any, ...],
        do: Callable[[], T],
    ) -> T:
        """Send one command, tell the observer, and turn what fails into a DeviceError."""

        def tell(result: T | None, error: ERROR | Literal["no-reply"] | None) -> None:
            self.observe(Exchange(session_key, command, arguments, result, error))

        try:
            with self._readable(command, in_session=session_key is not None):
                result = do()
        except WrongSecret:
            tell(None, ERROR.AUTHENTICATION_FAILED)
            raise
        except Refused as refusal:
            tell(None, refusal.code)
            raise
        except Unreachable as failure:
            cause = failure.__cause__
            tell(None, cause.code if isinstance(cause, YubiHsmDeviceError) else NO_REPLY)
            raise
        tell(result, None)
        return result

    @contextmanager
    def _readable(self, command: COMMAND | None, *, in_session: bool) -> Iterator[None]:
        doing = f" to {command.name}" if command else ""
        try:
            yield
        except YubiHsmConnectionError as error:
            raise Unreachable(
                f"{self.where} does not answer{doing}",
                hint="Is the device plugged in, and its connector running? See "
                f"{self.url}/connector/status.",
            ) from error
        except YubiHsmDeviceError as error:
            if in_session and error.code in _SESSION_LOST:
                raise Unreachable(
                    f"{self.where} no longer knows the session{doing}",
                    hint="It was unplugged, restarted or left idle for 30 s. Try again.",
                ) from error
            if error.code == ERROR.AUTHENTICATION_FAILED:
                raise self._wrong_secret() from error
            raise Refused(f"{self.where} answers {error.code.name}{doing}", error.code) from error
        except YubiHsmAuthenticationError as error:
            raise self._wrong_secret() from error
        except (YubiHsmError, ValueError, IndexError, struct.error) as error:
            raise Unreachable(
                f"{self.where} gives an answer{doing} that is not a YubiHSM's: {error}",
                hint="Is it a YubiHSM connector that listens at this address?",
            ) from error

    def _wrong_secret(self) -> WrongSecret:
        return WrongSecret(
            f"{self.where} does not accept this passphrase",
            hint="It belongs to another device or ceremony, or someone changed the key.",
        )


class Session:
    """What an authentication key lets one do. Sees only the objects of its key's domains."""

    def __init__(self, device: Device, inner: AuthSession, key: int) -> None:
        self.device = device
        self.key = key
        self._inner = inner

    def close(self) -> None:
        if self._inner.sid is not None:
            self._send(COMMAND.CLOSE_SESSION, (), self._inner.close)

    def random(self, length: int) -> bytes:
        """Bytes of the device's random number generator."""
        return self._send(
            COMMAND.GET_PSEUDO_RANDOM, (length,), lambda: self._inner.get_pseudo_random(length)
        )

    def reset(self) -> None:
        """Erase everything. The device restarts, so this session and connection are over."""
        self._send(COMMAND.RESET_DEVICE, (), self._inner.reset_device)

    def objects(self) -> tuple[tuple[OBJECT, int], ...]:
        """Type and id of each object that this session sees, in order."""
        return self._send(
            COMMAND.LIST_OBJECTS,
            (),
            lambda: tuple(sorted((o.object_type, o.id) for o in self._inner.list_objects())),
        )

    def info(self, kind: OBJECT, number: int) -> ObjectInfo:
        return self._send(
            COMMAND.GET_OBJECT_INFO,
            (kind, number),
            lambda: self._inner.get_object(number, kind).get_info(),
        )

    def storage(self) -> Storage:
        return self._send(
            COMMAND.GET_STORAGE_INFO,
            (),
            lambda: Storage(
                *struct.unpack("!5H", self._inner.send_secure_cmd(COMMAND.GET_STORAGE_INFO))
            ),
        )

    def put_authentication_key(self, spec: ObjectSpec, passphrase: bytes | bytearray) -> int:
        """Returns the id, as the other commands that make an object do."""
        enc, mac = authentication_keys(passphrase)
        return self._send(
            COMMAND.PUT_AUTHENTICATION_KEY,
            (spec,),
            lambda: (
                AuthenticationKey.put(
                    self._inner,
                    spec.id,
                    spec.label,
                    spec.domains,
                    spec.capabilities,
                    spec.delegated,
                    enc,
                    mac,
                ).id
            ),
        )

    def put_wrap_key(self, spec: ObjectSpec, key: bytes | bytearray) -> int:
        return self._send(
            COMMAND.PUT_WRAP_KEY,
            (spec,),
            lambda: (
                WrapKey.put(
                    self._inner,
                    spec.id,
                    spec.label,
                    spec.domains,
                    spec.capabilities,
                    spec.algorithm,
                    spec.delegated,
                    bytes(key),
                ).id
            ),
        )

    def generate(self, spec: ObjectSpec) -> int:
        """Let the device make an asymmetric key."""
        return self._send(
            COMMAND.GENERATE_ASYMMETRIC_KEY,
            (spec,),
            lambda: (
                AsymmetricKey.generate(
                    self._inner,
                    spec.id,
                    spec.label,
                    spec.domains,
                    spec.capabilities,
                    spec.algorithm,
                ).id
            ),
        )

    def export_wrapped(self, wrap_key: int, kind: OBJECT, number: int) -> bytes:
        """The object as a blob that only a device with the same wrap key can open."""
        return self._send(
            COMMAND.EXPORT_WRAPPED,
            (wrap_key, kind, number),
            lambda: WrapKey(self._inner, wrap_key).export_wrapped(
                self._inner.get_object(number, kind)
            ),
        )

    def import_wrapped(self, wrap_key: int, blob: bytes) -> tuple[OBJECT, int]:
        """Put back what ``export_wrapped`` gave; returns what it is."""

        def do() -> tuple[OBJECT, int]:
            found = WrapKey(self._inner, wrap_key).import_wrapped(blob)
            return found.object_type, found.id

        return self._send(COMMAND.IMPORT_WRAPPED, (wrap_key, blob), do)

    def public_key(self, number: int) -> bytes:
        """The 32 bytes of an Ed25519 public key; another kind of key is Unreachable."""
        return self._send(
            COMMAND.GET_PUBLIC_KEY,
            (number,),
            lambda: _raw(
                AsymmetricKey(self._inner, number).get_public_key()  # type: ignore[no-untyped-call]
            ),
        )

    def attest(self, number: int) -> str:
        """The certificate (PEM) in which the factory's key, id 0, says where this key came from."""
        return self._send(
            COMMAND.SIGN_ATTESTATION_CERTIFICATE,
            (number, 0),
            lambda: (
                AsymmetricKey(self._inner, number).attest(0).public_bytes(Encoding.PEM).decode()
            ),
        )

    def sign(self, number: int, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return self._send(
            COMMAND.SIGN_EDDSA,
            (number, message),
            lambda: AsymmetricKey(self._inner, number).sign_eddsa(message),
        )

    def delete(self, kind: OBJECT, number: int) -> None:
        self._send(
            COMMAND.DELETE_OBJECT,
            (kind, number),
            lambda: self._inner.get_object(number, kind).delete(),
        )

    def log(self) -> Log:
        """Everything that the device's log holds, as it holds it: ``devicelog`` judges it."""

        def do() -> Log:
            answer = self._inner.send_secure_cmd(COMMAND.GET_LOG_ENTRIES)
            boots, authentications, count = struct.unpack_from("!HHB", answer)
            data = answer[5:]
            if len(data) != count * LOG_ENTRY_SIZE:
                raise ValueError(f"{len(data)} bytes for {count} log entries")
            starts = range(0, len(data), LOG_ENTRY_SIZE)
            entries = tuple(data[start : start + LOG_ENTRY_SIZE] for start in starts)
            return Log(boots, authentications, entries)

        return self._send(COMMAND.GET_LOG_ENTRIES, (), do)

    def consume_log(self, number: int) -> None:
        """Let the device forget its log up to entry ``number``, and this one too."""
        self._send(COMMAND.SET_LOG_INDEX, (number,), lambda: self._inner.set_log_index(number))

    def option(self, option: OPTION) -> bytes:
        """An option's value as on the wire."""
        return self._send(COMMAND.GET_OPTION, (option,), lambda: self._inner.get_option(option))

    def set_option(self, option: OPTION, value: bytes) -> None:
        self._send(
            COMMAND.SET_OPTION, (option, value), lambda: self._inner.put_option(option, value)
        )

    def _send(self, command: COMMAND, arguments: tuple[Any, ...], do: Callable[[], T]) -> T:
        return self.device.send(self.key, command, arguments, do)


def command_audit(value: bytes) -> dict[int, AUDIT]:
    """The value of OPTION.COMMAND_AUDIT: pairs of command and setting, by the command's number."""
    return {value[n]: AUDIT(value[n + 1]) for n in range(0, len(value) - 1, 2)}


def command_audit_value(commands: Mapping[COMMAND, AUDIT]) -> bytes:
    """The inverse of ``command_audit``; what is not named stays as it is when set."""
    return b"".join(bytes((command, audit)) for command, audit in sorted(commands.items()))


def connect_again(url: str, serial: int) -> Device:
    """The same device after its restart; Unreachable where it is not back in RESTART_SECONDS."""
    deadline = time.monotonic() + RESTART_SECONDS
    while True:
        try:
            device = Device(url)
        except DeviceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            continue
        if device.identity.serial == serial:
            return device
        device.close()
        raise Unreachable(
            f"at {url} YubiHSM {device.identity.serial} came back, not {serial}",
            hint="Put the right device back and resume.",
        )


def _backend(url: str) -> HttpBackend:
    backend = HttpBackend(url, cast("tuple[int, int]", TIMEOUT))
    # What goes to a device never goes over the proxy that the environment may name.
    backend._session.trust_env = False
    return backend


def _raw(key: object) -> bytes:
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("the key is not an Ed25519 key")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
