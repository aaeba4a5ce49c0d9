"""What playbooks, roles and templates call a filter of this collection is one."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(ROOT.glob("plugins/filter/*.py"))
CALL = re.compile(r"(?:\|\s*|map\()'?sigsum_ops\.site\.(\w+)")
CALLERS = sorted(
    path
    for room in ("playbooks", "roles", "inventories", "molecule")
    for path in (ROOT / room).rglob("*")
    if path.suffix in (".yml", ".j2") and CALL.search(path.read_text())
)


def filters(path: Path) -> set[str]:
    """The filters that a plugin has, as Ansible loads it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return set(module.FilterModule().filters())


@pytest.mark.parametrize("caller", CALLERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_filter_that_is_called_is_there(caller: Path) -> None:
    """Ansible looks for one only as it is called, in the middle of a procedure."""
    there = set().union(*map(filters, PLUGINS))
    assert set(CALL.findall(caller.read_text())) <= there
