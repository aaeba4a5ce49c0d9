"""A leaf over TLS, with a token, cosigned by both witnesses; and what is where one is silent."""

from __future__ import annotations

import re
import socket
import ssl

import pytest
from cosigners import Log, probed, shown
from resources.scan import scanned
from resources.support import EPHEMERAL, SSH, eventually, exposure, listening, main_pid, runs_anew
from resources.tls import weaknesses
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

LIMIT = 200  # of a domain in a day
BEHIND, DIRECT = "example.org/witness1", "example.org/witness2"
# Nothing goes to the bastion any more, and what comes from there is not answered.
CUT = """
table inet cut {
    chain out {
        type filter hook output priority -300;
        tcp dport 443 drop
    }
}
"""
# By machine, what strangers find; ssh is for the operators.
DECLARED = {
    "log1": {80, 443},
    "log2": {80, 443},
    "bastion1": {443},
    "witness1": set[int](),
    "witness2": {80, 443},
}


def test_a_leaf_over_tls_with_a_token_is_cosigned_by_both_and_verified(log: Log) -> None:
    assert log.submit("the first") == ""
    assert log.verifies()
    quorum = log.quorum(wait=30)
    assert quorum["ok"], quorum
    assert set(quorum["cosigned"]) == {BEHIND, DIRECT}


def test_its_domain_has_the_limit_that_the_log_gives_it(log: Log) -> None:
    assert log.statuses(1, "nobody.example.org") == [400], "its domain has no record"
    taken = log.statuses(LIMIT + 5)
    assert 0 < taken.count(202) <= LIMIT
    assert taken[-1] == 429
    # The limit is the process's.
    log.machines["log1"].check_output("systemctl restart sigsum-log-primary")
    assert log.quorum(wait=60)["ok"]


@pytest.mark.parametrize("family", ["address", "address6"])
def test_strangers_find_what_is_declared_and_nothing_else(
    lab: Lab, client1: Host, family: str
) -> None:
    addresses = {name: str(lab.describe()["hosts"][name][family]) for name in DECLARED}
    found = scanned(client1, *addresses.values())
    assert {name: found[address] for name, address in addresses.items()} == {
        name: {"open": ports, "closed": set()} for name, ports in DECLARED.items()
    }


def test_a_witness_behind_a_bastion_listens_nowhere(witness1: Host, witness2: Host) -> None:
    assert {each for each in listening(witness1) if "127.0.0.1" not in each} == SSH
    assert "tcp 127.0.0.1:7380" in listening(witness2)


def test_what_is_undeclared_does_not_go_out(witness1: Host, bastion1: Host, lab: Lab) -> None:
    ask = "import socket; socket.create_connection(('{}', {}), timeout=5)"
    bastion = lab.hosts()["bastion1"]
    for account, port in (("litewitness", 22), ("nobody", 443), ("sigsum-oracle", 443)):
        said = witness1.run(
            "setpriv --reuid=%s --regid=nogroup --clear-groups python3 -c %s",
            account,
            ask.format(bastion, port),
        )
        assert said.rc != 0, (account, port)
    # Witnesses come to a bastion, which goes to nobody.
    said = bastion1.run(
        "setpriv --reuid=litebastion --regid=nogroup --clear-groups python3 -c %s",
        ask.format(lab.hosts()["client1"], 22),
    )
    assert said.rc != 0


def test_their_sandboxes(witness1: Host, bastion1: Host) -> None:
    for unit in ("litewitness", "sigsum-oracle"):
        assert exposure(witness1, f"{unit}.service") <= 2.0
    for unit in ("litebastion", "sigsum-bastion-probe"):
        assert exposure(bastion1, f"{unit}.service") <= 2.0
    database = witness1.file("/var/lib/litewitness")
    assert (database.user, database.mode) == ("litewitness", 0o700)


def test_the_bastion_has_its_certificate_by_acme(lab: Lab) -> None:
    """From the lab's authority, which looked by TLS-ALPN at the bastion itself."""
    trust = ssl.create_default_context(cafile=str(EPHEMERAL / "root.pem"))
    with (
        socket.create_connection((lab.hosts()["bastion1"], 443), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname="bastion.example.org") as shown,
    ):
        assert shown.version() == "TLSv1.3"


def test_no_weak_setting(lab: Lab, client1: Host) -> None:
    """The proxy before the other witness is the log's, which molecule/edge judges."""
    assert weaknesses(client1, lab.hosts()["bastion1"], "bastion.example.org") == {}


def test_a_witness_that_is_cut_off_is_missed_and_comes_back_by_itself(
    log: Log, witness1: Host, bastion1: Host
) -> None:
    """Half open: nobody is told, and both believe in their connection for a while."""
    witness1.check_output("printf %%s %s > /root/cut.nft && nft -f /root/cut.nft", CUT)
    try:
        # What the log publishes from now on lacks it, and nobody calls that a quorum.
        silent = eventually(lambda: not log.quorum(wait=3)["ok"], seconds=60, what="it is missed")
        seen = log.quorum(wait=15)
        assert seen["cosigned"][BEHIND] is None
        assert seen["cosigned"][DIRECT] is not None
        assert log.submit("nobody proves this", timeout=10) != ""
        unreached = eventually(
            lambda: not probed(bastion1)[BEHIND]["reached"], seconds=60, what="the probe says so"
        )
        metrics = bastion1.file("/run/sigsum-bastion/metrics.prom")
        metric = f'sigsum_bastion_backend_reached{{name="{BEHIND}"'
        eventually(
            lambda: bool(re.search(rf"^{metric}.* 0$", metrics.content_string, re.M)),
            seconds=60,
            what="the metrics say so",
        )
    finally:
        witness1.check_output("nft delete table inet cut")
    healed = eventually(lambda: log.quorum(wait=5)["ok"], seconds=120, what="it cosigns again")
    print(f"measured: missed after {silent:.0f} s, probed {unreached:.0f} s, healed {healed:.0f} s")
    assert probed(bastion1)[BEHIND]["reached"]


@pytest.mark.parametrize("unit", ["litewitness", "sigsum-oracle", "sigsum-rehearsal-hsm"])
def test_whatever_is_killed_on_a_witness_it_cosigns_again(
    log: Log, witness1: Host, unit: str
) -> None:
    pid = main_pid(witness1, unit)
    witness1.check_output("kill -9 %s", pid)
    eventually(lambda: runs_anew(witness1, unit, pid), seconds=20, what=f"{unit} runs again")
    healed = eventually(lambda: log.quorum(wait=5)["ok"], seconds=60, what="it cosigns again")
    print(f"measured: {unit} killed, cosigned again after {healed:.0f} s")


def test_a_killed_bastion_is_found_again(log: Log, bastion1: Host) -> None:
    bastion1.check_output("systemctl kill --signal=KILL litebastion")
    healed = eventually(lambda: log.quorum(wait=5)["ok"], seconds=60, what="they cosign again")
    print(f"measured: bastion killed, cosigned again after {healed:.0f} s")


def test_a_witness_without_power_comes_back(log: Log, lab: Lab, witness1: Host) -> None:
    before = shown(witness1)
    lab.kill("witness1")
    lab.start("witness1")
    healed = eventually(lambda: log.quorum(wait=5)["ok"], seconds=120, what="it cosigns again")
    print(f"measured: power cut, cosigned again after {healed:.0f} s")
    assert shown(witness1)["ok"]
    assert shown(witness1)["logs"].keys() == before["logs"].keys()
