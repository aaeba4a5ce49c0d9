"""machine_facts: what the roles decide by."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from plugins.modules.machine_facts import (
    PACKAGES,
    UNITS,
    parse_sources,
    parse_units,
    running,
    ungated_until,
    witness_key,
    written,
)

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
SECURITY = """\
Types: deb
URIs: http://security.example/debian-security
Suites: trixie-security
Components: main
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            DEB822,
            {
                "uri": "http://mirror.example/debian",
                "signed_by": "/usr/share/keyrings/debian-archive-keyring.gpg",
            },
        ),
        (
            SECURITY + "\n" + DEB822,
            {
                "uri": "http://mirror.example/debian",
                "signed_by": "/usr/share/keyrings/debian-archive-keyring.gpg",
            },
        ),
        (
            "deb http://mirror.example/debian trixie main\n",
            {"uri": "http://mirror.example/debian", "signed_by": ""},
        ),
        (
            "deb http://security.example/debian-security trixie-security main\n"
            "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian trixie main\n",
            {"uri": "http://mirror.example/debian", "signed_by": "/k.gpg"},
        ),
        ("# deb http://mirror.example/debian trixie main\n", None),
        ("Enabled: no\n" + DEB822.split("\n", 1)[1], None),
        ("Types: deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\n", None),
        ("", None),
    ],
)
def test_the_mirror_is_the_first_debian_archive(text: str, expected: dict[str, str] | None) -> None:
    assert parse_sources(text) == expected


def test_units_that_do_not_exist_are_left_out() -> None:
    shown = (
        "Id=mariadb.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
        "NeedDaemonReload=no\n\n"
        "Id=sigsum-log-primary.service\nLoadState=not-found\nActiveState=inactive\n"
        "UnitFileState=\nNeedDaemonReload=no\n"
    )
    assert parse_units(shown) == {
        "mariadb": {
            "LoadState": "loaded",
            "ActiveState": "active",
            "UnitFileState": "enabled",
            "NeedDaemonReload": "no",
        }
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ["x"]),
        ({"ActiveState": "failed"}, []),
        ({"UnitFileState": "disabled"}, []),
        ({"NeedDaemonReload": "yes"}, []),
        # Started before its configuration was written: a run ended before it came to its restarts.
        ({"ExecMainStartTimestampMonotonic": "4999999"}, []),
    ],
)
def test_a_unit_is_left_alone_only_if_nothing_is_wrong(
    change: dict[str, str], expected: list[str]
) -> None:
    good = {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "NeedDaemonReload": "no",
        "ExecMainStartTimestampMonotonic": "5000001",
    }
    assert running({"x": {**good, **change}}, {"x": 5.0}) == expected


def test_a_timer_has_no_process_and_reads_when_it_is_made_active() -> None:
    timer = {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "NeedDaemonReload": "no",
        "ActiveEnterTimestampMonotonic": "5000001",
    }
    assert running({"x.timer": timer}, {"x.timer": 5.0}) == ["x.timer"]
    assert running({"x.timer": timer}, {"x.timer": 6.0}) == []


def test_what_reloads_has_read_its_files_when_it_was_told_to() -> None:
    bastion = {
        "ActiveState": "active",
        "UnitFileState": "enabled",
        "NeedDaemonReload": "no",
        "ExecMainStartTimestampMonotonic": "1000000",
        "StateChangeTimestampMonotonic": "5000001",
    }
    assert running({"litebastion": bastion}, {"litebastion": 5.0}) == ["litebastion"]
    assert running({"litebastion": bastion}, {"litebastion": 6.0}) == []


def test_the_newest_of_a_units_files_counts_in_the_clock_of_its_start(tmp_path: Path) -> None:
    unit, dropin = tmp_path / "x.service", tmp_path / "x.conf"
    for path, age in ((unit, 100), (dropin, 10)):
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    found = written({"x": {"FragmentPath": str(unit), "DropInPaths": f"{dropin} {tmp_path}/gone"}})
    assert found["x"] == pytest.approx(time.clock_gettime(time.CLOCK_MONOTONIC) - 10, abs=2)


def test_a_file_from_the_future_does_not_restart_its_service_for_ever(tmp_path: Path) -> None:
    """The clock was put back after it was written."""
    unit = tmp_path / "x.service"
    unit.touch()
    os.utime(unit, (time.time() + 3600, time.time() + 3600))
    assert written({"x": {"FragmentPath": str(unit)}}) == {"x": 0}


@pytest.mark.parametrize(
    ("line", "until"),
    [
        ("ungated_until = 2026-11-23T12:00:00Z", "2026-11-23T12:00:00Z"),
        ("ungated_until=2026-11-23T12:00:00Z # once", "2026-11-23T12:00:00Z"),
        ("# ungated_until = 2026-11-23T12:00:00Z", ""),
        ("", ""),
    ],
)
def test_until_when_the_log_goes_on_alone(line: str, until: str) -> None:
    assert ungated_until(f'[log]\ntrillian = "x:1"\n{line}\n[hsm]\n') == until


def test_the_key_with_which_a_witness_has_cosigned(tmp_path: Path) -> None:
    oracle = '# ours\npublic_key = "ssh-ed25519 AAAA"\n\n[{}]\norigins = []\n'
    assert witness_key(oracle.format("witness"), tmp_path / "none") == ""
    assert witness_key(oracle.format("witness"), tmp_path) == "ssh-ed25519 AAAA"
    assert witness_key(oracle.format("log"), tmp_path) == ""


@pytest.mark.parametrize(
    ("fact", "known"),
    [("packages", PACKAGES), ("running", [unit.removesuffix(".service") for unit in UNITS])],
)
def test_what_roles_ask_of_a_machine_it_is_asked(fact: str, known: Sequence[str]) -> None:
    """One that is not looked for is never there: its task would run each time."""
    asked = {
        name
        for path in (Path(__file__).parents[2] / "roles").glob("*/tasks/*.yml")
        for name in re.findall(
            rf"'([a-z-]+)' not in ansible_facts.sigsum_machine.{fact}", path.read_text()
        )
    }
    assert asked
    assert asked <= set(known)
