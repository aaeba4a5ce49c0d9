"""Whoever holds the key: a YubiHSM 2 behind its connector, or a file in a lab.

The signer is used from one thread. Every call has a deadline (of ``time.monotonic``), and is over
soon after it whatever the connector does.

A trap that is avoided here: the device forgets its sessions when it is unplugged or restarted, and
hands out their ids again. To close an old session then, with its old keys, destroys somebody's new
one. So a session that failed is forgotten, never closed: the device ends it itself after 30 s
without a command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ERROR
from yubihsm.exceptions import (
    YubiHsmAuthenticationError,
    YubiHsmDeviceError,
)
from yubihsm.objects import AsymmetricKey
from yubihsm.utils import password_to_key

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.connector import Connector, words
from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.oracle.metrics import Metrics
from sigsum_ops.hsm.oracle.signatures import Counter
from sigsum_ops.log.keys import PublicKey, public_key_of

T = TypeVar("T")

SESSION_IDLE = 25.0  # seconds after which a session is not trusted to be there any more


class SignerError(OpsError):
    """No signature now; asking later may help."""


class WrongDevice(SignerError):  # noqa: N818 - named for what it means
    """The device answers, and is not the one to sign with: a person has to look."""


class Signer(Protocol):
    """Signs with the pinned key, or not at all."""

    def prove(self, deadline: float) -> str:
        """Show that the key is the pinned one; returns what holds it, in words."""

    def sign(self, message: bytes, deadline: float) -> bytes:
        """An Ed25519 signature (64 bytes) that was verified with the pinned key."""

    def close(self) -> None:
        """Let go of what is held."""


class SoftwareSigner:
    """A private key in memory, for labs."""

    def __init__(self, key: Ed25519PrivateKey, pinned: PublicKey) -> None:
        self._key = key
        self._pinned = pinned

    def prove(self, deadline: float) -> str:
        """Compare the key itself."""
        del deadline
        if public_key_of(self._key) != self._pinned:
            raise WrongDevice(
                f"the software key is {public_key_of(self._key).ssh},"
                f" not the pinned {self._pinned.ssh}"
            )
        return "a software key (lab only)"

    def sign(self, message: bytes, deadline: float) -> bytes:
        """Sign and verify."""
        del deadline
        signature = self._key.sign(message)
        self._pinned.verify(signature, message)
        return signature

    def close(self) -> None:
        """Nothing to let go of."""


class HsmSigner:
    """A YubiHSM 2 behind the connector at ``url``.

    A session is opened when it is needed, and again when anything fails; each time the public key
    is compared with the pinned one before anything is signed.
    """

    def __init__(
        self,
        url: str,
        *,
        authentication_key: int,
        signing_key: int,
        passphrase: str,
        pinned: PublicKey,
        metrics: Metrics,
        counter: Counter,
        rehearsal_allowed: bool = False,
    ) -> None:
        self.metrics = metrics
        self._counter = counter
        self._connector = Connector(url)
        self._authentication_key = authentication_key
        self._signing_key = signing_key
        self._static_keys = password_to_key(passphrase)
        self._pinned = pinned
        self._rehearsal_allowed = rehearsal_allowed
        self._session: AuthSession | None = None
        self._where = url
        self._used = 0.0  # when the session was last seen to work

    def prove(self, deadline: float) -> str:
        """Open a session and compare the public key."""
        self._attempt(lambda _key: None, deadline)
        return self._where

    def sign(self, message: bytes, deadline: float) -> bytes:
        """Sign on the device, and verify what it answered."""

        def sign(key: AsymmetricKey) -> bytes:
            self.metrics.device_signatures += 1
            with self._counter.asked(no=YubiHsmDeviceError):
                signature = key.sign_eddsa(message)
            self._pinned.verify(signature, message)
            return signature

        return self._attempt(sign, deadline)

    def close(self) -> None:
        """Close the session, if it was seen to work so lately that it is still ours."""
        if self._session and time.monotonic() - self._used < SESSION_IDLE:
            self._connector.deadline = time.monotonic() + 1.0
            with suppress(Exception):
                self._session.close()
        self._forget()

    def _attempt(self, use: Callable[[AsymmetricKey], T], deadline: float) -> T:
        self._connector.deadline = deadline
        if self._session and time.monotonic() - self._used >= SESSION_IDLE:
            self._forget()
        while True:
            reused = self._session is not None
            try:
                session = self._session or self._open()
                result = use(AsymmetricKey(session, self._signing_key))
            except WrongDevice:
                self._forget()
                raise
            # Whatever a device or a connector may answer, it must end in an answer to the log.
            except Exception as error:
                self._forget()
                # The session may have been lost since it was last used: one new one is tried.
                if reused and time.monotonic() < deadline:
                    continue
                raise SignerError(f"{self._where}: {words(error)}") from error
            self._used = time.monotonic()
            return result

    def _open(self) -> AuthSession:
        hsm = YubiHsm(self._connector)
        info = hsm.get_device_info()
        self._where = f"YubiHSM {info.serial} at {self._connector.url}"
        if is_rehearsal(info.serial, info.part_number) and not self._rehearsal_allowed:
            raise WrongDevice(
                f"{self._where} is a rehearsal device, whose keys anyone can read",
                hint="Only a lab may sign with one: rehearsal_device in the oracle's [hsm].",
            )
        try:
            with _missing(f"{self._where} has no authentication key {self._authentication_key}"):
                session = hsm.create_session(self._authentication_key, *self._static_keys)
        except YubiHsmAuthenticationError as error:
            raise WrongDevice(
                f"{self._where}: not the passphrase of authentication key"
                f" {self._authentication_key}"
            ) from error
        self.metrics.sessions_opened += 1
        try:
            self._compare(AsymmetricKey(session, self._signing_key))
        except WrongDevice:
            # It was opened just now, so this closes no other; else they would add up to 16.
            with suppress(Exception):
                session.close()
            raise
        self._session = session
        return session

    def _compare(self, key: AsymmetricKey) -> None:
        with _missing(
            f"{self._where} shows authentication key {self._authentication_key}"
            f" no signing key {key.id}"
        ):
            public = key.get_public_key()  # type: ignore[no-untyped-call]
        if not isinstance(public, Ed25519PublicKey):
            raise WrongDevice(f"{self._where}: key {key.id} is not an Ed25519 key")
        found = PublicKey(public.public_bytes_raw())
        if found != self._pinned:
            raise WrongDevice(
                f"{self._where}: key {key.id} is {found.ssh}, not the pinned {self._pinned.ssh}",
                hint="Another device, or another log's configuration. Nothing is signed.",
            )

    def _forget(self) -> None:
        self._session = None
        self._connector.close()


@contextmanager
def _missing(message: str) -> Iterator[None]:
    """An object that the device does not have is a definite no."""
    try:
        yield
    except YubiHsmDeviceError as error:
        if error.code != ERROR.OBJECT_NOT_FOUND:
            raise
        raise WrongDevice(message) from error
