"""The procedures' playbooks, as far as they can be judged without machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


def tasks(name: str) -> list[dict[str, Any]]:
    plays = yaml.safe_load((PLAYBOOKS / f"{name}.yml").read_text())
    return [task for play in plays for task in play.get("tasks", [])]


def index(steps: list[dict[str, Any]], **wanted: str) -> int:
    """Where the one task is that takes this from a role, or this step of a procedure."""
    kinds = ("ansible.builtin.import_role", "sigsum_ops.site.failover")
    (found,) = (
        number
        for number, task in enumerate(steps)
        if any(wanted.items() <= task.get(kind, {}).items() for kind in kinds)
    )
    return found


def test_a_permit_is_kept_before_it_can_be_used() -> None:
    """And the oracle has it before the log's configuration is without a secondary."""
    steps = tasks("promote")
    oracle, log = "sigsum_ops.site.signing_oracle", "sigsum_ops.site.log_server"
    order = [
        index(steps, step="allow"),
        index(steps, name=oracle, tasks_from="stage"),
        index(steps, step="adopt"),
        index(steps, name=oracle, tasks_from="service"),
        index(steps, step="gate"),
    ]
    assert order == sorted(order)
    configured = [
        number
        for number, task in enumerate(steps)
        if task.get("ansible.builtin.import_role") == {"name": log, "tasks_from": "configure"}
    ]
    assert configured[-1] > order[1]


def test_a_permit_ends_after_the_log_waits_for_a_secondary() -> None:
    """In the role as well: its own configuration is written before the oracle's."""
    steps = tasks("reseed")
    converged = index(steps, name="sigsum_ops.site.log_server", tasks_from="converge")
    assert index(steps, step="follow") < converged < index(steps, step="gate")
    role = PLAYBOOKS.parent / "roles/log_server/tasks/converge.yml"
    text = role.read_text()
    assert text.index("configure.yml") < text.index("signing_oracle") < text.index("service.yml")


def test_no_secondary_copies_from_the_old_primary_once_there_is_a_new_one() -> None:
    """It would go on signing with that secondary, if it came back."""
    plays = yaml.safe_load((PLAYBOOKS / "promote.yml").read_text())
    (follow,) = (
        number for number, play in enumerate(plays) if "failover_warm" in str(play.get("hosts"))
    )
    steps = {
        task["sigsum_ops.site.failover"]["step"]: number
        for number, play in enumerate(plays)
        for task in play.get("tasks", [])
        if "sigsum_ops.site.failover" in task
    }
    assert follow < steps["follow"] <= steps["fence"] <= steps["adopt"]
