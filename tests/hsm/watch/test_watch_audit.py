"""The audit on a device of a ceremony, beside an oracle that signs; and its archive on the disk."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner
from yubihsm.core import YubiHsm
from yubihsm.defs import AUDIT, CAPABILITY, COMMAND
from yubihsm.objects import AuthenticationKey

from sigsum_ops import cli
from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import rehearsal
from sigsum_ops.hsm.ceremony.records import AuditLog
from sigsum_ops.hsm.devicelog import RING_SIZE
from sigsum_ops.hsm.oracle.signatures import Count
from sigsum_ops.hsm.watch import audit as audits
from sigsum_ops.hsm.watch.account import Kind, Outcome
from sigsum_ops.hsm.watch.archive import Archive, ArchiveError
from sigsum_ops.hsm.watch.link import Link, static_keys
from tests.hsm.ceremony.table import Table, small_plan
from tests.hsm.watch.machine import HEALTH_KEY, HEALTH_USER, LOG_KEY, SERIAL, Machine


def kinds(machine: Machine) -> list[Kind]:
    with audits.open_archive(machine.audit, writable=False) as archive:
        return [finding.kind for finding in archive.account.findings]


def whole(machine: Machine) -> None:
    """Every entry follows the one before it: none is missing, none is there twice."""
    for previous, entry in itertools.pairwise(machine.entries()):
        assert entry.follows(previous)


# --- what it says -------------------------------------------------------------------------------


def test_every_signature_is_accounted_for(machine: Machine) -> None:
    assert machine.drained().outcome == Outcome.OK
    with machine.oracle() as oracle:
        for _ in range(5):
            oracle.sign(40)
            done = machine.drained()
            assert (done.outcome, done.doubt) == (Outcome.OK, None)
    assert machine.targets() == [LOG_KEY] * 200
    assert machine.log_used() == 0
    assert machine.sessions() == 0
    whole(machine)


def test_a_signature_behind_the_oracles_back_is_an_alarm(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign(3)
        assert machine.drained().outcome == Outcome.OK
        oracle.sign(3)
        machine.sign_behind_its_back()
        oracle.sign(3)
    assert machine.drained().outcome == Outcome.ALARM
    assert kinds(machine) == [Kind.TOO_MANY]
    assert machine.drained().outcome == Outcome.ALARM  # until somebody looked
    assert kinds(machine) == [Kind.TOO_MANY]


def test_one_on_a_standby_without_an_oracle_is_an_alarm(machine: Machine) -> None:
    assert machine.drained().outcome == Outcome.OK
    machine.sign_behind_its_back(key=HEALTH_KEY, user=HEALTH_USER)
    assert machine.drained().outcome == Outcome.OK
    machine.sign_behind_its_back()
    assert machine.drained().outcome == Outcome.ALARM


def test_one_while_the_audit_was_away_is_an_alarm_too(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign(2)
        machine.drained()
        oracle.sign(20)
        machine.sign_behind_its_back()
    with machine.oracle() as oracle:  # which was restarted meanwhile
        oracle.sign(5)
    assert machine.drained().outcome == Outcome.ALARM


@pytest.mark.parametrize("fault", ["unplug-after@sign-eddsa=0.2", "unplug@sign-eddsa=0.2"])
def test_a_command_that_got_no_answer_is_no_alarm(machine: Machine, fault: str) -> None:
    with machine.oracle() as oracle:
        oracle.sign()
        machine.drained()
        rehearsal.strike(machine.url, fault)
        with pytest.raises(Exception, match=r"does not answer|answers 500"):
            oracle.sign(seconds=0.15)
        time.sleep(0.3)
        oracle.sign()
        assert machine.drained().outcome == Outcome.OK
        assert oracle.counter.count.lost >= 1
    assert kinds(machine) == []


def test_a_log_that_went_around_is_unknown(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign()
        assert machine.drained().outcome == Outcome.OK
        oracle.sign(70)
        assert machine.drained().outcome == Outcome.UNKNOWN
        assert kinds(machine) == [Kind.GAP]
        # It goes on, and a theft now is seen; it does not become ok by itself.
        oracle.sign(5)
        machine.drained()
        machine.sign_behind_its_back()
        assert machine.drained().outcome == Outcome.ALARM
    assert kinds(machine) == [Kind.GAP, Kind.TOO_MANY]


def test_a_power_cycle_is_nothing(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign(3)
        machine.drained()
        rehearsal.strike(machine.url, "unplug=0.1")
        time.sleep(0.3)
        oracle.sign(3)
        assert machine.drained().outcome == Outcome.OK
    assert any(entry.is_boot for entry in machine.entries())
    whole(machine)


def reset(url: str, machine: Machine) -> None:
    """Erase the device as whoever has it in hand can, and give it the same auditor."""
    with closing(YubiHsm.connect(url)) as hsm:
        session = hsm.create_session_derived(1, "password")
        session.reset_device()
    with (
        closing(YubiHsm.connect(url)) as hsm,
        closing(hsm.create_session_derived(1, "password")) as session,
    ):
        AuthenticationKey.put_derived(
            session,
            700,
            "Audit authentication",
            1 << 13,
            CAPABILITY.GET_LOG_ENTRIES,
            CAPABILITY.NONE,
            machine.passphrase("audit-authentication"),
        )


def test_a_device_that_was_reset_is_told_from_one_that_lost_entries(
    machine: Machine, tmp_path: Path
) -> None:
    machine.drained()
    with rehearsal.serve({SERIAL: tmp_path / "new"}) as urls:
        machine.url = urls[SERIAL]
        machine.write_config()
        reset(urls[SERIAL], machine)
        assert machine.drained().outcome == Outcome.UNKNOWN
    assert Kind.RESET in kinds(machine)
    assert Kind.GAP not in kinds(machine)


def test_another_device_is_not_touched(machine: Machine) -> None:
    machine.drained()
    machine.sign_behind_its_back(2, key=HEALTH_KEY, user=HEALTH_USER)
    used = machine.log_used()
    machine.write_config(serial=90000009)
    machine.archive = machine.directory / "other"
    machine.write_config(serial=90000009)
    done = machine.drained()
    assert done.outcome == Outcome.UNKNOWN
    assert done.doubt
    assert "is another device than YubiHSM 90000009" in done.doubt
    assert machine.log_used() == used
    machine.write_config(rehearsal=False, serial=90000009)
    done = machine.drained()
    assert done.doubt
    assert "is a rehearsal device" in done.doubt


def test_an_archive_belongs_to_one_device(machine: Machine) -> None:
    machine.drained()
    machine.write_config(serial=90000009)
    with pytest.raises(ArchiveError, match="the archive of YubiHSM 90000003, not of 90000009"):
        machine.drained()


def test_a_wrong_passphrase_is_unknown(machine: Machine) -> None:
    with audits.open_archive(machine.audit) as archive:
        done = audits.once(machine.audit, archive, Link(machine.url), static_keys("wrong"))
    assert done.outcome == Outcome.UNKNOWN
    assert done.doubt
    assert "does not accept the passphrase" in done.doubt


@pytest.mark.parametrize(
    "fault",
    ["unplug", "unplug@get-log-entries", "unplug@set-log-index", "lose-sessions@set-log-index"],
)
def test_a_device_that_is_away_is_unknown_and_nothing_is_lost(machine: Machine, fault: str) -> None:
    with machine.oracle() as oracle:
        oracle.sign(2)
        machine.drained()
        oracle.sign(2)
        rehearsal.strike(machine.url, fault)
        assert machine.drained().outcome == Outcome.UNKNOWN
        rehearsal.clear(machine.url)
        oracle.sign(2)
        assert machine.drained().outcome == Outcome.OK
    assert machine.targets() == [LOG_KEY] * 6
    whole(machine)


def test_a_count_that_cannot_be_read_is_unknown(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign(2)
        machine.drained()
        oracle.sign(40)
        machine.signatures.write_bytes(b"damaged\n")
        done = machine.drained()
        assert done.outcome == Outcome.UNKNOWN
        assert (done.drained, machine.log_used()) == (True, 0)  # it would go around
        assert len(machine.targets()) == 42
        assert done.doubt
        assert "not as it was written" in done.doubt
    with machine.oracle() as oracle:
        oracle.sign()
        assert machine.drained().outcome == Outcome.UNKNOWN
    assert kinds(machine) == [Kind.RECOUNT]
    whole(machine)


def test_a_signature_given_that_the_device_did_not_log_is_unknown(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign()
        machine.drained()
        with oracle.counter.asked(ValueError):
            pass  # one that another device made
    assert machine.drained().outcome == Outcome.UNKNOWN
    assert kinds(machine) == [Kind.TOO_FEW]


def test_an_alarm_outweighs_a_device_that_is_away(machine: Machine) -> None:
    machine.drained()
    machine.sign_behind_its_back()
    machine.drained()
    rehearsal.strike(machine.url, "unplug")
    done = machine.drained()
    assert done.outcome == Outcome.ALARM
    assert done.doubt


def test_a_full_log_with_forced_audit_is_freed(tmp_path: Path) -> None:
    table = Table(tmp_path, small_plan(more=", forced_audit: true"))
    with table.devices() as urls:
        table.perform(tuple(urls.values()), resume=False)
    with rehearsal.serve({SERIAL: tmp_path / "devices"}) as urls:
        machine = Machine(tmp_path, table, urls[SERIAL])
        machine.drained()
        with machine.oracle() as oracle:
            with pytest.raises(Exception, match="LOG_FULL"):
                oracle.sign(70)
            assert machine.log_used() == 62
            assert machine.drained().outcome == Outcome.OK
            oracle.sign(5)
            assert machine.drained().outcome == Outcome.OK
        assert len(machine.targets()) == 67
        assert machine.log_used() == 0
        whole(machine)


# --- the archive --------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, *, writable: bool = True) -> Iterator[Archive]:
    with Archive.open(path, SERIAL, key=500, user=200, writable=writable) as archive:
        yield archive


def test_a_torn_last_line_is_fetched_again_wherever_it_is_torn(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign()
        machine.drained()
        before = machine.archive.read_bytes()
        oracle.sign(2)
        link = Link(machine.url)
        keys = machine.keys("audit-authentication")
        # The first look ends before the device frees anything.
        rehearsal.strike(machine.url, "lose-sessions@set-log-index")
        with audits.open_archive(machine.audit) as archive:
            audits.once(machine.audit, archive, link, keys)
        after = machine.archive.read_bytes()
        assert after.startswith(before)
        assert len(after) > len(before) + 100
        for length in range(len(before), len(after)):
            machine.archive.write_bytes(after[:length])
            with opened(machine.archive, writable=False) as archive:
                assert (archive.cut > 0) == (after[length - 1 : length] != b"\n")
            with opened(machine.archive) as archive:
                assert archive.account.outcome == Outcome.OK
            assert machine.archive.read_bytes().endswith(b"\n")
        machine.archive.write_bytes(after[:-30])
        assert machine.drained().outcome == Outcome.OK
    assert machine.targets() == [LOG_KEY] * 3
    whole(machine)


def test_each_changed_byte_is_noticed(machine: Machine) -> None:
    with machine.oracle() as oracle:
        oracle.sign()
        machine.drained()
    data = machine.archive.read_bytes()
    for place in range(len(data) - 1):
        machine.archive.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ArchiveError), opened(machine.archive):
            raise AssertionError(place)


def test_a_line_that_is_gone_is_noticed(machine: Machine) -> None:
    machine.drained()
    machine.sign_behind_its_back(3, key=HEALTH_KEY, user=HEALTH_USER)
    machine.drained()
    lines = machine.archive.read_bytes().splitlines(keepends=True)
    for gone in range(len(lines) - 1):
        machine.archive.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
        with pytest.raises(ArchiveError, match=rf"line {gone + 1}: not"), opened(machine.archive):
            raise AssertionError(gone)


def test_only_one_process_writes_and_any_may_look(machine: Machine) -> None:
    machine.drained()
    with opened(machine.archive):
        with pytest.raises(ArchiveError, match="in use by another process"):
            machine.drained()
        with opened(machine.archive, writable=False) as shown:
            assert shown.account.lines > 1


def test_a_full_disk_frees_nothing_on_the_device(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.drained()
    machine.sign_behind_its_back(4, key=HEALTH_KEY, user=HEALTH_USER)
    before = machine.archive.read_bytes()
    used = machine.log_used()

    def full(_: int) -> None:
        patch.undo()  # to take it back succeeds
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(ArchiveError, match="No space left on device"):
            machine.drained()
    assert machine.archive.read_bytes() == before
    assert machine.log_used() == used
    assert machine.drained().outcome == Outcome.OK
    whole(machine)


def test_killed_again_and_again_it_loses_and_doubles_nothing(machine: Machine) -> None:
    """kill -9 of the service at moments of all kinds, while the oracle signs."""
    machine.drained()
    stop = threading.Event()
    signed = 0
    with machine.oracle() as oracle:

        def sign() -> None:
            nonlocal signed
            while not stop.is_set():
                if machine.log_used() < 40:  # of 62: however slow this machine starts the service
                    oracle.sign()
                    signed += 1
                time.sleep(0.06)

        signing = threading.Thread(target=sign)
        signing.start()
        try:
            for turn in itertools.count():
                if turn >= 8 and signed > RING_SIZE:
                    break
                assert signing.is_alive()
                process = service(machine, look_every=0.005)
                assert process.stderr
                time.sleep(0.05 + turn * 0.013)
                process.send_signal(signal.SIGKILL)
                process.communicate()
        finally:
            stop.set()
            signing.join()
        assert machine.drained().outcome == Outcome.OK
    assert machine.targets() == [LOG_KEY] * signed
    whole(machine)


def service(machine: Machine, look_every: float) -> subprocess.Popen[str]:
    """``sigsum-ops hsm audit``, in more of a hurry, once it has begun to look."""
    program = (
        "import sys\n"
        "from sigsum_ops.hsm.watch import audit\n"
        f"audit.LOOK_EVERY = audit.DRAIN_EVERY = {look_every}\n"
        "once = audit.once\n"
        "def first(*arguments):\n"
        "    print('ready', flush=True)\n"
        "    audit.once = once\n"
        "    return once(*arguments)\n"
        "audit.once = first\n"
        "from sigsum_ops.cli import main\n"
        "main()\n"
    )
    file = machine.passphrase_file("audit-authentication")
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", program, "hsm", "audit", "-c", str(machine.config)),
            *("--passphrase-file", str(file)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


# --- the service and the verb -------------------------------------------------------------------


def test_the_service_drains_before_the_log_goes_around(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how full the log is, and not only by the clock."""
    monkeypatch.setattr(audits, "DRAIN_EVERY", 3600.0)
    with audits.open_archive(machine.audit) as archive, machine.oracle() as oracle:
        looks = audits.Service(machine.audit, archive, machine.keys("audit-authentication"))
        looks.look()
        for _ in range(30):
            oracle.sign(10)
            looks.look()
            assert machine.log_used() < audits.DRAIN_AT + 10
        assert archive.account.made >= 280
        assert archive.account.outcome == Outcome.OK
        # A look at a log with little in it opens no session.
        opened = archive.account.lines
        looks.look()
        assert archive.account.lines == opened
    assert machine.sessions() == 0


def test_a_failed_round_leaves_the_sessions_to_the_oracle(machine: Machine) -> None:
    """With a full log too: each that is refused stays open for 30 s."""
    machine.sign_behind_its_back(audits.DRAIN_AT, key=HEALTH_KEY, user=HEALTH_USER)
    with audits.open_archive(machine.audit) as archive:
        looks = audits.Service(machine.audit, archive, static_keys("wrong"))
        for _ in range(20):
            looks.look()
    assert machine.log_used() >= audits.DRAIN_AT
    assert machine.sessions() == 1


def test_the_service_says_what_is_new_and_ends_when_told(machine: Machine) -> None:
    process = service(machine, look_every=0.05)
    wait_for(machine, 'state="ok"} 1')
    machine.sign_behind_its_back()
    wait_for(machine, 'state="alarm"} 1')
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 0
    assert re.search(r"^ALARM \(too-many\): 1 more made than given", said, re.M)
    assert "docs/bcp/hsm-watch.md" in said
    assert said.count("too-many") == 1
    metrics = machine.metrics["audit"].read_text()
    for line in (
        'sigsum_hsm_audit_findings{kind="too-many"} 1',
        'sigsum_hsm_audit_findings{kind="gap"} 0',
        "sigsum_hsm_audit_findings_total 1",
        "sigsum_hsm_audit_signatures_total 1",
    ):
        assert line in metrics.splitlines()


def wait_for(machine: Machine, text: str) -> None:
    path = machine.metrics["audit"]
    deadline = time.monotonic() + 10
    while not path.exists() or text not in path.read_text():
        assert time.monotonic() < deadline, path.read_text() if path.exists() else "no metrics"
        time.sleep(0.05)


def verb(machine: Machine, *arguments: str) -> tuple[int, str]:
    command = ["hsm", "audit", "-c", str(machine.config), *arguments]
    done = CliRunner().invoke(cli.app, command)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_the_verb_looks_shows_and_acknowledges(machine: Machine) -> None:
    once = ("--once", f"--passphrase-file={machine.passphrase_file('audit-authentication')}")
    assert verb(machine, *once, "--json")[0] == 0
    machine.sign_behind_its_back()
    code, said = verb(machine, *once, "--json")
    assert (code, json.loads(said)["outcome"]) == (1, "alarm")
    assert verb(machine, *once)[0] == 1  # until somebody looked
    code, said = verb(machine, "--show", "--json")
    (finding,) = json.loads(said)["findings"]
    assert (code, finding["kind"], finding["outcome"]) == (1, "too-many", "alarm")
    code, said = verb(machine, "--show")
    assert f"line {finding['line']}:" in said
    with pytest.raises(UsageError, match="is not the line of the last open finding"):
        verb(machine, "--acknowledge", str(finding["line"] + 1))
    assert verb(machine, "--acknowledge", str(finding["line"]))[0] == 0
    assert verb(machine, "--show")[0] == 0
    assert verb(machine, *once)[0] == 0
    with pytest.raises(UsageError, match="there is none"):
        verb(machine, "--acknowledge", str(finding["line"]))
    rehearsal.strike(machine.url, "unplug")
    assert verb(machine, *once)[0] == 3
    with pytest.raises(UsageError, match="exclude each other"):
        verb(machine, "--once", "--show")


def test_what_is_shown_is_ok_only_while_the_service_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ("--once", f"--passphrase-file={machine.passphrase_file('audit-authentication')}")
    metrics = machine.metrics["audit"]

    def shown(because: str) -> None:
        code, said = verb(machine, "--show", "--json")
        found = json.loads(said)
        assert (code, found["outcome"], found["findings"]) == (3, "unknown", [])
        assert because in found["doubt"]

    with audits.open_archive(machine.audit):
        pass
    shown("no round of the service is known")
    rehearsal.strike(machine.url, "unplug")
    assert verb(machine, *once)[0] == 3
    shown("the service itself, as of 20")
    rehearsal.clear(machine.url)
    with machine.oracle() as oracle, oracle.counter.asked(ValueError):  # it is never quiet
        assert verb(machine, *once)[0] == 3
        metrics.write_text(metrics.read_text().replace('"unknown"} 1', '"unknown"} 0'))
        shown("no moment yet from which on signatures are compared")
    machine.signatures.write_bytes(Count("0" * 16, lost=3).encode())
    assert verb(machine, *once)[0] == 0
    assert "sigsum_hsm_audit_lost_total 3" in metrics.read_text().splitlines()
    code, said = verb(machine, "--show")
    # Nothing was between the ceremony and this archive.
    consumed = [
        record.consumed_to
        for record in machine.table.records()
        if isinstance(record, AuditLog) and record.serial == SERIAL
    ]
    first = machine.entries()[0].number
    assert first == (consumed[-1] or 0) + 1
    assert (code, f"begins with the device's entry {first}\n" in said) == (0, True)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * audits.STALE)
    shown("the service has not looked at the device since 20")
    metrics.write_bytes(b"")
    shown("since 1970")
    without = machine.config.read_text().replace(f'metrics_file = "{metrics}"\n', "")
    machine.config.write_text(without)
    shown("no metrics_file")


def test_the_auditor_can_do_nothing_else(machine: Machine) -> None:
    """What is on every log machine opens the device's log, and no key."""
    link = Link(machine.url)
    with link.session(700, machine.keys("audit-authentication")) as session:
        assert [item.id for item in session.list_objects()] == [700]
    for command, data in (
        (COMMAND.SIGN_EDDSA, b"\1\xf4text"),
        (COMMAND.SET_OPTION, bytes([3, 0, 2, COMMAND.SIGN_EDDSA, AUDIT.OFF])),
        (COMMAND.DELETE_OBJECT, b"\2\xbc\2"),
    ):
        with (
            pytest.raises(Exception, match=r"OBJECT_NOT_FOUND|INSUFFICIENT_PERMISSIONS"),
            link.session(700, machine.keys("audit-authentication")) as session,
        ):
            session.send_secure_cmd(command, data)
