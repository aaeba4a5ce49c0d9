"""Fixtures of this scenario: the public doors of the log's machines."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from door import Door

from sigsum_ops.lab.lab import Lab


@pytest.fixture(scope="session")
def authority(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the root of the lab's authority."""
    infra = lab.hosts()["infra1"]
    root = subprocess.run(
        ["curl", "-sSf", "--cacert", lab.state / "dns/acme.pem", f"https://{infra}:15000/roots/0"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    path = tmp_path_factory.mktemp("authority") / "root.pem"
    path.write_text(root)
    return path


@pytest.fixture(scope="session")
def trust(authority: Path) -> ssl.SSLContext:
    """That root, and no other."""
    return ssl.create_default_context(cafile=authority)


@pytest.fixture(scope="session")
def doors(lab: Lab, trust: ssl.SSLContext) -> dict[str, Door]:
    return {name: Door(lab.hosts()[name], trust) for name in ("log1", "log2")}


@pytest.fixture
def door(doors: dict[str, Door]) -> Door:
    """That of the primary."""
    return doors["log1"]


@pytest.fixture
def standby(doors: dict[str, Door]) -> Door:
    return doors["log2"]
