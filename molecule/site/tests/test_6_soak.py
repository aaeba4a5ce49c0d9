"""A short soak: `make soak` runs one for hours. It passes, and it can fail."""

from __future__ import annotations

import pytest
from harness import LOG, PRIMARY, Site

from sigsum_ops.lab import soak

QUICK = {
    "HSM loses its sessions",
    "HSM unplugged for 3 s",
    f"kill -9 of sigsum-oracle on {PRIMARY}",
}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little rest between faults."""
    monkeypatch.setattr(soak, "REST", (1.0, 2.0))


def run(site: Site, seconds: float, faults: list[soak.Fault]) -> dict[str, object]:
    """A soak of the scenario's lab."""
    site.sound = False
    plan = soak.Plan(hours=seconds / 3600, rate=5)
    return soak.execute(plan, lab=site.lab, faults=faults, tell=site.report.append)


def test_a_short_soak_passes(site: Site) -> None:
    result = run(site, 90, [fault for fault in soak.FAULTS if fault.name in QUICK])
    assert result["passed"], result
    struck = result["faults"]
    assert isinstance(struck, dict)
    assert set(struck) == QUICK


def test_a_log_that_does_not_come_back_fails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "PATIENCE", 8.0)
    monkeypatch.setattr(soak, "DRAIN", 5.0)
    name = "the log is stopped, and nobody starts it"

    def strike(*_: object) -> None:
        site.change(PRIMARY, f"systemctl stop {LOG}")

    result = run(site, 20, [soak.Fault(name, strike)])
    site.change(PRIMARY, f"systemctl start {LOG}")
    assert not result["passed"]
    assert name in str(result["failed"])
