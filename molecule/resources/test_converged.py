"""What holds for the machines of every scenario."""

from resources.support import Ansible


def test_a_check_of_converged_machines_changes_nothing(ansible: Ansible) -> None:
    run = ansible.playbook("--check", "--diff")
    assert run.ok, run.output
    assert run.changed
    assert set(run.changed.values()) == {0}, run.output
