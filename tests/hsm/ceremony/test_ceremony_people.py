"""What people see and are asked, and how they sign."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.ceremony import bench, replay, runner, signatures, steps
from sigsum_ops.hsm.ceremony.media import Medium, check_media
from sigsum_ops.hsm.ceremony.presentation import Terminal, TerminalSigners, hash_table
from sigsum_ops.hsm.ceremony.records import Mode, Role
from sigsum_ops.hsm.ceremony.verify import verify
from tests.hsm.ceremony.table import Table, small_plan


class Typed(Console):
    """A terminal at which the answers are known; what it shows is kept."""

    def __init__(self, answers: Iterable[str] = ()) -> None:
        self.shown = io.StringIO()
        super().__init__(file=self.shown, width=100, highlight=False)
        self._answers = iter(answers)

    def input(self, prompt: object = "", **_: object) -> str:
        self.print(prompt)
        answer = next(self._answers, None)
        if answer is None:
            raise EOFError
        return answer


def test_a_whole_ceremony_at_a_terminal(memory: Path) -> None:
    table = Table(memory, small_plan())
    derived = steps.derive(table.plan)
    typed = [step.phrase for step in derived if step.phrase for _ in Role]
    # Once somebody mistypes.
    console = Typed([typed[0], "the plan is fine", *typed[1:]])
    with table.devices() as urls:
        table.perform(list(urls.values()), Terminal(console), resume=False)
    assert table.verdict().ok
    shown = console.shown.getvalue()
    for number, step in enumerate(derived, 1):
        assert f"Step {number} of {len(derived)}: {step.title}" in shown
    assert shown.count("This cannot be undone.") == sum(step.irreversible for step in derived)
    assert "That was not the phrase" in shown
    assert "REHEARSAL" in shown


def test_a_device_that_is_not_there_is_asked_for(memory: Path) -> None:
    table = Table(memory, small_plan())
    typed = [step.phrase or "" for step in steps.derive(table.plan)[:2] for _ in Role]
    console = Typed(typed)
    with table.devices() as urls, pytest.raises(OpsError, match="nobody answers"):
        table.perform([urls[90000003]], Terminal(console), resume=False)
    shown = console.shown.getvalue()
    assert "Plug in backup-1, YubiHSM 90000001" in shown
    assert "Found: YubiHSM 90000003" in shown


def test_a_hash_is_shown_as_bytes_and_as_words() -> None:
    console = Typed()
    console.print(hash_table("00ff" * 16))
    assert console.shown.getvalue().split("\n")[0].split() == [
        *("00", "ff", "00", "ff"),
        *("aardvark", "Yucatan", "aardvark", "Yucatan"),
    ]


def test_participants_sign_with_keys_of_their_own(tmp_path: Path) -> None:
    person = small_plan().participants[0]
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    console = Typed([str(tmp_path / "nothing"), str(key)])
    signers = TerminalSigners(console)
    with pytest.raises(UsageError, match="public_key of olga"):
        signers.public_key(person)
    assert signers.public_key(replace(person, public_key=public)) == public
    (tmp_path / "olga.sig").write_text(signers.sign(person, b"line"))
    (tmp_path / "allowed").write_text(signatures.allowed_signers_line("olga", public))
    arguments = (tmp_path / "olga.sig", "olga", tmp_path / "allowed")
    assert signatures.problem(b"line", *arguments) is None
    assert signatures.problem(b"another line", *arguments)
    assert "did not sign" in console.shown.getvalue()


def _check_media(
    paths: Sequence[Path], count: int, *, apart: bool, expected: bool
) -> tuple[Medium, ...]:
    assert apart is expected
    return check_media(paths, count, apart=False)


def test_production_is_signed_with_the_keys_that_the_plan_names(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it, on devices and media that are taken for real ones here."""
    for module in (bench, replay, runner):
        monkeypatch.setattr(module, "is_rehearsal", lambda *_: False)
    monkeypatch.setattr(replay, "REHEARSAL_SUBJECT", "nobody")
    monkeypatch.setattr(runner, "swap_areas", list)
    monkeypatch.setattr(
        runner,
        "check_media",
        lambda paths, count, apart: check_media(paths, count, apart=not apart),
    )
    keys = [memory / name for name in ("olga", "wim")]
    for key in keys:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    plan = small_plan()
    people = tuple(
        replace(person, public_key=" ".join(key.with_suffix(".pub").read_text().split()[:2]))
        for person, key in zip(plan.participants, keys, strict=True)
    )
    table = Table(memory, replace(plan, participants=people))
    typed = [step.phrase for step in steps.derive(table.plan) if step.phrase for _ in Role]
    with table.devices() as urls:
        setup = replace(table.setup(list(urls.values())), mode=Mode.PRODUCTION)
        # The wrong person's key first: it is refused, and “resume” asks for signatures only.
        console = Typed([*typed, str(keys[1])])
        with pytest.raises(OpsError, match="the signature of olga does not count"):
            runner.perform(setup, Terminal(console), TerminalSigners(console), resume=False)
        console = Typed(map(str, keys))
        runner.perform(setup, Terminal(console), TerminalSigners(console), resume=True)
    signers = memory / "mine"
    signers.write_text(
        "".join(signatures.allowed_signers_line(p.name, p.public_key or "") for p in people)
    )
    found = verify(table.transcript, allowed_signers=signers, plan=table.plan, rehearsal=False)
    assert found.ok, found
    assert found.mode == "production"
