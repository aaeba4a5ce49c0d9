"""Fixtures of the scenarios' tests: the lab's machines over ssh, and Ansible."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import testinfra
from resources.support import Ansible
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.lab.spec import ssh_options

LAB = Lab(f"molecule-{os.environ['MOLECULE_SCENARIO_NAME'].replace('_', '-')}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes ``host`` runs on each machine of the lab."""
    if "host" in metafunc.fixturenames:
        metafunc.parametrize("host", list(LAB.hosts()), indirect=True)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The scenario's lab, to restart its machines."""
    return LAB


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """Every machine of the lab by its name, as root over ssh."""
    config = tmp_path_factory.mktemp("ssh") / "config"
    options = [option.replace("=", " ", 1) for option in ssh_options(str(LAB.state))]
    identity = f'IdentityFile "{LAB.state}/ssh/id_ed25519"'
    # As ansible.cfg has it: one connection for all questions.
    shared = "ControlPath ~/.cache/sigsum-ops/cp/%C"
    config.write_text("\n".join(["User root", "LogLevel ERROR", identity, shared, *options]) + "\n")
    return {
        name: testinfra.get_host(f"ssh://{address}", ssh_config=str(config))
        for name, address in LAB.hosts().items()
    }


@pytest.fixture
def host(request: pytest.FixtureRequest, machines: Mapping[str, Host]) -> Host:
    """One machine after the other."""
    return machines[request.param]


@pytest.fixture
def log1(machines: Mapping[str, Host]) -> Host:
    """The machine log1."""
    return machines["log1"]


@pytest.fixture
def log2(machines: Mapping[str, Host]) -> Host:
    """The machine log2."""
    return machines["log2"]


@pytest.fixture
def client1(machines: Mapping[str, Host]) -> Host:
    """The machine client1."""
    return machines["client1"]


@pytest.fixture
def ansible(tmp_path: Path) -> Ansible:
    """Playbooks and modules on the lab's machines."""
    return Ansible(LAB.hosts(), tmp_path / "overlay.yml")
