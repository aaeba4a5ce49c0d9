"""An inventory that disagrees with the machines is applied or refused, never silently ignored."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import LOG, ORACLE, ORACLE_STATE, PRIMARY, SECONDARY, STATE, TRILLIAN, Site
from resources.support import Ansible, Run

from sigsum_ops.log.keys import PublicKey, load_public_key


def another_key(directory: Path) -> PublicKey:
    """The public key of a new pair."""
    path = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return load_public_key(path.with_suffix(".pub"))


def fingerprint(site: Site) -> list[str]:
    """Everything that a converge could change about the log on the log machines."""
    look = (
        "sha256sum $(find /etc/sigsum /etc/systemd/system /etc/mysql /etc/apt -type f | sort);"
        " cat /var/lib/sigsum-log/tree-id;"
        " systemctl show --property=Id,MainPID,UnitFileState 'sigsum-log-*' 'trillian-*' mariadb"
    )
    return [site.ask(name, look) for name in (PRIMARY, SECONDARY)]


def assert_refused(run: Run, *messages: str) -> None:
    """The playbook failed, said why, and changed nothing."""
    assert not run.ok
    for message in messages:
        assert message in run.text, run.output
    assert set(run.changed.values()) == {0}, run.output


def test_swapped_roles_are_refused(site: Site, ansible: Ansible) -> None:
    before = fingerprint(site)
    run = ansible.playbook(
        hosts={
            PRIMARY: {"log_server_role": "secondary"},
            SECONDARY: {"log_server_role": "primary"},
        }
    )
    assert_refused(run, "playbooks/promote.yml", f"calls {PRIMARY} secondary", "has signed")
    assert fingerprint(site) == before


def test_another_key_of_the_log_is_refused(site: Site, ansible: Ansible, tmp_path: Path) -> None:
    before = fingerprint(site)
    key = another_key(tmp_path)
    new = {"log_server_public_key": key.ssh}
    run = ansible.playbook(hosts={PRIMARY: new, SECONDARY: new})
    assert_refused(run, key.ssh, site.log_key.ssh, "never changes")
    assert fingerprint(site) == before


def test_another_key_of_the_secondary_is_refused(
    site: Site, ansible: Ansible, tmp_path: Path
) -> None:
    before = fingerprint(site)
    key = another_key(tmp_path)
    pinned = {
        "log_server_secondary_url": f"http://{site.lab.hosts()[SECONDARY]}:6967/",
        "log_server_secondary_public_key": key.hex,
    }
    run = ansible.playbook(hosts={PRIMARY: pinned})
    assert_refused(run, key.ssh, site.node_key.ssh, "log_server_secondary_public_key")
    assert fingerprint(site) == before


def test_a_new_node_key_reaches_the_primary_in_the_same_converge(
    site: Site, ansible: Ansible
) -> None:
    """That replication goes on is seen by the fixture, which takes nothing but the new key."""
    old = site.node_key
    site.change(SECONDARY, "rm /etc/sigsum/node-key.pub /etc/sigsum/private/node-key*")
    run = ansible.playbook()
    assert run.ok, run.output
    del site.node_key
    assert site.node_key != old
    assert site.node_key.ssh in site.ask(PRIMARY, "cat /etc/sigsum/secondary.pub")


def test_a_replaced_primary_does_not_begin_the_log_anew(site: Site, ansible: Ansible) -> None:
    unit = f"/etc/systemd/system/{LOG}.service"
    site.change(
        PRIMARY,
        f"systemctl disable --now {LOG} {ORACLE}; systemctl stop {TRILLIAN};"
        f" mkdir /root/replaced; mv {STATE} {unit} /root/replaced;"
        " mariadb-dump trillian > /root/replaced/trillian.sql; mariadb -e 'DROP DATABASE trillian'",
    )
    run = ansible.playbook()
    assert not run.ok, run.output
    assert f"this machine has had one: {ORACLE_STATE}/journal" in run.text

    site.change(PRIMARY, f"mv {ORACLE_STATE} /root/replaced")
    run = ansible.playbook()
    assert not run.ok, run.output
    assert f"{PRIMARY} is a new machine, but the log exists: {SECONDARY} holds" in run.text
    assert "playbooks/promote.yml" in run.text
    assert site.ask(PRIMARY, "mariadb -N -e 'SELECT COUNT(*) FROM trillian.Trees'") == "0"
    assert site.ask(PRIMARY, f"ls {STATE}") == ""
    site.change(
        PRIMARY,
        f"rmdir {STATE}; mv /root/replaced/sigsum-log {STATE};"
        f" mv /root/replaced/sigsum-oracle {ORACLE_STATE};"
        f" mv /root/replaced/{LOG}.service {unit};"
        " mariadb trillian < /root/replaced/trillian.sql; systemctl daemon-reload;"
        f" systemctl enable --now {TRILLIAN} {ORACLE} {LOG}",
    )
