"""What breaks comes back by itself: nobody touches the site between the fault and the recovery.

Each test measures the seconds until a new leaf is logged, proven, signed and on both machines.
"""

from __future__ import annotations

import os
import time

import pytest
from harness import DEVICE, LOG, ORACLE, PRIMARY, SECONDARY, STATE, Site, refused
from resources.support import eventually

PROCESS_SECONDS = 30
MACHINE_SECONDS = 60
# Shorter only while working on this file.
OUTAGE_SECONDS = float(os.environ.get("SITE_OUTAGE_SECONDS", "300"))

UNITS = {
    PRIMARY: ["mariadb", "trillian-log-server", "trillian-log-signer", DEVICE, ORACLE, LOG],
    SECONDARY: ["mariadb", "trillian-log-server", "trillian-log-signer", "sigsum-log-secondary"],
}
MACHINES = [[PRIMARY], [SECONDARY], [PRIMARY, SECONDARY]]


# Units want each other, so that one that is only stopped is soon started again.
AWAY = "[Unit]\\nConditionPathExists=/nonexistent\\n"


def drop_in(unit: str, settings: str) -> str:
    """The command that changes a unit's settings until the next boot."""
    directory = f"/run/systemd/system/{unit}.service.d"
    return f"mkdir -p {directory}; printf '{settings}' > {directory}/test.conf"


def drop_out(unit: str) -> str:
    """The command that takes them back."""
    return f"rm -r /run/systemd/system/{unit}.service.d; systemctl daemon-reload"


def together(names: list[str]) -> str:
    return " and ".join(names)


@pytest.mark.parametrize(
    ("machine", "unit"), [(machine, unit) for machine in UNITS for unit in UNITS[machine]]
)
def test_a_killed_process_comes_back(site: Site, machine: str, unit: str) -> None:
    log = UNITS[machine][-1]
    before, log_before = site.unit(machine, unit), site.unit(machine, log)
    site.change(machine, f"systemctl kill --signal=KILL --kill-whom=main {unit}")
    site.recovers(f"{unit} on {machine} killed", within=PROCESS_SECONDS)
    after, log_after = site.unit(machine, unit), site.unit(machine, log)
    assert after["ActiveState"] == "active"
    assert after["MainPID"] != before["MainPID"]
    assert int(after["NRestarts"]) == int(before["NRestarts"]) + 1
    if unit == "trillian-log-signer":
        assert log_after == log_before


@pytest.mark.parametrize("names", MACHINES, ids=together)
def test_rebooted_machines_come_back(site: Site, names: list[str]) -> None:
    def boots() -> list[str]:
        # When init was started; nothing while a machine is down.
        question = ["stat", "--format=%Z", "/proc/1"]
        return [site.lab.exec(name, question, timeout=10).stdout for name in names]

    before, start = boots(), time.monotonic()
    site.sound = False
    for name in names:
        site.lab.exec(name, ["systemctl", "reboot"])
    eventually(
        lambda: all(new and new != old for new, old in zip(boots(), before, strict=True)),
        seconds=MACHINE_SECONDS,
        what="the machines boot",
    )
    site.recovers(f"{together(names)} rebooted", within=MACHINE_SECONDS, since=start)


@pytest.mark.parametrize("names", MACHINES, ids=together)
def test_machines_without_power_come_back(site: Site, names: list[str]) -> None:
    site.cut_power(names)
    start = time.monotonic()
    for name in names:
        site.lab.start(name)
    site.recovers(f"{together(names)} without power", within=MACHINE_SECONDS, since=start)


def test_the_site_comes_back_after_a_long_outage_of_the_database(site: Site) -> None:
    everything = " ".join(UNITS[PRIMARY][1:])
    site.change(
        PRIMARY, f"{drop_in('mariadb', AWAY)}; systemctl daemon-reload; systemctl stop mariadb"
    )
    # Otherwise nothing but Trillian's connections would notice.
    site.change(PRIMARY, f"systemctl kill --signal=KILL --kill-whom=main {everything}")
    time.sleep(OUTAGE_SECONDS)
    for unit in UNITS[PRIMARY][1:]:
        seen = site.unit(PRIMARY, unit)
        site.report.append(
            f"{seen['NRestarts']:>6}    restarts of {unit} while the database was down"
        )
        assert seen["ActiveState"] in {"active", "activating"}
    assert site.unit(PRIMARY)["ActiveState"] == "activating"  # the guard waits
    site.change(PRIMARY, f"{drop_out('mariadb')}; systemctl start mariadb")
    site.recovers(f"{OUTAGE_SECONDS:.0f} s without database", within=MACHINE_SECONDS)


# How the log can end. The first two only once; the others, by what a start finds, at every start.
_KILL = f"systemctl kill --kill-whom=main {LOG} --signal"
_SQUAT = "import socket, time; s = socket.create_server(('', 6965)); time.sleep(3600)"
ENDINGS = {
    "SIGTERM": (f"{_KILL}=TERM", "true"),
    "SIGKILL": (f"{_KILL}=KILL", "true"),
    "status 0, cannot listen": (
        f'systemctl stop {LOG}; systemd-run --unit=squatter python3 -c "{_SQUAT}"; sleep 0.5;'
        f" systemctl start {LOG}",
        "systemctl stop squatter",
    ),
    "status 1, no policy": (
        f"mv /etc/sigsum/policy /root; {_KILL}=KILL",
        "mv /root/policy /etc/sigsum",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_log_is_started_again_however_it_ended_until_the_guard_refuses(
    site: Site, ending: str
) -> None:
    spoil, mend = ENDINGS[ending]
    sth = site.sth()
    site.change(PRIMARY, f"cp -a {STATE}/tree-id /root")
    restarts = int(site.unit(PRIMARY)["NRestarts"])
    site.change(PRIMARY, spoil)
    if mend == "true":
        eventually(
            lambda: (
                int(site.unit(PRIMARY)["NRestarts"]) == restarts + 1
                and site.unit(PRIMARY)["SubState"] == "running"
            ),
            seconds=PROCESS_SECONDS,
            what="the log runs again",
        )
        site.change(PRIMARY, f"{spoil}; : > {STATE}/tree-id")
    else:
        # systemd forgets the status when the next start begins: look in the moment in between.
        eventually(
            lambda: (
                (unit := site.unit(PRIMARY))["ExecMainCode"] == "1"
                and f"status {unit['ExecMainStatus']}" in ending
                and int(unit["NRestarts"]) > 0
            ),
            seconds=PROCESS_SECONDS,
            what=f"the log ends again with {ending}",
        )
        site.change(PRIMARY, f": > {STATE}/tree-id")
    refused(site, "tree-id-empty", sth=sth)
    # Once started, it comes back without a start after the cause is gone.
    site.change(PRIMARY, f"mv /root/tree-id {STATE}; systemctl start {LOG}; {mend}")


def test_a_guard_that_cannot_tell_is_retried_without_limit(site: Site) -> None:
    hurry = "[Service]\nTimeoutStartSec=1s\nRestartSec=100ms\n"
    site.change(
        PRIMARY,
        f"{drop_in(LOG, hurry)}; {drop_in('trillian-log-server', AWAY)}; systemctl daemon-reload;"
        f" systemctl stop trillian-log-server; systemctl restart --no-block {LOG}",
    )
    # systemd's own limit is 5 starts in 10 s.
    eventually(
        lambda: int(site.unit(PRIMARY)["NRestarts"]) > 6, seconds=30, what="the guard is retried"
    )
    site.change(PRIMARY, drop_out(LOG))
    # Whoever ends the guard does not get the log started without it.
    eventually(
        lambda: (
            (unit := site.unit(PRIMARY))["SubState"] == "start-pre" and unit["ControlPID"] != "0"
        ),
        seconds=PROCESS_SECONDS,
        what="the guard waits",
    )
    site.change(PRIMARY, f"systemctl kill --signal=TERM {LOG}")
    assert site.unit(PRIMARY)["ActiveState"] == "activating"
    assert site.ask(PRIMARY, f"ls {STATE}; ss -Hlnt 'sport = 6965'").split() == [
        *("guard-evidence.json", "guard.prom", "sth", "tree-id")
    ]
    site.change(PRIMARY, f"{drop_out('trillian-log-server')}; systemctl start trillian-log-server")
    site.recovers("Trillian's server was away for the guard", within=PROCESS_SECONDS)
