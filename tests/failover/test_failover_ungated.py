"""The permit to go on alone: who may ask for what, and when it is over elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sigsum_ops.errors import UsageError
from sigsum_ops.failover.ungated import LATE, LONGEST, Permit, over, parse, text

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def permit(after: timedelta = timedelta(hours=6), by: str = "N", why: str = "a b c") -> Permit:
    return Permit(text(NOW + after), by, why)


def test_one_that_may_be_given() -> None:
    Permit().check(NOW)
    for after in (SECOND, timedelta(hours=6), LONGEST):
        permit(after).check(NOW)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (permit(timedelta(0)), "is not in the future; it is 2026-11-22T12:00:00Z"),
        (permit(-SECOND), "is not in the future"),
        (permit(LONGEST + SECOND), "more than 7 days ahead"),
        (permit(by=""), "nobody says who"),
        (permit(by="  "), "nobody says who"),
        (permit(why=""), "nobody says who"),
        (permit(why="I do"), "nobody says who"),
        (Permit(by="N"), "not until when"),
        (Permit(why="a b c"), "not until when"),
    ],
)
def test_one_that_nobody_may_have(asked: Permit, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked.check(NOW)


@pytest.mark.parametrize(
    "until",
    [
        "2026-11-23",
        "2026-11-23 12:00:00Z",
        "2026-11-23T12:00Z",
        "2026-11-23T12:00:00",
        "2026-11-23T12:00:00+00:00",
        "2026-11-23T12:00:00.5Z",
        "2026-11-23T24:00:00Z",
        "2026-02-29T12:00:00Z",
        "0000-01-01T12:00:00Z",
        "2026-11-23T12:00:00Z\n",
        "２026-11-23T12:00:00Z",  # noqa: RUF001 - another 2
        "tomorrow",
        "",
    ],
)
def test_a_time_has_one_form(until: str) -> None:
    with pytest.raises(UsageError, match="no UTC time in whole seconds"):
        parse(until)
    if until:
        with pytest.raises(UsageError, match="no UTC time in whole seconds"):
            Permit(until, "N", "a b c").check(NOW)


def test_times_are_written_as_they_are_read() -> None:
    assert parse("2026-11-22T12:00:00Z") == NOW
    assert text(parse("2026-11-22T12:00:00Z")) == "2026-11-22T12:00:00Z"
    assert text(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-11-22T12:00:00Z"


def test_it_is_over_once_a_late_clock_says_so_too() -> None:
    end = NOW.timestamp() + LATE.total_seconds()
    assert not over(NOW, end - 1)
    assert over(NOW, end)
    assert not over(parse("9999-12-31T23:59:59Z"), end)
