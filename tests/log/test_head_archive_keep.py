"""The controller's own archive of what a log publishes."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from typer.testing import CliRunner

from sigsum_ops import cli
from sigsum_ops.log import keep, target
from sigsum_ops.log.archive import Archive, InUse, check
from tests.log.test_head_archive_follow import KEY, OTHER_LEAVES, served

PLUGIN = Path(__file__).parents[2] / "plugins/filter/failover.py"


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the controller keeps it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(keep, "PATIENCE", 0.3)
    return keep.place(KEY)


async def kept(*urls: str) -> str:
    """What the playbooks run says, beside the logs."""
    command = [sys.executable, "-m", "sigsum_ops.log.keep", KEY.hex, *urls]
    done = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    said, _ = await done.communicate()
    assert done.returncode == 0
    return said.decode()


@pytest.fixture(scope="module")
def filters() -> Any:
    """The plugin, as Ansible loads it."""
    spec = importlib.util.spec_from_file_location("failover_filter", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen(filters: Any) -> list[tuple[str, str]]:
    """Source and size of what a tree must extend."""
    found = filters.seen_files(filters.controller_archive(KEY.ssh), KEY.ssh)
    return [(item["source"], item["signed"].split()[0]) for item in found]


async def test_what_was_published_is_kept_and_counts(archive: Path, filters: Any) -> None:
    assert seen(filters) == []
    async with served(2) as (log, other):
        # As inventories have them, and twice.
        urls = (log.url, log.url.rstrip("/"), f"{log.url}/", other.url)
        other.tree_head = 404
        log.tree_head = 404
        assert (await kept(*urls)).count("no-answer") == 2
        assert seen(filters) == []
        log.tree_head = None
        for size in (20, 30):
            log.show(size)
            assert "kept: " in await kept(*urls)
        assert check(archive, KEY).heads == 2
        assert seen(filters) == [(str(archive), "size=30")]
        log.show(40)
        log.proof = 500  # signed, though nobody shows that it extends what is there
        assert "unproven: " in await kept(*urls)
        assert {size for _, size in seen(filters)} == {"size=30", "size=40"}
        assert filters.controller_problems(KEY.ssh) == []


async def test_two_histories_are_said_until_a_person_moves_the_evidence(
    archive: Path, filters: Any
) -> None:
    async with served(1) as (log,):
        log.show(20)
        await kept(log.url)
        log.show(20, OTHER_LEAVES)
        assert "split-view: " in await kept(log.url)
    (said,) = filters.controller_problems(KEY.ssh)
    where = f"this log: {archive.parent}/split-view-"
    assert said.startswith(f"split-view: this controller has seen two histories of {where}")


async def test_who_is_at_it_already_is_waited_for(archive: Path) -> None:
    async with served(1) as (log,):
        log.show(20)
        archive.parent.mkdir(parents=True)
        with Archive.open(archive, KEY), pytest.raises(InUse):
            await asyncio.to_thread(keep.keep, KEY, [log.url])
        assert "kept: " in await kept(log.url)
        assert check(archive, KEY).heads == 1


async def test_it_never_holds_a_procedure_up(archive: Path) -> None:
    async with served(1) as (log,):
        log.show(20)
        assert "not kept: " in await kept("no url")
        archive.parent.mkdir(parents=True)
        begun = time.monotonic()
        with Archive.open(archive, KEY):
            assert "not kept: nobody has answered in 5 s" in await kept(log.url)
        assert time.monotonic() - begun < 8


async def test_a_damaged_archive_forbids_every_change(archive: Path, filters: Any) -> None:
    async with served(1) as (log,):
        archive.parent.mkdir(parents=True)
        archive.write_text("sigsum-head-archive/v1 damaged\n")
        assert "not kept: " in await kept(log.url)
    (said,) = filters.controller_problems(KEY.ssh)
    assert said.startswith(f"doubtful: this controller's archive: {archive}")
    with pytest.raises(AnsibleFilterError, match=str(archive)):
        seen(filters)


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
