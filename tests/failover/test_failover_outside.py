"""What is left to be done outside the machines after a promotion."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sigsum_ops.failover import inventory, outside
from tests.failover.world import KEY

if TYPE_CHECKING:
    from tests.log.conftest import StartLog

ROLES = {"log1": "secondary", "log2": "primary"}
UNTIL = "2026-12-01T00:00:00Z"


def looks(permit: str = "", **parts: list[str] | None) -> dict[str, Any]:
    found = {"log1": ["secondary"], "log2": ["primary"], **parts}
    return {
        name: None if part is None else {"parts": part, "permit": permit if part else ""}
        for name, part in found.items()
    }


@pytest.mark.parametrize(
    ("found", "roles", "permits", "said"),
    [
        (looks(), ROLES, {}, []),
        (looks(log1=None), ROLES, {}, []),
        (
            looks(),
            {"log1": "primary", "log2": "secondary"},
            {},
            ["log_server_role of log1 is primary", "log_server_role of log2 is secondary"],
        ),
        (looks(log2=["secondary"]), ROLES, {}, ["there is none"]),
        (looks(log1=["primary"]), ROLES, {}, ["there is log1 and log2"]),
        (looks(UNTIL), ROLES, {"log2": UNTIL}, []),
        (looks(UNTIL), ROLES, {}, [f"of log2 is not set, and its oracle has {UNTIL}"]),
        (looks(), ROLES, {"log2": UNTIL}, [f"of log2 is {UNTIL}, and its oracle has none"]),
        (looks(), ROLES, {"log1": UNTIL}, [f"of log1 is {UNTIL}, and its oracle has none"]),
    ],
)
def test_the_inventory_and_the_machines(
    found: Mapping[str, Any], roles: Mapping[str, str], permits: Mapping[str, str], said: list[str]
) -> None:
    problems = inventory.differs(found, roles, permits)
    assert len(problems) == len(said)
    for problem, text in zip(problems, said, strict=True):
        assert text in str(problem)


def test_an_old_primary_that_is_back_is_none() -> None:
    assert inventory.differs(looks(log1=["primary"]), ROLES, {}, ["log1"]) == []


async def test_a_name_that_leads_to_the_primary(start_log: StartLog) -> None:
    log = await start_log()
    log.add(b"x" * 128)
    log.size = 1
    assert await outside.names(log.url, log.key, 1) == []
    (smaller,) = await outside.names(log.url, log.key, 2)
    assert "its tree head has size 1, and the primary has signed 2" in str(smaller)


async def test_each_address_of_the_name_is_asked(
    start_log: StartLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two machines one serves: half of the users were without a log."""
    log = await start_log()
    port = int(log.url.rstrip("/").rpartition(":")[2])

    async def both(*_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    (problem,) = await outside.names(f"http://log.example:{port}/", log.key, 0)
    assert "leads to 127.0.0.2" in str(problem)


async def test_a_name_without_an_address(
    start_log: StartLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await start_log()

    async def none(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", none)
    (problem,) = await outside.names("https://log.example/", log.key, 0)
    assert "log.example has no address: unknown" in str(problem)


async def test_another_log_behind_the_name(start_log: StartLog) -> None:
    log = await start_log()
    (problem,) = await outside.names(log.url, KEY, 0)
    assert log.url in str(problem)


def test_what_git_has_not(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    assert outside.uncommitted(tmp_path) == []  # nobody can say
    git("init")
    (tmp_path / "hosts.yml").write_text("all:\n")
    (problem,) = outside.uncommitted(tmp_path)
    assert "not committed: hosts.yml" in str(problem)
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-m", "one")
    assert outside.uncommitted(tmp_path) == []


def test_there_may_be_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert outside.uncommitted(tmp_path) == []
