"""A log oracle as a rehearsed ceremony leaves it, made once; each test has a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigsum_ops.hsm import rehearsal
from tests.hsm.ceremony.table import Table, small_plan
from tests.hsm.watch.machine import SERIAL, Machine


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """After a ceremony."""
    table = Table(tmp_path_factory.mktemp("ceremony"), small_plan())
    with table.devices() as urls:
        table.perform(tuple(urls.values()), resume=False)
    return table


@pytest.fixture
def machine(table: Table, tmp_path: Path) -> Iterator[Machine]:
    """A machine with the log oracle, on which nothing has happened yet."""
    state = shutil.copytree(table.path / "devices", tmp_path / "devices")
    with rehearsal.serve({SERIAL: state}) as urls:
        yield Machine(tmp_path, table, urls[SERIAL])
