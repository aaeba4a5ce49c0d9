"""What the log's users get, as the doctor asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sigsum_ops.doctor.ask import asked
from sigsum_ops.log.policy import NONE, Policy, parse
from tests.failover.world import KEY

if TYPE_CHECKING:
    from tests.log.conftest import StartLog

NOBODY = Policy(quorum=NONE)
WITNESS = parse(f"witness w {KEY.hex}\nquorum w\n".encode())
WANTED = parse(f"witness w {KEY.hex}\nquorum none\n".encode())


async def test_a_healthy_log(start_log: StartLog) -> None:
    log = await start_log()
    log.add(b"x" * 128)
    log.size = 1
    found = await asked(log.url, log.key, NOBODY, 1, 5)
    assert (found["names"], found["size"], found["quorum"]) == ([], 1, True)
    assert found["waited"] < 1


async def test_it_waits_for_leaves_that_are_to_come(start_log: StartLog) -> None:
    log = await start_log(interval=0.5)
    log.add(b"x" * 128)
    found = await asked(log.url, log.key, NOBODY, 1, 10)
    assert found["size"] == 1
    assert 0 < found["waited"] < 10


async def test_leaves_that_do_not_come(start_log: StartLog) -> None:
    log = await start_log()
    found = await asked(log.url, log.key, NOBODY, 1, 0)
    assert found["size"] == 0


@pytest.mark.parametrize(("policy", "quorum"), [(WITNESS, False), (WANTED, True)])
async def test_a_witness_that_is_silent(start_log: StartLog, policy: Policy, quorum: bool) -> None:
    log = await start_log()
    found = await asked(log.url, log.key, policy, 0, 0)
    assert (found["cosigned"], found["quorum"]) == ({"w": None}, quorum)


async def test_a_log_that_does_not_answer() -> None:
    found = await asked("http://127.0.0.1:1/", KEY, NOBODY, 0, 5)
    assert "127.0.0.1:1" in found["error"]


async def test_another_log(start_log: StartLog) -> None:
    log = await start_log()
    assert (await asked(log.url, KEY, NOBODY, 0, 5))["error"]
