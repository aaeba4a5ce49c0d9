"""A changed inventory or machine is brought back in one converge of the role log_server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from resources.support import EPHEMERAL, Ansible, eventually, http, main_pid, submit
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

ROLE = Path(__file__).with_name("role.yml")
PINS = yaml.safe_load(
    (Path(__file__).parents[2] / "roles/base/defaults/main.yml").read_text(encoding="utf-8")
)["base_pins"]
PRIMARY, SECONDARY = "sigsum-log-primary", "sigsum-log-secondary"


def signed_at(lab: Lab, log1: Host) -> int:
    """The size of the newest tree head that the log has published."""
    status, text = http(log1, f"http://{lab.hosts()['log1']}:6965/get-tree-head")
    return int(re.findall(r"^size=(\d+)$", text, re.M)[0]) if status == 200 else -1


def test_a_changed_setting_restarts_only_the_machine_that_it_is_for(
    log1: Host, log2: Host, ansible: Ansible
) -> None:
    before = main_pid(log1, PRIMARY), main_pid(log2, SECONDARY)
    run = ansible.playbook(path=ROLE, log_server_secondary_interval="1100ms")
    assert run.ok, run.output
    assert 'interval = "1100ms"' in log2.file("/etc/sigsum/config.toml").content_string
    assert main_pid(log1, PRIMARY) == before[0]
    assert main_pid(log2, SECONDARY) not in ("0", before[1])
    assert run.changed["log1"] == 0
    assert ansible.playbook(path=ROLE).ok


def test_a_setting_that_a_failed_run_wrote_is_in_force_after_the_next(
    log2: Host, ansible: Ansible
) -> None:
    before = main_pid(log2, SECONDARY)
    tree_id = "/var/lib/sigsum-log/tree-id"
    log2.check_output("cp -a %s /root/kept && echo tree-id=4711 > %s", tree_id, tree_id)
    failed = ansible.playbook(path=ROLE, log_server_secondary_interval="1200ms")
    log2.check_output("mv /root/kept %s", tree_id)
    assert not failed.ok
    assert 'interval = "1200ms"' in log2.file("/etc/sigsum/config.toml").content_string
    assert main_pid(log2, SECONDARY) == before
    run = ansible.playbook(path=ROLE, log_server_secondary_interval="1200ms")
    assert run.ok, run.output
    assert main_pid(log2, SECONDARY) not in ("0", before)
    assert ansible.playbook(path=ROLE).ok


def test_a_new_node_key_reaches_the_primary_in_the_same_converge(
    lab: Lab, log1: Host, log2: Host, client1: Host, ansible: Ansible
) -> None:
    old = log1.file("/etc/sigsum/secondary.pub").content_string
    log2.check_output("rm /etc/sigsum/node-key.pub /etc/sigsum/private/node-key*")
    run = ansible.playbook(path=ROLE)
    assert run.ok, run.output
    new = log1.file("/etc/sigsum/secondary.pub").content_string
    assert new != old
    assert log2.file("/etc/sigsum/node-key.pub").content_string.startswith(new.strip())
    size = signed_at(lab, log1)
    submit(client1)  # which ends only when the secondary has vouched with its new key
    assert signed_at(lab, log1) == size + 1
    assert not any(ansible.playbook(path=ROLE).changed.values())


def test_a_file_that_is_not_the_pinned_one_is_not_installed(
    lab: Lab, log2: Host, ansible: Ansible
) -> None:
    log2.check_output("apt-get remove --yes sigsum-log-go")
    pins = {"sigsum-log-go": {**PINS["sigsum-log-go"], "sha256": "0" * 64}}
    run = ansible.playbook("--extra-vars", json.dumps({"base_pins": pins}), path=ROLE)
    assert not run.ok
    assert PINS["sigsum-log-go"]["sha256"] in run.text  # what the archive offers
    assert f"base_pins says {'0' * 64}" in run.text
    assert not log2.package("sigsum-log-go").is_installed

    assert ansible.playbook(path=ROLE).ok
    assert log2.package("sigsum-log-go").version == PINS["sigsum-log-go"]["version"]
    head = f"http://{lab.hosts()['log2']}:6967/get-secondary-tree-head"
    eventually(lambda: http(log2, head)[0] == 200, seconds=20, what="the secondary answers")


def test_ansible_says_nothing_of_a_secret(log1: Host, ansible: Ansible) -> None:
    key = "/etc/sigsum/private/log-key"
    secret = (EPHEMERAL / "log-key").read_text(encoding="ascii").splitlines()[1:-1]
    log1.check_output("mv %s /root/kept", key)
    try:
        run = ansible.playbook("--check", "--diff", "-vvv", path=ROLE)
    finally:
        log1.check_output("mv /root/kept %s", key)
    assert run.ok, run.output
    assert run.changed["log1"] == 1
    assert secret
    assert not any(line in run.output for line in secret[1:])
