"""What a ceremony refuses, and that it then has changed nothing that it should not have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from yubihsm.defs import CAPABILITY, COMMAND

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.ceremony import records, runner, steps
from sigsum_ops.hsm.ceremony.bench import WrongDevice, check_identity
from sigsum_ops.hsm.ceremony.records import Mode, Role
from sigsum_ops.hsm.ceremony.steps import Step
from sigsum_ops.hsm.ceremony.work import NotProven
from sigsum_ops.hsm.device import Identity, Session
from sigsum_ops.hsm.plan import DevicePlan, ObjectSpec
from sigsum_ops.hsm.rehearsal import serve
from tests.hsm.ceremony.table import SHARES, People, Table, small_plan

ALGORITHMS = frozenset(spec.algorithm for spec in small_plan().objects.values())


def identity(serial: int, part: str | None = None) -> Identity:
    return Identity(serial, (2, 4, 0), part, ALGORITHMS, 62, 0)


def stop_at(identifier: str) -> Callable[[Step], None]:
    def stop(step: Step) -> None:
        if step.id == identifier:
            raise KeyboardInterrupt

    return stop


def test_production_refuses_rehearsal_devices_and_a_rehearsal_real_ones() -> None:
    plan = small_plan()
    real = replace(plan.devices[0], serial=12345678)
    with pytest.raises(WrongDevice, match="rehearsal device"):
        check_identity(plan, plan.devices[0], identity(90000001), Mode.PRODUCTION)
    with pytest.raises(WrongDevice, match="rehearsal device"):
        check_identity(plan, real, identity(12345678, "REHEARSAL"), Mode.PRODUCTION)
    with pytest.raises(WrongDevice, match="real device"):
        check_identity(plan, real, identity(12345678), Mode.REHEARSAL)
    check_identity(plan, real, identity(12345678), Mode.PRODUCTION)


def test_a_device_must_be_what_the_plan_says() -> None:
    plan = small_plan()
    planned = replace(plan.devices[0], firmware=(2, 4, 1))
    with pytest.raises(WrongDevice, match="has firmware"):
        check_identity(plan, planned, identity(90000001), Mode.REHEARSAL)
    with pytest.raises(WrongDevice, match="is not backup-1"):
        check_identity(plan, plan.devices[0], identity(90000002), Mode.REHEARSAL)
    lacking = replace(identity(90000001), algorithms=frozenset())
    with pytest.raises(WrongDevice, match="ed25519"):
        check_identity(plan, plan.devices[0], lacking, Mode.REHEARSAL)


def test_a_production_preflight_touches_no_rehearsal_device(memory: Path) -> None:
    table = Table(memory, small_plan())
    with table.devices() as urls:
        setup = replace(table.setup(list(urls.values())), mode=Mode.PRODUCTION)
        with pytest.raises(OpsError):
            runner.perform(setup, People(), _NoSigners(), resume=False)
    assert not table.transcript.exists()


class _NoSigners:
    def public_key(self, _: object) -> str:
        return "ssh-ed25519 AAAA"

    def sign(self, _: object, __: bytes) -> str:
        raise AssertionError


def test_another_device_in_the_place_of_one_is_left_alone(memory: Path, tmp_path: Path) -> None:
    table = Table(memory, small_plan())
    with (
        table.devices() as urls,
        serve({90000099: tmp_path / "other"}) as other,
    ):
        wrong = [urls[90000001], other[90000099], urls[90000003]]
        with pytest.raises(OpsError, match="backup-2") as caught:
            table.perform(wrong, resume=False)
        assert "90000099" in caught.value.message
        table.perform(list(urls.values()), resume=True)
    assert table.verdict().ok


def test_media_of_another_ceremony_are_refused_on_resume(memory: Path) -> None:
    table = Table(memory, small_plan())
    with table.devices() as urls:
        people = People(at_step=stop_at("wrap-backup-1"))
        with pytest.raises(runner.Interrupted):
            table.perform(list(urls.values()), people, resume=False)
        for medium in table.media:
            (file,) = medium.rglob("backup-authentication.hex")
            good = file.read_bytes()
            file.write_bytes(b"00" * 32 + b"\n")
        with pytest.raises(OpsError, match="not the one that this ceremony made"):
            table.perform(list(urls.values()), resume=True)
        for medium in table.media:
            next(medium.rglob("backup-authentication.hex")).write_bytes(good)
        table.perform(list(urls.values()), resume=True)
        assert table.verdict().ok, table.verdict()


def test_a_device_whose_passphrase_was_changed_is_refused(memory: Path) -> None:
    from yubihsm.core import YubiHsm
    from yubihsm.defs import OBJECT

    table = Table(memory, small_plan())
    with table.devices() as urls:
        people = People(at_step=stop_at("wrap-backup-1"))
        with pytest.raises(runner.Interrupted):
            table.perform(list(urls.values()), people, resume=False)
        passphrase = table.secret("backup-authentication.hex").decode()
        with YubiHsm.connect(urls[90000001]) as hsm:
            session = hsm.create_session_derived(100, passphrase)
            key = session.get_object(100, OBJECT.AUTHENTICATION_KEY)
            key.change_password("another")
        with pytest.raises(OpsError, match="does not accept this passphrase"):
            table.perform(list(urls.values()), resume=True)


def test_a_corrupted_wrap_blob_is_refused_and_mended_by_resume(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(memory, small_plan())
    export = Session.export_wrapped

    def corrupt(self: Session, *arguments: object) -> bytes:
        blob = bytearray(export(self, *arguments))  # type: ignore[arg-type]
        blob[40] ^= 1
        return bytes(blob)

    with table.devices() as urls:
        monkeypatch.setattr(Session, "export_wrapped", corrupt)
        with pytest.raises(OpsError):
            table.perform(list(urls.values()), resume=False)
        monkeypatch.undo()
        assert not any(
            step.id.startswith("keys-backup-2") and step.id in _done(table)
            for step in steps.derive(table.plan)
        )
        table.perform(list(urls.values()), resume=True)
        assert table.verdict().ok, table.verdict()


def _done(table: Table) -> set[str]:
    from sigsum_ops.hsm.ceremony.history import History
    from sigsum_ops.hsm.ceremony.transcript import decode_all

    lines = decode_all(table.transcript.read_bytes())
    return History(line.record for line in lines).done


def test_nothing_irreversible_without_both_phrases(memory: Path) -> None:
    class Hesitant(People):
        def confirm(self, step: Step, role: Role, people: Sequence[str]) -> tuple[str, str]:
            if step.irreversible and role == Role.WITNESS:
                return "wim", "no"
            return super().confirm(step, role, people)

    table = Table(memory, small_plan())
    with table.devices() as urls:
        with pytest.raises(OpsError, match="the witness did not confirm"):
            table.perform(list(urls.values()), Hesitant(), resume=False)
        names = [getattr(record, "command", "") for record in table.records()]
        assert "reset-device" not in names


def test_a_device_that_keeps_another_capability_is_not_locked(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison with the plan is by what the device says, not by what it was told."""
    put = Session.put_authentication_key

    def careless(self: Session, spec: ObjectSpec, passphrase: bytearray) -> int:
        if spec.name == "log-authentication":
            spec = replace(spec, capabilities=spec.capabilities | CAPABILITY.GET_LOG_ENTRIES)
        return put(self, spec, passphrase)

    monkeypatch.setattr(Session, "put_authentication_key", careless)
    table = Table(memory, small_plan())
    with table.devices() as urls, pytest.raises(NotProven):
        table.perform(list(urls.values()), resume=False)
    deleted = [
        record.parameters.id
        for record in table.records()
        if isinstance(record, records.Command)
        and (record.command, record.serial) == ("delete-object", 90000003)
    ]
    assert 100 not in deleted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.media[1].rmdir(), "not a directory"),
        (lambda t: t.credentials.rmdir(), "not a directory"),
    ],
)
def test_missing_media_are_refused_before_anything_begins(
    memory: Path, change: Callable[[Table], None], message: str
) -> None:
    table = Table(memory, small_plan())
    setup = table.setup(["http://127.0.0.1:1"])
    change(table)
    with pytest.raises(UsageError, match=message):
        runner.perform(setup, People(), _NoSigners(), resume=False)
    assert not table.transcript.exists()


def test_one_directory_is_not_two_media(memory: Path) -> None:
    table = Table(memory, small_plan(backup=SHARES))
    setup = table.setup([])
    setup = replace(setup, media=[setup.media[0]] * 3)
    with pytest.raises(UsageError, match="same directory"):
        runner.perform(setup, People(), _NoSigners(), resume=False)


def test_a_device_whose_keys_nobody_has_is_erased_by_hand(memory: Path) -> None:
    from yubihsm.core import YubiHsm
    from yubihsm.defs import OBJECT

    def change(url: str, old: str, new: str) -> None:
        with YubiHsm.connect(url) as hsm, hsm.create_session_derived(1, old) as session:
            session.get_object(1, OBJECT.AUTHENTICATION_KEY).change_password(new)

    table = Table(memory, small_plan())
    with table.devices() as urls:
        change(urls[90000001], "password", "forgotten")
        with pytest.raises(OpsError, match="does not take the factory's password"):
            table.perform(list(urls.values()), resume=False)

        class Toucher(People):
            def reset_by_touch(self, device: DevicePlan) -> None:
                change(urls[device.serial], "forgotten", "password")

        table.perform(list(urls.values()), Toucher(), resume=True)
    assert table.verdict().ok, table.verdict()


def test_no_command_outside_the_ceremonys_own_is_recorded() -> None:
    from sigsum_ops.hsm.ceremony.recording import command
    from sigsum_ops.hsm.device import Exchange

    with pytest.raises(ValueError, match="no place"):
        command(90000001, Exchange(1, COMMAND.SIGN_ECDSA, (1, b""), b"", None), lambda _: None)
