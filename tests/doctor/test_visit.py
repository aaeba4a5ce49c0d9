"""The verb: what the playbook prints is judged, with what the log answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.doctor import visit
from sigsum_ops.doctor.judge import Finding
from sigsum_ops.errors import OpsError
from sigsum_ops.packages import own
from sigsum_ops.site import ansible
from tests.doctor.test_judge import facts, look
from tests.failover.world import KEY

LOG = {"key": KEY.ssh, "url": "http://log.example:6965/", "policy": ""}


def told(name: str, **more: Any) -> dict[str, Any]:
    return {
        "machine": name,
        "role": "",
        "permit": "",
        "ours": True,
        "answers": True,
        "package": own.recipe().version,
        "limited": False,
        "facts": {},
        "why": "",
        "log": {},
        **more,
    }


Play = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """The playbook prints this; returns what the log was asked."""

    def play(*machines: dict[str, Any], size: int = 8) -> list[tuple[Any, ...]]:
        output = "".join(
            f'ok: [{each["machine"]}] => {{"changed": false}}\n'
            f"ok: [{each['machine']}] => {json.dumps({'msg': each})}\n"
            for each in machines
        )
        asked: list[tuple[Any, ...]] = []

        def run(*_: str, inventory: Path | None) -> CompletedProcess[str]:
            del inventory
            return CompletedProcess([], 0 if machines else 4, output, "no hosts")

        def ask(*arguments: Any) -> dict[str, Any]:
            asked.append(arguments)
            return {"names": [], "size": size, "quorum": True, "cosigned": {}, "waited": 1.0}

        monkeypatch.setattr(ansible, "run", run)
        monkeypatch.setattr(visit, "check", lambda _inventory: [])
        monkeypatch.setattr(visit, "ask", ask)
        return asked

    return play


def site() -> tuple[dict[str, Any], dict[str, Any]]:
    """A healthy pair; the metrics' times are as old as the test, which is another matter."""
    pair = []
    for name, role in (("log1", "primary"), ("log2", "secondary")):
        its = facts(look(role)) | {"metrics": {}, "certificates": {}}
        its["time"] = time.time()
        pair.append(told(name, role=role, facts=its, log=LOG))
    return pair[0], pair[1]


def test_a_healthy_site(play: Play) -> None:
    asked = play(*site())
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, result.output) == (0, "Nothing is found.\n")
    ((url, key, policy, size),) = asked
    assert (url, key, policy, size) == (LOG["url"], KEY, None, 8)


def test_a_fault(play: Play) -> None:
    primary, _ = site()
    play(
        primary,
        told("log2", role="secondary", log=LOG, answers=False, why="Connection refused"),
        size=7,
    )
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert not found["ok"]
    assert [each["name"] for each in found["findings"]] == ["not-growing", "no-answer"]
    assert found["findings"][1]["what"] == "Connection refused"


def test_another_url(play: Play) -> None:
    asked = play(*site())
    CliRunner().invoke(app, ["doctor", "--url", "http://192.0.2.1:6965/"])
    assert asked[0][0] == "http://192.0.2.1:6965/"


def test_nobody_could_be_asked(play: Play) -> None:
    play()
    with pytest.raises(OpsError, match="could not be asked"):
        visit.visit(None)


def test_people_read_what_and_how() -> None:
    finding = Finding("disk", "log1", "/ is 95 % full", "docs/bcp/capacity.md")
    lines = list(visit.lines([finding]))
    assert lines == ["PAGE   disk: log1: / is 95 % full", "       docs/bcp/capacity.md"]
