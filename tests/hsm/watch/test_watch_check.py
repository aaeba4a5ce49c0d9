"""The check of a device without the log's passphrase."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from contextlib import ExitStack

import pytest
from typer.testing import CliRunner
from yubihsm.defs import ERROR
from yubihsm.objects import AsymmetricKey

from sigsum_ops import cli
from sigsum_ops.hsm import rehearsal
from sigsum_ops.hsm.watch import audit as audits
from sigsum_ops.hsm.watch import link
from sigsum_ops.hsm.watch.check import State, check
from sigsum_ops.hsm.watch.link import Away, Link, Refused, static_keys
from tests.hsm.watch.machine import HEALTH_KEY, HEALTH_USER, LOG_KEY, SERIAL, Machine


def test_a_standby_device_signs_with_its_health_key(machine: Machine) -> None:
    result = check(machine.check, machine.keys("health-authentication"))
    assert (result.state, result.serial) == (State.OK, SERIAL), result.message
    assert result.seconds
    assert machine.sessions() == 0
    # It leaves no use of the log's key in the device's log.
    machine.drained()
    assert machine.targets() == [HEALTH_KEY]


def test_the_health_session_cannot_use_the_logs_key(machine: Machine) -> None:
    """Custody: a machine with nothing but the health passphrase cannot sign for the log."""
    way = Link(machine.url)
    with way.session(HEALTH_USER, machine.keys("health-authentication")) as session:
        seen = {item.id for item in session.list_objects()}
    assert seen == {HEALTH_USER, HEALTH_KEY}
    with (
        pytest.raises(Refused) as caught,
        way.session(HEALTH_USER, machine.keys("health-authentication")) as session,
    ):
        AsymmetricKey(session, LOG_KEY).sign_eddsa(b"a tree head")
    assert caught.value.code == ERROR.OBJECT_NOT_FOUND
    assert machine.sessions() == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"serial": 90000009}, "is another device than YubiHSM 90000009"),
        ({"rehearsal": False}, "is a rehearsal device"),
        ({"public_key": "00" * 31 + "01"}, "not the pinned ssh-ed25519"),
        ({"key": 901}, "OBJECT_NOT_FOUND"),
        ({"key": LOG_KEY}, "OBJECT_NOT_FOUND"),
        ({"authentication_key": 801}, "OBJECT_NOT_FOUND to authentication key 801"),
    ],
)
def test_what_is_not_as_pinned_fails(
    machine: Machine, changes: dict[str, object], said: str
) -> None:
    machine.write_config(**changes)  # type: ignore[arg-type]
    result = check(machine.check, machine.keys("health-authentication"))
    assert result.state == State.FAILED
    assert said in result.message
    assert machine.sessions() == 0


def test_a_wrong_passphrase_fails(machine: Machine) -> None:
    result = check(machine.check, static_keys("wrong"))
    assert result.state == State.FAILED
    assert "does not accept the passphrase" in result.message


@pytest.mark.parametrize("fault", ["unplug", "unplug@sign-eddsa", "lose-sessions@sign-eddsa"])
def test_a_device_that_is_away_is_unknown_and_well_again_after(
    machine: Machine, fault: str
) -> None:
    rehearsal.strike(machine.url, fault)
    result = check(machine.check, machine.keys("health-authentication"))
    assert result.state == State.UNKNOWN
    rehearsal.clear(machine.url)
    assert check(machine.check, machine.keys("health-authentication")).state == State.OK


def test_a_lost_session_is_not_closed_since_its_id_may_be_the_oracles(machine: Machine) -> None:
    way = Link(machine.url)
    with machine.oracle() as oracle:

        def lose_it() -> None:
            with way.session(HEALTH_USER, machine.keys("health-authentication")) as session:
                rehearsal.strike(machine.url, "unplug@sign-eddsa=0.2")
                try:
                    AsymmetricKey(session, HEALTH_KEY).sign_eddsa(b"a question")
                finally:
                    time.sleep(0.4)
                    oracle.sign()  # in a new session, which has the id of the lost one

        with pytest.raises(Away):
            lose_it()
        oracle.sign()
        assert oracle.signer.metrics.sessions_opened == 1


def test_all_sessions_in_use_is_unknown(machine: Machine) -> None:
    way = Link(machine.url)
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(way.session(HEALTH_USER, machine.keys("health-authentication")))
        result = check(machine.check, machine.keys("health-authentication"))
    assert result.state == State.UNKNOWN
    assert "SESSIONS_FULL" in result.message


def test_beside_a_signing_oracle(machine: Machine) -> None:
    stop = threading.Event()
    with machine.oracle() as oracle:

        def sign() -> None:
            while not stop.is_set():
                oracle.sign()

        signing = threading.Thread(target=sign)
        signing.start()
        try:
            for _ in range(20):
                result = check(machine.check, machine.keys("health-authentication"))
                assert result.state == State.OK, result.message
        finally:
            stop.set()
            signing.join()
        assert oracle.signer.metrics.sessions_opened == 1


def test_a_hanging_connector_is_given_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigsum_ops.hsm.watch.link.SECONDS", 1.0)
    rehearsal.strike(machine.url, "hang@sign-eddsa=2")
    begin = time.monotonic()
    result = check(machine.check, machine.keys("health-authentication"))
    assert time.monotonic() - begin < 8
    assert result.state == State.UNKNOWN


def run(machine: Machine, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["hsm", "check", "-c", str(machine.config), *arguments])
    return done.exit_code, done.stdout


def test_the_verb_says_it_in_every_way(machine: Machine) -> None:
    file = f"--passphrase-file={machine.passphrase_file('health-authentication')}"
    code, said = run(machine, file, "--json")
    result = json.loads(said)
    assert (code, result["state"], result["serial"]) == (0, "ok", SERIAL)
    metrics = machine.metrics["check"].read_text()
    assert 'sigsum_hsm_check_state{state="ok"} 1' in metrics
    assert re.search(r"^sigsum_hsm_check_signature_seconds 0\.\d+$", metrics, re.M)
    assert run(machine, file)[1].startswith("ok: YubiHSM 90000003")

    machine.write_config(serial=90000009)
    assert run(machine, file)[0] == 1
    assert 'state="failed"} 1' in machine.metrics["check"].read_text()
    rehearsal.strike(machine.url, "unplug")
    assert run(machine, file)[0] == 3
    metrics = machine.metrics["check"].read_text()
    assert 'state="unknown"} 1' in metrics
    assert 'state="ok"} 0' in metrics


def test_the_passphrase_is_the_units(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.directory / "health").write_text(machine.passphrase("health-authentication"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(machine.directory))
    assert run(machine)[0] == 0
    # By hand, root reads the same file.
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    done = CliRunner().invoke(cli.app, ["hsm", "check", "-c", str(machine.config)])
    assert "/etc/sigsum/private/health: the passphrase cannot be read" in str(done.exception)
    monkeypatch.setattr(link, "PRIVATE", machine.directory)
    assert run(machine)[0] == 0


def test_prometheus_can_read_the_metrics(machine: Machine, promtool: str) -> None:
    file = f"--passphrase-file={machine.passphrase_file('health-authentication')}"
    assert run(machine, file)[0] == 0
    audits.run_once(machine.audit, machine.keys("audit-authentication"))
    for path in machine.metrics.values():
        subprocess.run([promtool, "check", "metrics"], input=path.read_bytes(), check=True)
