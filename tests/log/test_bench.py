"""The comparison on an in-process log whose settings a test switches, and its arithmetic."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log import bench, loadgen
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.bench import Plan, Sample
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.loadgen import Attempt, Heads, Seen, following
from sigsum_ops.log.merkle import ProofError
from sigsum_ops.log.target import Target
from sigsum_ops.site import sandbox

if TYPE_CHECKING:
    from tests.log.conftest import MemoryLog, StartLog

PLAN = Plan(seed="test", rounds=2, clients=4, warmup=0.2, window=0.6, proofs=4)
PLAYBOOK = Path(__file__).parents[2] / "playbooks" / "bench_upstream.yml"


@pytest.fixture(autouse=True)
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's interval becomes 0.3 s, and everything else in proportion."""
    monkeypatch.setattr(loadgen, "POLL", 0.01)
    monkeypatch.setattr(bench, "POLL", 0.01)
    monkeypatch.setattr(bench, "_UPSTREAM_INTERVAL", 0.3)
    monkeypatch.setattr(bench, "_STEP_LIMIT", 0.7)
    monkeypatch.setattr(bench, "_DRAIN_LIMIT", 1.5)
    monkeypatch.setattr(bench, "_SUBMIT_POLL", 0.02)
    monkeypatch.setattr(bench, "_SAMPLE", 10)
    monkeypatch.setattr(bench, "LEAVES_PER_SECOND", 400)


async def measured(log: MemoryLog) -> Sample:
    leaves = loadgen.prepare("test", 700)
    return await bench.measure(
        Target(log.url, log.key), PLAN, leaves, "ours", 0, lambda _text: None
    )


async def test_the_faster_settings_win_by_what_they_are_faster(start_log: StartLog) -> None:
    log = await start_log()
    switched: list[tuple[str, int]] = []

    def switch(side: str, round_: int) -> None:
        switched.append((side, round_))
        log.interval = 0.3 if side == "upstream" else 0.1
        log.pause = 0.12 if side == "upstream" else 0.03

    target = Target(log.url, log.key)
    samples = await bench.measure_all(target, PLAN, switch, lambda _text: None)
    result = bench.compare(samples, PLAN.sides)
    assert switched == [("upstream", 0), ("ours", 0), ("upstream", 1), ("ours", 1)]
    # Four times, but for what the machine that runs the test takes of both.
    assert 2 < result["ratio"]["accepted_per_s"] < 4.5
    assert 2 < result["ratio"]["replicated_per_s"] < 6
    assert result["ratio"]["proof_p50_s"] > 1.5
    assert 15 < result["upstream"]["accepted_per_s"] < 34  # four clients, 0.12 s each
    assert [run["unpublished"] for run in result["runs"]] == [0, 0, 0, 0]
    json.dumps(result)


async def test_a_log_that_stops_publishing_has_a_rate_of_nothing(start_log: StartLog) -> None:
    log = await start_log(pause=0.05)
    stopped = Plan(seed="test", clients=4, warmup=0.1, window=0.2)
    async with LogClient(log.url) as client:
        heads = Heads(client, log.key)
        async with following(heads):
            log.interval = 3600
            attempts: dict[int, Attempt] = {}
            leaves = loadgen.prepare("test", 400)
            # The interval that was running is the last.
            rates = await bench.rate_under_load(client, heads, stopped, leaves, attempts)
    assert rates.replicated_per_s == 0
    assert rates.steps == 0
    assert rates.accepted_per_s > 20


async def test_leaves_that_run_out_are_an_error_and_no_slow_log(start_log: StartLog) -> None:
    log = await start_log()
    async with LogClient(log.url) as client:
        heads = Heads(client, log.key)
        async with following(heads):
            with pytest.raises(OpsError, match="used up"):
                await bench.rate_under_load(client, heads, PLAN, loadgen.prepare("test", 20), {})


async def test_a_proof_takes_until_it_is_published(start_log: StartLog) -> None:
    log = await start_log(interval=0.3)
    async with LogClient(log.url) as client:
        [first, second] = loadgen.prepare("test", 2)
        for leaf in (first, second):
            took = await bench.time_proof(client, Target(log.url, log.key), leaf)
            assert 0.01 < took < 0.6


async def test_a_log_that_lies_is_not_measured(start_log: StartLog) -> None:
    log = await start_log(interval=0.1, pause=0.02, forge=lambda n: bytes(32) if n > 30 else None)
    with pytest.raises(ProofError):
        await measured(log)


async def test_a_log_that_does_not_come_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_START_LIMIT", 0.05)
    async with LogClient("http://127.0.0.1:1") as client:
        with pytest.raises(OpsError, match="127"):
            await bench.until_it_answers(Heads(client, PublicKey(bytes(32))))


def test_a_changed_setting_is_converged_and_taken_back_on_a_lab_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[object] = []

    async def measure_all(
        _target: Target, plan: Plan, switch: bench.Switch, _tell: object
    ) -> list[Sample]:
        for side in plan.sides:
            switch(side, 0)
        return [sample(side, 1, 1, [1.0]) for side in plan.sides]

    monkeypatch.setattr(
        bench, "log_of_inventory", lambda _i: Target("http://x", PublicKey(b"k" * 32))
    )
    monkeypatch.setattr(bench, "put_in_force", lambda side, _at, _i: done.append(side))
    monkeypatch.setattr(bench, "converge", lambda changes, _i: done.append(dict(changes)))
    monkeypatch.setattr(bench, "measure_all", measure_all)
    plan = Plan(seed="x", changes=bench.parse_changes(["trillian_quota_system=mysql"]))
    result = bench.execute(plan)
    # The first refuses what is no lab.
    assert done[0] == "ours"
    assert done[1:] == [{"trillian_quota_system": "mysql"}, "changed", {}, "ours", {}, "ours"]
    assert "changed" in next(bench.lines(result))


@pytest.mark.parametrize("words", [["x"], ["=1"], ["a b=1"], ["x=1", "x=2"]])
def test_a_change_that_is_none_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError, match="VARIABLE=VALUE"):
        bench.parse_changes(words)


@pytest.mark.parametrize("fails", [False, True])
def test_the_lab_is_left_with_our_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
) -> None:
    in_force: list[tuple[str, float]] = []

    async def measure_all(
        _target: Target, _plan: Plan, switch: bench.Switch, _tell: object
    ) -> list[Sample]:
        switch("upstream", 1)
        if fails:
            raise OpsError("the log is gone")
        return [sample("upstream", 1, 1, [2.0]), sample("ours", 2, 2, [1.0])]

    monkeypatch.setattr(bench, "_UPSTREAM_INTERVAL", 30.0)
    monkeypatch.setattr(
        bench, "log_of_inventory", lambda _i: Target("http://x", PublicKey(b"k" * 32))
    )
    monkeypatch.setattr(bench, "put_in_force", lambda side, at, _i: in_force.append((side, at)))
    monkeypatch.setattr(bench, "measure_all", measure_all)
    out = tmp_path / "result.json"
    if fails:
        with pytest.raises(OpsError, match="gone"):
            bench.execute(PLAN, out=out)
        assert not out.exists()
    else:
        result = bench.execute(PLAN, out=out)
        assert json.loads(out.read_text()) == result
        assert result["plan"]["seed"] == "test"
    assert [side for side, _ in in_force] == ["upstream", "ours"]
    assert in_force[0][1] == 22.5


# --- The numbers --------------------------------------------------------------------------------


def test_rates_count_what_lies_between_the_steps() -> None:
    attempts = {
        0: Attempt(0.0, 9.0, "202"),
        1: Attempt(9.0, 10.5, "202"),
        2: Attempt(10.0, 40.0, "200"),
        3: Attempt(10.0, 40.0, "429"),
        4: Attempt(60.0, 70.0, "202"),
        5: Attempt(60.0, 70.5, "202"),
    }
    seen = [Seen(0, 0), Seen(10, 50), Seen(40, 500), Seen(70, 1250), Seen(100, 2000)]
    rates = bench.rates(seen, attempts, seen[1], seen[3])
    assert rates.replicated_per_s == pytest.approx(20.0)
    assert rates.accepted_per_s == pytest.approx(3 / 60)
    assert (rates.seconds, rates.steps) == (60, 2)


def sample(side: str, replicated: float, accepted: float, proofs: list[float]) -> Sample:
    return Sample(side, 0, replicated, accepted, proofs, 60.0, 2, {"202": 1}, 1, 0, 1)


def test_medians_over_the_rounds_are_compared() -> None:
    samples = [
        sample("upstream", 80.0, 300.0, [20.0, 40.0]),
        sample("ours", 300.0, 450.0, [4.0, 8.0]),
        sample("upstream", 100.0, 300.0, [30.0, 50.0]),
        sample("ours", 320.0, 450.0, [6.0, 10.0]),
        sample("upstream", 400.0, 300.0, [35.0]),
        sample("ours", 240.0, 450.0, [7.0]),
    ]
    result = bench.compare(samples, PLAN.sides)
    assert result["upstream"] == {
        "replicated_per_s": 100.0,
        "accepted_per_s": 300.0,
        "proof_p50_s": 35.0,
    }
    assert result["ours"]["replicated_per_s"] == 300.0
    assert result["ratio"] == {"replicated_per_s": 3.0, "accepted_per_s": 1.5, "proof_p50_s": 5.0}
    assert len(result["runs"]) == 6
    assert [line.split()[-2] for line in bench.lines(result)][1:] == ["3.0", "1.5", "5.0"]


def test_columns_do_not_run_into_each_other() -> None:
    samples = [sample("upstream", 166.85, 1166.85, [131.17]), sample("ours", 3003.95, 13364, [6])]
    for line in list(bench.lines(bench.compare(samples, PLAN.sides)))[1:]:
        assert re.search(r" [0-9.]+ +[0-9.]+ +[0-9.]+ times$", line), line


def test_nothing_compared_with_nothing_is_no_ratio() -> None:
    samples = [sample("upstream", 0, 0, [1.0]), sample("ours", 1, 1, [1.0])]
    result = bench.compare(samples, PLAN.sides)
    assert result["ratio"]["replicated_per_s"] is None
    assert any(line.endswith(" -") for line in bench.lines(result))


@pytest.mark.parametrize(
    ("rounds", "offsets"), [(1, [15.0]), (2, [7.5, 22.5]), (3, [5.0, 15.0, 25.0])]
)
def test_offsets_favour_no_phase(
    monkeypatch: pytest.MonkeyPatch, rounds: int, offsets: list[float]
) -> None:
    monkeypatch.setattr(bench, "_UPSTREAM_INTERVAL", 30.0)
    assert [bench.offset(round_, rounds) for round_ in range(rounds)] == offsets


@pytest.mark.parametrize("interval", [10.0, 20.0, 30.0])
@pytest.mark.parametrize("number", [6, 10, 20])
def test_submissions_meet_every_phase_of_an_interval(
    monkeypatch: pytest.MonkeyPatch, number: int, interval: float
) -> None:
    monkeypatch.setattr(bench, "_UPSTREAM_INTERVAL", 30.0)
    starts = bench.starts(number)
    assert starts == sorted(starts)
    assert 0 <= starts[0] < starts[-1] < 60
    phases = {int(4 * (start % interval) / interval) for start in starts}
    assert phases == {0, 1, 2, 3}


@pytest.mark.parametrize("fields", [{"rounds": 0}, {"window": -1.0}, {"proofs": 10_000}])
def test_a_plan_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="allowed"):
        Plan(**{"seed": "x", **fields}).check()


# --- The playbook -------------------------------------------------------------------------------


def test_no_host_but_a_labs_is_switched(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    host = {
        # Nothing is there: a play that went further than the refusal would fail on it instead.
        "ansible_connection": "local",
        "ansible_python_interpreter": "/nonexistent",
        "log_server_role": "primary",
    }
    inventory.write_text(json.dumps({"log_machines": {"hosts": {"production": host}}}))
    with pytest.raises(OpsError, match="production is in no lab"):
        bench.put_in_force("upstream", 0, inventory)


def test_upstreams_settings_are_what_its_collection_has() -> None:
    """roles/sigsum of sigsum.ansible 1.7.0: defaults, config.toml and the two units of Trillian."""
    text = PLAYBOOK.read_text()
    plays = yaml.safe_load(text)
    assert [play["hosts"] for play in plays] == ["log_machines"] * 3
    for setting in (
        "@tcp(127.0.0.1:3306)/trillian\\n",
        "--force_master --num_sequencers=1 --sequencer_interval=100ms --batch_size=100\n",
        "--interval=30s",
        "--max-range=4096",
    ):
        assert setting in text
    for ours in ("interpolateParams=true", "--mysql_max_conns", "@unix("):
        assert ours not in text


def test_nothing_of_our_sandbox_that_costs_time_is_left_under_upstreams_settings() -> None:
    # What only shapes what a process sees when it starts; all else filters calls or packets.
    harmless = {
        "NoNewPrivileges",
        "CapabilityBoundingSet",
        "AmbientCapabilities",
        "ProtectSystem",
        "ProtectHome",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "PrivateTmp",
        "PrivateIPC",
        "PrivateUsers",
        "RemoveIPC",
        "KeyringMode",
        "UMask",
        "ReadWritePaths",
    }
    ours = {line.split("=")[0] for line in sandbox.directives(writable=["/x"]).splitlines()}
    service = yaml.safe_load(PLAYBOOK.read_text())[0]["vars"]["__bench_service"]
    reset = {line.split("=")[0] for line in service.splitlines() if line.endswith(("=", "=no"))}
    assert ours - harmless == reset
