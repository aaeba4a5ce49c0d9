"""Somebody is woken: what is broken arrives as a mail, and nothing else does."""

from __future__ import annotations

import email
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email import policy

import pytest
from resources.support import SSH, Ansible, add_leaves, eventually, exposure, listening
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

MAILS = "/var/lib/private/mails/all/new"
ASK = (
    "python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())' %s"
)


@dataclass(frozen=True)
class Mail:
    """To whom, of what, and what it says."""

    to: str
    subject: str
    text: str


def mails(client1: Host) -> list[Mail]:
    """All that arrived, the oldest first."""
    script = f"cd {MAILS} && for f in $(ls -tr); do cat $f; printf '\\0'; done"
    found = []
    for raw in client1.check_output(script).split("\0")[:-1]:
        message = email.message_from_string(raw, policy=policy.default)
        body = message.get_body(("plain",))
        found.append(Mail(message["To"], message["Subject"], body.get_content() if body else ""))
    return found


def prometheus(monitor1: Host, path: str) -> dict[str, object]:
    """What its API answers."""
    answer: dict[str, object] = json.loads(
        monitor1.check_output(ASK, f"http://127.0.0.1:9090/api/v1/{path}")
    )["data"]
    return answer


def firing(monitor1: Host) -> set[tuple[str, str]]:
    """Name and machine of each alert that fires, but for the one that always does."""
    found = prometheus(monitor1, "alerts")["alerts"]
    assert isinstance(found, list)
    return {
        (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
        for alert in found
        if alert["state"] == "firing" and alert["labels"]["severity"] != "none"
    }


@pytest.fixture
def monitor1(machines: Mapping[str, Host]) -> Host:
    return machines["monitor1"]


def test_every_machine_is_asked(monitor1: Host) -> None:
    def up() -> set[tuple[str, str, str]]:
        found = prometheus(monitor1, "targets")["activeTargets"]
        assert isinstance(found, list)
        return {
            (each["labels"]["job"], each["labels"]["instance"], each["health"]) for each in found
        }

    expected = {
        *(("sigsum", name, "up") for name in ("log1", "log2", "monitor1")),
        *(("node", name, "up") for name in ("log1", "log2", "monitor1")),
        *((name, "monitor1", "up") for name in ("prometheus", "alertmanager")),
    }
    eventually(lambda: up() == expected, seconds=60, what="all targets up")


def test_nothing_of_it_is_open_to_others(monitor1: Host) -> None:
    there = {f"tcp 127.0.0.1:{port}" for port in (6970, 9090, 9093, 9100)}
    assert listening(monitor1) == SSH | there
    for unit in ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter"):
        assert exposure(monitor1, f"{unit}.service") <= 2.5, unit


def test_that_it_can_alarm_at_all_is_said_again_and_again(client1: Host) -> None:
    def arrived() -> bool:
        return any(mail.to == "alive@example.org" for mail in mails(client1))

    eventually(arrived, seconds=120, what="the dead man's mail")


def test_a_healthy_site_alarms_nobody(monitor1: Host, client1: Host) -> None:
    assert firing(monitor1) == set()
    assert {mail.to for mail in mails(client1)} == {"alive@example.org"}


def test_a_secondary_that_is_down_wakes_somebody(
    lab: Lab, monitor1: Host, log2: Host, client1: Host
) -> None:
    """It stops the log's submissions, while reads look fine."""
    before = len(mails(client1))
    log2.check_output("systemctl stop sigsum-log-secondary")
    begin = time.monotonic()
    add_leaves(f"http://{lab.hosts()['log1']}:6965/", 2)

    def paged() -> list[Mail]:
        return [mail for mail in mails(client1)[before:] if mail.to == "oncall@example.org"]

    eventually(lambda: bool(paged()), seconds=180, what="the page")
    print(f"paged after {time.monotonic() - begin:.0f} s: {paged()[0].subject}")
    assert "FIRING" in paged()[0].subject
    assert re.search(r"since 20\d\d-", paged()[0].text)
    assert "docs/alerts/stands-still.md#look" in paged()[0].text
    log2.check_output("systemctl start sigsum-log-secondary")
    eventually(lambda: firing(monitor1) == set(), seconds=180, what="resolved")
    names = {name for mail in paged() for name in mail.subject.split() if name[:1].isupper()}
    print(f"pages: {names}")

    def resolved() -> bool:
        return any("RESOLVED" in mail.subject for mail in paged())

    eventually(resolved, seconds=120, what="the mail that it is over")


def test_settings_that_would_wake_nobody_are_refused(ansible: Ansible) -> None:
    for receivers, said in (
        ({}, "nobody would be woken"),
        ({"page": {"mail": ["oncall"]}}, "has 'oncall'"),
    ):
        extra = json.dumps({"monitoring_receivers": receivers})
        run = ansible.playbook("--extra-vars", extra, "--limit", "monitor1")
        assert not run.ok
        assert not any(run.changed.values())
        assert said in run.text
