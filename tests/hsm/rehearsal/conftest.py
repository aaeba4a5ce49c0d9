"""A rehearsal device behind its connector, and a client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from yubihsm.core import AuthSession, YubiHsm

from sigsum_ops.hsm.rehearsal import serve
from tests.hsm.rehearsal.client import PASSWORD, SERIAL, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The directory that keeps the device."""
    return tmp_path / "devices"


@pytest.fixture
def connector(state: Path, clock: Clock) -> Iterator[str]:
    """The URL of its connector."""
    with serve({SERIAL: state}, clock=clock) as urls:
        yield urls[SERIAL]


@pytest.fixture
def hsm(connector: str) -> Iterator[YubiHsm]:
    with YubiHsm.connect(connector) as connected:
        yield connected


@pytest.fixture
def session(hsm: YubiHsm) -> AuthSession:
    """A session that may do everything, of the factory's authentication key."""
    return hsm.create_session_derived(1, PASSWORD)
