"""What an operator does every day: look whether it works, converge."""

from __future__ import annotations

import time
from pathlib import Path

from harness import CLIENT, PRIMARY, SECONDARY, Site
from resources.support import Ansible

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
# Half of this is what is promised on a machine with nothing else to do.
CONVERGE_SECONDS = 60


def test_the_smoke_test_submits_verifies_and_compares(ansible: Ansible) -> None:
    run = ansible.playbook(path=PLAYBOOKS / "smoke.yml")
    assert run.ok, run.output
    assert f"{PRIMARY} and {SECONDARY} hold the same" in run.text


def test_a_second_converge_changes_nothing_and_is_quick(site: Site, ansible: Ansible) -> None:
    start = time.monotonic()
    run = ansible.playbook()
    seconds = time.monotonic() - start
    site.report.append(f"{seconds:6.1f} s  for a converge that changes nothing")
    assert run.ok, run.output
    assert run.changed == {PRIMARY: 0, SECONDARY: 0, CLIENT: 0}, run.output
    assert seconds < CONVERGE_SECONDS
