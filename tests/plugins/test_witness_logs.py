"""The module witness_logs: what it would do, without a witness."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.modules.witness_logs import LogsError, steps

HEAD = {"size": 5, "root_hash": "00" * 32}


def shown(**logs: dict[str, Any]) -> dict[str, Any]:
    """What ``sigsum-ops witness show`` says of a good database."""
    ok = all(log.get("cosigned") in (None, log["database"]) for log in logs.values())
    problems = [] if ok else ["a: cosigned"]
    return {
        "ok": ok,
        "problems": problems,
        "logs": {name: {"cosigned": None, **log} for name, log in logs.items()},
    }


def verbs(found: list[tuple[str, tuple[str, ...]]]) -> list[str]:
    return [" ".join(arguments) for _, arguments in found]


def test_a_new_log_is_added_with_its_key() -> None:
    assert verbs(steps(shown(), {"a": "key"})) == [
        "add-log -origin a",
        "add-key -origin a -key key",
    ]


def test_a_log_that_is_there_is_left_alone() -> None:
    assert steps(shown(a={"database": HEAD, "keys": ["key"], "cosigned": HEAD}), {"a": "key"}) == []


def test_an_interrupted_run_is_finished() -> None:
    found = steps(shown(a={"database": HEAD, "keys": []}), {"a": "key"})
    assert verbs(found) == ["add-key -origin a -key key"]


def test_a_log_that_goes_stays_without_its_keys() -> None:
    found = steps(shown(a={"database": HEAD, "keys": ["key", "old"]}), {})
    assert verbs(found) == ["del-key -origin a -key key", "del-key -origin a -key old"]
    assert steps(shown(a={"database": HEAD, "keys": []}), {}) == []


def test_another_key_is_refused() -> None:
    with pytest.raises(LogsError, match="A log's key never changes"):
        steps(shown(a={"database": HEAD, "keys": ["other"]}), {"a": "key"})


@pytest.mark.parametrize("database", [None, {"size": 4, "root_hash": "00" * 32}])
def test_a_database_that_was_rolled_back_is_refused(database: object) -> None:
    with pytest.raises(LogsError, match="a: cosigned"):
        steps(shown(a={"database": database, "keys": [], "cosigned": HEAD}), {"a": "key"})
