"""What the tests of the rehearsal device share; its client is python-yubihsm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from yubihsm.backends import YhsmBackend
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY, ERROR
from yubihsm.exceptions import YubiHsmDeviceError
from yubihsm.objects import AsymmetricKey, AuthenticationKey, WrapKey

from sigsum_ops.hsm.rehearsal.device import Device
from sigsum_ops.hsm.rehearsal.state import State, StateFile

SERIAL = 90000001
PASSWORD = "password"
NONE = CAPABILITY(0)
ALL = CAPABILITY((1 << 56) - 1)
EVERYWHERE = 0xFFFF
BOTH_WAYS = CAPABILITY.EXPORT_WRAPPED | CAPABILITY.IMPORT_WRAPPED
SIGNING = CAPABILITY.SIGN_EDDSA | CAPABILITY.EXPORTABLE_UNDER_WRAP


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Memory(StateFile):
    """A device's file that is never written to a disk."""

    def __init__(self, text: str | None = None) -> None:
        super().__init__(Path("/nowhere"), SERIAL)
        self.text = text

    def load(self) -> State | None:
        return None if self.text is None else State.from_json(self.text)

    def save(self, text: str) -> None:
        self.text = text


class Direct(YhsmBackend):
    """A client's way to a device without a connector between them."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def transceive(self, msg: bytes) -> bytes:
        return self.device.handle(msg)

    def close(self) -> None:
        pass


@contextmanager
def refused(code: ERROR) -> Iterator[None]:
    """The device answers with exactly this error."""
    with pytest.raises(YubiHsmDeviceError) as caught:
        yield
    assert caught.value.code == code


def log_in(
    session: AuthSession,
    hsm: YubiHsm,
    capabilities: CAPABILITY = NONE,
    delegated: CAPABILITY = NONE,
    domains: int = EVERYWHERE,
) -> AuthSession:
    """A session with these rights, of a new authentication key that ``session`` makes."""
    key = AuthenticationKey.put_derived(
        session, 0, "some rights", domains, capabilities, delegated, "other"
    )
    return hsm.create_session_derived(key.id, "other")


def signing_key(
    session: AuthSession, object_id: int = 0, capabilities: CAPABILITY = SIGNING, domains: int = 1
) -> AsymmetricKey:
    """A new Ed25519 key in domain 1."""
    return AsymmetricKey.generate(
        session, object_id, "signing key", domains, capabilities, ALGORITHM.EC_ED25519
    )


def public_key(key: AsymmetricKey) -> Any:
    """As the device gives it."""
    return key.get_public_key()  # type: ignore[no-untyped-call]


def wrap_key(
    session: AuthSession,
    key: bytes,
    object_id: int = 0,
    capabilities: CAPABILITY = BOTH_WAYS,
    delegated: CAPABILITY = SIGNING,
    domains: int = 1,
) -> WrapKey:
    """A wrap key of 16, 24 or 32 bytes that lets the signing key through."""
    algorithm = {
        16: ALGORITHM.AES128_CCM_WRAP,
        24: ALGORITHM.AES192_CCM_WRAP,
        32: ALGORITHM.AES256_CCM_WRAP,
    }[len(key)]
    return WrapKey.put(
        session, object_id, "wrap key", domains, capabilities, algorithm, delegated, key
    )
