"""Fixtures of the oracle's scenario."""

from __future__ import annotations

import pytest
from signing import Log
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.keys import PublicKey, load_public_key


@pytest.fixture(scope="session")
def key(lab: Lab) -> PublicKey:
    """The log's public key, from the verified record of the ceremony."""
    return load_public_key(lab.state / "log-key.pub")


@pytest.fixture
def log(lab: Lab, key: PublicKey, client1: Host) -> Log:
    """The log."""
    return Log(lab, key, client1)
