"""What goes between the log machines goes encrypted, or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from resources.support import SSH, Ansible, eventually, exposure, listening, main_pid, shown
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

INSIDE = {"log1": "10.99.0.1", "log2": "10.99.0.2"}
KEY = "/etc/sigsum/tunnel/private.key"


@pytest.fixture(scope="module", autouse=True)
def said(machines: dict[str, Host]) -> Iterator[None]:
    """Who listens at log2's address within the tunnel, as a secondary does."""
    log2 = machines["log2"]
    log2.check_output("mkdir -p /srv/said && echo within > /srv/said/index.html")
    unit = "systemd-run --unit=said --property=Restart=always --property=RestartSec=0.3"
    log2.check_output(
        f"{unit} python3 -m http.server --directory /srv/said --bind {INSIDE['log2']} 6967"
    )
    yield
    log2.run("systemctl stop said")


_READ = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=2).read())"


def hears(log1: Host, address: str = INSIDE["log2"]) -> bool:
    """Whether log1 reaches who listens there."""
    return "within" in log1.run("python3 -c %s %s", _READ, f"http://{address}:6967/").stdout


def reached(log1: Host, seconds: float = 30) -> float:
    return eventually(lambda: hears(log1), seconds=seconds, what="the other machine is reached")


def test_they_reach_each_other_within(log1: Host, lab: Lab) -> None:
    reached(log1)
    assert not hears(log1, lab.hosts()["log2"])


def test_outside_nothing_can_be_read(machines: dict[str, Host], log1: Host) -> None:
    """By what the kernel of the other machine sees come in on its outer card."""
    log2 = machines["log2"]
    log2.check_output("apt-get update && apt-get install --yes --no-install-recommends tcpdump")
    log2.check_output(
        "systemd-run --unit=seen tcpdump --immediate-mode -Z root -i eth0 -U -w /root/seen.pcap"
        " udp or tcp port 6967"
    )
    time.sleep(1)
    assert hears(log1)
    time.sleep(0.5)
    log2.check_output("systemctl stop seen")
    text = log2.check_output("tcpdump -n -A -r /root/seen.pcap 2>/dev/null")
    assert "51820" in text
    assert "within" not in text
    assert "6967" not in text


def test_keys_are_their_machines_own(machines: dict[str, Host]) -> None:
    keys = set()
    for machine in machines.values():
        assert machine.file(KEY).mode == 0o600
        assert machine.file(KEY).user == "root"
        assert shown(machine, KEY) == []
        keys.add(machine.check_output("cat %s", KEY))
        derived = machine.check_output("wg pubkey < %s", KEY)
        assert derived == machine.check_output("cat /etc/sigsum/tunnel/public.key")
    assert len(keys) == len(machines)


def test_it_runs_as_little(host: Host) -> None:
    assert exposure(host, "sigsum-tunnel.service") <= 2.0
    assert listening(host) >= SSH | {"udp 0.0.0.0:51820"}


def test_it_comes_back(machines: dict[str, Host], log1: Host, lab: Lab) -> None:
    for machine in machines.values():
        machine.check_output("kill -9 %s", main_pid(machine, "sigsum-tunnel"))
        reached(log1)
    machines["log1"].check_output("ip link delete sigsum0")
    reached(log1)
    lab.restart("log2")
    # The listener of this test is not there after a boot.
    ping = "import socket; socket.create_connection(('10.99.0.1', 22), timeout=2)"
    eventually(
        lambda: machines["log2"].run("python3 -c %s", ping).rc == 0,
        seconds=60,
        what="it is there after a boot",
    )
    machines["log2"].check_output(
        "systemd-run --unit=said python3 -m http.server --directory /srv/said"
        f" --bind {INSIDE['log2']} 6967"
    )
    reached(log1)


def test_a_machine_with_a_new_key_is_taken_in(
    ansible: Ansible, machines: dict[str, Host], log1: Host
) -> None:
    """As one that was installed anew; what goes to others is not broken off."""
    log2 = machines["log2"]
    before = main_pid(log1, "sigsum-tunnel")
    log2.check_output("rm /etc/sigsum/tunnel/*.key")
    run = ansible.playbook()
    assert run.ok, run.output
    reached(log1)
    assert main_pid(log1, "sigsum-tunnel") == before
    assert log1.check_output("wg show sigsum0 peers | wc -l") == "1"
    again = ansible.playbook()
    assert not any(again.changed.values()), again.output


def test_nobody_is_left_out_unseen(ansible: Ansible) -> None:
    run = ansible.playbook("--limit", "log1")
    assert not run.ok
    assert "key of log2 is not known in this run" in run.text, run.output
    assert not any(run.changed.values())


def test_another_address_for_replication_is_refused(ansible: Ansible) -> None:
    run = ansible.playbook(hosts={"log1": {"log_server_internal_address": "192.0.2.1"}})
    assert not run.ok
    assert "Allowed: one address for both" in run.text, run.output
