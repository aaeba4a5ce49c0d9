"""The parts of the failover drill that need no lab: what it submits, and that it sees a loss."""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestServer

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.lab import drill, timeline
from sigsum_ops.lab.controller import Controller, Moment, Strike, never
from sigsum_ops.lab.drill import DEATHS, FENCED, Load, Plan, Run, lines
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.loadgen import Heads
from tests.log.conftest import MemoryLog

LEAVES = [bytes([number]) * 128 for number in range(20)]


@asynccontextmanager
async def serving(log: MemoryLog) -> AsyncIterator[LogClient]:
    """The log on loopback, and a client of it."""
    server = TestServer(log.application())
    await server.start_server()
    publishing = asyncio.create_task(log.publish_for_ever())
    log.url = str(server.make_url("/"))
    async with LogClient(log.url, timeout=2) as client:
        yield client
    publishing.cancel()
    await server.close()


def still(leaves: list[bytes], size: int | None = None, **faults: Any) -> MemoryLog:
    """A log of these leaves that publishes nothing more."""
    log = MemoryLog(interval=3600, **faults)
    for leaf in leaves:
        log.add(leaf)
    log.size = len(leaves) if size is None else size
    return log


@pytest.fixture(autouse=True)
def _addresses_are_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "url", lambda address: address)


# The load


async def loaded(
    log: MemoryLog,
    load: Load,
    seconds: float | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> float:
    """Submit until all is acknowledged, or there is enough, or for so long; returns how long.

    A busy machine may do nothing for a while: what must have happened is waited for.
    """
    stop, begun = asyncio.Event(), time.monotonic()

    async def watch() -> None:
        while not enough():
            await asyncio.sleep(0.005)
        stop.set()

    async with serving(log) as client:
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, stop.set)
        watching = asyncio.create_task(watch())
        await asyncio.wait_for(load.submit(client, stop), 20)
        watching.cancel()
        return time.monotonic() - begun


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "RATE", 500.0)


@pytest.mark.usefixtures("_fast")
async def test_every_leaf_is_submitted_until_it_is_acknowledged() -> None:
    log, load = MemoryLog(), Load("a", 30)
    await loaded(log, load)
    assert sorted(load.acknowledged) == sorted(load.leaves)
    assert {leaf.leaf_hash for leaf in load.leaves} == set(log.index)
    assert len(log.requests) >= 60  # accepted first, asked for again


@pytest.mark.usefixtures("_fast")
async def test_a_refusal_is_not_the_end() -> None:
    log, load = MemoryLog(answer_add_leaf=lambda n: 500 if n < 15 else None), Load("a", 10)
    await loaded(log, load)
    assert len(load.acknowledged) == 10


@pytest.mark.usefixtures("_fast")
async def test_what_was_only_accepted_is_not_acknowledged() -> None:
    log, load = MemoryLog(interval=3600), Load("a", 10)
    await loaded(log, load, enough=lambda: len(log.leaves) == 10)
    assert load.acknowledged == []


@pytest.mark.usefixtures("_fast")
async def test_a_log_that_died_acknowledges_nothing_and_stops_nobody() -> None:
    load, stop = Load("a", 5), asyncio.Event()
    async with LogClient("http://127.0.0.1:1/") as client:
        asyncio.get_running_loop().call_later(0.3, stop.set)
        await asyncio.wait_for(load.submit(client, stop), 5)
    assert load.acknowledged == []


async def test_leaves_come_at_an_even_rate() -> None:
    log, load = MemoryLog(answer_add_leaf=lambda _n: 200), Load("a", 40)
    took = await loaded(log, load, enough=lambda: len(log.requests) >= 5)
    assert took >= 4 / drill.RATE  # one each 50 ms, and the first at once
    assert len(log.requests) < 40
    assert await loaded(MemoryLog(answer_add_leaf=lambda _n: 200), Load("b", 5)) >= 4 / drill.RATE


async def test_it_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "RATE", 0.2)
    assert await loaded(MemoryLog(), Load("a", 3), seconds=0.1) < 2


def test_a_seed_is_its_leaves() -> None:
    assert Load("a", 3).leaves == Load("a", 3).leaves != Load("b", 3).leaves


# What is seen from outside


async def looked(client: LogClient, log: MemoryLog) -> Heads:
    heads = Heads(client, log.key)
    await heads.look()
    return heads


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("lost", [set[int](), {3}, {0, 5, 9}])
async def test_a_leaf_that_was_acknowledged_and_is_not_there_is_lost(lost: set[int]) -> None:
    log, load = MemoryLog(forget=lambda n: n in lost), Load("a", 20)
    await loaded(log, load)
    assert len(load.acknowledged) == 20
    log.size = len(log.leaves)
    async with serving(log) as client:
        assert await drill.missing(client, await looked(client, log), load) == len(lost)


@pytest.mark.usefixtures("_fast")
async def test_a_proof_that_leads_elsewhere_is_none() -> None:
    log, load = MemoryLog(), Load("a", 5)
    await loaded(log, load)
    log.size = len(log.leaves)
    async with serving(log) as client:
        heads = await looked(client, log)
        log.answer = "leaf_index=0\n" + f"node_hash={'00' * 32}\n" * 3
        assert await drill.missing(client, heads, load) == 5


@pytest.mark.parametrize(
    ("old", "new", "violations"),
    [
        (LEAVES[:5], LEAVES[:9], 0),
        (LEAVES[:9], LEAVES[:9], 0),
        (LEAVES[:9], LEAVES[:8], 1),
        (LEAVES[:9], [b"x" * 128, *LEAVES[1:9]], 1),
        (LEAVES[:5], [b"x" * 128, *LEAVES[1:9]], 1),
    ],
    ids=["extended", "same", "smaller", "fork of the same size", "larger fork"],
)
async def test_what_the_old_primary_had_published_is_extended(
    old: list[bytes], new: list[bytes], violations: int
) -> None:
    run = Run("log1", "log2", death="power cut")
    before = still(old)
    async with serving(before) as client:
        published = (await looked(client, before)).latest
    log = still(new)
    async with serving(log) as client:
        await drill.extends(client, published, await looked(client, log), run, "the past")
    assert len(run.violations) == violations
    assert all("log2 does not extend the past" in text for text in run.violations)
    assert any("size 8 is smaller than 9" in text for text in run.violations) is (len(new) == 8)


@pytest.mark.parametrize(
    ("old", "violated"),
    [
        (still(LEAVES[:9]), False),
        (still(LEAVES[:5]), False),
        (still(LEAVES[:10]), True),
        (still([b"x" * 128, *LEAVES[1:9]]), True),
        (still([b"x" * 128, *LEAVES[1:5]]), True),
        (still(LEAVES[:9], answer="not up yet\n"), False),
    ],
    ids=["same", "older", "larger", "fork", "older fork", "silent"],
)
async def test_an_old_primary_that_is_back_shows_nothing_new(
    monkeypatch: pytest.MonkeyPatch, old: MemoryLog, violated: bool
) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(drill, "asyncio", SimpleNamespace(sleep=lambda _seconds: sleep(0)))
    run, new = Run("log1", "log2", death="power cut"), still(LEAVES[:9])
    async with serving(old), serving(new) as client:
        heads = await looked(client, new)
        await drill._repeats_only(client, old.url, new.key, heads, run)
    assert bool(run.violations) is violated


async def test_the_primary_is_the_one_that_publishes() -> None:
    one, two = still([]), still([], answer="no tree head\n")
    async with serving(one), serving(two):
        assert await drill.primary({"log1": one.url, "log2": two.url}, one.key) == "log1"
        assert await drill.primary({"log1": two.url, "log2": one.url}, one.key) == "log2"
        with pytest.raises(OpsError, match="log1 and log2 answers as primary"):
            await drill.primary({"log1": one.url, "log2": one.url}, one.key)
        with pytest.raises(OpsError, match="no machine answers as primary"):
            await drill.primary({"log1": two.url, "log2": two.url}, one.key)


async def test_the_moments_of_a_new_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    """It signs first and accepts later; both are told, in seconds from the death."""
    monkeypatch.setattr(drill, "asyncio", SimpleNamespace(sleep=lambda _s: asyncio.sleep(0.05)))
    log = still([], answer_add_leaf=lambda n: 500 if n < 3 else None)
    run = Run("log1", "log2", death="power cut")
    async with serving(log) as client:
        await drill._first_signature(client, log.key, time.monotonic() - 10, run)
    assert run.seconds_to_sign is not None
    assert run.seconds_to_accept is not None
    assert 10 <= run.seconds_to_sign < run.seconds_to_accept < 15
    assert len(log.leaves) == 1


async def test_a_death_is_detected_when_a_submission_fails() -> None:
    run = Run("log1", "log2", death="power cut")
    log = still([], answer_add_leaf=lambda n: 500 if n == 2 else None)
    async with serving(log):
        await drill._detected(log.url, time.monotonic() - 5, run)
    assert run.seconds_to_detect is not None
    assert 5.2 <= run.seconds_to_detect < 9


async def test_a_death_that_nobody_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "NOTICED", 0.5)
    run, log = Run("log1", "log2", death="its database's disk full"), still([])
    async with serving(log):
        await drill._detected(log.url, time.monotonic(), run)
    assert run.seconds_to_detect is None


# What dies beside the old primary


class Struck(Controller):
    """Playbooks of five steps, and what was done, in its order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        machine = SimpleNamespace(
            kill=lambda name: self.done.append(f"kill {name}"),
            start=lambda name: self.done.append(f"start {name}"),
        )
        super().__init__(cast("Lab", machine))

    async def run(
        self,
        playbook: str,
        target: str,
        *arguments: str,
        strike: Strike = never,
        runs_for: float = 0.5,
    ) -> Moment | None:
        assert drill.STEP[0] <= runs_for <= drill.STEP[1]
        for number in range(1, 6):
            if strike(moment := Moment(f"step {number}", ended=True)):
                self.done.append(f"{playbook} {target} died")
                return moment
        self.done.append(" ".join((playbook, target, *arguments)))
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the real one is frozen


@pytest.mark.parametrize(
    ("second", "number", "done"),
    [
        ("", 3, []),
        ("controller", 3, ["promote log2 died"]),
        ("controller and new primary", 3, ["promote log2 died", "kill log2", "start log2"]),
        ("controller", 6, ["promote log2 -e x"]),  # it was over before
    ],
)
async def test_a_procedure_that_was_struck_is_run_again(
    monkeypatch: pytest.MonkeyPatch, second: str, number: int, done: list[str]
) -> None:
    monkeypatch.setattr(drill, "SETTLE", 0.0)
    controller, run = Struck(), Run("log1", "log2", death="power cut")
    rng = cast(
        "random.Random",
        SimpleNamespace(randrange=lambda _n: number - 1, uniform=lambda low, _high: low),
    )
    await drill._struck(controller, rng, second, run, "promote", "log2", "-e", "x")
    assert controller.done == [*done, "promote log2 -e x"]
    died = bool(second) and number < 6
    assert run.struck == ([f"{second} in promote as «step 3» ended"] if died else [])


@pytest.mark.parametrize("phase", drill.PHASES, ids=lambda phase: phase.name)
def test_it_dies_in_the_phase_that_was_chosen(phase: drill.Phase) -> None:
    asked: list[tuple[str, str]] = []

    def execute(host: str, argv: list[str], **_: float) -> SimpleNamespace:
        asked.append((host, argv[-1]))
        return SimpleNamespace(returncode=0)

    drill._await_phase(cast("Lab", SimpleNamespace(exec=execute)), phase, "old", "new")
    if not phase.watch:
        assert asked == []
        return
    ((host, script),) = asked
    assert host == ("old" if phase.on_primary else "new")
    # Really waits for a change, and not for ever.
    changing = script.replace(shlex.quote(phase.watch)[1:-1], "date +%s")
    begun = time.time()
    subprocess.run(["sh", "-ec", changing], check=True, timeout=5)
    assert int(begun) < int(time.time())
    assert script.startswith("timeout 10 ")


# The plan and the result


@pytest.mark.parametrize("runs", [0, -1, 1001])
def test_a_plan_that_makes_no_sense_is_refused(runs: int) -> None:
    with pytest.raises(UsageError, match=f"-n {runs}"):
        Plan(runs).check()


@pytest.mark.parametrize("runs", [1, 1000])
def test_a_plan_that_makes_sense(runs: int) -> None:
    Plan(runs).check()


def test_deaths_have_names_and_those_that_do_not_answer_are_attested() -> None:
    assert len({death.name for death in DEATHS}) == len(DEATHS)
    assert {death.reachable for death in DEATHS} == {False, True}
    assert any(word.startswith("fenced_by=") for word in FENCED)


def finished(**fields: Any) -> Run:
    run = Run("log1", "log2", death="power cut", acknowledged=10)
    run.seconds_to_detect, run.seconds_to_decide = 0.5, 9.0
    run.seconds_to_sign, run.seconds_to_pair, run.retried = 20.0, 90.0, 3
    for name, value in fields.items():
        setattr(run, name, value)
    return run


Drilled = Callable[..., tuple[dict[str, Any], list[tuple[str, str]]]]


@pytest.fixture
def drilled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drilled:
    """A drill whose runs end as given; returns its result and the playbooks run by itself."""

    def drilled(*runs: Run) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        played: list[tuple[str, str]] = []

        async def run(
            _plan: Plan, _lab: Lab, _key: object, _rng: object, n: int, _t: object
        ) -> Run:
            return runs[n]

        async def play(_self: Controller, name: str, target: str) -> None:
            played.append((name, target))

        monkeypatch.setattr(drill, "load_public_key", lambda _path: None)
        monkeypatch.setattr(drill, "_run", run)
        monkeypatch.setattr(Controller, "run", play)
        lab = SimpleNamespace(hosts=lambda: {"log1": "", "log2": ""}, state=tmp_path)
        out = tmp_path / "result.json"
        result = drill.failover(Plan(len(runs)), lab=cast("Lab", lab), out=out)
        assert json.loads(out.read_text()) == result
        assert out.with_suffix(".svg").read_text() == timeline.draw(result["runs"])
        return result, played

    return drilled


def test_losses_and_violations_are_counted_over_all_runs(drilled: Drilled) -> None:
    result, _ = drilled(
        finished(lost=1, violations=["two roots"], seconds_to_sign=9.5, seconds_to_detect=None),
        finished(lost=2, violations=["went back", "a fork"], seconds_to_pair=120.0),
    )
    assert (result["lost_leaves"], result["split_views"]) == (3, 3)
    assert result["seconds_to_sign"] == [9.5, 20.0]
    assert list(lines(result)) == [
        "2 failovers: a signed tree head after 9.5 to 20.0 s, a pair again after 90.0 to 120.0 s",
        "no submission was taken after 0.5 to 0.5 s (in 1 of 2)",
        "all was checked after 9.0 to 9.0 s",
        "20 leaves acknowledged with 200, 6 more by the new primary",
        "lost leaves: 3; split views: 3",
        "VIOLATION: two roots",
        "VIOLATION: went back",
        "VIOLATION: a fork",
    ]


@pytest.mark.parametrize(("new", "played"), [("log1", []), ("log2", [("handover", "log1")])])
def test_it_ends_with_the_inventorys_primary(
    drilled: Drilled, new: str, played: list[tuple[str, str]]
) -> None:
    result, found = drilled(finished(), finished(new=new))
    assert found == played
    assert (result["lost_leaves"], result["split_views"]) == (0, 0)
    assert len(list(lines(result))) == 5


def test_what_was_shown_is_kept_whatever_ends_the_drill(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def run(*arguments: object) -> Run:
        if arguments[4] == 2:
            raise OpsError("a procedure failed")
        return finished()

    monkeypatch.setattr(drill, "load_public_key", lambda _path: None)
    monkeypatch.setattr(drill, "_run", run)
    lab = cast("Lab", SimpleNamespace(hosts=lambda: {"log1": "", "log2": ""}, state=tmp_path))
    with pytest.raises(OpsError, match="a procedure failed"):
        drill.failover(Plan(3), lab=lab, out=tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text())
    assert (len(written["runs"]), written["asked_for"]) == (2, 3)
    assert (tmp_path / "result.svg").exists()


def test_a_lab_without_both_machines() -> None:
    lab = cast("Lab", SimpleNamespace(hosts=lambda: {"log1": ""}))
    with pytest.raises(OpsError, match="the lab has no log2"):
        drill.failover(Plan(1), lab=lab)
