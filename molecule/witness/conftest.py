"""Fixtures of this scenario: its machines, and its log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cosigners import Log
from resources.names import Names
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab


@pytest.fixture(scope="session")
def infra1(machines: dict[str, Host]) -> Host:
    """The world's DNS, and its authorities."""
    return machines["infra1"]


@pytest.fixture(scope="session")
def bastion1(machines: dict[str, Host]) -> Host:
    return machines["bastion1"]


@pytest.fixture(scope="session")
def witness1(machines: dict[str, Host]) -> Host:
    """Behind the bastion."""
    return machines["witness1"]


@pytest.fixture(scope="session")
def witness2(machines: dict[str, Host]) -> Host:
    """With a name of its own."""
    return machines["witness2"]


@pytest.fixture(scope="session", autouse=True)
def names(machines: dict[str, Host]) -> Iterator[Names]:
    """The DNS, in which the submitter's domain has its key."""
    names = Names(machines["infra1"])
    (key,) = (
        machines["client1"].check_output("sigsum-key to-hex -k /etc/sigsum/token-key.pub").split()
    )
    with names.having(f"_sigsum_v1.submitter TXT {key}"):
        yield names


@pytest.fixture(scope="session")
def log(lab: Lab, machines: dict[str, Host]) -> Log:
    return Log(lab, machines)
