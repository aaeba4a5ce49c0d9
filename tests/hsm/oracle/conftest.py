"""A Trillian for the module, and a machine for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hsm.oracle.world import World
from tests.log.fake_trillian import FakeTrillian


@pytest.fixture(scope="module")
def trillian() -> Iterator[FakeTrillian]:
    with FakeTrillian() as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, trillian: FakeTrillian) -> World:
    trillian.before = trillian.after = lambda _method: None
    trillian.list_is_cut_short = trillian.root_is_unreadable = False
    trillian.calls.clear()
    return World(tmp_path, trillian)
