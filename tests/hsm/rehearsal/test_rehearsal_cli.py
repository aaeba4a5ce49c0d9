"""``sigsum-ops hsm rehearse-device``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from yubihsm.core import YubiHsm
from yubihsm.defs import COMMAND

from sigsum_ops.cli import app
from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.rehearsal import run
from tests.hsm.rehearsal.client import PASSWORD, SERIAL, signing_key


def test_the_command_table_names_every_command_and_what_it_needs() -> None:
    result = CliRunner().invoke(app, ["hsm", "rehearse-device", "--commands", "--json"])
    assert result.exit_code == 0
    rows = {row["code"]: row for row in json.loads(result.stdout)["commands"]}
    assert len(rows) == len(COMMAND) - 1  # without ERROR, which is no command
    assert rows["0x6a"] == {
        "code": "0x6a",
        "name": "sign-eddsa",
        "implemented": True,
        "session": True,
        "capability": "sign-eddsa",
    }
    assert rows["0x06"]["session"] is False
    assert rows["0x58"]["capability"] == "delete-TYPE"
    assert rows["0x47"] == {
        "code": "0x47",
        "name": "sign-pkcs1",
        "implemented": False,
        "session": True,
        "capability": None,
    }
    people = CliRunner().invoke(app, ["hsm", "rehearse-device", "--commands"]).stdout
    assert "sign-eddsa" in people


def test_the_table_agrees_with_the_device(hsm: YubiHsm) -> None:
    """What the table says is not implemented, the device does not know."""
    from yubihsm.defs import ERROR
    from yubihsm.exceptions import YubiHsmDeviceError

    for row in run.command_table():
        code = COMMAND(int(row["code"], 16))
        if not row["session"] or code == COMMAND.RESET_DEVICE:
            continue
        session = hsm.create_session_derived(1, PASSWORD)
        try:
            session.send_secure_cmd(code)
            known = True
        except YubiHsmDeviceError as error:
            known = error.code != ERROR.INVALID_COMMAND
        if code != COMMAND.CLOSE_SESSION:
            session.close()
        assert known == row["implemented"], row


def test_it_serves_until_it_is_ended_and_goes_on_where_it_was(state: Path) -> None:
    arguments = ["--serial", str(SERIAL), "--port", "0", "--state", str(state), "--json"]
    command = [sys.executable, "-m", "sigsum_ops.cli", "hsm", "rehearse-device", *arguments]
    for wanted in ([1], [1, 500]):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                (device,) = json.loads(process.stdout.readline())["devices"]
                assert device["serial"] == SERIAL
                with YubiHsm.connect(device["connector"]) as hsm:
                    session = hsm.create_session_derived(1, PASSWORD)
                    assert [o.id for o in session.list_objects()] == wanted
                    if 500 not in wanted:
                        signing_key(session, 500)
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("serials", "ports", "firmware", "faults", "message"),
    [
        ([], [], None, [], "--serial"),
        ([SERIAL, SERIAL], [], None, [], "twice"),
        ([SERIAL], [1, 2], None, [], "1 --serial and 2 --port"),
        ([SERIAL], [], "2.4", [], "firmware"),
        ([SERIAL], [], "2.3.0", [], "older"),
        ([SERIAL], [], None, ["explode"], "no fault"),
        ([12345678], [], None, [], "serial number"),
    ],
)
def test_arguments_that_do_not_fit(
    state: Path,
    serials: list[int],
    ports: list[int],
    firmware: str | None,
    faults: list[str],
    message: str,
) -> None:
    with (
        pytest.raises(UsageError, match=message),
        run.devices(serials, ports, state, firmware, faults, 12345),
    ):
        pass
    assert not state.exists()


def test_a_state_is_needed() -> None:
    with pytest.raises(UsageError, match="--state"), run.devices([SERIAL], [], None, None, [], 1):
        pass
