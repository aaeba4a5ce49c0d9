"""How long a log takes no leaves, seen from outside."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sigsum_ops.log import writes

if TYPE_CHECKING:
    from tests.log.conftest import StartLog


@pytest.mark.parametrize(
    ("taken", "ended", "longest", "total", "still"),
    [
        ([], 9.0, None, None, False),
        ([5.0], 5.5, 0.0, 0.0, False),
        ([1.0, 1.1, 1.9, 2.8], 3.0, 0.0, 0.0, False),
        ([1.0, 1.1, 3.6, 3.7, 5.0], 5.1, 2.5, 3.8, False),
        # The log was stopped, and the measurement ended before it served again.
        ([1.0, 1.1], 9.1, 8.0, 8.0, True),
        ([1.0, 3.0, 3.1], 7.1, 4.0, 6.0, True),
    ],
)
def test_gaps_between_leaves_that_were_taken(
    taken: list[float], ended: float, longest: float | None, total: float | None, still: bool
) -> None:
    found = writes.report(taken, Counter({"connection": 3}), 5.0, ended)
    assert found == {
        "taken": len(taken),
        "longest_s": longest,
        "total_s": total,
        "refused_still": still,
        "errors": {"connection": 3},
    }


async def ready(going: Path, seconds: float) -> None:
    """Wait until the file says that the work may begin."""
    async with asyncio.timeout(seconds):
        while "ready" not in going.read_text():
            await asyncio.sleep(0.02)


async def test_one_leaf_is_submitted_until_the_file_is_gone(
    start_log: StartLog, tmp_path: Path
) -> None:
    log, going = await start_log(), tmp_path / "going"
    going.touch()
    watching = asyncio.create_task(writes.watch([log.url], going))
    await ready(going, seconds=10)
    await asyncio.sleep(0.5)
    going.unlink()
    found = await watching
    assert found["taken"] >= 3
    assert found["longest_s"] == 0.0
    assert log.size == 1


async def test_a_log_that_never_answers_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a handover was interrupted: the log is down until it is gone on with."""
    monkeypatch.setattr(writes, "NOBODY", 0.3)
    going = tmp_path / "going"
    going.touch()
    watching = asyncio.create_task(writes.watch(["http://127.0.0.1:9/"], going))
    await ready(going, seconds=10)
    going.unlink()
    found = await watching
    assert found["taken"] == 0
    assert found["longest_s"] is None
    assert found["errors"]["connection"] >= 1


async def test_proxies_without_a_primary_behind_them_are_not_waited_for(
    start_log: StartLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say where to go: as where a handover was interrupted."""
    monkeypatch.setattr(writes, "NOBODY", 0.3)
    log, going = await start_log(), tmp_path / "going"
    log.answer_add_leaf = lambda _number: 503
    going.touch()
    watching = asyncio.create_task(writes.watch([log.url], going))
    await ready(going, seconds=5)
    going.unlink()
    assert (await watching)["errors"]["503"] >= 1


async def test_a_log_that_limits_who_may_submit_is_not_waited_for(
    start_log: StartLog, tmp_path: Path
) -> None:
    log, going = await start_log(), tmp_path / "going"
    log.token = "only.example.org 00"
    going.touch()
    watching = asyncio.create_task(writes.watch([log.url], going))
    await ready(going, seconds=5)
    going.unlink()
    found = await watching
    assert (found["taken"], found["longest_s"]) == (0, None)
    assert found["errors"]["429"] >= 1


async def test_the_log_takes_leaves_while_one_of_its_machines_does(
    start_log: StartLog, tmp_path: Path
) -> None:
    log, going = await start_log(), tmp_path / "going"
    going.touch()
    watching = asyncio.create_task(writes.watch(["http://127.0.0.1:9/", log.url], going))
    await asyncio.sleep(1.5)
    going.unlink()
    found = await watching
    assert found["longest_s"] == 0.0
    assert found["errors"]["connection"] >= 3


async def test_machines_are_asked_at_their_addresses_by_the_logs_name(
    start_log: StartLog, tmp_path: Path
) -> None:
    """As where a proxy serves the log's one name on each machine."""
    log, going = await start_log(), tmp_path / "going"
    going.touch()
    named = log.url.replace("127.0.0.1", "log.example.org")
    watching = asyncio.create_task(
        writes.watch([f"127.0.0.1 {named}", f"127.0.0.2 {named}"], going)
    )
    await asyncio.sleep(1.5)
    going.unlink()
    found = await watching
    assert found["longest_s"] == 0.0
    assert found["taken"] >= 3


async def test_one_that_a_dead_playbook_left_behind_ends_as_the_next_begins(
    start_log: StartLog, tmp_path: Path
) -> None:
    log = await start_log()
    other, left, going = (tmp_path / f"sigsum-writes-{name}" for name in ("b-1", "a-1", "a-2"))
    for path in (other, left):
        path.touch()
    async with asyncio.timeout(10):
        behind = asyncio.create_task(writes.watch([log.url], left))
        while "ready" not in left.read_text():
            await asyncio.sleep(0.02)
        going.touch()
        watching = asyncio.create_task(writes.watch([log.url], going))
        await behind
        assert going.exists()
        assert other.exists()  # another log's
        going.unlink()
        await watching


async def test_an_outage_that_goes_on_counts_until_the_work_ended(
    start_log: StartLog, tmp_path: Path
) -> None:
    """As where a log was stopped and the procedure ended before it served again."""
    log, going = await start_log(), tmp_path / "going"
    going.touch()
    watching = asyncio.create_task(writes.watch([log.url], going))
    await ready(going, seconds=10)
    log.answer_add_leaf = lambda _number: 503
    await asyncio.sleep(1.5)
    going.unlink()
    found = await watching
    assert found["refused_still"]
    assert found["total_s"] > 1.0
