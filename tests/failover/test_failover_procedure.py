"""The controller's journal: what it remembers of machines that come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.failover.procedure import (
    adopted,
    given_up,
    journal,
    note,
    permits,
    read,
    replaced,
    unfinished,
)


def entry(step: str, host: str, *, done: bool = True, **reason: Any) -> dict[str, Any]:
    return {"step": step, "host": host, "done": done, "reason": reason}


def test_what_is_noted_is_read(tmp_path: Path) -> None:
    path = journal("ab" * 32, {"XDG_STATE_HOME": str(tmp_path)})
    assert read(path) == []
    note(path, entry("fence", "log1", by="somebody"))
    note(path, entry("adopt", "log2", replaced=["log1"], how="power cut at the PDU"))
    first, second = read(path)
    assert first["host"] == "log1"
    assert second["reason"] == {"replaced": ["log1"], "how": "power cut at the PDU"}
    assert second["time"].endswith("+00:00")


def test_a_line_that_was_cut_short_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    note(path, entry("adopt", "log2", replaced=["log1"]))
    whole = path.read_bytes()
    for length in range(1, len(whole) - 1):
        path.write_bytes(whole + whole[:length])
        note(path, entry("retire", "log1"))
        assert replaced(read(path)) == set()


def test_without_a_place_no_step_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OpsError, match="cannot be written"):
        note(tmp_path / "file" / "journal", entry("adopt", "log2"))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], set()),
        ([entry("fence", "log1")], set()),
        # From the moment at which it may have happened.
        ([entry("adopt", "log2", done=False, replaced=["log1"])], {"log1"}),
        ([entry("adopt", "log2", replaced=["log1", "log3"])], {"log1", "log3"}),
        (
            [
                entry("adopt", "log2", replaced=["log1"]),
                entry("retire", "log1", done=False),
            ],
            {"log1"},
        ),
        ([entry("adopt", "log2", replaced=["log1"]), entry("retire", "log1")], set()),
        ([entry("adopt", "log2", replaced=["log1"]), entry("unfence", "log1")], set()),
        (
            [
                entry("adopt", "log2", done=False, replaced=["log1"]),
                entry("abandon", "log2", replaced=["log1"]),
            ],
            set(),
        ),
        # The controller died before it noted that it was retired, or a new machine has its name.
        ([entry("adopt", "log2", replaced=["log1"]), entry("follow", "log1")], set()),
        ([entry("adopt", "log2", replaced=["log1"]), entry("follow", "log3")], {"log1"}),
        (
            [
                entry("adopt", "log2", replaced=["log1"]),
                entry("retire", "log1"),
                entry("adopt", "log1", replaced=["log2"]),
            ],
            {"log2"},
        ),
    ],
)
def test_who_was_replaced(entries: list[dict[str, Any]], expected: set[str]) -> None:
    assert replaced(entries) == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], set()),
        ([entry("fence", "log1", done=False)], {("fence", "log1")}),
        ([entry("fence", "log1", done=False), entry("fence", "log1")], set()),
        ([entry("fence", "log1"), entry("fence", "log1", done=False)], {("fence", "log1")}),
        ([entry("fence", "log1", done=False), entry("fence", "log2")], {("fence", "log1")}),
        ([{**entry("adopt", "log2", done=False), "failed": "behind"}], set()),
        (
            [
                entry("retire", "log1", done=False),
                entry("adopt", "log2", done=False),
                entry("follow", "log1"),
            ],
            {("adopt", "log2")},
        ),
        (
            [entry("retire", "log1", done=False), entry("follow", "log1", done=False)],
            {("retire", "log1"), ("follow", "log1")},
        ),
    ],
)
def test_what_was_begun_and_did_not_end(
    entries: list[dict[str, Any]], expected: set[tuple[str, str]]
) -> None:
    assert unfinished(entries) == expected


SHORT, LONG = "2026-11-23T12:00:00Z", "2026-11-24T09:00:00Z"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], {}),
        ([entry("adopt", "log2", replaced=["log1"])], {}),
        # From the moment at which it may be used.
        ([entry("allow", "log2", done=False, until=SHORT)], {"log2": SHORT}),
        ([entry("allow", "log2", until=SHORT), entry("adopt", "log2")], {"log2": SHORT}),
        ([entry("allow", "log2", until=SHORT), entry("allow", "log2", until=LONG)], {"log2": LONG}),
        ([entry("allow", "log2", until=LONG), entry("allow", "log2", until=SHORT)], {"log2": LONG}),
        (
            [entry("allow", "log2", until=SHORT), entry("allow", "log1", until=LONG)],
            {"log1": LONG, "log2": SHORT},
        ),
        (
            [entry("allow", "log2", until=SHORT), entry("gate", "log2", done=False)],
            {"log2": SHORT},
        ),
        ([entry("allow", "log2", until=SHORT), entry("gate", "log1")], {"log2": SHORT}),
        ([entry("allow", "log2", until=SHORT), entry("gate", "log2")], {}),
        ([entry("allow", "log2", until=SHORT), entry("abandon", "log2")], {}),
        ([entry("allow", "log2", until=SHORT), entry("retire", "log2")], {}),
        ([entry("allow", "log2", until=SHORT), entry("follow", "log2")], {}),
        (
            [entry("gate", "log2"), entry("allow", "log2", until=SHORT), entry("fence", "log2")],
            {"log2": SHORT},
        ),
    ],
)
def test_who_may_go_on_alone(entries: list[dict[str, Any]], expected: dict[str, str]) -> None:
    assert permits(entries) == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], ""),
        ([entry("adopt", "log2", done=False)], ""),
        ([entry("adopt", "log1"), entry("adopt", "log2", done=False)], "log1"),
        ([entry("adopt", "log1"), entry("adopt", "log3", done=False)], "log3"),
        (
            [
                entry("adopt", "log1"),
                entry("adopt", "log3", done=False),
                entry("abandon", "log3"),
            ],
            "log1",
        ),
        (
            [
                entry("adopt", "log1"),
                entry("adopt", "log3", done=False),
                entry("abandon", "log3", done=False),
            ],
            "log3",
        ),
    ],
)
def test_who_else_may_have_been_promoted(entries: list[dict[str, Any]], expected: str) -> None:
    assert adopted(entries, "log2") == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], set()),
        ([entry("unfence", "log1")], set()),
        ([entry("fence", "log1"), entry("abandon", "log2")], set()),
        ([entry("abandon", "log2", done=False), entry("unfence", "log1")], set()),
        ([entry("abandon", "log2"), entry("unfence", "log1", done=False)], {"log1"}),
        (
            [
                entry("abandon", "log2"),
                entry("unfence", "log1"),
                entry("abandon", "log2", done=False),
            ],
            {"log1"},
        ),
        ([entry("abandon", "log3"), entry("unfence", "log1")], set()),
        ([entry("abandon", "log2"), entry("unfence", "log1"), entry("fence", "log1")], set()),
        (
            [
                entry("abandon", "log2"),
                entry("unfence", "log1"),
                entry("adopt", "log3", done=False),
                entry("abandon", "log2"),
            ],
            set(),
        ),
    ],
)
def test_who_was_unfenced_since_it_was_given_up(
    entries: list[dict[str, Any]], expected: set[str]
) -> None:
    assert given_up(entries, "log2") == expected
