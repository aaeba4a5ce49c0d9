"""Telling a living lab from a dead one, quoting, and taking firewall rules back."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.lab import host
from sigsum_ops.lab.lab import Lab, Record, boot_id, process_started

NAT = """\
-P POSTROUTING ACCEPT
-N NETAVARK-0123456789ABC
-N NETAVARK-HOSTPORT-DNAT
-N NETAVARK-HOSTPORT-MASQ
-A PREROUTING -m addrtype --dst-type LOCAL -j NETAVARK-HOSTPORT-DNAT
-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
-A POSTROUTING -j NETAVARK-HOSTPORT-MASQ
-A POSTROUTING -s 10.33.1.0/24 -j NETAVARK-0123456789ABC
-A NETAVARK-0123456789ABC -d 10.33.1.0/24 -j ACCEPT
-A NETAVARK-0123456789ABC ! -d 224.0.0.0/4 -j MASQUERADE
-A NETAVARK-HOSTPORT-MASQ -m comment --comment "two words" -j MASQUERADE
"""
OTHER = """\
-N NETAVARK-CBA9876543210
-A POSTROUTING -s 10.33.2.0/24 -j NETAVARK-CBA9876543210
-A NETAVARK-CBA9876543210 -d 10.33.2.0/24 -j ACCEPT
"""


def living_record() -> Record:
    pid = os.getpid()
    return Record(1, boot_id(), keeper_pid=pid, keeper_started=process_started(pid) or 0)


def lab_with(tmp_path: Path, record: Record) -> Lab:
    lab = Lab("t", {"XDG_STATE_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    lab.state.mkdir(parents=True)
    (lab.state / "lab.json").write_text(json.dumps(dataclasses.asdict(record)))
    return lab


def test_a_lab_lives_while_its_keeper_does() -> None:
    record = living_record()
    assert record.alive()
    assert not dataclasses.replace(record, keeper_started=1).alive()  # a reused process id
    assert not dataclasses.replace(record, boot="another").alive()
    assert not dataclasses.replace(record, keeper_pid=0).alive()  # interrupted before it started


def test_a_keeper_that_ended_is_dead_also_before_it_is_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_started(child.pid) is None
    assert process_started(child.pid) is None


def test_the_start_of_a_process_is_found_behind_any_name(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = " ".join(str(number) for number in range(4, 30))
    (tmp_path / "7/stat").write_text(f"7 (a) b) S {fields}")
    assert process_started(7, tmp_path) == 22


def test_a_dead_lab_is_reported_with_what_to_do(tmp_path: Path) -> None:
    lab = lab_with(tmp_path, dataclasses.replace(living_record(), boot="another"))
    with pytest.raises(OpsError, match="rebooted") as caught:
        lab.hosts()
    assert caught.value.hint == "make it anew: sigsum-ops lab up --name t"


def test_arguments_reach_the_machine_unchanged(tmp_path: Path) -> None:
    lab = lab_with(tmp_path, dataclasses.replace(living_record(), hosts={"log1": "0"}))
    given = ["a b", "q'q", '"d"', "$HOME", "`id`", "new\nline", "", "*", "back\\slash", "-n", "ü"]
    show = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *given]
    command = lab.ssh_command("log1", show)
    # What sshd does with it: the user's shell runs the last word.
    shell = subprocess.run(["sh", "-c", command[-1]], capture_output=True, text=True, check=True)
    assert json.loads(shell.stdout) == given
    assert command[-3:-1] == ["root@10.33.1.11", "--"]
    assert "-T" in command


def test_an_unknown_host_is_refused(tmp_path: Path) -> None:
    lab = lab_with(tmp_path, dataclasses.replace(living_record(), hosts={"log1": "0"}))
    with pytest.raises(OpsError, match="no host 'log2'"):
        lab.ssh_command("log2", ["true"])


def apply(rules: str, removals: list[list[str]]) -> list[str]:
    """What iptables does: delete a rule, flush a chain, drop an empty and unused one."""
    left = [shlex.split(line) for line in rules.splitlines()]
    for operation, *words in removals:
        if operation == "-D":
            left.remove(["-A", *words])
        elif operation == "-F":
            left = [rule for rule in left if rule[:2] != ["-A", words[0]]]
        else:
            assert not [rule for rule in left if rule[0] == "-A" and words[0] in rule]
            left.remove(["-N", words[0]])
    return [shlex.join(rule) for rule in left]


def test_the_last_lab_leaves_no_firewall_rule() -> None:
    removals = host.firewall_removals(NAT.splitlines(), "10.33.1.0/24")
    kept = ["-P POSTROUTING ACCEPT", "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE"]
    assert apply(NAT, removals) == kept


def test_other_networks_keep_their_firewall_rules() -> None:
    left = apply(NAT + OTHER, host.firewall_removals((NAT + OTHER).splitlines(), "10.33.1.0/24"))
    assert not [rule for rule in left if "10.33.1.0/24" in rule or "0123456789ABC" in rule]
    assert set(OTHER.splitlines()) <= set(left)
    assert "-N NETAVARK-HOSTPORT-MASQ" in left
    assert "-A POSTROUTING -j NETAVARK-HOSTPORT-MASQ" in left


def test_a_host_that_never_had_a_lab_is_left_alone() -> None:
    assert host.firewall_removals(["-P INPUT ACCEPT", "-A INPUT -j DROP"], "10.33.1.0/24") == []
