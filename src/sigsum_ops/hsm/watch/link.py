"""Short sessions with a device that others use at the same time.

A device has 16 sessions, and hands their ids out again after it lost them. So a session is opened
for a few commands and closed at once; and one that failed is never closed, since its id may be
somebody else's by now: the device ends it after 30 s.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from yubihsm.core import AuthSession, DeviceInfo, YubiHsm
from yubihsm.defs import ERROR
from yubihsm.exceptions import (
    YubiHsmAuthenticationError,
    YubiHsmConnectionError,
    YubiHsmDeviceError,
    YubiHsmError,
)
from yubihsm.utils import password_to_key

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.connector import Connector
from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.service.systemd import credential

PRIVATE = Path("/etc/sigsum/private")
SECONDS = 10.0  # for everything that is asked of a device at one time

StaticKeys = tuple[bytes, bytes]

# The device is there, and cannot be asked now: it forgot the session, or has no free one.
_TRY_AGAIN = {
    ERROR.INVALID_SESSION,
    ERROR.AUTHENTICATION_FAILED,
    ERROR.SESSION_FAILED,
    ERROR.SESSIONS_FULL,
}


class Away(OpsError):  # noqa: N818 - a state
    """No answer, or none that tells anything: what is on the device is not known."""


class Refused(OpsError):  # noqa: N818 - an answer
    """The device answers, and says no; ``code`` is None where it would not even open a session."""

    def __init__(self, message: str, code: ERROR | None) -> None:
        super().__init__(message)
        self.code = code


class OtherDevice(OpsError):  # noqa: N818 - a state
    """The device that answers is not the one that was asked for."""


def static_keys(passphrase: str) -> StaticKeys:
    """What opens a session, from a passphrase; takes milliseconds."""
    enc, mac = password_to_key(passphrase)
    return enc, mac


def keys_of(file: Path) -> StaticKeys:
    """What the passphrase in a file opens, such as a ceremony leaves it. Raises UsageError."""
    try:
        passphrase = file.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: the passphrase cannot be read") from error
    if not passphrase:
        raise UsageError(f"{file}: the passphrase is empty")
    return static_keys(passphrase)


def keys_from(file: Path | None, name: str) -> StaticKeys:
    """What opens a session: from a file that a person names, or the credential of this name.

    Outside of a unit, root reads what the unit would be given.
    """
    if file is None and "CREDENTIALS_DIRECTORY" not in os.environ:
        file = PRIVATE / name
    return keys_of(file) if file else static_keys(credential(name))


class Link:
    """A way to the device behind the connector at ``url``."""

    def __init__(self, url: str) -> None:
        self.where = f"the device at {url}"
        self._url = url
        self._connector = Connector(url)

    def close(self) -> None:
        """Close the connection to the connector; the next question opens one."""
        self._connector.close()

    def identify(self) -> DeviceInfo:
        """Ask the device who it is, which needs no session.

        Raises:
            Away: it does not say.
        """
        self._connector.deadline = time.monotonic() + SECONDS
        with self._readable("to say who it is"):
            info = YubiHsm(self._connector).get_device_info()
        self.where = f"YubiHSM {info.serial} at {self._url}"
        return info

    def expect(self, serial: int, *, rehearsal_allowed: bool) -> DeviceInfo:
        """``identify``, and refuse any other device.

        Raises:
            OtherDevice: it has another serial number, or is for rehearsals where none may be.
        """
        info = self.identify()
        if is_rehearsal(info.serial, info.part_number) and not rehearsal_allowed:
            raise OtherDevice(
                f"{self.where} is a rehearsal device, whose keys anyone can read",
                hint="Only a lab may have one: rehearsal_device in the configuration.",
            )
        if info.serial != serial:
            raise OtherDevice(
                f"{self.where} is another device than YubiHSM {serial}",
                hint="Find out who exchanged them, before anything else is done with either.",
            )
        return info

    @contextmanager
    def session(self, key: int, keys: StaticKeys) -> Iterator[AuthSession]:
        """A session for the block, which may send what it wants and has ten seconds.

        Raises:
            Away: no answer came, or the session was lost.
            Refused: another passphrase, no such key, or the device's answer to a command.
        """
        self._connector.deadline = time.monotonic() + SECONDS
        with self._readable(f"to authentication key {key}"):
            session = YubiHsm(self._connector).create_session(key, *keys)
        lost = False
        try:
            with self._readable(""):
                yield session
        except Away:
            lost = True
            raise
        finally:
            if not lost:
                with suppress(YubiHsmError):
                    session.close()

    @contextmanager
    def _readable(self, to: str) -> Iterator[None]:
        said = f"{self.where} {{}}{' ' if to else ''}{to}"
        try:
            yield
        except YubiHsmConnectionError as error:
            self.close()
            raise Away(
                said.format("does not answer"),
                hint="Is the device plugged in, and its connector running? See "
                f"{self._url}/connector/status.",
            ) from error
        except YubiHsmAuthenticationError as error:
            raise Refused(said.format("does not accept the passphrase given"), None) from error
        except YubiHsmDeviceError as error:
            message = said.format(f"answers {error.code.name}")
            if error.code in _TRY_AGAIN:
                raise Away(message) from error
            raise Refused(message, error.code) from error
        except (YubiHsmError, ValueError, IndexError, struct.error) as error:
            self.close()
            raise Away(said.format("gives no answer of a YubiHSM"), hint=str(error)) from error
