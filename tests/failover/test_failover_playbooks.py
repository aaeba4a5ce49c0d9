"""The procedures' playbooks, as far as they can be judged without machines."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


@pytest.mark.parametrize("name", ["promote", "reseed", "restore"])
def test_no_result_is_overwritten(name: str) -> None:
    """A task that is skipped registers too: of a new machine, what the primary signed was lost."""
    plays = yaml.safe_load((PLAYBOOKS / f"{name}.yml").read_text())
    names = [
        task["register"] for play in plays for task in play.get("tasks", []) if "register" in task
    ]
    assert sorted(set(names)) == sorted(names)
