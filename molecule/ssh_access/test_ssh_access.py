"""Who comes in by ssh, how, and what becomes of settings that let nobody in."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from resources.support import EPHEMERAL, Ansible, eventually, exposure
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

KEYS = EPHEMERAL / "operators"
PLACE = "/etc/ssh/sshd_config.d/01-sigsum-ops.conf"
CAROL = (KEYS / "carol.pub").read_text().strip()
KEPT = "/var/lib/sigsum-ssh-access/kept.conf"


@pytest.fixture
def address(lab: Lab) -> str:
    return lab.hosts()["log1"]


@pytest.fixture(autouse=True)
def forgiven(address: str) -> None:
    """What the test before has failed on purpose keeps this one out for some seconds."""
    eventually(lambda: comes_in(address, "alice", "alice"), seconds=30, what="alice comes in")


def ssh(
    address: str, user: str, key: Path, *command: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """One command over a new connection, with one key and nothing of the person's who runs this."""
    own = ("BatchMode=yes", "IdentitiesOnly=yes", "ControlPath=none", "ConnectTimeout=5")
    known = options or ("UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no")
    words = [word for option in (*own, *known) for word in ("-o", option)]
    return subprocess.run(
        ["ssh", "-F", "none", *words, "-i", str(key), f"{user}@{address}", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def comes_in(address: str, user: str, key: str) -> bool:
    """Whether somebody comes in, with the key of that name."""
    return ssh(address, user, KEYS / key, "true").returncode == 0


def test_each_operator_comes_in_with_their_own_key(address: str) -> None:
    assert comes_in(address, "alice", "alice")
    assert comes_in(address, "bob", "bob")
    assert not comes_in(address, "alice", "bob")
    assert not comes_in(address, "root", "alice")
    assert not comes_in(address, "carol", "carol")


def test_sudo_is_for_those_who_have_it(address: str) -> None:
    assert ssh(address, "alice", KEYS / "alice", "sudo", "-n", "id", "-u").stdout == "0\n"
    refused = ssh(address, "bob", KEYS / "bob", "sudo", "-n", "id", "-u")
    assert refused.returncode != 0
    assert refused.stdout == ""


def test_nobody_adds_a_key(log1: Host, address: str) -> None:
    """Keys are root's files: what an account writes at home does not count."""
    log1.check_output(
        "install -d -o bob -m 700 /home/bob/.ssh && echo %s > /home/bob/.ssh/authorized_keys"
        " && chown bob /home/bob/.ssh/authorized_keys",
        CAROL,
    )
    assert not comes_in(address, "bob", "carol")
    keys = log1.check_output("find /etc/ssh/operators -type f -printf '%f %u %m\\n' | sort")
    assert set(keys.splitlines()) == {
        *(".sudoers root 440", "alice root 644", "bob root 644", "root root 644"),
    }


def test_only_keys_and_no_way_on(address: str, log1: Host) -> None:
    asked = ssh(address, "alice", KEYS / "carol", "true")
    assert "Permission denied (publickey)." in asked.stderr
    in_force = set(log1.check_output("sshd -T -C user=alice,host=h,addr=192.0.2.1").splitlines())
    for setting in (
        *("passwordauthentication", "kbdinteractiveauthentication", "hostbasedauthentication"),
        *("allowtcpforwarding", "allowagentforwarding", "allowstreamlocalforwarding"),
        *("permittunnel", "x11forwarding", "permituserenvironment"),
    ):
        assert f"{setting} no" in in_force
    assert "hostkey /etc/ssh/ssh_host_ed25519_key" in in_force


def test_no_weak_setting(client1: Host, address: str) -> None:
    """By somebody else's judge of ssh, whose exit status is 0 where it has nothing to say."""
    client1.check_output("apt-get update && apt-get install --yes ssh-audit")
    judged = client1.run("ssh-audit --level=warn %s", address)
    assert judged.rc == 0, judged.stdout


def test_the_machine_is_the_one_that_the_inventory_names(
    ansible: Ansible, log1: Host, address: str
) -> None:
    """As inventories/example pins it, for ssh and for the role."""
    own = log1.check_output("cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub")
    other = " ".join((KEYS / "carol.pub").read_text().split()[:2])
    pinned = ("UserKnownHostsFile=none", "StrictHostKeyChecking=yes")
    for key, status in ((own, 0), (other, 255)):
        command = f"KnownHostsCommand=/bin/echo %H {key}"
        done = ssh(address, "alice", KEYS / "alice", "true", options=(*pinned, command))
        assert done.returncode == status, done.stderr
        arguments = f"-o UserKnownHostsFile=none -o StrictHostKeyChecking=yes -o '{command}'"
        pin = {"ansible_ssh_common_args": arguments, "ansible_control_path": "none"}
        assert ansible.playbook("--check", hosts={"log1": pin}).ok == (status == 0)
    run = ansible.playbook(hosts={"log1": {"ssh_access_host_key": other}})
    assert not run.ok
    assert "Is it the machine that you mean?" in run.text
    assert not any(run.changed.values())
    assert ansible.playbook("--check", hosts={"log1": {"ssh_access_host_key": own}}).ok


def operators(**others: object) -> dict[str, object]:
    """Those of the inventory, as they are rendered, and others."""
    found = {
        "root": {"keys": ["{{ lookup('file', ansible_ssh_private_key_file ~ '.pub') }}"]},
        "alice": {"keys": [(KEYS / "alice.pub").read_text().strip()]},
        "bob": {"keys": [(KEYS / "bob.pub").read_text().strip()], "sudo": False},
    }
    return {name: its for name, its in {**found, **others}.items() if its}


def test_keys_that_lock_the_controller_out_undo_themselves(
    ansible: Ansible, lab: Lab, log1: Host, address: str
) -> None:
    """Another key for root, and nothing else: the rules for the inventory cannot know."""
    before = log1.check_output("cat %s", PLACE)
    start = time.monotonic()
    locked = operators(root={"keys": [CAROL]})
    run = ansible.playbook(hosts={"log1": {"ssh_access_operators": locked}})
    failed = time.monotonic()
    assert not run.ok
    assert "does not let the controller in any more" in run.text, run.output
    own = lab.state / "ssh/id_ed25519"
    assert ssh(address, "root", own, "true").returncode != 0
    back = eventually(
        lambda: ssh(address, "root", own, "true").returncode == 0, seconds=60, what="it is back"
    )
    print(f"measured: said after {failed - start:.0f} s, back {back:.0f} s later")
    assert log1.check_output("cat %s", PLACE) == before
    assert not comes_in(address, "root", "carol")
    assert ansible.playbook().ok
    assert not any(ansible.playbook().changed.values())


def test_what_is_on_trial_does_not_outlive_a_boot(
    ansible: Ansible, lab: Lab, log1: Host, address: str
) -> None:
    """A machine whose power fails in between is not lost."""
    before = log1.check_output("cat %s", PLACE)
    log1.check_output("(cat %s; echo DenyUsers alice) > /root/other.conf", PLACE)
    tried = ansible.module(
        "log1",
        "sigsum_ops.site.trial",
        name="ssh-access",
        file="/root/other.conf",
        kept=KEPT,
        take=["/usr/local/sbin/sigsum-ssh-access", "%s"],
        there=["cmp", KEPT, PLACE],
        clear=["true"],
        seconds=600,
        state="tried",
    )
    assert tried["changed"], tried
    assert not comes_in(address, "alice", "alice")
    lab.restart("log1")
    assert log1.check_output("cat %s", PLACE) == before
    assert comes_in(address, "alice", "alice")
    assert exposure(log1, "sigsum-ssh-access.service") <= 2.0


def test_the_first_settings_do_not_outlive_a_boot_untried(
    ansible: Ansible, lab: Lab, log1: Host, address: str
) -> None:
    """Before them there is nothing to go back to, but what the machine was installed with."""
    log1.check_output("mv %s /root/kept && sed s/alice/nobody/ /root/kept > /root/first", KEPT)
    trial: dict[str, Any] = {
        "name": "ssh-access",
        "file": "/root/first",
        "kept": KEPT,
        "take": ["/usr/local/sbin/sigsum-ssh-access", "%s"],
        "there": ["false"],
        "clear": ["/usr/local/sbin/sigsum-ssh-access", KEPT],
        "seconds": 600,
    }
    tried = ansible.module("log1", "sigsum_ops.site.trial", state="tried", **trial)
    assert tried["changed"], tried
    assert not comes_in(address, "alice", "alice")
    lab.restart("log1")
    assert not log1.file(PLACE).exists
    assert not log1.file("/etc/sudoers.d/sigsum-operators").exists
    run = ansible.playbook()
    assert run.ok, run.output
    assert comes_in(address, "alice", "alice")
    assert ssh(address, "alice", KEYS / "alice", "sudo", "-n", "id", "-u").stdout == "0\n"


def test_settings_that_come_before_these_are_seen(ansible: Ansible, log1: Host) -> None:
    """As of a provider's image: what would not be in force is not called so."""
    log1.check_output("echo PasswordAuthentication yes > /etc/ssh/sshd_config.d/00-image.conf")
    log1.check_output("rm %s", PLACE)
    try:
        run = ansible.playbook()
    finally:
        log1.check_output("rm /etc/ssh/sshd_config.d/00-image.conf; systemctl reload ssh")
    assert not run.ok
    assert "sshd has other settings than 'passwordauthentication no'" in run.text, run.output
    assert ansible.playbook().ok


def test_an_operator_who_leaves_is_gone_at_once(ansible: Ansible, log1: Host, address: str) -> None:
    """One change of the inventory; so is one who comes."""
    log1.check_output("touch /home/bob/left-behind && systemd-run --uid=bob sleep 1000")
    carol = {"keys": [CAROL]}
    changed = {"log1": {"ssh_access_operators": operators(bob=None, carol=carol)}}
    run = ansible.playbook(hosts=changed)
    assert run.ok, run.output
    assert comes_in(address, "carol", "carol")
    assert not comes_in(address, "bob", "bob")
    assert log1.run("id bob").rc != 0
    assert log1.run("pgrep -u bob").rc != 0
    assert log1.file("/home/bob/left-behind").user == "root"
    assert log1.check_output("find /etc/ssh/operators -mindepth 1 -maxdepth 1 | wc -l") == "1"
    assert not any(ansible.playbook(hosts=changed).changed.values())
    again = ansible.playbook()
    assert again.ok, again.output
    assert comes_in(address, "bob", "bob")
    assert log1.run("id carol").rc != 0


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"root": None}, "is without root, as whom this machine is converged"),
        ({"alice": {"keys": ["ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAA"]}}, "has 'ssh-rsa"),
        ({"mysql": {"keys": ["x"]}}, "has 'mysql'"),
        ({"backup": {"keys": [CAROL]}}, "accounts of the system"),
    ],
)
def test_operators_that_cannot_be_right_are_refused(
    ansible: Ansible, others: dict[str, object], says: str
) -> None:
    run = ansible.playbook(hosts={"log1": {"ssh_access_operators": operators(**others)}})
    assert not run.ok
    assert says in run.text, run.output
    assert not any(run.changed.values())
