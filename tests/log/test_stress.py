"""Stress runs against an honest log in this process, and against logs that lie."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log import loadgen, stress, stress_report, target
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import BadSignature, PublicKey
from sigsum_ops.log.leaf import submit_token
from sigsum_ops.log.loadgen import Seen
from sigsum_ops.log.merkle import ProofError
from sigsum_ops.log.stress import Load, Run
from sigsum_ops.log.target import Target

if TYPE_CHECKING:
    from tests.log.conftest import MemoryLog, StartLog

SEEDS = (f"test {n}" for n in itertools.count())


def load(**fields: Any) -> Load:
    defaults: dict[str, Any] = {
        "seed": next(SEEDS),
        "clients": 4,
        "seconds": None,
        "count": 40,
        "drain": 2.0,
    }
    return Load(**{**defaults, **fields})


async def stressed(log: MemoryLog, **fields: Any) -> Run:
    return await stress.run(Target(log.url, log.key), load(**fields))


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "POLL", 0.02)


async def test_every_leaf_of_an_honest_log_is_proven(start_log: StartLog) -> None:
    log = await start_log()
    log.add(bytes(128))  # somebody else's
    run = await stressed(log)
    result = stress_report.summary(run)
    assert run.passed
    assert result["passed"] is True
    assert result["leaves"] == {
        "submitted": 40,
        "accepted": 40,
        "acknowledged_200": 40,
        "proven": 40,
        "unproven": 0,
        "unpublished": 0,
    }
    assert log.size == 41
    assert sorted(run.proven.values()) == list(range(1, 41))
    assert result["errors"] == {}


async def test_the_result_is_one_json_object_with_its_numbers(start_log: StartLog) -> None:
    run = await stressed(await start_log(), count=30, rate=100.0)
    result = json.loads(json.dumps(stress_report.summary(run)))
    assert result["seconds"] == pytest.approx(0.29, abs=0.15)  # the last of 30 is due after 0.29 s
    assert 50 < result["acknowledged_per_s"] < 110
    latency = result["latency_s"]
    assert 0 < latency["add_leaf"]["p50"] <= latency["add_leaf"]["p99"] < 1
    assert latency["add_leaf"]["p50"] < latency["published"]["p50"] < 1
    assert 0 < result["client_cpu_s_per_request"] < 0.1
    assert result["sequenced_per_s"] is None


async def test_the_duration_ends_a_run_whose_leaves_are_not_used_up(start_log: StartLog) -> None:
    run = await stressed(await start_log(), seconds=0.3, count=None, rate=50.0, clients=1)
    assert 5 <= len(run.attempts) <= 15
    run = await stressed(await start_log(), seconds=0.2, count=1000, rate=2.0, clients=2)
    assert len(run.attempts) == 1  # the others were waiting for their turn
    assert run.passed


async def test_the_same_seed_asks_for_the_same_leaves_again(start_log: StartLog) -> None:
    log = await start_log()
    first = await stressed(log, seed="again")
    second = await stressed(log, seed="again")
    assert second.passed
    assert second.proven == first.proven
    assert {attempt.outcome for attempt in second.attempts.values()} == {"200"}
    result = stress_report.summary(second)
    assert result["published_per_s"] == 0  # nothing of it was published by this run
    assert log.size == 40


async def test_a_leaf_acknowledged_with_200_but_not_kept_fails_the_run(
    start_log: StartLog,
) -> None:
    run = await stressed(await start_log(forget=lambda n: n == 7), drain=0.3)
    assert not run.passed
    assert len(run.unproven) == 1
    assert len(run.proven) == 39
    assert "404" in next(iter(run.unproven.values()))


async def test_a_tree_that_does_not_extend_the_last_fails_the_run(start_log: StartLog) -> None:
    log = await start_log(forge=lambda size: bytes(32) if size > 1 else None)
    log.add(bytes(128))
    log.size = 1
    run = await stressed(log, drain=0.3)
    assert not run.passed
    assert run.heads.violations
    assert all("consistency proof" in text for text in run.heads.violations)


async def test_a_proof_that_leads_elsewhere_fails_the_run(start_log: StartLog) -> None:
    # From the empty tree, which every tree extends: only the inclusion proofs can show it.
    log = await start_log(forge=lambda size: bytes(32) if size else None, interval=0.3)
    run = await stressed(log, drain=0.5)
    assert not run.passed
    assert not run.heads.violations
    assert len(run.unproven) == 40
    assert "leads to root" in run.unproven[0]


async def test_a_tree_head_that_goes_back_is_a_violation(start_log: StartLog) -> None:
    log = await start_log(interval=3600)
    for n in range(3):
        log.add(bytes([n]) * 128)
    log.size = 3
    async with LogClient(log.url) as client:
        heads = loadgen.Heads(client, log.key)
        await heads.look()
        log.size = 2
        with pytest.raises(ProofError, match="went back from size 3 to 2"):
            await heads.look()


async def test_two_roots_at_one_size_are_a_violation(start_log: StartLog) -> None:
    log = await start_log(interval=3600)
    log.add(bytes(128))
    log.size = 1
    async with LogClient(log.url) as client:
        heads = loadgen.Heads(client, log.key)
        async with loadgen.following(heads):
            log.forge = lambda _size: bytes(32)
            await asyncio.sleep(0.2)
    assert len(heads.violations) == 1
    assert "two roots at size 1" in heads.violations[0]


async def test_another_key_is_said_before_anything_is_submitted(start_log: StartLog) -> None:
    log = await start_log()
    with pytest.raises(BadSignature):
        await stress.run(Target(log.url, PublicKey.from_hex("ab" * 32)), load())
    assert not any(line.startswith("POST") for line in log.requests)


async def test_what_is_accepted_but_never_published_is_counted(start_log: StartLog) -> None:
    log = await start_log(interval=3600)
    log.add(bytes(128))
    log.size = 1
    run = await stressed(log, drain=0.2)
    result: Any = stress_report.summary(run)
    assert result["leaves"]["accepted"] == result["leaves"]["unpublished"] == 40
    assert not run.passed  # nothing was proven, so nothing is known


async def test_refusals_and_failures_are_counted_by_kind(start_log: StartLog) -> None:
    faults = {3: 429, 5: 500, 8: 500}
    run = await stressed(await start_log(answer_add_leaf=faults.get))
    result: Any = stress_report.summary(run)
    assert result["status"]["429"] == 1
    assert result["status"]["500"] == 2
    assert result["leaves"]["accepted"] == result["leaves"]["proven"] == 37
    assert run.passed


async def test_a_log_that_asks_for_tokens_gets_them(start_log: StartLog) -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"t" * 32)
    log = await start_log()
    log.token = submit_token(key, log.key, "example.org")
    assert not (await stressed(log, drain=0.1)).passed
    run = await stress.run(Target(log.url, log.key), load(), token=log.token)
    assert run.passed


async def test_sequenced_is_what_trillians_metrics_grew_by(start_log: StartLog) -> None:
    asked = iter([100, 140])

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(
            text="# TYPE sequencer_sequenced counter\n"
            f'sequencer_sequenced{{logid="1"}} {next(asked)}\nsequencer_sequenced_other 7\n'
        )

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    server = TestServer(app)
    await server.start_server()
    log = await start_log()
    run = await stress.run(
        Target(log.url, log.key), load(), trillian_metrics=str(server.make_url("/metrics"))
    )
    await server.close()
    assert run.sequenced == 40


async def test_a_plot_shows_the_run(start_log: StartLog, tmp_path: Path) -> None:
    run = await stressed(await start_log())
    stress_report.plot(run, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_person_reads_the_same_numbers() -> None:
    result = {
        "acknowledged_per_s": 10.0,
        "replicated_per_s": None,
        "published_per_s": 5.0,
        "sequenced_per_s": None,
        "latency_s": {"add_leaf": stress_report.quantiles([0.1, 0.2]), "published": None},
        "leaves": {"accepted": 3, "acknowledged_200": 2},
        "status": {"202": 3},
        "errors": {},
        "unproven": {4: "status 404"},
        "violations": ["two roots at size 1"],
        "passed": False,
    }
    assert dict(stress_report.lines(result)) == {
        "acknowledged": "10.0 leaves/s",
        "published": "5.0 leaves/s",
        "add-leaf took": "p50 0.100 s, p95 0.200 s, p99 0.200 s, max 0.200 s",
        "leaves": "3 accepted, 2 acknowledged 200",
        "status": "3 of 202",
        "NOT PROVEN": "leaf 4: status 404",
        "VIOLATION": "two roots at size 1",
        "verdict": "FAILED: see above",
    }


# --- The numbers --------------------------------------------------------------------------------


def test_quantiles_are_values_that_occurred() -> None:
    values = [n / 100 for n in range(1, 101)]
    assert stress_report.quantiles(reversed(values)) == {
        "p50": 0.5,
        "p95": 0.95,
        "p99": 0.99,
        "max": 1.0,
    }
    assert stress_report.quantiles([2.0]) == {"p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0}
    assert stress_report.quantiles([]) is None


def test_growth_counts_from_step_to_step() -> None:
    seen = [Seen(0, 0), Seen(7, 100), Seen(37, 3100), Seen(67, 6100), Seen(97, 6400)]
    assert stress_report.growth(seen, 1, 70) == pytest.approx(100.0)
    assert stress_report.growth(seen, 40, 70) is None
    assert stress_report.growth(seen, 40, 60) is None


def test_a_leaf_is_published_by_the_first_head_that_has_it() -> None:
    seen = [Seen(1.0, 5), Seen(2.0, 8), Seen(3.0, 9)]
    assert [stress_report.published_at(seen, index) for index in (0, 4, 5, 7, 8)] == [1, 1, 2, 2, 3]


# --- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"clients": 0},
        {"seconds": 0.0},
        {"seconds": float("inf")},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"count": 0},
        {"drain": -1.0},
    ],
)
def test_a_load_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="allowed"):
        load(**fields).check(unlimited=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"clients": stress.MAX_CLIENTS + 1},
        {"seconds": stress.MAX_SECONDS + 1, "count": None, "rate": 1.0},
        {"count": stress.MAX_LEAVES + 1},
        {"seconds": 300.0, "rate": 1000.0, "count": None},
    ],
)
def test_a_heavy_load_takes_an_explicit_option(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="more than") as error:
        load(**fields).check()
    assert "--no-limits" in (error.value.hint or "")
    load(**fields).check(unlimited=True)


def test_the_default_load_is_within_the_limits() -> None:
    Load(seed="x").check()


OWN = Target("https://log.example.org/sigsum", PublicKey(bytes(range(32))))


def choose(url: str | None, key: PublicKey | None, *, owned: bool = False) -> Target:
    return target.choose_target(url, key, owned=owned, listed=lambda: OWN)


def test_the_inventorys_log_may_be_loaded() -> None:
    assert choose(None, None) == OWN
    assert choose(OWN.url + "/", OWN.key) == OWN


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://other.example.org/sigsum", None),
        ("https://log.example.org/", OWN.key),
        (None, PublicKey(bytes(32))),
        (OWN.url, PublicKey(bytes(32))),
    ],
)
def test_another_log_is_refused(url: str | None, key: PublicKey | None) -> None:
    with pytest.raises(OpsError, match="not the log of the inventory") as error:
        choose(url, key)
    assert "--i-own-this-log" in (error.value.hint or "")


def test_a_log_that_the_operator_owns_needs_no_inventory() -> None:
    other = Target("http://127.0.0.1:1", PublicKey(bytes(32)))
    assert choose(other.url, other.key, owned=True) == other
    with pytest.raises(UsageError, match="which log"):
        choose(other.url, None, owned=True)


def test_the_inventorys_log_is_what_ansible_renders(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        json.dumps(
            {
                "log_machines": {
                    "hosts": {
                        "a": {"log_server_role": "secondary"},
                        "b": {"log_server_role": "primary", "address": "192.0.2.1"},
                    },
                    "vars": {
                        "log_url": "http://{{ hostvars.b.address }}:6965/",
                        "log_server_public_key": OWN.key.ssh,
                    },
                }
            }
        )
    )
    assert target.log_of_inventory(inventory) == Target("http://192.0.2.1:6965/", OWN.key)


def test_an_inventory_without_a_log_is_refused(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("all: {hosts: {a: {}}}\n")
    with pytest.raises(UsageError, match="no primary with a log_url"):
        target.log_of_inventory(inventory)
