"""What the role log_server refuses, with both facts, and with nothing touched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from resources.support import EPHEMERAL, Ansible, http, submit
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.keys import PublicKey, load_public_key

ROLE = Path(__file__).with_name("role.yml")
OTHER_KEY = PublicKey(bytes(range(32)))
STATE = """
find /etc /var/lib/sigsum-log -xdev -type f ! -name sth -print0 | sort -z | xargs -0 sha256sum
systemctl show --property=MainPID,UnitFileState mariadb trillian-log-server trillian-log-signer \\
  sigsum-log-primary sigsum-log-secondary
"""
SWAPPED = {"log1": {"log_server_role": "secondary"}, "log2": {"log_server_role": "primary"}}


@pytest.fixture
def untouched(log1: Host, log2: Host) -> Iterator[None]:
    """Every file of the configuration and every process is the same afterwards."""
    before = [host.check_output("sh -c %s", STATE) for host in (log1, log2)]
    yield
    assert [host.check_output("sh -c %s", STATE) for host in (log1, log2)] == before


def refused(ansible: Ansible, *, path: Path = ROLE, **settings: Any) -> str:
    """Converge with an inventory that must be refused; what was said, on one line."""
    run = ansible.playbook(path=path, **settings)
    assert not run.ok, run.output
    assert set(run.changed.values()) == {0}, run.output
    return run.text


@pytest.mark.usefixtures("untouched")
def test_an_inventory_with_two_primaries_is_refused_before_a_machine_is_asked(
    ansible: Ansible,
) -> None:
    site = Path(__file__).with_name("converge.yml")
    said = refused(ansible, path=site, hosts={"log2": {"log_server_role": "primary"}})
    assert "The inventory is refused; no machine was touched." in said
    assert "log_server_role is primary on log1, log2" in said
    assert "Know the machine" not in said


@pytest.mark.usefixtures("untouched")
def test_an_inventory_that_swaps_the_parts_is_refused_with_both_facts_and_the_procedure(
    ansible: Ansible,
) -> None:
    said = refused(ansible, hosts=SWAPPED)
    assert "The inventory calls log1 secondary, but the machine has signed for the log" in said
    assert "The inventory calls log2 primary, but the machine runs sigsum-log-secondary" in said
    assert "playbooks/promote.yml or playbooks/handover.yml" in said


@pytest.mark.usefixtures("untouched")
def test_the_whole_site_stops_at_a_swap_too(ansible: Ansible) -> None:
    said = refused(ansible, path=Path(__file__).with_name("converge.yml"), hosts=SWAPPED)
    assert "The inventory calls log1 secondary, but the machine has signed for the log" in said


@pytest.mark.usefixtures("untouched")
def test_another_log_key_is_refused_with_both_keys(ansible: Ansible) -> None:
    ours = load_public_key(EPHEMERAL / "log-key.pub")
    # The key that an HSM has: the software key would be refused as not being the log's.
    said = refused(ansible, log_server_public_key=OTHER_KEY.hex, log_server_software_key_file="")
    assert f"log_server_public_key is {OTHER_KEY.ssh}, but log1 holds the tree of the log" in said
    assert ours.ssh in said


@pytest.mark.usefixtures("untouched")
def test_a_pinned_secondary_key_that_is_not_the_machines_is_refused_with_both_keys(
    ansible: Ansible, log2: Host
) -> None:
    made = " ".join(log2.file("/etc/sigsum/node-key.pub").content_string.split()[:2])
    said = refused(
        ansible,
        log_server_secondary_url="http://log2:6967/",
        log_server_secondary_public_key=OTHER_KEY.ssh,
    )
    assert f"log_server_secondary_public_key is {OTHER_KEY.ssh}, but log2 has {made}" in said


def test_a_pinned_secondary_key_that_is_the_machines_changes_nothing(
    ansible: Ansible, lab: Lab, log2: Host
) -> None:
    run = ansible.playbook(
        path=ROLE,
        log_server_secondary_url=f"http://{lab.hosts()['log2']}:6967/",
        log_server_secondary_public_key=log2.file("/etc/sigsum/node-key.pub").content_string,
    )
    assert run.ok, run.output
    assert set(run.changed.values()) == {0}


def test_a_secondary_that_vouches_with_the_logs_own_key_is_refused(
    ansible: Ansible, log2: Host
) -> None:
    log2.check_output("cd /etc/sigsum && mv node-key.pub kept && cp log.pub node-key.pub")
    try:
        said = refused(ansible)
    finally:
        log2.check_output("mv /etc/sigsum/kept /etc/sigsum/node-key.pub")
    assert "log2 vouches with the log's own key" in said


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("setting", ["log_server_secondary_url", "log_server_secondary_public_key"])
def test_half_a_replication_is_refused(ansible: Ansible, setting: str) -> None:
    value = "http://log2:6967/" if setting.endswith("url") else OTHER_KEY.ssh
    half: dict[str, Any] = {setting: value}
    said = refused(ansible, **half)
    assert "Set both or none: with one of them the log would run unreplicated" in said


@pytest.mark.usefixtures("untouched")
def test_a_software_key_is_refused_unless_the_inventory_says_that_it_is_a_lab(
    ansible: Ansible,
) -> None:
    said = refused(ansible, log_server_allow_software_key=False)
    assert "A log's key belongs in an HSM" in said


@pytest.mark.usefixtures("untouched")
def test_a_software_key_that_is_not_the_logs_is_refused_with_both_keys(
    ansible: Ansible, lab: Lab
) -> None:
    other = lab.state / "ssh/id_ed25519"
    said = refused(ansible, log_server_software_key_file=str(other))
    assert load_public_key(EPHEMERAL / "log-key.pub").ssh in said
    assert load_public_key(other.with_suffix(".pub")).ssh in said


def test_a_new_primary_does_not_begin_a_log_that_its_secondary_has(
    ansible: Ansible, log1: Host, client1: Host, lab: Lab
) -> None:
    submit(client1)
    log1.check_output(
        "systemctl stop sigsum-log-primary && mv /var/lib/sigsum-log /var/lib/sigsum-log.kept"
    )
    try:
        run = ansible.playbook(path=ROLE)
        left = log1.check_output("ls /var/lib/sigsum-log")
    finally:
        log1.check_output(
            "rm -r /var/lib/sigsum-log && mv /var/lib/sigsum-log.kept /var/lib/sigsum-log &&"
            " systemctl start sigsum-log-primary"
        )
    assert not run.ok
    assert re.search("log1 is a new machine, but the log exists: log2 holds [1-9]", run.text)
    assert "playbooks/promote.yml" in run.text
    assert left == ""
    assert http(log1, f"http://{lab.hosts()['log1']}:6965/get-tree-head")[0] == 200
