"""Whether machines are diverse: policy, overrides, comparison, table and command line."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.site import diversity_report
from sigsum_ops.site.diversity import COMPONENTS, Component, Report, judge, read_policy
from sigsum_ops.site.hardware import Hardware

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).parent / "fixtures" / "hardware"
TODAY = datetime.date(2026, 11, 22)
DELL, SUPERMICRO, HPE = "dell-r340-perc", "supermicro-h12-nvme-sata", "hpe-dl20-gen10-plus"
ASROCK, ARRAY, VM, CONTAINER = (
    "asrockrack-x570d4u",
    "hpe-dl380p-gen8-smart-array",
    "qemu-vm",
    "container",
)


def raw(name: str, **changes: object) -> dict[str, Any]:
    recorded: dict[str, Any] = yaml.safe_load((FIXTURES / f"{name}.yml").read_text())
    return recorded | changes


def another(name: str) -> dict[str, Any]:
    """Another specimen of one type of machine: every serial number and the boot differ."""
    text = json.dumps(raw(name))
    recorded = json.loads(text)
    for disk in (*recorded["lsblk"], *recorded["nvme"].values()):
        disk["serial"] = disk["serial"][::-1] + "x" if disk["serial"] else ""
    for info in recorded["smartctl"]:
        info["serial_number"] = info["serial_number"][::-1] + "x"
    recorded["boot"] = "b007another"
    return dict(recorded)


def with_disks(name: str, *devices: dict[str, Any]) -> dict[str, Any]:
    """A machine with these block devices, of which only lsblk speaks."""
    return raw(name, lsblk=list(devices), smartctl=[], nvme={})


def site(*machines: dict[str, Any], policy: object = None, overrides: object = None) -> Report:
    """The report on machines named log1, log2, …"""
    records = {
        f"log{number}": {"hardware": machine, "policy": policy or {}, "overrides": overrides or []}
        for number, machine in enumerate(machines, start=1)
    }
    return judge(records, TODAY)


def component(report: Report, name: str) -> Component:
    return next(found for found in report.components if found.id == name)


def override(name: str, **more: object) -> dict[str, object]:
    return {"component": name, "reason": "Bought in two years", "approved_by": "board", **more}


# --- Comparison ---------------------------------------------------------------------------------


def test_components_are_those_of_the_hardware() -> None:
    assert list(COMPONENTS) == [field.name for field in fields(Hardware)]


def test_the_documentation_names_each_component_and_its_level() -> None:
    page = (ROOT / "docs" / "hardware.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| (fail|warn|ignore) \|", page, re.M)
    documented = {name: level for ids, level in rows for name in re.findall(r"`(\w+)`", ids)}
    assert documented == {name: kind.level for name, kind in COMPONENTS.items()}


def test_two_unlike_machines_are_diverse() -> None:
    report = site(raw(DELL), raw(SUPERMICRO))
    assert report.ok
    assert report.machines == ("log1", "log2")
    verdicts = {found.id: found.verdict for found in report.components}
    assert verdicts["machine"] == verdicts["disk"] == verdicts["disk_serial"] == "ok"
    assert verdicts["disk_maker"] == "warning"  # Samsung makes disks of both
    assert component(report, "disk_maker").reason == "Samsung on log1 and log2"
    assert component(report, "disk").values == {
        "log1": ["2 x Samsung MZ7KM480HMHQ0D3"],
        "log2": ["Micron_5300_MTFDDAK480TDS", "2 x SAMSUNG MZ1L2960HCJR-00A07"],
    }
    assert component(report, "disk").reason == ""


def test_two_machines_of_one_type_fail_by_their_disks() -> None:
    report = site(raw(DELL), another(DELL))
    assert not report.ok
    verdicts = {found.id: found.verdict for found in report.components}
    assert [name for name, verdict in verdicts.items() if verdict == "failure"] == ["disk"]
    assert component(report, "disk").finding == "same"
    assert component(report, "disk").reason == "Samsung MZ7KM480HMHQ0D3 on log1 and log2"
    for name in ("board", "bios", "cpu", "memory", "network", "power_supply", "disk_firmware"):
        assert verdicts[name] == "warning", name
    for name in ("kernel", "os", "microcode"):
        assert verdicts[name] == "noted", name


def test_one_model_in_common_is_enough() -> None:
    nvme = raw(SUPERMICRO)["lsblk"][2] | {"serial": "another"}
    report = site(raw(SUPERMICRO), with_disks(ASROCK, nvme))
    assert component(report, "disk").reason == "SAMSUNG MZ1L2960HCJR-00A07 on log1 and log2"
    assert not report.ok


def test_one_disk_in_two_machines() -> None:
    shared = raw(SUPERMICRO)["lsblk"][0]
    report = site(with_disks(DELL, shared), with_disks(ASROCK, shared | {"name": "sdb"}))
    found = component(report, "disk_serial")
    assert found.verdict == "failure"
    assert found.reason == "one disk in log1 and log2: Micron_5300_MTFDDAK480TDS (sda)"


def test_one_disk_in_two_machines_is_not_excused_with_its_model() -> None:
    shared = raw(SUPERMICRO)["lsblk"][0]
    machines = with_disks(DELL, shared), with_disks(ASROCK, shared)
    report = site(*machines, overrides=[override("disk")])
    assert component(report, "disk").verdict == "excused"
    assert component(report, "disk_serial").verdict == "failure"
    assert not report.ok


def test_two_containers_are_one_computer() -> None:
    report = site(raw(CONTAINER), raw(CONTAINER))
    assert component(report, "machine").finding == "same"
    assert component(report, "machine").reason.startswith("log1 and log2 are one computer")


def test_two_virtual_machines_do_not_pass_for_two_computers() -> None:
    report = site(raw(VM), another(VM))
    assert component(report, "machine").finding == "unknown"
    assert component(report, "machine").verdict == "failure"
    assert component(report, "disk").finding == "unknown"


def test_unknown_is_never_different() -> None:
    report = site(raw(DELL), raw(ARRAY))
    found = component(report, "disk")
    assert (found.finding, found.verdict) == ("unknown", "failure")
    assert found.values["log2"] == ["unknown"]
    assert "log2: sda (HP LOGICAL VOLUME)" in found.reason
    assert "install smartmontools" in found.reason
    memory = component(site(raw(DELL), raw(ASROCK)), "memory")
    assert (memory.finding, memory.verdict) == ("unknown", "warning")
    assert memory.reason == "log2: install dmidecode to see the memory modules"


def test_an_equal_unknown_is_told_once() -> None:
    report = site(raw(ARRAY), another(ARRAY))
    assert component(report, "disk").reason.count("log1 and log2: sda (HP LOGICAL VOLUME)") == 1


def test_all_pairs_of_more_than_two_machines() -> None:
    report = site(raw(SUPERMICRO), raw(DELL), another(SUPERMICRO), raw(ASROCK))
    found = component(report, "board")
    assert found.reason == "Supermicro H12SSW-NT 1.01 (AS -1014S-WTRT) on log1 and log3"
    assert "log1 and log3" in component(report, "disk").reason
    assert component(report, "bios").reason.endswith("on log1 and log3")
    assert component(report, "disk_maker").reason == (
        "Micron on log1 and log3; Samsung on log1 and log2 and log3"
    )


def test_the_same_firmware_name_of_two_makers_is_chance() -> None:
    hpe = raw(HPE)
    first = hpe | {"lsblk": hpe["lsblk"][:1], "smartctl": hpe["smartctl"][:1]}
    last = hpe | {"lsblk": hpe["lsblk"][-1:], "smartctl": hpe["smartctl"][-1:], "boot": "b0"}
    report = site(first, last)
    assert component(report, "disk_firmware").verdict == "ok"
    assert component(report, "disk").verdict == "ok"


def test_one_firmware_in_two_sizes_of_a_disk_is_noticed() -> None:
    small, large = raw(SUPERMICRO), another(SUPERMICRO)
    text = json.dumps(large).replace("MZ1L2960HCJR", "MZ1L21T9HCLS").replace("K480TDS", "K960TDS")
    report = site(small, json.loads(text))
    assert component(report, "disk").verdict == "ok"
    assert component(report, "disk_firmware").verdict == "warning"


@pytest.mark.parametrize("machines", [[], [DELL]])
def test_fewer_than_two_machines_cannot_be_compared(machines: list[str]) -> None:
    with pytest.raises(UsageError, match="log machine to compare"):
        site(*(raw(name) for name in machines))


# --- Policy and overrides -----------------------------------------------------------------------


def test_policy_levels_apply() -> None:
    machines = raw(DELL), another(DELL)
    strict = site(*machines, policy={"board": "fail", "kernel": "warn", "disk": "ignore"})
    verdicts = {found.id: found.verdict for found in strict.components}
    assert (verdicts["board"], verdicts["kernel"], verdicts["disk"]) == (
        "failure",
        "warning",
        "noted",
    )
    assert not strict.ok


@pytest.mark.parametrize(
    ("levels", "overrides", "message"),
    [
        ({"disks": "fail"}, [], "diversity_policy is 'disks'"),
        ({"disk": "error"}, [], "diversity_policy.disk is 'error'"),
        ({"disk": None}, [], "diversity_policy.disk is not set"),
        ({"disk": ["fail"]}, [], "diversity_policy.disk is"),
        ("fail", [], "diversity_policy is 'fail'"),
        ({}, "disk", "diversity_overrides is 'disk'"),
        ({}, {"component": "disk"}, "diversity_overrides is"),
        ({}, ["disk"], r"diversity_overrides\[0\] is 'disk'"),
        ({}, [override("disk"), override("raid")], r"diversity_overrides\[1\].component is 'raid'"),
        ({}, [override("disk", component=None)], r"diversity_overrides\[0\].component is not set"),
        ({}, [override("disk", component=["disk"])], r"diversity_overrides\[0\].component is"),
        ({}, [override("disk", reason="  ")], r"diversity_overrides\[0\].reason is '  '"),
        ({}, [override("disk", reason=None)], r"diversity_overrides\[0\].reason is not set"),
        ({}, [override("disk", reason=True)], r"diversity_overrides\[0\].reason is 'True'"),
        ({}, [override("disk", approved_by="")], r"diversity_overrides\[0\].approved_by is ''"),
        ({}, [override("disk", value=480)], r"diversity_overrides\[0\].value is '480'"),
        ({}, [override("disk", expires="soon")], r"diversity_overrides\[0\].expires is 'soon'"),
        ({}, [override("disk", until="2027-01-01")], r"diversity_overrides\[0\].until is"),
        ({}, [{1: "disk"}], r"diversity_overrides\[0\].1 is 'disk'"),
    ],
)
def test_a_bad_policy_is_refused(levels: object, overrides: object, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        read_policy(levels, overrides)
    assert refused.value.exit_code == 2
    assert refused.value.hint
    assert refused.value.hint.startswith("Allowed: ")


def test_a_bad_policy_is_refused_also_where_nothing_would_need_it() -> None:
    with pytest.raises(UsageError, match="reason"):
        site(raw(DELL), raw(SUPERMICRO), overrides=[override("disk", reason="")])


def test_an_override_excuses_with_its_reason() -> None:
    report = site(raw(DELL), another(DELL), overrides=[override("disk")])
    found = component(report, "disk")
    assert report.ok
    assert found.verdict == "excused"
    assert found.finding == "same"
    assert found.reason.endswith("on log1 and log2. Bought in two years (board)")


def test_an_override_excuses_what_is_unknown() -> None:
    overrides = [override("disk", value="unknown"), override("disk_serial")]
    report = site(raw(DELL), raw(ARRAY), overrides=overrides)
    assert component(report, "disk").verdict == "excused"
    assert report.ok


def test_an_override_of_one_value_excuses_no_other() -> None:
    machines = raw(SUPERMICRO), another(SUPERMICRO)
    one = override("disk", value="Micron_5300_MTFDDAK480TDS")
    other = override("disk", value="SAMSUNG MZ1L2960HCJR-00A07", reason="Boot disks only")
    assert component(site(*machines, overrides=[one]), "disk").verdict == "failure"
    both = component(site(*machines, overrides=[one, other]), "disk")
    assert both.verdict == "excused"
    assert both.reason.endswith("Bought in two years (board); Boot disks only (board)")


@pytest.mark.parametrize("expires", ["2026-11-21", datetime.date(2026, 11, 21)])
def test_an_override_runs_out(expires: object) -> None:
    report = site(raw(DELL), another(DELL), overrides=[override("disk", expires=expires)])
    assert component(report, "disk").verdict == "failure"
    assert "the override by board ran out on 2026-11-21" in component(report, "disk").reason
    kept = site(raw(DELL), another(DELL), overrides=[override("disk", expires="2026-11-22")])
    assert component(kept, "disk").verdict == "excused"


def test_an_override_that_nothing_needs_is_told() -> None:
    report = site(raw(DELL), raw(SUPERMICRO), overrides=[override("disk")])
    assert component(report, "disk").verdict == "ok"
    assert "not needed any more" in component(report, "disk").reason


def test_a_policy_that_differs_between_machines_is_refused() -> None:
    records: dict[str, object] = {
        "log1": {"hardware": raw(DELL), "policy": {"board": "fail"}, "overrides": []},
        "log2": {"hardware": raw(SUPERMICRO), "policy": {}, "overrides": []},
    }
    with pytest.raises(UsageError, match="differ between log1 and log2"):
        judge(records, TODAY)


def test_a_record_that_is_none_names_its_machine() -> None:
    with pytest.raises(UsageError, match="log1: this is not what the module"):
        judge({"log1": {"hardware": {}}}, TODAY)
    with pytest.raises(UsageError, match="log1: its record"):
        judge({"log1": []}, TODAY)


# --- Table, JSON and command line ---------------------------------------------------------------


def recorded(directory: Path, **machines: dict[str, Any]) -> Path:
    for host, hardware in machines.items():
        record = {"hardware": hardware, "policy": {}, "overrides": []}
        (directory / f"{host}.json").write_text(json.dumps(record))
    return directory


def test_the_table_has_a_column_for_each_machine() -> None:
    report = site(raw(DELL), raw(SUPERMICRO), raw(ASROCK))
    text = diversity_report.plain(report, width=200)
    header = text.splitlines()[1]
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "Component",
        "log1",
        "log2",
        "log3",
        "Verdict",
    ]
    assert all(kind.title in text for kind in COMPONENTS.values())
    assert "warning: Samsung on log1 and log2" in text
    assert text.isascii()


def test_what_firmware_says_is_no_markup() -> None:
    dmi = {"board_vendor": "[red]Vendor[/red]", "board_name": "B[0]"}
    assert "[red]Vendor[/red] B[0]" in diversity_report.plain(
        site(raw(DELL, dmi=dmi), raw(SUPERMICRO)), width=200
    )


def test_the_summary_names_what_fails_is_excused_or_warns() -> None:
    machines = raw(DELL), another(DELL)
    assert "not diverse: Disks. See docs/hardware.md" in diversity_report.summary(site(*machines))
    excused = diversity_report.summary(site(*machines, overrides=[override("disk")]))
    assert "Excused: Disks. Warnings: Disk firmware, Disk makers, Board, BIOS" in excused
    unlike = diversity_report.summary(site(raw(DELL), raw(SUPERMICRO)))
    assert "as diverse as the site asks for. Warnings: Disk makers" in unlike


def test_the_command_line_prints_one_object(tmp_path: Path) -> None:
    directory = recorded(tmp_path, log1=raw(DELL), log2=raw(SUPERMICRO))
    done = CliRunner().invoke(app, ["diversity", "--from", str(directory), "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert set(found) == {"machines", "components", "ok"}
    assert found["ok"] is True
    assert found["machines"] == ["log1", "log2"]
    assert {"id", "values", "verdict", "reason"} <= set(found["components"][0])


def test_the_command_line_fails_where_the_machines_do(tmp_path: Path) -> None:
    directory = recorded(tmp_path, log1=raw(DELL), log2=another(DELL))
    done = CliRunner().invoke(app, ["diversity", "--from", str(directory)])
    assert done.exit_code == 1
    assert "not diverse: Disks" in done.stdout


def test_records_are_not_mixed_with_those_of_another_run(tmp_path: Path) -> None:
    recorded(tmp_path, log1=raw(DELL))
    with pytest.raises(UsageError, match="another run"):
        diversity_report.run(keep=tmp_path)
    with pytest.raises(UsageError, match="--from"):
        diversity_report.run(inventory=tmp_path, recorded=tmp_path)


def test_unreadable_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recorded machine"):
        diversity_report.load(tmp_path)
    (tmp_path / "log1.json").write_text("{")
    with pytest.raises(UsageError, match=r"log1\.json: not a readable record"):
        diversity_report.load(tmp_path)


def test_an_inventory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such inventory"):
        diversity_report.run(inventory=tmp_path / "nowhere")


# --- With Ansible --------------------------------------------------------------------------------


def test_the_playbook_shows_the_table_fails_and_records(tmp_path: Path) -> None:
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "diversity_policy": {"kernel": "warn"},
    }
    this_machine_twice = {"log_machines": {"hosts": {"log1": {}, "log2": {}}, "vars": variables}}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump(this_machine_twice))
    records = tmp_path / "records"
    records.mkdir()
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"--inventory={inventory}",
            f"--extra-vars=diversity_record_dir={records}",
            diversity_report.PLAYBOOK,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "| Machine " in done.stdout
    assert "The log machines are not diverse: Machine" in done.stdout
    assert all(path.stat().st_mode & 0o077 == 0 for path in records.iterdir())
    report = diversity_report.run(recorded=records)
    assert report.machines == ("log1", "log2")
    assert component(report, "machine").finding == "same"
    assert component(report, "kernel").verdict == "warning"


def fake_ansible(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> Path:
    """Put a program in ansible-playbook's place; returns where standard error goes."""
    program = directory / "ansible-playbook"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(directory / "python"))
    monkeypatch.setattr(sys, "stderr", (directory / "stderr").open("w"))
    return directory / "stderr"


def test_the_verb_runs_the_playbook_without_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    recorded(prepared, log1=raw(DELL), log2=raw(SUPERMICRO))
    inventory = tmp_path / "hosts.yml"
    inventory.touch()
    keep = tmp_path / "keep"
    stderr = fake_ansible(monkeypatch, tmp_path, f'echo "$@"; cp {prepared}/* {keep}')
    assert diversity_report.run(inventory=inventory, keep=keep).ok
    assert stderr.read_text().split() == [
        *("--inventory", str(inventory), "--skip-tags=verdict", "--extra-vars"),
        *('{"diversity_record_dir":', f'"{keep}"}}', "sigsum_ops.site.diversity"),
    ]


def test_a_machine_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = fake_ansible(monkeypatch, tmp_path, "echo log2 is unreachable; exit 4")
    with pytest.raises(OpsError, match="could not be read"):
        diversity_report.run()
    assert stderr.read_text() == "log2 is unreachable\n"
