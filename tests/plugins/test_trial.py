"""trial: settings that may cut the controller off are undone unless it comes back."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plugins.modules.trial import Trial, TrialError


class Machine:
    """What of a machine it needs: what is in force, and systemd's timer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file, self.kept = root / "wanted", root / "kept"
        self.calls: list[str] = []
        self.armed: Sequence[str] | None = None
        self.force = root / "in-force"
        self.refuses = False

    @property
    def params(self) -> dict[str, Any]:
        return {
            "name": "rules",
            "file": str(self.file),
            "kept": str(self.kept),
            "take": ["cp", "%s", str(self.force)],
            "there": ["test", "-e", str(self.force)],
            "clear": ["rm", str(self.force)],
            "seconds": 45,
        }

    def trial(self) -> Trial:
        return Trial(self.params, self.run, self.root)

    def run(self, *argv: str) -> str:
        self.calls.append(argv[0])
        if argv[0] == "systemctl":
            if argv[1] == "stop":
                self.armed = None
            elif argv[2] == "--property=LoadState":
                return f"LoadState={'loaded' if self.armed else 'not-found'}\n"
            return "ActiveState=inactive\n"
        if argv[0] == "systemd-run":
            assert self.armed is None
            assert "--on-active=45s" in argv
            self.armed = argv[argv.index("--") + 1 :]
            return ""
        if argv[0] == "cp" and self.refuses:
            self.force.write_text("half of it\n")
            raise TrialError("cp (1): syntax error")
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            raise TrialError(done.stderr)
        return done.stdout

    def time_out(self) -> None:
        """The controller has not come back."""
        assert self.armed
        subprocess.run(self.armed, check=True)
        self.armed = None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.file.write_text("first\n")
    return machine


@pytest.fixture
def kept(machine: Machine) -> Machine:
    """One on which the first was kept, and another is wanted."""
    machine.trial().begin()
    machine.trial().end()
    machine.file.write_text("second\n")
    machine.calls.clear()
    return machine


def test_it_is_kept_if_the_controller_comes_back(machine: Machine) -> None:
    assert machine.trial().changes
    assert not machine.trial().begin()
    assert machine.armed
    assert not machine.kept.exists()
    machine.trial().end()
    assert machine.armed is None
    assert machine.kept.read_text() == machine.force.read_text() == "first\n"
    assert machine.kept.stat().st_mode & 0o777 == 0o600
    assert not machine.trial().changes


def test_the_first_is_cleared_if_it_does_not(machine: Machine) -> None:
    machine.trial().begin()
    machine.time_out()
    assert not machine.force.exists()
    assert machine.trial().changes


def test_another_goes_back_to_the_one_before(kept: Machine) -> None:
    kept.trial().begin()
    assert kept.force.read_text() == "second\n"
    kept.time_out()
    assert kept.force.read_text() == kept.kept.read_text() == "first\n"


def test_who_comes_too_late_keeps_nothing(kept: Machine) -> None:
    kept.trial().begin()
    kept.time_out()
    with pytest.raises(TrialError, match="was undone after 45 s"):
        kept.trial().end()
    assert kept.kept.read_text() == "first\n"


def test_it_is_armed_before_it_is_taken_in(kept: Machine) -> None:
    """A controller, or a module, that dies in between leaves what undoes it."""
    kept.trial().begin()
    assert kept.calls.index("systemd-run") < kept.calls.index("cp")


def test_what_is_refused_is_not_on_trial(kept: Machine) -> None:
    kept.refuses = True
    with pytest.raises(TrialError, match="syntax error"):
        kept.trial().begin()
    assert kept.armed is None
    with pytest.raises(TrialError):
        kept.trial().end()
    assert kept.force.read_text() == kept.kept.read_text() == "first\n"


def test_one_that_nobody_kept_is_undone_before_the_next(kept: Machine) -> None:
    """As after a controller that died."""
    kept.trial().begin()
    kept.file.write_text("third\n")
    assert kept.trial().begin()
    assert kept.force.read_text() == "third\n"
    kept.time_out()
    assert kept.force.read_text() == "first\n"


def test_what_is_kept_is_what_was_tried(kept: Machine) -> None:
    kept.trial().begin()
    kept.file.write_text("written since, by somebody else\n")
    kept.trial().end()
    assert kept.kept.read_text() == "second\n"
    assert kept.trial().changes


def test_what_was_taken_out_of_force_is_tried_again(kept: Machine) -> None:
    kept.file.write_text("first\n")
    assert not kept.trial().changes
    kept.force.unlink()
    assert kept.trial().changes


def test_a_new_machine_in_check_mode(machine: Machine) -> None:
    machine.file.unlink()
    assert not machine.trial().changes


def test_a_name_is_no_command(machine: Machine) -> None:
    with pytest.raises(TrialError, match="letters and hyphens"):
        Trial({**machine.params, "name": "a/b"}, machine.run, machine.root)
