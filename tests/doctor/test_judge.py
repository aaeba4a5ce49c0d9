"""What the doctor finds: nothing on a healthy site, and each fault by its name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sigsum_ops.doctor.judge import DAY, NAMES, Machine, Weight, findings
from sigsum_ops.exporter.table import PASSED

NOW = 1_800_000_000.0
VERSION = "0.1.0+src.0123456789ab"


def unit(state: str = "active", file: str = "enabled", **more: str) -> dict[str, str]:
    return {"LoadState": "loaded", "ActiveState": state, "UnitFileState": file, **more}


def look(part: str, size: int = 8) -> dict[str, Any]:
    return {
        "parts": [part],
        "fenced": None,
        "quarantine": None,
        "has_latch": False,
        "split_views": [],
        "doubts": [],
        "unreadable": [],
        "permit": "",
        "tree": {"size": size, "behind": []},
    }


def facts(log: dict[str, Any] | None, **units: dict[str, str]) -> dict[str, Any]:
    return {
        "time": NOW - 3,
        "up_seconds": 90000.0,
        "units": units,
        "metrics": {
            'sigsum_hsm_check_state{state="ok"}': 1.0,
            'sigsum_hsm_check_state{state="failed"}': 0.0,
            "sigsum_hsm_check_timestamp_seconds": NOW - 3600,
            'sigsum_hsm_audit_state{state="alarm"}': 0.0,
            "sigsum_hsm_audit_timestamp_seconds": NOW - 9,
            "sigsum_guard_refused": 0.0,
            "sigsum_backup_run_failed": 0.0,
            "sigsum_backup_last_success_timestamp_seconds": NOW - DAY,
            "sigsum_backup_check_timestamp_seconds": NOW - 8 * DAY,
            'sigsum_bastion_backend_reached{name="example.org/w",key_hash="ab"}': 1.0,
            "sigsum_bastion_probe_timestamp_seconds": NOW - 60,
        },
        "certificates": {"/etc/sigsum-proxy/certificate.pem": NOW + 60 * DAY},
        "disks": {"/": {"free": 60 << 30, "size": 100 << 30}},
        "reboot_required": False,
        "rate_limited": True,
        "log": log,
    }


@pytest.fixture
def site() -> dict[str, dict[str, Any]]:
    """A healthy one, for ``judged``."""
    services = {
        "sigsum-hsm-audit.service": unit(NRestarts="0"),
        "sigsum-bastion-probe.timer": unit(),
        "mariadb.service": unit(NRestarts="7", ExecMainStartTimestampMonotonic="5000000"),
        "getty@tty1.service": unit("inactive"),
    }
    return {
        "log1": {"role": "primary", "public": True, "facts": facts(look("primary"), **services)},
        "log2": {"role": "secondary", "facts": facts(look("secondary"))},
        "bastion1": {"facts": facts(None)},
    }


ASKED = {"names": [], "size": 8, "quorum": True, "cosigned": {"w": int(NOW)}, "waited": 2.0}


def judged(site: dict[str, dict[str, Any]], asked: dict[str, Any] = ASKED) -> list[Any]:
    machines = {
        name: Machine(name, **{"package": VERSION, **fields}) for name, fields in site.items()
    }
    return findings(machines, asked, version=VERSION, now=NOW)


def test_a_healthy_site(site: dict[str, dict[str, Any]]) -> None:
    assert judged(site) == []
    assert findings({}, {}, version=VERSION, now=NOW) == []


def at(machine: str, *path: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Puts a value where it says of a machine, or of what was asked."""

    def spoil(site: dict[str, Any], asked: dict[str, Any]) -> None:
        place: Any = asked if machine == "asked" else site[machine]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return spoil


def metric(name: str, value: float, machine: str = "log1") -> Any:
    # A name that no service writes is found nowhere but here.
    assert name.partition("{")[0] in {each.name for each in PASSED}
    return at(machine, "facts", "metrics", name, value=value)


def service(name: str, value: dict[str, str], machine: str = "log1") -> Any:
    return at(machine, "facts", "units", name, value=value)


def log(key: str, value: Any, machine: str = "log1") -> Any:
    return at(machine, "facts", "log", key, value=value)


def away(site: dict[str, Any], _asked: dict[str, Any]) -> None:
    site["log2"] |= {"facts": None, "package": None, "answers": False}


def bare(site: dict[str, Any], _asked: dict[str, Any]) -> None:
    site["bastion1"] |= {"facts": None, "package": None}


RESTARTED = {"NRestarts": "3", "ExecMainStartTimestampMonotonic": "89990000000"}
LAGS = ["its archive has size 9, root x: the tree here ends at size 8"]
FAULTS = [
    ("no-answer", "log2", Weight.PAGE, at("log2", "facts", value=None)),
    ("no-answer", "log2", Weight.PAGE, away),
    ("package", "bastion1", Weight.TICKET, bare),
    ("package", "log1", Weight.TICKET, at("log1", "package", value="0.0.9")),
    ("unit-failed", "log1", Weight.PAGE, service("cron.service", unit("failed"))),
    ("unit-failed", "log1", Weight.PAGE, service("sigsum-oracle.service", unit("activating"))),
    (
        "unit-failed",
        "log1",
        Weight.PAGE,
        service("sigsum-oracle.service", {**unit(), "LoadState": "masked"}),
    ),
    (
        "unit-failed",
        "log1",
        Weight.PAGE,
        service("mariadb.service", {**unit("inactive", "masked"), "LoadState": "masked"}),
    ),
    ("restarts", "log1", Weight.TICKET, service("sigsum-oracle.service", unit(**RESTARTED))),
    ("fenced", "log1", Weight.TICKET, log("fenced", {"by": "somebody"})),
    ("quarantined", "log2", Weight.PAGE, log("quarantine", {}, "log2")),
    ("latched", "log1", Weight.PAGE, log("has_latch", True)),
    ("split-view", "log2", Weight.PAGE, log("split_views", ["split-view-0.json"], "log2")),
    ("unreadable", "log1", Weight.PAGE, log("doubts", ["sth is damaged"])),
    ("unreadable", "log1", Weight.PAGE, log("unreadable", ["Trillian does not answer"])),
    ("other-tree", "log1", Weight.PAGE, log("tree", {"size": 8, "behind": LAGS})),
    ("behind", "log2", Weight.PAGE, log("tree", {"size": 8, "behind": LAGS}, "log2")),
    (
        "other-tree",
        "log2",
        Weight.PAGE,
        log("tree", {"size": 8, "behind": ["x: the tree here (y) is another one"]}, "log2"),
    ),
    ("role", "", Weight.PAGE, log("parts", ["primary", "secondary"], "log2")),
    ("start-refused", "log1", Weight.PAGE, metric('sigsum_guard_refused{reason="smaller"}', 1)),
    ("hsm-audit", "log1", Weight.PAGE, metric('sigsum_hsm_audit_state{state="alarm"}', 1)),
    (
        "hsm-audit",
        "log2",
        Weight.TICKET,
        metric('sigsum_hsm_audit_state{state="unknown"}', 1, "log2"),
    ),
    (
        "hsm-check",
        "log2",
        Weight.PAGE,
        metric('sigsum_hsm_check_state{state="unknown"}', 1, "log2"),
    ),
    (
        "hsm-check",
        "log1",
        Weight.TICKET,
        metric("sigsum_hsm_check_timestamp_seconds", NOW - 3 * DAY),
    ),
    ("backup", "log1", Weight.TICKET, metric("sigsum_backup_run_failed", 1)),
    (
        "backup",
        "log1",
        Weight.TICKET,
        metric("sigsum_backup_last_success_timestamp_seconds", NOW - 2 * DAY),
    ),
    (
        "backup",
        "log1",
        Weight.TICKET,
        metric("sigsum_backup_check_timestamp_seconds", NOW - 50 * DAY),
    ),
    ("stale", "log1", Weight.TICKET, metric("sigsum_hsm_audit_timestamp_seconds", NOW - 400)),
    (
        "backend",
        "bastion1",
        Weight.TICKET,
        metric('sigsum_bastion_backend_reached{name="example.org/w",key_hash="ab"}', 0, "bastion1"),
    ),
    (
        "certificate",
        "log1",
        Weight.TICKET,
        at(
            "log1",
            "facts",
            "certificates",
            "/etc/sigsum-proxy/certificate.pem",
            value=NOW + 9 * DAY,
        ),
    ),
    (
        "certificate",
        "log1",
        Weight.PAGE,
        at("log1", "facts", "certificates", "/etc/sigsum-proxy/certificate.pem", value=0.0),
    ),
    ("disk", "log2", Weight.PAGE, at("log2", "facts", "disks", "/", "free", value=5 << 30)),
    ("clock", "log2", Weight.PAGE, at("log2", "facts", "time", value=NOW - 600)),
    ("reboot", "log2", Weight.TICKET, at("log2", "facts", "reboot_required", value=True)),
    ("rate-limit", "log1", Weight.PAGE, at("log1", "facts", "rate_limited", value=False)),
    ("name", "", Weight.PAGE, at("asked", "names", value=["it leads to 192.0.2.1"])),
    ("not-reached", "", Weight.PAGE, at("asked", "error", value="connection refused")),
    ("not-growing", "", Weight.PAGE, at("asked", "size", value=7)),
    ("no-quorum", "", Weight.PAGE, at("asked", "quorum", value=False)),
    ("witness", "", Weight.TICKET, at("asked", "cosigned", "w", value=None)),
]


@pytest.mark.parametrize(("name", "machine", "weight", "spoil"), FAULTS)
def test_each_fault_by_its_name_and_nothing_else(
    site: dict[str, dict[str, Any]], name: str, machine: str, weight: Weight, spoil: Any
) -> None:
    asked = copy.deepcopy(ASKED)
    spoil(site, asked)
    (found,) = judged(site, asked)
    assert (found.name, found.machine, found.weight) == (name, machine, weight)
    assert found.what
    assert found.fix


def test_a_client_does_without_our_package(site: dict[str, dict[str, Any]]) -> None:
    site["client1"] = {"ours": False, "package": None}
    assert judged(site) == []
    site["client1"] = {"ours": False, "package": None, "answers": False}
    assert [each.name for each in judged(site)] == ["no-answer"]


def test_a_permit_is_a_ticket(site: dict[str, dict[str, Any]]) -> None:
    site["log1"]["facts"]["log"]["permit"] = "2027-01-15T12:00:00Z"
    assert {each.name for each in judged(site)} >= {"ungated"}
    # The inventory does not have it: the next converge would end it.
    assert [each.name for each in judged(site)] == ["role", "ungated"]
    site["log1"]["permit"] = "2027-01-15T12:00:00Z"
    assert [each.name for each in judged(site)] == ["ungated"]


def test_a_fenced_machine_is_not_told_of_its_masked_units(site: dict[str, dict[str, Any]]) -> None:
    site["log2"]["facts"]["log"]["fenced"] = {"by": "a promotion"}
    masked = {**unit("inactive"), "LoadState": "masked"}
    site["log2"]["facts"]["units"]["sigsum-log-primary.service"] = masked
    assert [each.name for each in judged(site)] == ["fenced"]


def test_every_name_is_tested_and_explained() -> None:
    tested = {name for name, *_ in FAULTS} | {"inventory", "ungated"}
    assert tested == NAMES.keys()
    said = (Path(__file__).parents[2] / "docs/doctor.md").read_text()
    assert [name for name in NAMES if f"| `{name}` | {NAMES[name]} |" not in said] == []


def test_each_page_that_is_named_is_there(site: dict[str, dict[str, Any]]) -> None:
    root = Path(__file__).parents[2]
    for *_, spoil in FAULTS:
        asked, spoiled = copy.deepcopy(ASKED), copy.deepcopy(site)
        spoil(spoiled, asked)
        for found in judged(spoiled, asked):
            pages = [word.rstrip(".,;") for word in found.fix.split() if word.startswith("docs/")]
            assert all((root / page).is_file() for page in pages), found.fix


def test_a_bad_inventory_is_a_finding() -> None:
    (found,) = findings({}, {}, version=VERSION, now=NOW, unfit=["log1: two primaries"])
    assert (found.name, found.what) == ("inventory", "log1: two primaries")
