"""A former primary forgets, and keeps what it signed; it can be interrupted anywhere."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from sigsum_ops.backup import quarantine
from sigsum_ops.errors import OpsError
from sigsum_ops.failover import retire as module
from sigsum_ops.failover import units
from sigsum_ops.failover.adopt import NotAdopted, Places
from sigsum_ops.log import trillian
from tests.failover.systemd import Systemd

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNITS = (
    "sigsum-log-primary.service",
    "sigsum-oracle.service",
    "trillian-log-signer.service",
    "trillian-log-server.service",
)
STATE = {"sth": "12", "tree-id": "7", "guard-evidence.json": "{}", "promotion.json": "{}"}
JOURNAL = {"journal": "signed", "latch": "why"}


class Killed(BaseException):
    """The process is no more."""


class Machine:
    """A former primary, and what is done to it: steps that change it, in their order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.places = Places(root / "sigsum-log")
        self.oracle = root / "sigsum-oracle"
        self.retired = root / "retired"
        (root / "system").mkdir()
        for directory, files in ((self.places.state, STATE), (self.oracle, JOURNAL)):
            directory.mkdir()
            for name, text in files.items():
                (directory / name).write_text(text)
        (self.oracle / "uses").write_text("how often its device was used")
        (root / "etc").mkdir()
        self.mark = root / "etc/fenced.json"
        self.mark.write_text("by a person")
        self.passphrase = root / "etc/hsm-passphrase"
        self.passphrase.write_text("secret")
        self.quarantine = root / "etc/quarantined.json"
        self.quarantine.write_text("a backup")
        monkeypatch.setattr(quarantine, "MARK", self.quarantine)
        self.tables = "the log's"
        self.steps: list[str] = []
        self.kill: tuple[int, bool] | None = None
        self.systemd = Systemd(root / "system")
        self.systemd.install(*UNITS)
        monkeypatch.setattr(module, "ORACLE", self.oracle)
        monkeypatch.setattr(module, "RETIRED", self.retired)
        monkeypatch.setattr(module, "PASSPHRASE", self.passphrase)
        monkeypatch.setattr(units, "MARK", self.mark)
        monkeypatch.setattr(units, "_systemctl", self.systemctl)
        fence = partial(units.mask, directory=root / "system", run=root / "run")
        monkeypatch.setattr(units, "mask", fence)
        monkeypatch.setattr(units, "unmask", partial(units.unmask, directory=root / "system"))
        monkeypatch.setattr(subprocess, "run", self.program)
        monkeypatch.setattr(shutil, "move", self.step("move", shutil.move))

    def step(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self.steps.append(name)
            if self.kill == (len(self.steps) - 1, False):
                raise Killed
            result = real(*arguments)
            if self.kill == (len(self.steps) - 1, True):
                raise Killed
            return result

        return step

    def systemctl(self, *arguments: str) -> str:
        if arguments[0] == "show":
            return self.systemd(*arguments)
        said: str = self.step(arguments[0], self.systemd)(*arguments)
        return said

    def program(self, argv: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[str]:
        def drop(statement: str) -> None:
            assert statement == "DROP DATABASE IF EXISTS trillian"
            assert not self.systemd.running, "in use"
            self.tables = ""

        if argv[0] == "systemctl":
            self.systemctl(*argv[1:])
        else:
            assert argv[:2] == ("mariadb", "--execute")
            self.step("drop", drop)(argv[2])
        return subprocess.CompletedProcess(argv, 0, "", "")

    def retire(self, minutes: int = 0, kill: tuple[int, bool] | None = None) -> Path | None:
        self.steps.clear()
        self.kill = kill
        return module.retire(self.places, NOW + timedelta(minutes=minutes))

    @property
    def kept(self) -> dict[str, str]:
        """All that was put aside, in one run or more."""
        return {path.name: path.read_text() for path in self.retired.glob("*/*")}

    def check_retired(self) -> None:
        assert self.kept == KEPT
        assert not self.passphrase.exists()
        assert list(self.places.state.iterdir()) == []
        assert [path.name for path in self.oracle.iterdir()] == ["uses"]
        assert self.tables == ""
        assert not self.mark.exists()
        assert not self.quarantine.exists()
        assert self.systemd.running == set()
        found = {path.name for path in self.systemd.directory.iterdir() if not path.is_symlink()}
        assert found == set(UNITS)  # none is masked, all are back
        assert self.systemd.enabled & set(module.PRIMARY_ONLY) == set()
        self.systemd.boot()
        assert "sigsum-log-primary.service" not in self.systemd.running


KEPT = {f"sigsum-log-{name}": text for name, text in STATE.items()}
KEPT |= {f"sigsum-oracle-{name}": text for name, text in JOURNAL.items()}
KEPT["etc-fenced.json"] = "by a person"
KEPT["sigsum-quarantined.json"] = "a backup"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_what_it_signed_is_kept_and_nothing_else(machine: Machine) -> None:
    aside = machine.retire()
    assert aside == machine.retired / "20260102T030405Z"
    assert aside.stat().st_mode & 0o777 == 0o700
    machine.check_retired()


def test_it_stops_before_it_forgets_and_starts_nothing_before_the_end(machine: Machine) -> None:
    machine.retire()
    order = [step for step in machine.steps if step in ("move", "drop", "daemon-reload", "disable")]
    assert order == [
        "daemon-reload",  # masked
        *["move"] * (len(KEPT) - 1),
        "drop",
        "move",  # the mark of what was restored
        "daemon-reload",  # and not any more
        "disable",
    ]
    assert machine.steps.index("stop") < machine.steps.index("move")


class Tree:
    """Trillian, with one tree."""

    def __init__(self, kind: str, state: str = "ACTIVE") -> None:
        self.kind, self.state = kind, state

    def get_tree(self, tree_id: int) -> trillian.Tree:
        assert tree_id == 7
        return trillian.Tree(tree_id, self.kind, self.state, "", deleted=False)


@pytest.fixture
def begun(machine: Machine) -> Machine:
    """A secondary of which the promotion came as far as its record."""
    shutil.rmtree(machine.oracle)
    for path in (machine.mark, machine.quarantine, *machine.places.state.iterdir()):
        path.unlink()
    machine.places.tree_id.write_text("tree-id=7\n")
    machine.places.promotion.write_text("{}")
    machine.systemd.install(*units.SECONDARY)
    units.mask(units.SECONDARY)
    return machine


def test_a_promotion_is_given_up(begun: Machine) -> None:
    secondary = cast("trillian.Trillian", Tree("PREORDERED_LOG"))
    assert not begun.systemd.start(units.SECONDARY[0])
    assert module.abandon(secondary, begun.places)
    assert [path.name for path in begun.places.state.iterdir()] == ["tree-id"]
    assert not begun.passphrase.exists()
    assert begun.systemd.start(units.SECONDARY[0])
    assert units.SECONDARY[0] not in begun.systemd.running
    assert not module.abandon(secondary, begun.places)


@pytest.mark.parametrize(
    ("kind", "state", "has_sth"),
    [
        ("LOG", "ACTIVE", False),
        ("LOG", "FROZEN", False),
        ("PREORDERED_LOG", "FROZEN", False),
        ("PREORDERED_LOG", "ACTIVE", True),
    ],
)
def test_what_may_be_a_primary_is_not_given_up(
    begun: Machine, kind: str, state: str, has_sth: bool
) -> None:
    if has_sth:
        begun.places.sth.touch()
    with pytest.raises(NotAdopted, match="may be a primary's"):
        module.abandon(cast("trillian.Trillian", Tree(kind, state)), begun.places)
    assert begun.places.promotion.exists()
    assert begun.passphrase.exists()
    assert not begun.systemd.start(units.SECONDARY[0])


def test_again_there_is_nothing_to_put_aside(machine: Machine) -> None:
    machine.retire()
    assert machine.retire(1) is None
    machine.check_retired()


def test_a_secondary_without_an_oracle(machine: Machine) -> None:
    for path in machine.oracle.iterdir():
        path.unlink()
    machine.oracle.rmdir()
    machine.retire()
    assert set(machine.kept) == {name for name in KEPT if not name.startswith("sigsum-oracle")}


def test_a_machine_without_a_primarys_units(machine: Machine) -> None:
    for name in module.PRIMARY_ONLY:
        (machine.systemd.directory / name).unlink()
    machine.systemd.running -= set(module.PRIMARY_ONLY)
    machine.systemd.reload()
    machine.retire()
    assert "disable" not in machine.steps


def test_what_fails_is_said_and_the_masks_stay(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(argv: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[str]:
        failed = argv[0] == "mariadb"
        return subprocess.CompletedProcess(argv, int(failed), "", "no such socket\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(OpsError, match=r"mariadb --execute: no such socket$"):
        machine.retire()
    assert not any(machine.systemd.start(name) for name in UNITS[:3])


def whole(tmp_path: Path) -> list[str]:
    """The steps of a run that is not interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(tmp_path, patch)
        machine.retire()
        return list(machine.steps)


def test_interrupted_at_each_step_and_run_again(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    steps = whole(tmp_path / "whole")
    assert len(steps) >= 12
    for index, name in enumerate(steps):
        for after in (False, True):
            directory = tmp_path / f"{index}-{name}-{after}"
            directory.mkdir()
            with pytest.MonkeyPatch.context() as patch:
                machine = Machine(directory, patch)
                with pytest.raises(Killed):
                    machine.retire(0, (index, after))
                assert machine.quarantine.exists() or not machine.tables
                if machine.tables:  # it has its past: nothing of a primary may start
                    machine.systemd.boot()
                    assert not machine.systemd.running & set(module.PRIMARY_ONLY)
                machine.retire(1)
                machine.check_retired()
