"""The inventory of one device: what differs is named, what was not seen is said."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from yubihsm.core import YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY
from yubihsm.objects import AsymmetricKey, AuthenticationKey

from sigsum_ops import cli
from sigsum_ops.hsm import rehearsal
from sigsum_ops.hsm.ceremony.canonical import dumps
from tests.hsm.ceremony.table import Table
from tests.hsm.watch.machine import SERIAL, Machine

EVERY_KEY = ("log-authentication", "audit-authentication", "health-authentication")


def status(
    machine: Machine, *names: str, device: str = "log-1", **changes: Any
) -> tuple[int, dict[str, Any]]:
    """The verb's exit code and JSON; ``changes`` are made in the device's part of the plan."""
    plan = machine.table.plan.to_json()
    devices: Any = plan["devices"]
    devices[2].update(changes)
    path = machine.directory / "plan.json"
    path.write_bytes(dumps(plan))
    command = ["hsm", "status", device, "--plan", str(path), "--connector", machine.url, "--json"]
    for name in names:
        command += ["--open", f"{name}={machine.passphrase_file(name)}"]
    done = CliRunner().invoke(cli.app, command)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_a_log_oracle_is_as_its_ceremony_left_it(machine: Machine) -> None:
    code, found = status(machine, *EVERY_KEY)
    assert (code, found["differences"], found["as_planned"]) == (0, [], True)
    assert (found["domains"], found["unseen"]) == ([10, 13, 14], [])
    assert [item["id"] for item in found["objects"]] == [500, 900, 200, 700, 800]
    assert (found["serial"], found["firmware"], found["rehearsal"]) == (SERIAL, "2.4.0", True)
    assert found["storage"]["free_records"] < found["storage"]["records"] == 256
    assert not found["options_seen"]
    assert machine.sessions() == 0


def test_a_session_sees_its_own_domains_and_the_rest_is_said(machine: Machine) -> None:
    code, found = status(machine, "health-authentication")
    assert (code, found["domains"]) == (0, [13])
    assert [item["id"] for item in found["objects"]] == [900, 800]
    assert found["unseen"] == ["log-authentication", "log-signing-key", "audit-authentication"]
    code, found = status(machine)
    assert (code, found["domains"], found["objects"]) == (0, [], [])
    assert len(found["unseen"]) == 5


def test_a_backup_shows_its_options_too(table: Table, tmp_path: Path) -> None:
    with rehearsal.serve({90000001: table.path / "devices"}) as urls:
        machine = Machine(tmp_path, table, urls[90000001])
        plan = tmp_path / "plan.json"
        plan.write_bytes(dumps(table.plan.to_json()))
        secret = tmp_path / "secret"
        secret.write_bytes(table.secret("backup-authentication.hex"))
        command = ["hsm", "status", "backup-1", "--plan", str(plan), "--connector", machine.url]
        command += ["--open", f"backup-authentication={secret}", "--json"]
        found = json.loads(CliRunner().invoke(cli.app, command).stdout)
    assert (found["as_planned"], found["options_seen"], found["unseen"]) == (True, True, [])
    assert found["domains"] == list(range(1, 17))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"objects": ["health-authentication", "health-key", "log-authentication"]},
            "asymmetric-key 500 ('Log server signing key') is not in the plan",
        ),
        ({"firmware": "2.5.0"}, "firmware is 2.4.0, not 2.5.0 or newer"),
        ({"serial": 90000009}, "this is YubiHSM 90000003, not 90000009 (log-1)"),
    ],
)
def test_what_differs_is_named(machine: Machine, changes: dict[str, Any], said: str) -> None:
    code, found = status(machine, "health-authentication", "log-authentication", **changes)
    assert (code, found["as_planned"]) == (1, False)
    assert said in found["differences"]


def test_a_missing_object_and_a_foreign_one(machine: Machine, table: Table) -> None:
    plan: Any = table.plan.to_json()
    plan["objects"]["health-key"]["label"] = "Another label"
    plan["objects"]["spare"] = {**plan["objects"]["health-key"], "id": 901}
    plan["objects"]["gone"] = {**plan["objects"]["health-authentication"], "id": 801}
    plan["devices"][2]["objects"] += ["spare", "gone"]
    path = machine.directory / "plan.json"
    path.write_bytes(dumps(plan))
    file = machine.passphrase_file("health-authentication")
    command = ["hsm", "status", "log-1", "--plan", str(path), "--connector", machine.url]
    command += ["--open", f"health-authentication={file}", "--open", f"gone={file}"]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 1
    for line in (
        "DIFFERS      gone (id 801) is missing",
        "DIFFERS      spare (id 901) is missing",
        "DIFFERS      health-key: label 'Health key', not 'Another label'",
    ):
        assert line in done.stdout.splitlines()


def test_the_default_key_is_found_by_trying_it(machine: Machine, tmp_path: Path) -> None:
    with rehearsal.serve({SERIAL: tmp_path / "new"}) as urls:
        machine.url = urls[SERIAL]
        code, found = status(machine)
        assert code == 1
        assert found["differences"] == [
            "the factory's password opens the default authentication key"
        ]
        with (
            closing(YubiHsm.connect(machine.url)) as hsm,
            closing(hsm.create_session_derived(1, "password")) as session,
        ):
            key = AuthenticationKey(session, 1)
            AsymmetricKey.generate(
                session, 5, "spare", 1, CAPABILITY.SIGN_EDDSA, ALGORITHM.EC_ED25519
            )
            key.change_password("another")
        code, found = status(machine)
        assert code == 1
        assert found["differences"] == [
            "the default authentication key is there, with a passphrase"
        ]


def test_a_device_that_is_away_cannot_be_told_of(machine: Machine) -> None:
    rehearsal.strike(machine.url, "unplug")
    code, found = status(machine)
    assert (code, found["as_planned"]) == (3, None)
    rehearsal.clear(machine.url)
    rehearsal.strike(machine.url, "lose-sessions@list-objects")
    code, found = status(machine, "health-authentication")
    assert (code, found["as_planned"]) == (3, None)
    assert "INVALID_SESSION" in found["doubts"][0]


def test_a_wrong_passphrase_cannot_tell(machine: Machine) -> None:
    wrong = machine.directory / "wrong"
    wrong.write_text("wrong\n")
    path = machine.directory / "plan.json"
    path.write_bytes(dumps(machine.table.plan.to_json()))
    command = ["hsm", "status", "log-1", "--plan", str(path), "--connector", machine.url]
    done = CliRunner().invoke(cli.app, [*command, "--open", f"health-authentication={wrong}"])
    assert done.exit_code == 3
    assert "does not accept the passphrase" in done.stdout
    for given in ("health-key=x", "nonsense", f"backup-authentication={wrong}"):
        refused = CliRunner().invoke(cli.app, [*command, "--open", given])
        assert "Its authentication keys: log-authentication" in str(refused.exception)
    refused = CliRunner().invoke(cli.app, ["hsm", "status", "log-9", "--plan", str(path)])
    assert "the plan has no device 'log-9'" in str(refused.exception)


def test_people_get_a_table(machine: Machine) -> None:
    path = machine.directory / "plan.json"
    path.write_bytes(dumps(machine.table.plan.to_json()))
    file = machine.passphrase_file("health-authentication")
    command = ["hsm", "status", "log-1", "--plan", str(path), "--connector", machine.url]
    done = CliRunner().invoke(cli.app, [*command, "--open", f"health-authentication={file}"])
    assert done.exit_code == 0
    for text in ("YubiHSM 90000003", "13 (opened: health-authentication)", "Health key", "As pl"):
        assert text in done.stdout
    assert machine.passphrase("health-authentication") not in done.stdout
