"""The doctor finds nothing on a site that is well, and names each thing that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness import SECONDARY, Site
from resources.support import EPHEMERAL, add_leaves

# What is done to a machine, how it is undone, and what that is called.
DISORDER = (
    (
        "touch /var/lib/sigsum-archive/split-view-0.json",
        "rm /var/lib/sigsum-archive/split-view-0.json",
        "split-view",
    ),
    (
        "install -d /var/lib/sigsum-oracle; touch /var/lib/sigsum-oracle/latch",
        "rm -r /var/lib/sigsum-oracle",
        "latched",
    ),
    (
        "install -d /etc/sigsum-proxy; echo none > /etc/sigsum-proxy/certificate.pem",
        "rm -r /etc/sigsum-proxy",
        "certificate",
    ),
    ("touch /run/reboot-required", "rm /run/reboot-required", "reboot"),
    (
        "systemctl mask --runtime --now sigsum-hsm-check.timer",
        "systemctl unmask --runtime sigsum-hsm-check.timer; systemctl start sigsum-hsm-check.timer",
        "unit-failed",
    ),
    (
        "systemd-run --unit=broken --property=Restart=no false; sleep 1",
        "systemctl reset-failed broken",
        "unit-failed",
    ),
)


def doctor(site: Site) -> dict[tuple[str, str], str]:
    """What it finds, by name and machine."""
    program = Path(sys.executable).with_name("sigsum-ops")
    done = subprocess.run(
        [program, "doctor", "--inventory", EPHEMERAL / "inventory", "--url", site.url, "--json"],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout) if done.stdout else {}
    assert done.returncode == (0 if found and found["ok"] else 1), done.stderr
    return {(each["name"], each["machine"]): each["what"] for each in found["findings"]}


def test_nothing_is_found_on_a_healthy_site(site: Site) -> None:
    assert doctor(site) == {}


def test_disorder_is_named(site: Site) -> None:
    for do, _, _ in DISORDER:
        site.ask(SECONDARY, do)
    try:
        found = doctor(site)
    finally:
        for _, undo, _ in DISORDER:
            site.ask(SECONDARY, undo)
    assert set(found) == {(name, SECONDARY) for *_, name in DISORDER}
    assert doctor(site) == {}


def test_a_dead_secondary_stops_the_log(site: Site) -> None:
    """What it costs its users is said, too."""
    site.change(SECONDARY, "systemctl stop sigsum-log-secondary")
    add_leaves(site.url, 1)
    found = doctor(site)
    site.change(SECONDARY, "systemctl start sigsum-log-secondary")
    assert set(found) == {("unit-failed", SECONDARY), ("not-growing", "")}
    assert "sigsum-log-secondary.service is inactive" in found["unit-failed", SECONDARY]
    site.recovers("the secondary's log stopped", within=30)
