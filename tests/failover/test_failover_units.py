"""Fencing: nothing starts again by itself, by a person or by a reboot, until it is undone."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.failover import units
from tests.failover.systemd import Systemd

NAMES = ["sigsum-log-primary.service", "trillian-log-signer.service", "sigsum-hsm-check.timer"]
ABSENT = "yubihsm-connector.service"
WANTED = [*NAMES, ABSENT]


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    directory = tmp_path / "system"
    directory.mkdir()
    systemd = Systemd(directory)
    systemd.install(*NAMES)
    monkeypatch.setattr(units, "_systemctl", systemd)
    return systemd


def mask(systemd: Systemd) -> bool:
    return units.mask(WANTED, systemd.directory, systemd.directory.parent / "run")


def unmask(systemd: Systemd) -> bool:
    return units.unmask(WANTED, systemd.directory)


def content(systemd: Systemd) -> dict[str, str]:
    """The directory: links by what they point to, files by what is in them."""
    return {
        path.name: str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in systemd.directory.iterdir()
    }


MASKED = dict.fromkeys(NAMES, "/dev/null") | {
    f"{name}.fenced": f"the unit {name}\n" for name in NAMES
}
INSTALLED = {name: f"the unit {name}\n" for name in NAMES}


def check_fenced(systemd: Systemd) -> None:
    assert content(systemd) == MASKED
    assert systemd.running == set()
    assert not any(systemd.start(name) for name in NAMES)


def test_masked_and_stopped_over_a_reboot(systemd: Systemd) -> None:
    assert mask(systemd)
    check_fenced(systemd)
    systemd.boot()
    check_fenced(systemd)


def test_masked_before_it_is_stopped_and_all_at_once(systemd: Systemd) -> None:
    """Otherwise a restart, or one unit that wants another, starts again what was stopped."""
    mask(systemd)
    reload, *stops = systemd.calls
    assert reload == ("daemon-reload",)
    assert stops[0][0] == "stop"
    assert list(stops[0][-3:]) == NAMES
    assert stops[-1] == ("stop", *NAMES)


def test_the_proxy_sees_that_the_primary_has_gone(systemd: Systemd) -> None:
    """Masked first, systemd leaves a unit's directory in /run, by which the proxy goes."""
    run = systemd.directory.parent / "run"
    for name in ("sigsum-log-primary", "sigsum-log-secondary"):
        (run / name).mkdir(parents=True)
    mask(systemd)
    assert [path.name for path in run.iterdir()] == ["sigsum-log-secondary"]


def test_again_changes_nothing(systemd: Systemd) -> None:
    mask(systemd)
    systemd.calls.clear()
    assert not mask(systemd)
    check_fenced(systemd)
    assert systemd.calls == [("daemon-reload",)]


def test_one_that_runs_all_the_same_is_stopped_again(systemd: Systemd) -> None:
    mask(systemd)
    systemd.running.add(NAMES[0])
    assert mask(systemd)
    check_fenced(systemd)


def test_one_that_failed_has_stopped(systemd: Systemd) -> None:
    systemd.running.clear()
    systemd.failed = {NAMES[0]}
    assert mask(systemd)
    check_fenced(systemd)
    assert systemd.calls == [("daemon-reload",)]


def test_one_that_cannot_be_stopped_is_said(systemd: Systemd) -> None:
    systemd.stubborn = {NAMES[0]}
    with pytest.raises(OpsError, match=rf"for good: {NAMES[0]} is masked and active$"):
        mask(systemd)


def test_one_that_could_be_started_is_said(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "reload", lambda: None)
    with pytest.raises(OpsError, match=f"{NAMES[0]} is loaded and inactive; {NAMES[1]} is loaded"):
        mask(systemd)


def test_a_unit_that_is_not_on_this_machine_gets_no_link(systemd: Systemd) -> None:
    mask(systemd)
    assert not (systemd.directory / ABSENT).is_symlink()
    assert list(units.show(WANTED)) == NAMES


def test_a_packages_unit_has_no_file_to_put_aside(systemd: Systemd) -> None:
    (systemd.directory / NAMES[0]).unlink()  # it is in /usr/lib, and known
    assert mask(systemd)
    assert (systemd.directory / NAMES[0]).readlink() == Path("/dev/null")
    unmask(systemd)
    assert NAMES[0] not in content(systemd)


def test_undone_the_files_are_back_and_nothing_was_started(systemd: Systemd) -> None:
    mask(systemd)
    assert unmask(systemd)
    assert content(systemd) == INSTALLED
    assert systemd.running == set()
    assert all(systemd.start(name) for name in NAMES)  # systemd has read them again
    assert not unmask(systemd)
    assert content(systemd) == INSTALLED


def test_what_a_role_wrote_meanwhile_stays(systemd: Systemd) -> None:
    mask(systemd)
    path = systemd.directory / NAMES[0]
    path.unlink()
    path.write_text("newer\n")
    unmask(systemd)
    assert content(systemd) == {**INSTALLED, NAMES[0]: "newer\n"}


def dies(monkeypatch: pytest.MonkeyPatch, at: tuple[int, bool] | None) -> list[str]:
    """Let the process die at that change of the disk or of systemd, before or after it."""
    steps: list[str] = []

    def wrap(owner: Any, name: str, what: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def step(*arguments: Any, **options: Any) -> Any:
            if what == "systemctl" and arguments[0] == "show":
                return real(*arguments)
            steps.append(arguments[0] if what == "systemctl" else what)
            if at == (len(steps) - 1, False):
                raise Killed
            result = real(*arguments, **options)
            if at == (len(steps) - 1, True):
                raise Killed
            return result

        monkeypatch.setattr(owner, name, step)

    for name in ("rename", "replace", "symlink_to", "unlink"):
        wrap(Path, name, name)
    wrap(units, "_systemctl", "systemctl")
    return steps


MASKING = [*["rename", "symlink_to"] * 3, "daemon-reload", "stop", "kill", "stop"]


def test_the_steps_of_masking(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = dies(monkeypatch, None)
    mask(systemd)
    assert steps == MASKING


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("index", range(len(MASKING)), ids=lambda n: f"{n}-{MASKING[n]}")
def test_masking_is_interrupted_and_run_again(systemd: Systemd, index: int, after: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        dies(patch, (index, after))
        with pytest.raises(Killed):
            mask(systemd)
    mask(systemd)
    check_fenced(systemd)
    unmask(systemd)
    assert content(systemd) == INSTALLED


@pytest.mark.parametrize(
    ("load", "active", "wrong"),
    [
        ("masked", "inactive", False),
        ("masked", "failed", False),
        ("masked", "active", True),
        ("masked", "deactivating", True),
        ("loaded", "inactive", True),
        ("loaded", "failed", True),
    ],
)
def test_what_contradicts_a_fence(load: str, active: str, wrong: bool) -> None:
    found = units.stopped({"a.service": {"LoadState": load, "ActiveState": active}})
    assert found == ([f"a.service is {load} and {active}"] if wrong else [])


def test_what_systemctl_says_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program of that name; its blocks are as systemd 257 prints them."""
    program = tmp_path / "systemctl"
    blocks = [
        "Id=a.service\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n",
        "Id=b.service\nLoadState=not-found\nActiveState=inactive\nUnitFileState=\n",
        "Id=c.service\nLoadState=masked\nActiveState=failed\nUnitFileState=masked\n",
    ]
    (tmp_path / "shown").write_text("\n".join(blocks))
    program.write_text(
        "#!/bin/sh\n"
        'test "$1" = show || { echo "no $1" >&2; exit 5; }\n'
        f"while read -r line; do echo \"$line\"; done <'{tmp_path}/shown'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert units.show(["a.service", "b.service", "c.service"]) == {
        "a.service": {
            "LoadState": "loaded",
            "ActiveState": "active",
            "UnitFileState": "enabled",
        },
        "c.service": {"LoadState": "masked", "ActiveState": "failed", "UnitFileState": "masked"},
    }
    with pytest.raises(OpsError, match="systemctl daemon-reload: no daemon-reload"):
        units.unmask([_masked(tmp_path)], tmp_path)


def _masked(directory: Path) -> str:
    (directory / "a.service").symlink_to("/dev/null")
    return "a.service"


# The mark


def test_the_first_mark_stays(tmp_path: Path) -> None:
    path = tmp_path / "fenced.json"
    assert units.read_mark(path) is None
    assert units.mark({"promoted": "log2", "by": "a person"}, path)
    assert not units.mark({"promoted": "log3"}, path)
    assert units.read_mark(path) == {"promoted": "log2", "by": "a person"}
    assert json.loads(path.read_text())["promoted"] == "log2"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b"\xff\xfe"])
def test_a_mark_that_cannot_be_read_is_one(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fenced.json"
    path.write_bytes(data)
    assert units.read_mark(path) == {"unreadable": str(path)}
    assert not units.mark({"promoted": "log3"}, path)


def test_who_listens_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # and does not listen
        ports = [server.getsockname()[1], other.getsockname()[1]]
        assert units.listening("127.0.0.1", ports) == [ports[0]]
    assert units.listening("127.0.0.1", ports, 0.2) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("index", range(5))
def test_unmasking_is_interrupted_and_run_again(
    systemd: Systemd, index: int, *, after: bool
) -> None:
    """No unit's file is lost, and systemd learns of each."""
    mask(systemd)
    with pytest.MonkeyPatch.context() as patch:
        dies(patch, (index, after))
        with pytest.raises(Killed):
            unmask(systemd)
    unmask(systemd)
    assert content(systemd) == INSTALLED
    assert all(systemd.start(name) for name in NAMES)
