"""What playbooks, roles and templates call a filter of this collection is one."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigsum_ops.packages import own

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(ROOT.glob("plugins/filter/*.py"))
CALL = re.compile(r"(?:\|\s*|map\()'?sigsum_ops\.site\.(\w+)")
CALLERS = sorted(
    path
    for room in ("playbooks", "roles", "inventories", "molecule")
    for path in (ROOT / room).rglob("*")
    if path.suffix in (".yml", ".j2") and CALL.search(path.read_text())
)


def filters(path: Path) -> dict[str, Callable[..., Any]]:
    """The filters that a plugin has, as Ansible loads it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Callable[..., Any]] = module.FilterModule().filters()
    return found


@pytest.mark.parametrize("caller", CALLERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_filter_that_is_called_is_there(caller: Path) -> None:
    """Ansible looks for one only as it is called, in the middle of a procedure."""
    there = set().union(*map(filters, PLUGINS))
    assert set(CALL.findall(caller.read_text())) <= there


def test_code_that_is_not_the_controllers_is_told() -> None:
    skew = filters(ROOT / "plugins/filter/failover.py")["package_skew"]
    here = own.recipe().version

    def host(**packages: str) -> dict[str, Any]:
        return {"ansible_facts": {"sigsum_machine": {"packages": packages}}}

    fine = {"silent": {}, "new": host(), "same": host(**{own.NAME: here}, trillian="1")}
    assert skew(fine, list(fine)) == []
    other = {**fine, "log1": host(**{own.NAME: "0.0.9"}), "log2": host(**{own.NAME: "0.1.1"})}
    first, second = skew(other, list(other))
    assert first.startswith(f"package: log1 has sigsum-ops 0.0.9, and this controller is {here}: ")
    assert "playbooks/package.yml -e target=log1" in first
    assert "log2 has sigsum-ops 0.1.1" in second


TASKS = sorted([*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/tasks/*.yml")])


@pytest.mark.parametrize("path", TASKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_the_controller_does_it_does_as_its_operator(path: Path) -> None:
    """An inventory's ansible_become is stronger than the keyword, on localhost too."""
    plays = yaml.safe_load(path.read_text()) or []
    for task in [*plays, *(task for play in plays for task in play.get("tasks", []))]:
        if task.get("delegate_to") == "localhost" or task.get("hosts") == "localhost":
            assert task["vars"]["ansible_become"] is False, task["name"]
