"""A machine of a log in a directory: a fake Trillian, a small log, and which units there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sigsum_ops.exporter.read import Reader
from sigsum_ops.exporter.serve import render
from sigsum_ops.exporter.settings import Log, Settings
from sigsum_ops.failover import units
from sigsum_ops.log.statefiles import format_tree_id
from tests.log.conftest import MemoryLog, StartLog, start_log
from tests.log.fake_trillian import FakeTree, FakeTrillian

__all__ = ["start_log"]

TREE = 1001
LEAVES = [b"leaf %d" % number for number in range(9)]
Samples = dict[tuple[str, ...], float]


def samples(text: bytes) -> Samples:
    """Each sample by its name and the values of its labels, as a client of Prometheus reads it."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[(sample.name, *sample.labels.values())] = sample.value
    return found


@dataclass
class Machine:
    """What the exporter reads of it."""

    root: Path
    log: MemoryLog
    trillian: FakeTrillian
    reader: Reader
    units: dict[str, dict[str, str]]

    async def tells(self) -> Samples:
        """The samples of a scrape."""
        return samples(render(await self.reader.families()))

    def write(self, name: str, text: str = "") -> Path:
        """A file of the machine."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def trillian() -> Iterator[FakeTrillian]:
    with FakeTrillian(FakeTree(TREE, leaves=list(LEAVES))) as served:
        yield served


@pytest.fixture
async def machine(
    start_log: StartLog,
    trillian: FakeTrillian,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:
    """A primary whose log publishes seven of its nine leaves."""
    log = await start_log(interval=3600)
    for leaf in LEAVES:
        log.add(leaf)
    log.size = 7
    running = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
    there = {"sigsum-log-primary.service": running}
    monkeypatch.setattr(units, "show", lambda _names: there)
    settings = Settings(
        listen=(("127.0.0.1", 6970),),
        log=Log(log.key, log.url, trillian.address),
        certificates={},
    )
    found = Machine(tmp_path, log, trillian, Reader(settings, tmp_path), there)
    found.write("var/lib/sigsum-log/tree-id", format_tree_id(TREE).decode())
    found.write("etc/sigsum/policy", "quorum none\n")
    return found
