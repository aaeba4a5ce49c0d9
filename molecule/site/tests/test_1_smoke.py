"""What an operator does every day: look whether it works, converge."""

from __future__ import annotations

import resource
import time
from pathlib import Path

from harness import CLIENT, PRIMARY, SECONDARY, Site
from resources.support import Ansible

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
# Of the controller's processor, since other scenarios run beside; half of it is usual. Promised
# on a machine with nothing else to do are 30 s of time.
CONVERGE_SECONDS = 50


def test_the_smoke_test_submits_verifies_and_compares(ansible: Ansible) -> None:
    run = ansible.playbook(path=PLAYBOOKS / "smoke.yml")
    assert run.ok, run.output
    assert f"{PRIMARY} and {SECONDARY} hold the same" in run.text


def test_a_second_converge_changes_nothing_and_is_quick(site: Site, ansible: Ansible) -> None:
    start, used = time.monotonic(), processor_seconds()
    run = ansible.playbook()
    seconds, used = time.monotonic() - start, processor_seconds() - used
    site.report.append(
        f"{seconds:6.1f} s  for a converge that changes nothing, of the processor {used:.1f} s"
    )
    assert run.ok, run.output
    assert run.changed == {PRIMARY: 0, SECONDARY: 0, CLIENT: 0}, run.output
    assert used < CONVERGE_SECONDS


def processor_seconds() -> float:
    """Of the programs that this one has run and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime
