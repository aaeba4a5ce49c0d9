"""Ceremonies wait for the disk at each line and derive a key for each session; tests do not."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigsum_ops.hsm import device


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, for tests that are not about disks."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="test-") as path:
        yield Path(path)


@pytest.fixture(scope="session", autouse=True)
def derive_once() -> Iterator[None]:
    """Keys are derived once for each passphrase, and a device that is gone is not waited for."""
    derive = functools.cache(device.authentication_keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "authentication_keys", lambda passphrase: derive(bytes(passphrase)))
        patch.setattr(device, "RESTART_SECONDS", 1.0)
        yield
