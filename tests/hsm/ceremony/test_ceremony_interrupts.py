"""Interrupted after every step in three ways, and at every command: it resumes to the same end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.ceremony import records, runner
from sigsum_ops.hsm.ceremony.records import ReadBack
from sigsum_ops.hsm.ceremony.rehearse import rehearse
from sigsum_ops.hsm.ceremony.steps import Step, derive
from sigsum_ops.hsm.ceremony.transcript import Transcript
from sigsum_ops.hsm.plan import load
from sigsum_ops.hsm.rehearsal import clear, strike
from tests.hsm.ceremony.table import SHARES, People, Table, small_plan

pytestmark = pytest.mark.slow

Final = dict[str, tuple[object, ...]]


def final(table: Table) -> Final:
    """What the devices were last seen to hold, apart from what every ceremony has its own of."""
    return {
        device.name: (
            [(o.type, o.id, o.label, o.domains, o.capabilities) for o in found.objects],
            found.force_audit,
            dict(found.command_audit),
        )
        for device in table.plan.devices
        for found in [table.read_backs()[device.serial]]
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Final:
    table = Table(tmp_path_factory.mktemp("uninterrupted"), small_plan())
    with table.devices() as urls:
        table.perform(list(urls.values()), resume=False)
    return final(table)


def check_end(table: Table, urls: dict[int, str], uninterrupted: Final) -> None:
    verdict = table.verdict()
    assert verdict.ok, verdict
    assert table.holdings(urls) == table.planned()
    assert final(table) == uninterrupted


class Stopper:
    """Stops at the first step that was not stopped at before."""

    def __init__(self, stop: Callable[[Step], None]) -> None:
        self._stop = stop
        self.stopped: list[str] = []

    def __call__(self, step: Step) -> None:
        if step.id not in self.stopped:
            self.stopped.append(step.id)
            self._stop(step)


def test_device_pulled_before_every_step(memory: Path, uninterrupted: Final) -> None:
    table = Table(memory, small_plan())
    with table.devices() as urls:

        def pull(step: Step) -> None:
            for serial, url in urls.items():
                if step.serial in (serial, None):
                    strike(url, "unplug")

        stopper = Stopper(pull)
        people = People(at_step=stopper)
        stops = 0
        while True:
            try:
                table.perform(list(urls.values()), people, resume=table.transcript.exists())
                break
            except OpsError:
                stops += 1
                for url in urls.values():
                    clear(url)
        assert stopper.stopped == [step.id for step in derive(table.plan)]
        for url in urls.values():
            clear(url)
        # Neither the check of what is plugged in nor the closing needs a device.
        assert stops == len(stopper.stopped) - 2
        check_end(table, urls, uninterrupted)


def test_connector_gone_before_every_step(memory: Path, uninterrupted: Final) -> None:
    table = Table(memory, small_plan())
    done = False
    stopper: Stopper | None = None
    while not done:
        with ExitStack() as connectors:
            urls = connectors.enter_context(table.devices())
            gone = connectors.pop_all()

            def leave(_: Step, gone: ExitStack = gone) -> None:
                gone.close()

            if stopper is None:
                stopper = Stopper(leave)
            stopper._stop = leave
            try:
                table.perform(
                    list(urls.values()),
                    People(at_step=stopper),
                    resume=table.transcript.exists(),
                )
                done = True
            except OpsError:
                pass
            finally:
                gone.close()
    assert stopper is not None
    assert stopper.stopped == [step.id for step in derive(table.plan)]
    with table.devices() as urls:
        check_end(table, urls, uninterrupted)


@contextmanager
def devices_elsewhere(table: Table) -> Iterator[dict[int, str]]:
    """Rehearsal devices in a process of their own: killing the ceremony leaves them alone."""
    serials = [device.serial for device in table.plan.devices]
    arguments = [option for serial in serials for option in ("--serial", str(serial))]
    arguments += [option for _ in serials for option in ("--port", "0")]
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sigsum_ops.cli",
            "hsm",
            "rehearse-device",
            "--json",
            *arguments,
            "--state",
            str(table.path / "devices"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            described = json.loads(process.stdout.readline())
            yield {device["serial"]: device["connector"] for device in described["devices"]}
        finally:
            process.terminate()


def killed(work: Callable[[], None]) -> bool:
    """Do it in a process of its own; whether that was killed. Fails where it failed otherwise."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def kill(_: object = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_before_every_step(memory: Path, uninterrupted: Final) -> None:
    table = Table(memory, small_plan())
    stopper = Stopper(kill)
    with devices_elsewhere(table) as urls:

        def run() -> None:
            table.perform(
                list(urls.values()), People(at_step=stopper), resume=table.transcript.exists()
            )

        for step in derive(table.plan):
            assert killed(run)
            stopper.stopped.append(step.id)
        assert not killed(run)
        check_end(table, urls, uninterrupted)


def test_killed_around_lines_of_the_transcript(
    memory: Path, uninterrupted: Final, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before a line is written (the command was carried out, nobody wrote it down), in the
    middle of one, and just after."""
    table = Table(memory, small_plan())
    chance = random.Random(4)  # noqa: S311
    with devices_elsewhere(table) as urls:
        for _ in range(20):
            begun: list[Step] = []
            place = chance.randrange(1, 60)
            half = chance.random() < 0.5
            append = Transcript.append

            def append_or_die(
                self: Transcript,
                record: records.Record,
                begun: list[Step] = begun,
                place: int = place,
                half: bool = half,
                append: Callable[..., object] = append,
            ) -> object:
                if begun:
                    begun.append(begun[0])
                    if len(begun) > place:
                        if half:
                            with self.path.open("ab") as stream:
                                stream.write(b'{"body":{"half')
                        kill()
                return append(self, record)

            monkeypatch.setattr(Transcript, "append", append_or_die)

            def run(begun: list[Step] = begun) -> None:
                table.perform(
                    list(urls.values()),
                    People(at_step=begun.append),
                    resume=table.transcript.exists(),
                )

            was_killed = killed(run)
            monkeypatch.undo()
            if not was_killed:
                break
        else:
            table.perform(list(urls.values()), resume=True)
        check_end(table, urls, uninterrupted)


@pytest.mark.parametrize("written", [False, True])
def test_killed_when_a_device_has_just_been_locked(
    memory: Path, uninterrupted: Final, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """No session sees all domains any more: what was read back before the lock has to do."""
    table = Table(memory, small_plan())
    append = Transcript.append

    def append_and_die(self: Transcript, record: records.Record) -> object:
        locks = (
            isinstance(record, records.Command)
            and (record.command, record.serial) == ("delete-object", 90000003)
            and record.parameters.id == 100
        )
        if locks and not written:
            kill()
        line = append(self, record)
        if locks:
            kill()
        return line

    monkeypatch.setattr(Transcript, "append", append_and_die)
    with devices_elsewhere(table) as urls:
        connectors = list(urls.values())

        def run() -> None:
            table.perform(connectors, resume=False)

        assert killed(run)
        monkeypatch.undo()
        people = People()
        table.perform(connectors, people, resume=True)
        assert not people.warnings
        check_end(table, urls, uninterrupted)


COMMANDS = (
    "reset-device",
    "set-option",
    "put-authentication-key",
    "delete-object",
    "put-wrap-key",
    "generate-asymmetric-key",
    "export-wrapped",
    "import-wrapped",
    "sign-eddsa",
    "set-log-index",
)


@pytest.mark.parametrize("when", ["unplug", "unplug-after"])
def test_device_pulled_at_every_kind_of_command(
    memory: Path, uninterrupted: Final, when: str
) -> None:
    """Just before it is carried out, or just after, the first time that each device gets it."""
    table = Table(memory, small_plan())
    with table.devices() as urls:
        for url in urls.values():
            for command in COMMANDS:
                strike(url, f"{when}@{command}")
        stops = 0
        while True:
            try:
                table.perform(list(urls.values()), resume=table.transcript.exists())
                break
            except OpsError:
                stops += 1
                gone = [url for url in urls.values() if _is_gone(url)]
                assert len(gone) == 1
                _plug_in(gone[0], when)
        # Each device gets 8 kinds of command at least, and a lost session cannot be closed either.
        assert stops >= 8 * len(urls)
        check_end(table, urls, uninterrupted)


def _plug_in(url: str, when: str) -> None:
    """Only that: what has not struck yet, still strikes."""
    with urlopen(f"{url}/rehearsal/faults", timeout=5) as answer:  # noqa: S310
        waiting = answer.read().decode().split()
    clear(url)
    for fault in waiting:
        assert fault.startswith(f"{when}@")
        strike(url, fault)


def _is_gone(url: str) -> bool:
    from sigsum_ops.hsm.device import Device, DeviceError

    try:
        Device(url).close()
    except DeviceError:
        return True
    return False


def test_an_interrupt_says_what_is_left_and_so_does_whoever_asks(memory: Path) -> None:
    table = Table(memory, small_plan())

    def stop(step: Step) -> None:
        if step.id == "finish-log-1":
            raise KeyboardInterrupt

    with table.devices() as urls:
        people = People(at_step=stop)
        with pytest.raises(runner.Interrupted) as caught:
            table.perform(list(urls.values()), people, resume=False)
        assert caught.value.exit_code == 130
        (warning,) = people.warnings
        assert "log-1" in warning
        assert "wrap-key 400" in warning
        stopped = next(r for r in table.records() if isinstance(r, records.Interrupted))
        assert {(left.serial, left.object.id) for left in stopped.left} == {
            (90000003, 100),
            (90000003, 400),
        }
        before = table.transcript.read_bytes()
        standings = {s.device.name: s for s in runner.ask(table.setup([*urls.values()]), People())}
        assert [ref[1] for ref in standings["log-1"].left] == [100, 400]
        assert standings["backup-1"].left == ()
        assert table.transcript.read_bytes() == before
        people = People()
        table.perform(list(urls.values()), people, resume=True)
        assert any("wrap-key 400" in text for text in people.warnings)


def test_killed_before_the_first_line(memory: Path) -> None:
    for content, resume in ((b"", False), (b'{"body":{"half', True)):
        table = Table(memory / f"{resume}", small_plan("established"))
        table.out.mkdir(parents=True)
        table.transcript.write_bytes(content)
        with table.devices() as urls:
            table.perform(list(urls.values()), resume=resume)
        assert table.verdict().ok


def test_the_command_line_says_where_devices_stand(memory: Path) -> None:
    plan = Path(__file__).parents[3] / "inventories/lab/hsm-plan.yml"
    out = memory / "out"

    def stop(step: Step) -> None:
        if step.id == "wrap-backup-1":
            raise KeyboardInterrupt

    with pytest.raises(runner.Interrupted):
        rehearse(load(plan), out, People(at_step=stop))
    command = [sys.executable, "-m", "sigsum_ops.cli", "ceremony", "resume"]
    arguments = ["--plan", str(plan), "--out", str(out), "--json"]
    asked = subprocess.run(
        [*command, *arguments, "--check"], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    (standing,) = json.loads(asked.stdout)["devices"]
    assert standing["held"] == ["authentication-key 100"]
    assert standing["must_not_stay"] == []
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mode"] == "rehearsal"


def test_a_default_key_that_is_left_is_told_of(memory: Path) -> None:
    table = Table(memory, small_plan())
    with table.devices() as urls:
        strike(urls[90000003], "unplug@put-authentication-key")
        people = People()
        with pytest.raises(OpsError):
            table.perform(list(urls.values()), people, resume=False)
        assert any("default authentication key" in text for text in people.warnings)


def test_a_device_that_was_changed_meanwhile_is_refused(memory: Path) -> None:
    from yubihsm.defs import OBJECT

    from sigsum_ops.hsm.device import Device

    table = Table(memory, small_plan())

    def stop(step: Step) -> None:
        if step.id == "test-backup-2":
            raise KeyboardInterrupt

    with table.devices() as urls:
        with pytest.raises(runner.Interrupted):
            table.perform(list(urls.values()), People(at_step=stop), resume=False)
        passphrase = table.secret("backup-authentication.hex")
        with Device(urls[90000002]) as device, device.session(100, passphrase) as session:
            session.delete(OBJECT.ASYMMETRIC_KEY, 500)
        with pytest.raises(OpsError) as caught:
            table.perform(list(urls.values()), resume=True)
        assert "backup-2" in str(caught.value) or "asymmetric-key 500" in str(caught.value)


def test_another_plan_is_refused_on_resume(memory: Path) -> None:
    table = Table(memory, small_plan())

    def stop(_: Step) -> None:
        raise KeyboardInterrupt

    with table.devices() as urls:
        with pytest.raises(runner.Interrupted):
            table.perform(list(urls.values()), People(at_step=stop), resume=False)
        other = replace(table, plan=small_plan("established"))
        with pytest.raises(OpsError, match="another plan"):
            other.perform(list(urls.values()), resume=True)


def test_resumed_with_shares_from_the_media(memory: Path) -> None:
    table = Table(memory, small_plan(backup=SHARES))

    def stop(step: Step) -> None:
        if step.id == "keys-log-1":
            raise KeyboardInterrupt

    with table.devices() as urls:
        with pytest.raises(runner.Interrupted):
            table.perform(list(urls.values()), People(at_step=stop), resume=False)
        table.perform(list(urls.values()), resume=True)
        assert table.verdict().ok


def test_read_backs_see_all_domains(memory: Path) -> None:
    table = Table(memory, small_plan())
    with table.devices() as urls:
        table.perform(list(urls.values()), resume=False)
    found = [record for record in table.records() if isinstance(record, ReadBack)]
    assert found
    assert all(record.session_domains == tuple(range(1, 17)) for record in found)
