"""playbooks/site.yml and its roles, as far as they can be judged without machines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/meta/main.yml"))
PREFLIGHTS = sorted(ROOT.glob("roles/*/tasks/preflight.yml"))
READS = {"ansible.builtin.assert", "ansible.builtin.stat", "sigsum_ops.site.machine_facts"}


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_no_role_depends_on_another(role: Path) -> None:
    """It would run for each file of tasks that is taken: a preflight converged base."""
    assert yaml.safe_load((role / "meta" / "main.yml").read_text())["dependencies"] == []


@pytest.mark.parametrize("path", PREFLIGHTS, ids=lambda path: path.parts[-3])
def test_a_preflight_changes_nothing(path: Path) -> None:
    for task in yaml.safe_load(path.read_text()):
        role = task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role")
        assert (role or {}).get("tasks_from") == "preflight" or READS & task.keys()


def test_all_machines_are_judged_before_one_is_changed() -> None:
    playbook = Path(sys.executable).with_name("ansible-playbook")
    answer = subprocess.run(
        [playbook, "-i", "machine,", "playbooks/site.yml", "--list-tasks"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    _, _, judging, *_ = answer.stdout.split("\n  play #")
    names = [line.split("\t")[0].split(" : ")[-1] for line in judging.splitlines()[2:] if line]
    assert len(names) > 20
    first_words = {name.split()[0] for name in names}
    assert first_words <= {"Validating", "Know", "Look", "Refuse", "Judge", "Sort"}
