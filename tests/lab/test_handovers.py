"""The parts of the handover drill that need no lab: what it measures, and that it sees a loss."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from sigsum_ops import cli
from sigsum_ops.errors import OpsError
from sigsum_ops.lab import drill, handovers
from sigsum_ops.lab.drill import Load, Plan
from sigsum_ops.lab.handovers import Handover, lines, longest
from sigsum_ops.lab.lab import Lab
from tests.lab.test_drill import serving
from tests.log.conftest import MemoryLog


def test_longest_time_between() -> None:
    assert longest([1.0, 1.5, 4.0, 4.1]) == 2.5


async def test_a_leaf_that_one_machine_refuses_is_given_to_the_other() -> None:
    ends = [MemoryLog(answer_add_leaf=lambda _n: 500), MemoryLog()]
    load = Load("a", 5, 100.0)
    async with AsyncExitStack() as stack:
        refusing, taking = [await stack.enter_async_context(serving(log)) for log in ends]
        await asyncio.wait_for(load.submit(refusing, asyncio.Event(), taking), 20)
    assert (len(ends[0].leaves), len(ends[1].leaves)) == (0, 5)
    assert len(load.acknowledged) == len(load.noted) == 5
    assert len(load.taken) >= 5
    assert load.taken == sorted(load.taken)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Two handovers that were as given, in the verb's own result."""
    monkeypatch.setattr(handovers, "load_public_key", lambda _path: None)
    lab = cast(
        "Lab", SimpleNamespace(hosts=lambda: dict.fromkeys(drill.MACHINES, ""), state=tmp_path)
    )

    def run(*runs: Handover) -> dict[str, Any]:
        waiting = iter(runs)

        async def one(*_: object) -> Handover:
            return next(waiting)

        monkeypatch.setattr(handovers, "_run", one)
        out = tmp_path / "out.json"
        result = handovers.handovers(Plan(len(runs)), lab=lab, out=out)
        assert json.loads(out.read_text()) == result
        return result

    return run


def good(**other: Any) -> Handover:
    times = {"seconds_refused": 8.0, "seconds_unacknowledged": 40.0, "seconds": 60.0}
    return Handover("log1", "log2", acknowledged=100, **{**times, **other})


@pytest.mark.parametrize(
    ("second", "passed"),
    [
        ({}, True),
        ({"seconds_refused": 15.1}, False),
        ({"lost": 1}, False),
        ({"violations": ["two roots"]}, False),
    ],
)
def test_it_passes_only_if_nothing_is_lost_and_the_promise_is_kept(
    two: Any, second: dict[str, Any], passed: bool
) -> None:
    assert two(good(), good(**second))["passed"] is passed


def test_the_result_for_a_person(two: Any) -> None:
    result = two(good(), good(seconds_refused=9.5, violations=["two roots"]))
    assert list(lines(result)) == [
        "2 handovers: leaves refused for 8.0 to 9.5 s",
        "2 handovers: leaves not acknowledged for 40.0 to 40.0 s",
        "at most 15 s without a leaf taken are promised",
        "200 leaves acknowledged with 200, 0 lost",
        "VIOLATION: two roots",
    ]


def test_a_lab_without_both_machines() -> None:
    lab = cast("Lab", SimpleNamespace(hosts=lambda: {"log1": ""}))
    with pytest.raises(OpsError, match="the lab has no log2"):
        handovers.handovers(Plan(1), lab=lab)


@pytest.mark.parametrize("passed", [True, False])
def test_a_result_is_told_and_decides_on_the_exit(
    passed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for as_json, said in ((False, "one\ntwo\n"), (True, '{"runs": 1}\n')):
        with pytest.raises(typer.Exit) as ended:
            cli._end({"runs": 1}, ["one", "two"], passed=passed, as_json=as_json)
        assert ended.value.exit_code == (not passed)
        assert capsys.readouterr().out == said
