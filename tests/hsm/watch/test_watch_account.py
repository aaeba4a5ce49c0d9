"""The account: what is too many, what is not known, and what an honest oracle may do."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yubihsm.defs import COMMAND

from sigsum_ops.hsm.devicelog import Entry
from sigsum_ops.hsm.oracle.signatures import Count
from sigsum_ops.hsm.watch.account import (
    SETTLES,
    Account,
    Kind,
    Outcome,
    additions,
    compare,
)

ID = "0123456789abcdef"
NOW = 2_000_000_000.0
SIGN = COMMAND.SIGN_EDDSA


class Log:
    """A device's log that is written here, with its digests."""

    def __init__(self, number: int = 7) -> None:
        self.entries: list[bytes] = []
        self._number = number
        self._digest = b"\5" * 16

    def write(
        self, command: int = SIGN, target: int = 500, user: int = 200, result: int | None = None
    ) -> bytes:
        self._number = (self._number + 1) % 65536
        code = command | 0x80 if result is None else result
        entry = Entry(self._number, command, 9, user, target, 0xFFFF, code, 1, bytes(16))
        self._digest = sha256(entry.encode()[:16] + self._digest).digest()[:16]
        self.entries.append(entry.encode()[:16] + self._digest)
        return self.entries[-1]


def account(log: Log, *lines: str) -> Account:
    made = Account(500, 200, lines=1)
    for line in (f"at {int(NOW)}", *additions(made, log.entries), *lines):
        made.apply(line)
    return made


def kinds(made: Account) -> list[Kind]:
    return [finding.kind for finding in made.findings]


def judged(made: Account, before: Count | None, after: Count | None = None) -> str:
    """The first word of the line that a comparison adds; the account takes it."""
    comparison = compare(made, before, after or before, NOW)
    if comparison.line:
        made.apply(comparison.line)
        return comparison.line.split(" ")[0]
    return "waiting" if comparison.waiting else ""


def test_what_was_before_is_the_base() -> None:
    log = Log()
    for _ in range(5):
        log.write()
    made = account(log)
    assert (made.made, made.entries, made.outcome) == (5, 5, Outcome.OK)
    assert judged(made, Count(ID, given=3)) == "base"
    assert judged(made, Count(ID, given=3)) == ""
    assert made.base
    assert made.base.surplus == 2


@pytest.mark.parametrize(
    ("more", "count", "said"),
    [
        (1, Count(ID, given=1), ""),
        (2, Count(ID, given=1), "too-many"),
        (0, Count(ID, given=1), "too-few"),
        (1, Count(ID, given=0, lost=1, lost_at=int(NOW) - 5), ""),
        (1, Count(ID, given=0, pending=True), ""),
        (2, Count(ID, given=0, lost=1, pending=True), ""),
        (3, Count(ID, given=0, lost=1, pending=True), "too-many"),
        (0, Count(ID, given=0, lost=1, lost_at=int(NOW) - 5), ""),
        (0, Count("f" * 16), "recount"),
        (0, None, "recount"),
    ],
)
def test_against_what_was_given(more: int, count: Count | None, said: str) -> None:
    log = Log()
    log.write()
    made = account(log, f"base 1 0 0 {ID}")
    for _ in range(more):
        made.apply(f"entry {log.write().hex()}")
    assert judged(made, count) == said
    expected = {"": Outcome.OK, "too-many": Outcome.ALARM}.get(said, Outcome.UNKNOWN)
    assert made.outcome == expected


def test_signatures_made_while_it_was_looked_are_no_excess_and_no_lack() -> None:
    log = Log()
    made = account(log, f"base 0 0 0 {ID}")
    made.apply(f"entry {log.write().hex()}")
    # The device's log was fetched after the first of three.
    assert judged(made, Count(ID, given=0), Count(ID, given=3)) == ""
    assert judged(made, Count(ID, given=1), Count(ID, given=3)) == ""
    assert judged(made, Count(ID, given=2), Count(ID, given=3)) == "too-few"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (Count(ID, given=4, lost=3), "base"),  # a power cut, and one answer for a lost one
        (Count(ID, given=4, lost=2), "recount"),
        (Count(ID, given=3, lost=3), "recount"),
        (Count(ID, given=6, lost=1), "recount"),
    ],
)
def test_only_an_older_count_is_a_recount(count: Count, said: str) -> None:
    log = Log()
    for _ in range(5):
        log.write()
    made = account(log, f"base 0 2 5 {ID}")
    assert judged(made, count) == said


def test_what_got_no_answer_is_settled_once_it_can_no_longer_happen() -> None:
    log = Log()
    made = account(log, f"base 0 0 0 {ID}")
    lost = Count(ID, lost=1, lost_at=int(NOW - SETTLES / 2))
    assert judged(made, lost) == ""
    # It was not carried out: a signature that comes later is nobody's.
    settled = Count(ID, lost=1, lost_at=int(NOW - SETTLES))
    assert judged(made, settled) == "base"
    made.apply(f"entry {log.write().hex()}")
    assert judged(made, settled) == "too-many"


def test_an_alarm_is_raised_once_for_each() -> None:
    log = Log()
    made = account(log, f"base 0 0 0 {ID}")
    made.apply(f"entry {log.write().hex()}")
    assert judged(made, Count(ID)) == "too-many"
    assert judged(made, Count(ID)) == "base"
    assert judged(made, Count(ID)) == ""
    made.apply(f"entry {log.write().hex()}")
    assert judged(made, Count(ID)) == "too-many"
    assert kinds(made) == [Kind.TOO_MANY] * 2


def test_a_device_without_an_oracle_signs_nothing_until_it_gets_one() -> None:
    log = Log()
    made = account(log)
    assert judged(made, None) == "base"
    made.apply(f"entry {log.write().hex()}")
    assert judged(made, None) == "too-many"
    # A promotion: the oracle's first count goes on from none.
    assert judged(made, None) == "base"
    made.apply(f"entry {log.write().hex()}")
    assert judged(made, Count(ID, given=1)) == "base"
    assert made.findings[-1].kind == Kind.TOO_MANY
    assert len(made.findings) == 1


def test_a_busy_oracle_is_waited_for() -> None:
    made = account(Log())
    assert judged(made, Count(ID, given=1), Count(ID, given=2)) == "waiting"
    assert judged(made, Count(ID, pending=True)) == "waiting"
    assert judged(made, Count(ID, lost=1, lost_at=int(NOW))) == "waiting"
    assert judged(made, Count(ID, given=2)) == "base"


def test_lost_entries_are_unknown_and_the_count_begins_again() -> None:
    log = Log()
    log.write()
    made = account(log, f"base 1 0 0 {ID}")
    for _ in range(70):
        log.write()
    for line in additions(made, log.entries[-62:]):
        made.apply(line)
    (finding,) = made.findings
    assert (finding.kind, made.outcome, made.base) == (Kind.GAP, Outcome.UNKNOWN, None)
    assert finding.text.startswith("8 entries (or 65536 more) between entry 8")
    assert judged(made, Count(ID, given=70)) == "base"
    made.apply(f"acknowledged {finding.line} someone")
    assert made.outcome == Outcome.OK


def test_a_reset_is_told_from_a_gap() -> None:
    log = Log()
    log.write()
    made = account(log)
    reset = b"\0\1" + b"\xff" * 14 + bytes(16)
    boot = Entry(2, 0, 0, 0xFFFF, 0, 0, 0, 0, bytes(16)).encode()[:16]
    for line in additions(made, [reset, boot + sha256(boot + bytes(16)).digest()[:16]]):
        made.apply(line)
    assert kinds(made) == [Kind.RESET]
    assert made.outcome == Outcome.UNKNOWN


def test_a_log_that_no_device_writes_is_an_alarm_once() -> None:
    log = Log()
    log.write()
    made = account(log)
    log.write()
    log.write(target=600)
    log.entries[1] = log.entries[1][:-1] + b"\0"
    for _ in range(2):  # the second time as after a kill before it was freed
        for line in additions(made, log.entries):
            made.apply(line)
    assert kinds(made) == [Kind.BROKEN]
    assert made.outcome == Outcome.ALARM
    assert made.entries == 4


def test_an_entry_that_reads_otherwise_is_an_alarm() -> None:
    log, other = Log(), Log()
    log.write()
    made = account(log)
    other.write(target=600)
    for line in additions(made, other.entries):
        made.apply(line)
    assert kinds(made) == [Kind.BROKEN]


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"user": 1}, Kind.OTHER_USER),
        ({"command": COMMAND.EXPORT_WRAPPED, "user": 100}, Kind.MANAGEMENT),
        ({"command": COMMAND.PUT_AUTHENTICATION_KEY, "user": 1}, Kind.MANAGEMENT),
        ({"command": COMMAND.SET_OPTION, "user": 1}, Kind.MANAGEMENT),
        ({"user": 1, "result": 0x0B}, None),
        ({"command": COMMAND.EXPORT_WRAPPED, "result": 0x09}, None),
        ({"target": 900, "user": 800}, None),
        ({"command": COMMAND.GET_LOG_ENTRIES, "user": 700}, None),
    ],
)
def test_what_else_is_done_with_keys(entry: dict[str, int], kind: Kind | None) -> None:
    log = Log()
    log.write(**entry)
    made = account(log, f"base 0 0 0 {ID}")
    assert kinds(made) == ([kind] if kind else [])
    assert made.outcome == (Outcome.ALARM if kind else Outcome.OK)
    assert judged(made, Count(ID)) == ""  # it is no signature that an oracle could have asked for


def test_numbers_go_around() -> None:
    log = Log(65530)
    for _ in range(20):
        log.write()
    made = account(log)
    assert (made.entries, made.findings) == (20, [])


def test_only_what_was_shown_is_acknowledged() -> None:
    made = Account(500, 200, lines=1)
    made.apply("too-many 1 more")
    made.apply("too-few 1 fewer")
    made.apply("acknowledged 2 someone")
    assert kinds(made) == [Kind.TOO_FEW]
    assert made.found == 2


@pytest.mark.parametrize("line", ["", "entry 00", "entry zz", "base 1 2", "at noon", "gap x", "x"])
def test_what_is_no_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of many kinds
        Account(500, 200).apply(line)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(10, 120))
def test_an_honest_oracle_is_never_accused_and_a_thief_always(seed: int, steps: int) -> None:
    """Anything in any order: answers, refusals, commands lost before or after they were carried out
    (at once or within 30 s), kills, and looks at any moment of it."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    log, made, count, now = Log(), Account(500, 200, lines=1), Count(ID), NOW
    late: list[float] = []  # commands that are still under way to the device

    def look(before: Count) -> None:
        for line in additions(made, log.entries[-62:]):
            made.apply(line)
        comparison = compare(made, before, count, now)
        if comparison.line:
            made.apply(comparison.line)

    def arrive() -> None:
        for when in [when for when in late if when <= now]:
            late.remove(when)
            log.write()

    look(count)
    assert made.base
    for _ in range(steps):
        now += chance.choice([0.1, 1, 20, 100])
        arrive()
        match chance.randrange(6):
            case 0:
                before = count
                count = Count(ID, count.given, count.lost, count.lost_at, pending=True)
                if chance.random() < 0.3:
                    look(before)
                log.write()
                if chance.random() < 0.3:
                    look(before)
                count = Count(ID, count.given + 1, count.lost, count.lost_at)
            case 1:
                log.write(result=0x0A)
            case 2:
                count = Count(ID, count.given, count.lost + 1, int(now))
                if chance.random() < 0.5:
                    late.append(now + chance.uniform(0, 30))
            case _:
                look(count)
    assert made.findings == []
    now += SETTLES + 31
    arrive()
    look(count)
    now += SETTLES
    look(count)
    log.write()
    look(count)
    assert kinds(made) == [Kind.TOO_MANY]
