"""The whole site with the log's key in a rehearsal device: the log signs through the oracle.

The judges: sigsum-submit and sigsum-verify, ssh-add and ssh-keygen, and what the log publishes.
"""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from resources.support import (
    SSH,
    Ansible,
    add_leaves,
    eventually,
    exposure,
    listening,
    main_pid,
    runs_anew,
    shown,
)
from signing import LOG, Log, fault
from testinfra.host import Host

from sigsum_ops.log.keys import PublicKey

AGENT = "SSH_AUTH_SOCK=/run/sigsum-oracle/agent.sock"
STATE = "/var/lib/sigsum-oracle"
# How long the log may take to sign again after what it signs with is back (the promise),
# and to publish what came meanwhile: an interval of 2 s on the primary, 1 s on the secondary.
AGAIN = 10.0
UNITS = ("sigsum-oracle", "sigsum-rehearsal-hsm")


def test_the_log_signs_with_the_key_of_the_ceremony(log: Log) -> None:
    log.signs()


def test_no_machine_has_the_logs_key_in_a_file(machines: dict[str, Host]) -> None:
    for name in ("log1", "log2"):
        private = machines[name].check_output("ls /etc/sigsum/private").split()
        own = ["hsm-passphrase"] if name == "log1" else ["node-key", "node-key.pub"]
        assert private == ["hsm-audit-passphrase", "hsm-health-passphrase", *own]


def test_the_standby_machine_has_the_device_and_no_passphrase(log2: Host) -> None:
    assert log2.service("sigsum-rehearsal-hsm").is_running
    assert not log2.service("sigsum-oracle").exists
    assert not log2.file("/etc/sigsum/private/hsm-passphrase").exists


def test_the_secrets_are_roots_and_the_devices_only(log1: Host) -> None:
    for path in ("/etc/sigsum/private/hsm-passphrase", "/var/lib/sigsum-rehearsal-hsm"):
        assert not log1.run("runuser -u sigsum-log -- cat %s", path).succeeded
        assert log1.file(path).mode & 0o077 == 0
    path = "/etc/sigsum/private/hsm-passphrase"
    assert len(log1.check_output("cat %s", path).strip()) >= 20
    assert shown(log1, path) == []


def test_ansible_says_nothing_of_a_passphrase(log1: Host, ansible: Ansible) -> None:
    """Not even when it would put them in place."""
    private = "/etc/sigsum/private"
    secrets = log1.check_output(f"cat {private}/hsm-*passphrase").split()
    log1.check_output(f"mkdir /root/kept; mv {private}/hsm-* /root/kept")
    try:
        run = ansible.playbook("--check", "--diff", "-vvv")
    finally:
        log1.check_output(f"mv /root/kept/* {private}; rmdir /root/kept")
    assert run.ok, run.output
    assert run.changed["log1"] > 0
    assert len(secrets) == 3
    assert not any(secret in run.output for secret in secrets)


@pytest.mark.parametrize("unit", UNITS)
def test_its_exposure_is_at_most_2(log1: Host, unit: str) -> None:
    assert exposure(log1, f"{unit}.service") <= 2.0


def test_nothing_new_listens_to_the_world(log1: Host) -> None:
    new = {socket for socket in listening(log1) if socket.endswith(":12345")}
    assert new == {"tcp 127.0.0.1:12345"}
    assert listening(log1) >= SSH


def test_openssh_lists_the_key_and_gets_no_other_signature(log1: Host, key: PublicKey) -> None:
    as_log = f"runuser -u sigsum-log -- env {AGENT}"
    assert key.ssh in log1.check_output(f"{as_log} ssh-add -L")
    asked = log1.run(
        f"cd $(mktemp -d) && chmod 777 . && {as_log} ssh-add -L > log.pub && echo text > message;"
        f" {as_log} ssh-keygen -Y sign -f log.pub -n file message || exit 1"
    )
    assert asked.rc == 1
    assert "agent refused operation" in asked.stderr


def test_no_other_user_reaches_it(log1: Host) -> None:
    asked = log1.run(f"runuser -u nobody -- env {AGENT} ssh-add -L")
    assert not asked.succeeded
    assert "Permission denied" in asked.stderr


@pytest.mark.parametrize("unit", [*UNITS, LOG])
def test_killed_it_is_back_and_the_log_signs_again(log: Log, log1: Host, unit: str) -> None:
    # The log's own restart is part of it: its agent connection does not outlive the oracle.
    ended = {name: main_pid(log1, name) for name in {unit, *([LOG] if unit == UNITS[0] else [])}}
    log1.check_output("kill -9 %s", ended[unit])
    start = time.monotonic()
    for name, pid in ended.items():
        eventually(partial(runs_anew, log1, name, pid), seconds=AGAIN, what=f"{name} runs")
    eventually(log.answers, seconds=AGAIN, what="the log answers")
    assert log.signs(since=start) < AGAIN + 4


def test_a_lost_session_is_opened_anew(log: Log, log1: Host) -> None:
    before = main_pid(log1, "sigsum-oracle"), main_pid(log1, LOG)
    fault(log1, "lose-sessions")
    assert log.signs() < AGAIN
    assert (main_pid(log1, "sigsum-oracle"), main_pid(log1, LOG)) == before


def test_an_unplugged_device_is_missed_only_while_it_is_away(log: Log, log1: Host) -> None:
    before = main_pid(log1, "sigsum-oracle"), main_pid(log1, LOG)
    published = log.signed()
    fault(log1, "unplug=20")
    start = time.monotonic()
    while time.monotonic() < start + 20:
        assert log.signed() == published  # what was signed is served on
        time.sleep(2)
    assert log.signs(since=start + 20) < AGAIN
    assert (main_pid(log1, "sigsum-oracle"), main_pid(log1, LOG)) == before


REPACK = """
cd $(mktemp -d); dpkg-deb --raw-extract /var/cache/apt/archives/sigsum-ops_*.deb package
sed -i 's/^Version: .*/&+newer/' package/DEBIAN/control
dpkg-deb --build package newer.deb > /dev/null; dpkg --install newer.deb
"""


def test_a_changed_package_is_run_and_the_log_signs_on_within_10_s(
    log: Log, log1: Host, ansible: Ansible
) -> None:
    before = main_pid(log1, "sigsum-oracle")
    log1.check_output("sh -ec %s", REPACK)
    records = int(log1.check_output(f"wc -l < {STATE}/journal"))
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(ansible.playbook)
        while not run.done():
            add_leaves(log.url, 1)
            time.sleep(0.5)
    assert run.result().ok, run.result().output
    assert (run.result().changed["log1"] > 0, run.result().changed["log2"]) == (True, 0)
    assert main_pid(log1, "sigsum-oracle") != before
    lines = log1.check_output(f"tail -n +{records} {STATE}/journal").splitlines()
    times = [int(line.split()[2]) for line in lines]
    assert len(times) > 3
    # A new leaf twice a second, signed every 2 s.
    assert max(later - earlier for earlier, later in pairwise(times)) <= AGAIN + 2


@pytest.fixture
def older(log: Log, log1: Host) -> str:
    """A dump of the database from before the last leaf came; ``now.sql`` is from after it."""
    log1.check_output("mkdir -p /root/kept && mariadb-dump trillian > /root/kept/older.sql")
    log.signs()
    log1.check_output("mariadb-dump trillian > /root/kept/now.sql")
    return "/root/kept/older.sql"


def restore(log1: Host, dump: str) -> None:
    """Put a dump in the place of the database of a log that runs."""
    log1.check_output(f"mariadb trillian < {dump}")


def test_an_older_database_under_a_running_log_is_not_signed(
    log: Log, log1: Host, client1: Host, older: str
) -> None:
    """log-go looks at its tree only when it signs, so no guard before its start can see this."""
    published = log.signed()
    restore(log1, older)
    # One other leaf takes the place of the one that was signed: the same size, and another root.
    # More of them the secondary would copy behind the leaf that it has, and be lost too.
    client1.check_output(
        "cd $(mktemp -d) && sigsum-key generate -o key && date > leaf;"
        " ! timeout 8 sigsum-submit --policy=/etc/sigsum/policy --signing-key=key leaf"
    )
    eventually(lambda: log1.file(f"{STATE}/latch").exists, seconds=20, what="the oracle latches")
    said = log1.check_output("journalctl --unit=sigsum-oracle --no-pager --lines=50")
    assert re.search(r"LATCHED \((other-root|not-proven)\)", said)
    assert str(published.head) in said
    assert "docs/bcp/oracle-latched.md" in said
    evidence = json.loads(log1.check_output(f"cat {STATE}/latch"))
    assert evidence["journaled"]["size"] <= evidence["requested"]["size"]
    assert "sigsum_oracle_latched 1" in log1.check_output(f"cat {STATE}/metrics.prom")
    # What was signed before is served on. After a restart the start guard says the same.
    assert log.signed() == published
    log1.check_output("systemctl restart sigsum-oracle")
    eventually(
        lambda: log1.run(f"systemctl is-failed {LOG}").stdout.strip() == "failed",
        seconds=20,
        what="the start guard refuses",
    )

    # The procedure: put the newest state back, resolve with the evidence's digest, go on.
    log1.check_output(f"systemctl stop {LOG} sigsum-oracle")
    restore(log1, str(Path(older).with_name("now.sql")))
    log1.check_output("systemctl restart trillian-log-server trillian-log-signer")
    digest = json.loads(log1.run("sigsum-ops oracle show --json").stdout)["latch"]["sha256"]
    log1.check_output("sigsum-ops oracle resolve --yes-i-have-followed %s", digest)
    log1.check_output(f"systemctl reset-failed; systemctl start sigsum-oracle {LOG}")
    eventually(log.answers, seconds=20, what="the log answers")
    log.signs()
    assert not log1.file(f"{STATE}/latch").exists
    assert log1.check_output(f"ls {STATE}").count("latch.") >= 1


def test_a_log_without_its_journal_is_refused_and_seeded_by_the_procedure(
    log: Log, log1: Host, ansible: Ansible
) -> None:
    """docs/bcp/oracle-latched.md, section 4: the oracle never begins with an empty journal."""
    published = log.signed()
    log1.check_output(f"systemctl stop {LOG} sigsum-oracle")
    log1.check_output(f"mv {STATE}/journal {STATE}/journal.damaged")
    run = ansible.playbook()
    assert not run.ok
    assert set(run.changed.values()) == {0}
    assert "log1 has signed for the log, but the oracle has no journal" in run.text
    assert not log1.run("systemctl start sigsum-oracle").succeeded
    # What the world has seen; the log's own copy of it, since the log is down.
    log1.check_output("systemctl stop sigsum-oracle")
    log1.check_output("sigsum-ops oracle seed --sth /var/lib/sigsum-log/sth")
    log1.check_output(f"systemctl start sigsum-oracle {LOG}")
    eventually(log.answers, seconds=20, what="the log answers")
    assert log.signed() == published
    log.signs()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rehearsal_hsm_lab_only": False}, "a lab says so with rehearsal_hsm_lab_only"),
        ({"rehearsal_hsm_serial": 90000009}, "sigsum-ops ceremony rehearse makes it"),
    ],
)
def test_a_rehearsal_device_that_may_not_be_is_refused_before_any_change(
    ansible: Ansible, settings: dict[str, object], said: str
) -> None:
    run = ansible.playbook("--extra-vars", json.dumps(settings))
    assert not run.ok
    assert set(run.changed.values()) == {0}
    assert said in run.text


def test_an_oracle_without_its_passphrase_is_refused_before_any_change(
    ansible: Ansible, log1: Host
) -> None:
    path = "/etc/sigsum/private/hsm-passphrase"
    log1.check_output("mv %s /root/aside", path)
    try:
        run = ansible.playbook("--extra-vars", json.dumps({"signing_oracle_passphrase_file": ""}))
    finally:
        log1.check_output("mv /root/aside %s", path)
    assert not run.ok
    assert set(run.changed.values()) == {0}
    assert "signing_oracle_passphrase_file is empty, and log1 has no" in run.text
