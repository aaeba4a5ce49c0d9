"""The controller's own archive of what a log publishes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from typer.testing import CliRunner

from sigsum_ops import cli
from sigsum_ops.log import keep, target
from sigsum_ops.log.archive import Archive, InUse, check
from tests.log.test_head_archive_follow import KEY, OTHER_LEAVES, Log, served

PLUGIN = Path(__file__).parents[2] / "plugins/filter/failover.py"


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the controller keeps it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(keep, "PATIENCE", 0.3)
    return keep.place(KEY)


async def kept(*logs: Log) -> list[str]:
    """What the playbooks run, beside the logs."""
    return await asyncio.to_thread(keep.main, [KEY.hex, *(log.url for log in logs)])


def controller_seen() -> list[dict[str, str]]:
    spec = importlib.util.spec_from_file_location("failover_filter", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[dict[str, str]] = module.controller_seen(KEY.ssh)
    return found


async def test_what_was_published_is_kept_and_counts(archive: Path) -> None:
    assert controller_seen() == []
    async with served(2) as (log, other):
        other.tree_head = 404
        log.tree_head = 404
        assert await kept(log, other) == []
        assert controller_seen() == []
        log.tree_head = None
        for size in (20, 30):
            log.show(size)
            assert await kept(log, other) == []
        assert check(archive, KEY).heads == 2
        (seen,) = controller_seen()
        assert seen["source"] == f"this controller: {archive}"
        assert seen["signed"].startswith("size=30\nroot_hash=")
        log.show(40)
        log.proof = 500  # signed, though nobody shows that it extends what is there
        assert await kept(log, other) == []
        assert {each["signed"].split()[0] for each in controller_seen()} == {"size=30", "size=40"}


async def test_two_histories_are_said_until_a_person_moves_the_evidence(archive: Path) -> None:
    async with served(1) as (log,):
        log.show(20)
        assert await kept(log) == []
        log.show(20, OTHER_LEAVES)
        (said,) = await kept(log)
        log.tree_head = 404
        assert await kept(log) == [said]
        assert said.startswith(
            f"split-view: this controller has seen two histories of this log: {archive.parent}/"
        )


async def test_who_is_at_it_already_is_waited_for(archive: Path) -> None:
    async with served(1) as (log,):
        log.show(20)
        archive.parent.mkdir(parents=True)
        with Archive.open(archive, KEY):
            assert await kept(log) == []
            with pytest.raises(InUse):
                await asyncio.to_thread(keep.keep, KEY, [log.url])
        assert await kept(log) == []
        assert check(archive, KEY).heads == 1


async def test_a_damaged_archive_is_no_evidence(archive: Path) -> None:
    async with served(1) as (log,):
        archive.parent.mkdir(parents=True)
        archive.write_text("damaged\n")
        (said,) = await kept(log)
        assert said.startswith(f"doubtful: the controller's archive: {archive}")
        with pytest.raises(AnsibleFilterError, match=str(archive)):
            controller_seen()


async def test_the_verb_asks_the_inventorys_log(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(2) as (log, other):
        log.show(20)
        other.tree_head = 404
        monkeypatch.setattr(target, "log_of_inventory", lambda _: target.Target(log.url, KEY))

        async def run(*arguments: str) -> tuple[int, Any]:
            command = ["archive", "keep", "--json", *arguments]
            done = await asyncio.to_thread(CliRunner().invoke, cli.app, command)
            return done.exit_code, json.loads(done.stdout)

        code, report = await run()
        assert (code, report["file"], report["last"]["size"]) == (0, str(archive), 20)
        assert (await run(f"--url={other.url}"))[0] == 75
