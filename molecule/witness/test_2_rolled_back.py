"""A witness whose database is an older one, or lost: it never cosigns a second history."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cosigners import Log, key_of, shown
from resources.procedures import PLAYBOOKS
from resources.support import EPHEMERAL, Ansible, Run, eventually, main_pid
from testinfra.host import Host

from sigsum_ops.failover.witness import request
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.treehead import parse_signed_tree_head

ROLE = Path(__file__).with_name("role.yml")
GUARD = "runuser -u litewitness -- sigsum-ops witness guard"
RECOVER = "runuser -u litewitness -- sigsum-ops witness recover"


@pytest.fixture
def older(log: Log, witness1: Host) -> Iterator[str]:
    """A copy of the database from before the log grew; afterwards everything is as it should be."""
    witness1.check_output(
        "systemctl stop litewitness && rm -rf /root/older && cp -a /var/lib/litewitness /root/older"
        " && systemctl start litewitness"
    )
    assert log.submit("the log grows") == ""
    assert log.quorum(wait=60)["ok"]
    yield "rm -rf /var/lib/litewitness && cp -a /root/older /var/lib/litewitness"
    witness1.check_output(f"{RECOVER} && systemctl restart litewitness")
    assert log.quorum(wait=60)["ok"]


def test_a_restored_older_database_is_refused_and_recovered(
    log: Log, witness1: Host, ansible: Ansible, older: str
) -> None:
    witness1.check_output(f"systemctl stop litewitness; {older}")
    witness1.run("systemctl start --no-block litewitness")
    eventually(
        lambda: "rolled back" in witness1.check_output("journalctl -u litewitness -n 20 -o cat"),
        seconds=20,
        what="the guard refuses it",
    )
    assert main_pid(witness1, "litewitness") == "0"
    said = witness1.run(GUARD)
    assert said.rc == 1
    assert "cosigned at size" in said.stderr
    assert not shown(witness1)["ok"]
    # An operator who converges is told the same, and nothing begins anew.
    run = converged(ansible)
    assert not run.ok
    assert "the database was lost or rolled back" in run.text
    assert not log.quorum(wait=3)["ok"]

    assert "put forward" in witness1.check_output(RECOVER)
    eventually(lambda: log.quorum(wait=5)["ok"], seconds=60, what="it cosigns again, by itself")
    assert "has all that was cosigned" in witness1.check_output(RECOVER)


def test_a_lost_database_is_refused_and_recovered(
    log: Log, witness1: Host, ansible: Ansible, older: str
) -> None:
    del older
    witness1.check_output("systemctl stop litewitness; rm /var/lib/litewitness/*")
    assert witness1.run(GUARD).rc == 1
    run = converged(ansible)
    assert not run.ok
    assert "the database was lost or rolled back" in run.text
    witness1.check_output(RECOVER)
    assert not any(log["keys"] for log in shown(witness1)["logs"].values())
    assert converged(ansible).ok
    assert log.quorum(wait=60)["ok"]


def test_a_database_that_is_rolled_back_beneath_a_running_witness_signs_nothing_smaller(
    log: Log, lab: Lab, witness1: Host, older: str
) -> None:
    """Not even what its database takes for the next tree head: the oracle knows better."""
    log1 = log.machines["log1"]
    old = log1.file("/var/lib/sigsum-log/sth").content_string
    assert log.submit("the log grows again") == ""
    assert log.quorum(wait=60)["ok"]
    (origin,) = shown(witness1)["logs"]
    last = shown(witness1)["logs"][origin]["cosigned"]
    # The log may not ask meanwhile, which would put the database forward again.
    log1.check_output("systemctl stop sigsum-log-primary")
    try:
        witness1.check_output(
            "runuser -u litewitness -- python3 -c %s",
            "import sqlite3\n"
            "with sqlite3.connect('/var/lib/litewitness/litewitness.db') as database:\n"
            "    database.execute('UPDATE log SET tree_size = 0')",
        )
        before = refusals(witness1)
        assert replay(lab, witness1, log1, old) == 500, "litewitness took it, the oracle did not"
        eventually(lambda: refusals(witness1) == before + 1, seconds=15, what="it is counted")
        assert shown(witness1)["logs"][origin]["cosigned"] == last
    finally:
        log1.check_output("systemctl start sigsum-log-primary")
    del older


def test_a_machine_that_knows_nothing_does_not_begin_by_itself(
    log: Log, witness1: Host, ansible: Ansible
) -> None:
    """As one that is installed anew with the same device: also where it is said to be new."""
    cosigned = "/var/lib/sigsum-oracle/cosigned"
    # It does not come back, so nobody waits for that.
    witness1.check_output(
        f"mv {cosigned} /root/cosigned && systemctl restart --no-block litewitness"
    )
    try:
        assert "is not known" in witness1.run(GUARD).stderr
        silent = {"witness1": {"witness_begins": ""}}
        run = ansible.playbook("--limit=witness1", path=ROLE, hosts=silent)
        assert not run.ok
        assert not any(run.changed.values()), run.output
        assert f"-e witness_begins={key_of(witness1).hash}" in run.text
        run = ansible.playbook("--limit=witness1", path=ROLE)
        assert not run.ok
        assert "this is no beginning" in run.text
        assert not witness1.file(cosigned).exists
    finally:
        witness1.check_output(
            f"mv /root/cosigned {cosigned} && systemctl restart sigsum-oracle litewitness"
        )
    assert log.quorum(wait=60)["ok"]


def converged(ansible: Ansible) -> Run:
    """Converge the witness alone, as its operator does."""
    return ansible.playbook("--limit=witness1", path=PLAYBOOKS / "site.yml")


def refusals(witness: Host) -> int:
    """How many requests the oracle has refused because they went back; written every 10 s."""
    at = 'sigsum_oracle_requests_total{outcome="rolled-back"} '
    text: str = witness.file("/var/lib/sigsum-oracle/metrics.prom").content_string
    return int(text.partition(at)[2].split()[0])


def replay(lab: Lab, witness: Host, log: Host, sth: str) -> int:
    """Have the witness cosign an old tree head of the log, as the first; the status."""
    log_key = PublicKey.parse(log.file("/etc/sigsum/log.pub").content_string)
    _, _, rest = request(parse_signed_tree_head(sth.encode()), log_key).partition(b"\n")
    trust = ssl.create_default_context(cafile=str(EPHEMERAL / "root.pem"))
    name = "bastion.example.org"
    connection = http.client.HTTPConnection(name)
    plain = socket.create_connection((lab.hosts()["bastion1"], 443), timeout=10)
    connection.sock = trust.wrap_socket(plain, server_hostname=name)
    with closing(connection):
        connection.request("POST", f"/{key_of(witness).hash}/add-checkpoint", b"old 0\n" + rest)
        return connection.getresponse().status
