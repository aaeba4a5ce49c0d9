"""What tests of more than one room need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "build/tools"


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's own checker, which `make` fetches; another one on PATH will do."""
    found = shutil.which("promtool", path=f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None and shutil.which("apt-get") is None:
        pytest.skip("there is no promtool, and no apt-get to fetch it")
    if found is None:
        pytest.fail("there is no promtool: `make build/tools/promtool` fetches it")
    return found
