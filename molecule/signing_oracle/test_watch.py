"""The watch over the devices: checked on both machines, audited beside the oracle.

The judges: promtool for the metrics, systemd for the sandboxes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from resources.support import eventually, exposure, main_pid, runs_anew, shown, submit
from signing import DEVICE, fault
from testinfra.host import Host

STATE = "/var/lib/sigsum-hsm"
AUDIT = "sigsum-hsm-audit"
CHECK = "sigsum-hsm-check"
PRIVATE = "/etc/sigsum/private"

MACHINES = pytest.mark.parametrize("name", ["log1", "log2"])


def audit(machine: Host) -> dict[str, Any]:
    """What the archive says."""
    shown: dict[str, Any] = json.loads(machine.run("sigsum-ops hsm audit --show --json").stdout)
    return shown


def metric(machine: Host, name: str) -> str:
    """The value of a metric with its labels, empty where it is not there."""
    lines = machine.check_output(f"cat {STATE}/*.prom").splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")), "")


def looked(machine: Host) -> None:
    """Wait until the audit has drained the device once more."""
    at = "sigsum_hsm_audit_timestamp_seconds"
    before = metric(machine, at)
    eventually(lambda: metric(machine, at) not in ("", before), seconds=40, what="a look")


@MACHINES
def test_the_device_is_checked_again_and_again(machines: dict[str, Host], name: str) -> None:
    machine = machines[name]
    assert machine.service(f"{CHECK}.timer").is_running
    assert machine.service(f"{CHECK}.timer").is_enabled
    machine.check_output("systemctl start %s", CHECK)
    assert metric(machine, 'sigsum_hsm_check_state{state="ok"}') == "1"
    found = json.loads(machine.check_output("sigsum-ops hsm check --json"))
    assert found["state"] == "ok"


def test_the_standby_is_checked_without_the_logs_passphrase(log2: Host) -> None:
    names = log2.check_output("ls %s", PRIVATE).split()
    assert {"hsm-audit-passphrase", "hsm-health-passphrase"} <= set(names)
    assert "hsm-passphrase" not in names


@MACHINES
def test_the_passphrases_are_roots_only(machines: dict[str, Host], name: str) -> None:
    machine = machines[name]
    for part in ("health", "audit"):
        path = f"{PRIVATE}/hsm-{part}-passphrase"
        assert machine.file(path).mode & 0o077 == 0
        assert not machine.run("runuser -u sigsum-hsm -- cat %s", path).succeeded
        assert shown(machine, path) == []


@pytest.mark.parametrize("unit", [AUDIT, CHECK])
def test_its_exposure_is_at_most_2(log1: Host, unit: str) -> None:
    assert exposure(log1, f"{unit}.service") <= 2.0


def test_its_account_owns_its_state_and_logs_nobody_in(log1: Host) -> None:
    assert log1.user("sigsum-hsm").shell == "/usr/sbin/nologin"
    assert log1.file(STATE).user == "sigsum-hsm"
    (archive,) = log1.check_output(f"ls {STATE}/*.audit").split()
    assert log1.file(archive).user == "sigsum-hsm"
    assert log1.file(archive).mode & 0o027 == 0


@MACHINES
def test_every_signature_is_accounted_for(
    machines: dict[str, Host], client1: Host, name: str
) -> None:
    machine = machines[name]
    before = audit(machine)["signatures_made"]
    submit(client1)
    looked(machine)
    found = audit(machine)
    assert (found["outcome"], found["findings"]) == ("ok", [])
    assert (found["signatures_made"] > before) == (name == "log1")  # a standby signs nothing


def test_prometheus_can_read_the_metrics(log1: Host, client1: Host) -> None:
    client1.check_output(
        "command -v promtool || apt-get install --yes --no-install-recommends promtool"
    )
    for name in ("audit", "check"):
        text = log1.check_output(f"cat {STATE}/{name}.prom")
        client1.check_output("printf '%%s\\n' %s | promtool check metrics", text)


def test_killed_it_goes_on_without_a_gap(log1: Host, client1: Host) -> None:
    for _ in range(3):
        killed = main_pid(log1, AUDIT)
        log1.check_output("kill -9 %s", killed)
        eventually(partial(runs_anew, log1, AUDIT, killed), seconds=10, what="the audit runs")
    submit(client1)
    looked(log1)
    assert audit(log1)["findings"] == []


def test_a_device_that_is_away_is_unknown_for_as_long(log2: Host) -> None:
    fault(log2, "unplug")
    eventually(
        lambda: metric(log2, 'sigsum_hsm_audit_state{state="unknown"}') == "1",
        seconds=30,
        what="the audit does not know",
    )
    assert log2.run("sigsum-ops hsm check").rc == 3
    fault(log2)
    eventually(
        lambda: metric(log2, 'sigsum_hsm_audit_state{state="ok"}') == "1",
        seconds=40,
        what="the audit knows again",
    )
    log2.check_output("systemctl start %s", CHECK)
    assert audit(log2)["findings"] == []


@pytest.fixture
def acknowledged(log1: Host) -> Iterator[None]:
    """Leave no finding behind, by the procedure of docs/bcp/hsm-watch.md."""
    yield
    log1.check_output("systemctl stop %s", AUDIT)
    if findings := audit(log1)["findings"]:
        line = str(findings[-1]["line"])
        log1.check_output("sigsum-ops hsm audit --acknowledge %s", line)
    log1.check_output("systemctl start %s", AUDIT)
    eventually(lambda: audit(log1)["outcome"] == "ok", seconds=30, what="the audit is at ease")


THIEF = """
import pathlib, sys, time
from yubihsm.core import YubiHsm
from yubihsm.objects import AsymmetricKey
from sigsum_ops.hsm.connector import Connector
connector = Connector(sys.argv[1])
connector.deadline = time.monotonic() + 10
passphrase = pathlib.Path("/etc/sigsum/private/hsm-passphrase").read_text().strip()
session = YubiHsm(connector).create_session_derived(200, passphrase)
AsymmetricKey(session, 500).sign_eddsa(b"a second tree")
session.close()
"""


@pytest.mark.usefixtures("acknowledged")
def test_a_signature_behind_the_oracles_back_is_an_alarm(log1: Host) -> None:
    looked(log1)
    eventually(lambda: audit(log1)["outcome"] == "ok", seconds=30, what="the audit is at ease")
    # One that got no answer, on a busy machine, may stand for one that nobody asked for.
    eventually(lambda: unanswered(log1) == 0, seconds=70, what="every command is accounted for")
    log1.check_output("python3 -c %s %s", THIEF, DEVICE)
    eventually(
        lambda: metric(log1, 'sigsum_hsm_audit_state{state="alarm"}') == "1",
        seconds=30,
        what="the alarm",
    )
    assert metric(log1, 'sigsum_hsm_audit_findings{kind="too-many"}') == "1"
    said = log1.check_output("journalctl --unit=%s --no-pager --lines=20", AUDIT)
    assert "ALARM (too-many): 1 more made than given" in said
    assert "docs/bcp/hsm-watch.md" in said
    assert log1.run("sigsum-ops hsm audit --show").rc == 1


@pytest.mark.usefixtures("acknowledged")
def test_an_audit_that_was_away_for_too_long_is_unknown(log1: Host) -> None:
    log1.check_output("systemctl stop %s", AUDIT)
    # What the ring has no room for; the log's own signatures would take minutes.
    fault(log1, "log-full")
    first = given(log1)
    eventually(lambda: given(log1) >= first + 2, seconds=60, what="the ring goes around")
    log1.check_output("systemctl start %s", AUDIT)
    eventually(
        lambda: metric(log1, 'sigsum_hsm_audit_state{state="unknown"}') == "1",
        seconds=30,
        what="the audit does not know",
    )


def unanswered(machine: Host) -> int:
    """How many of the oracle's commands got no answer, which the audit has not settled yet."""
    return counted(machine, 4) - int(metric(machine, "sigsum_hsm_audit_lost_total") or 0)


def given(machine: Host) -> int:
    """How many signatures the oracle was given."""
    return counted(machine, 3)


def counted(machine: Host, column: int) -> int:
    """A column of the oracle's count."""
    return int(machine.check_output(f"cut -d ' ' -f {column} /var/lib/sigsum-oracle/signatures"))
