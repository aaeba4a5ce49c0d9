"""What comes in and goes out of a machine, seen from both sides of its firewall."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import pytest
from resources.scan import scanned
from resources.support import Ansible, eventually, exposure
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

DECLARED = {6965, 7001, 7002}  # for everybody: the log's port, and two of firewall_also


@pytest.fixture(scope="module")
def addresses(lab: Lab) -> dict[str, tuple[str, str]]:
    """The machines' addresses of both families."""
    return {
        name: (str(host["address"]), str(host["address6"]))
        for name, host in lab.describe()["hosts"].items()
    }


@pytest.fixture(scope="module", autouse=True)
def listeners(machines: dict[str, Host]) -> Iterator[None]:
    """Somebody who answers, declared or not, on both machines and by both families."""
    units = []
    for machine, ports in (("log1", (7001, 7004, 111)), ("client1", (7003, 7005))):
        for port in ports:
            unit = f"listener-{port}"
            machines[machine].check_output(
                f"systemd-run --unit {unit} --working-directory=/srv"
                f" python3 -m http.server --bind :: {port}"
            )
            units.append((machine, unit))
    yield
    for machine, unit in units:
        machines[machine].run(f"systemctl stop {unit}")


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_strangers_find_what_is_declared_and_nothing_else(
    client1: Host, addresses: dict[str, tuple[str, str]], family: int
) -> None:
    address = addresses["log1"][family]
    assert scanned(client1, address)[address] == {"open": {7001}, "closed": DECLARED - {7001}}


def test_an_operator_comes_in(addresses: dict[str, tuple[str, str]]) -> None:
    assert knocks(addresses["log1"][0], 22)
    assert not knocks(addresses["log1"][0], 7004)


def knocks(address: str, port: int) -> bool:
    """Whether somebody answers the controller, over a new connection."""
    try:
        with socket.create_connection((address, port), timeout=2):
            return True
    except OSError:
        return False


# Prints how long it took, and 0 or the error's number.
_ASK = """
import socket, sys, time
start = time.monotonic()
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10).close()
    error = 0
except OSError as e:
    error = e.errno or -1
print(time.monotonic() - start, error)
"""


def asks(host: Host, account: str, address: str, port: int) -> tuple[float, int]:
    """How long a process of an account tried, and with what error it ended."""
    said = host.check_output(
        "setpriv --reuid=%s --regid=nogroup --clear-groups python3 -c %s %s %s",
        account, _ASK, address, str(port),
    )  # fmt: skip
    seconds, error = said.split()
    return float(seconds), int(error)


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_what_goes_out_is_the_accounts(
    log1: Host, addresses: dict[str, tuple[str, str]], family: int
) -> None:
    address = addresses["client1"][family]
    assert asks(log1, "nobody", address, 7003)[1] == 0
    for account, port in (("root", 7003), ("nobody", 7005), ("root", 7005), ("_apt", 7005)):
        seconds, error = asks(log1, account, address, port)
        assert error != 0, (account, port)
        assert seconds < 2, "who asks is told, and does not wait"
    # What goes to a name server goes to those that the machine has, and to no other.
    assert asks(log1, "nobody", address, 53)[1] != 0


def test_the_machine_does_what_it_has_to(log1: Host, addresses: dict[str, tuple[str, str]]) -> None:
    log1.check_output("apt-get update && apt-get install --yes iputils-ping")
    for address in addresses["client1"]:
        log1.check_output("ping -c 1 -W 2 %s", address)
    # What it says to itself, by whatever address.
    for address in ("127.0.0.1", "::1", *addresses["log1"]):
        assert asks(log1, "nobody", address, 7004)[1] == 0
    assert exposure(log1, "sigsum-firewall.service") <= 2.0


def test_one_source_does_not_take_all_connections(
    client1: Host, addresses: dict[str, tuple[str, str]]
) -> None:
    for address in addresses["log1"]:
        took = client1.check_output(
            "python3 -c %s %s",
            "import socket, sys\n"
            "held = []\n"
            "for _ in range(30):\n"
            "    try: held.append(socket.create_connection((sys.argv[1], 7001), timeout=0.3))\n"
            "    except OSError: pass\n"
            "print(len(held))",
            address,
        )
        assert 10 < int(took) <= 20
        assert knocks(address, 7001), "another source still comes in"


def in_force(log1: Host) -> str:
    """The rules, without what they count."""
    shown = log1.check_output("nft --stateless list table inet sigsum")
    return re.sub(r"\n\s+elements = {[^}]* ct count [^}]*}", "", shown)


def test_rules_that_lock_the_controller_out_undo_themselves(
    ansible: Ansible, log1: Host, addresses: dict[str, tuple[str, str]]
) -> None:
    before = in_force(log1)
    start = time.monotonic()
    run = ansible.playbook(hosts={"log1": {"firewall_ssh_sources": ["192.0.2.0/24"]}})
    failed = time.monotonic()
    assert not run.ok
    assert "does not let the controller in any more" in run.text, run.output
    assert "192.0.2.0/24" in run.text
    assert not knocks(addresses["log1"][0], 22), "it was locked out"
    back = eventually(lambda: knocks(addresses["log1"][0], 22), seconds=60, what="it is back")
    print(f"measured: said after {failed - start:.0f} s, undone {back:.0f} s later")
    assert back < 60
    assert in_force(log1) == before
    # What is in the inventory again is in force already, and is written down again.
    again = ansible.playbook()
    assert again.ok, again.output
    assert not any(ansible.playbook().changed.values())


def test_the_first_rules_do_not_break_the_connection_that_brings_them(
    ansible: Ansible, lab: Lab, log1: Host
) -> None:
    """Before them nothing is tracked, and what the machine says next goes out of itself.

    The lab's ssh sends something every five seconds, which would hide it.
    """
    log1.check_output("nft delete table inet sigsum; rm /var/lib/sigsum-firewall/kept.nft")
    quiet = f"-o UserKnownHostsFile={lab.state}/ssh/known_hosts -o ServerAliveInterval=0"
    start = time.monotonic()
    run = ansible.playbook(hosts={"log1": {"ansible_ssh_common_args": quiet}})
    assert run.ok, run.output
    assert time.monotonic() - start < 40
    assert log1.file("/var/lib/sigsum-firewall/kept.nft").exists


def test_another_program_s_rules_are_not_shared(ansible: Ansible, log1: Host) -> None:
    log1.check_output("systemctl enable nftables")
    try:
        run = ansible.playbook()
    finally:
        log1.check_output("systemctl disable nftables")
    assert not run.ok
    assert "nftables of log1 has rules of its own" in run.text, run.output


def test_rules_that_were_taken_out_of_force_come_back(ansible: Ansible, log1: Host) -> None:
    before = in_force(log1)
    log1.check_output("nft delete table inet sigsum")
    run = ansible.playbook()
    assert run.ok, run.output
    assert in_force(log1) == before


def test_another_program_s_table_is_left_alone(ansible: Ansible, log1: Host) -> None:
    log1.check_output("nft add table inet other")
    also = [{"what": "more", "direction": "in", "ports": [7005]}]
    run = ansible.playbook(hosts={"log1": {"firewall_also": also}})
    assert run.ok, run.output
    assert "dport 7005" in in_force(log1)
    log1.check_output("nft delete table inet other")
    assert ansible.playbook().ok


def test_the_console_opens_and_closes_the_machine(
    log1: Host, addresses: dict[str, tuple[str, str]]
) -> None:
    """The way in that docs/firewall.md names where nothing else is left."""
    before = in_force(log1)
    log1.check_output("systemctl stop sigsum-firewall")
    assert knocks(addresses["log1"][0], 7004)
    log1.check_output("systemctl start sigsum-firewall")
    assert not knocks(addresses["log1"][0], 7004)
    assert in_force(log1) == before


def test_what_is_denied_can_be_written_down(ansible: Ansible, log1: Host) -> None:
    run = ansible.playbook(hosts={"log1": {"firewall_log": True}})
    assert run.ok, run.output
    assert in_force(log1).count('log prefix "sigsum-firewall') == 2
    assert ansible.playbook().ok


def test_they_are_in_force_from_the_boot_on(lab: Lab, log1: Host) -> None:
    before = in_force(log1)
    lab.restart("log1")
    assert in_force(log1) == before
    # Before anybody could come.
    entered = log1.check_output(
        "systemctl show --property=ActiveEnterTimestampMonotonic --value sigsum-firewall ssh"
    ).split()
    assert int(entered[0]) < int(entered[1])
