"""The permit to go on without a secondary: it ends in time, and does not come back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.oracle import journal as journal_module
from sigsum_ops.hsm.oracle import permit as module
from sigsum_ops.hsm.oracle.approve import OUTCOMES, LogApprover, Refused
from sigsum_ops.hsm.oracle.journal import Journal, create
from sigsum_ops.hsm.oracle.latch import Latch
from sigsum_ops.hsm.oracle.metrics import Metrics
from sigsum_ops.hsm.oracle.permit import Permit
from sigsum_ops.log.treehead import TreeHead
from tests.hsm.oracle.world import KEY, LEAVES, head
from tests.log import rfc9162

UNTIL = 1_795_435_200
MOMENT = 0.001


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(UNTIL + seconds, UTC)


@dataclass
class Clocks:
    """A wall clock that can be put anywhere, and one that only goes forward."""

    wall: float = UNTIL - 1000.0
    boot: float = 77.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def start(tmp_path: Path, clocks: Clocks) -> Callable[..., Permit]:
    """An oracle's start: the same file, whatever was remembered is gone."""

    def start(seconds: float = 0, journaled: int = 0) -> Permit:
        return Permit(
            at(seconds),
            tmp_path / "permit-ended",
            journaled,
            wall=lambda: clocks.wall,
            boot=lambda: clocks.boot,
        )

    return start


def test_it_ends_in_time(start: Callable[..., Permit], clocks: Clocks, tmp_path: Path) -> None:
    permit = start()
    assert permit.until == UNTIL
    clocks.pass_(1000 - MOMENT)
    assert not permit.ended()
    assert list(tmp_path.iterdir()) == []
    clocks.pass_(MOMENT)
    assert permit.ended()
    file = tmp_path / "permit-ended"
    assert file.read_text() == f"{UNTIL}\n"
    written = file.stat()
    assert permit.ended()
    assert start().ended()
    assert file.stat() == written  # once


def test_a_clock_that_is_put_back_does_not_bring_it_back(
    start: Callable[..., Permit], clocks: Clocks
) -> None:
    permit = start()
    clocks.wall += 1000
    assert permit.ended()
    clocks.wall -= 5000
    assert permit.ended()
    assert start().ended()
    clocks.boot = 0  # the machine was restarted too
    assert start().ended()


def test_a_clock_that_is_put_back_does_not_make_it_longer(
    start: Callable[..., Permit], clocks: Clocks
) -> None:
    permit = start()
    clocks.pass_(10)
    clocks.wall -= 5000
    clocks.pass_(989)
    assert not permit.ended()
    clocks.pass_(1)
    assert permit.ended()


def test_what_the_journal_knows_counts(start: Callable[..., Permit], clocks: Clocks) -> None:
    """The clock was put back while the oracle was down."""
    permit = start(journaled=UNTIL - 10)
    clocks.pass_(10 - MOMENT)
    assert not permit.ended()
    clocks.pass_(MOMENT)
    assert permit.ended()
    assert start(seconds=50, journaled=UNTIL + 50).ended()


def test_only_a_later_permit_lets_it_go_on(start: Callable[..., Permit], clocks: Clocks) -> None:
    permit = start()
    clocks.pass_(1000)
    assert permit.ended()
    assert start(seconds=-1).ended()
    later = start(seconds=60)
    assert not later.ended()
    clocks.pass_(60)
    assert later.ended()
    # The clock is put back to before either: what was seen to be over is the time at the least.
    clocks.wall -= 5000
    last = start(seconds=100)
    clocks.pass_(39)
    assert not last.ended()
    clocks.pass_(1)
    assert last.ended()
    # A shorter one in between makes nothing forgotten.
    assert start(seconds=20).ended()
    assert start(seconds=90).ended()


def test_a_full_disk_does_not_bring_it_back(
    start: Callable[..., Permit],
    clocks: Clocks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    permit = start()
    clocks.pass_(1000)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_durably", full)
        assert permit.ended()
    clocks.wall -= 5000
    assert list(tmp_path.iterdir()) == []
    assert permit.ended()
    assert start().ended()  # written meanwhile


@pytest.mark.parametrize("content", [b"", b"\n", b"1.5\n", b"-1\n", b"1795435200", b"\xff\n", None])
def test_a_file_that_is_not_as_it_was_written(
    start: Callable[..., Permit], tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "permit-ended"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(OpsError, match="permit-ended"):
        start()


def test_the_clock_that_nobody_sets() -> None:
    first = module.since_boot()
    assert 0 < first <= module.since_boot() < first + 60


# The oracle with a permit, and clocks that go as they like


class AnyTree:
    """All leaves, always."""

    seen: dict[str, object] = {}  # noqa: RUF012 - as the protocol has it

    def latest(self) -> TreeHead:
        return head(len(LEAVES))

    def path(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        return tuple(rfc9162.consistency(old_size, LEAVES[:new_size]))


class Ungated(RuleBasedStateMachine):
    """A log that asks for more and more, on a machine whose clock is put anywhere.

    The model knows the time that really passed, and what anybody can have seen of it.
    """

    journal: Journal | None = None

    @initialize(lasts=st.integers(1, 60))
    def begin(self, lasts: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.clocks = Clocks()
        self.until = int(self.clocks.wall) + lasts
        self.patch = pytest.MonkeyPatch()
        time = SimpleNamespace(time=lambda: self.clocks.wall)
        self.patch.setattr(journal_module, "time", time)
        create(self.path / "journal", KEY.hash, head(1))
        self.over_at: int | None = None  # the size that was signed last when it was seen to be over
        self.start()

    def start(self) -> None:
        if self.journal:
            self.journal.close()
        self.journal = Journal.open(self.path / "journal", KEY.hash)
        permit = Permit(
            datetime.fromtimestamp(self.until, UTC),
            self.path / "permit-ended",
            self.journal.last.time,
            wall=lambda: self.clocks.wall,
            boot=lambda: self.clocks.boot,
        )
        self.metrics = Metrics()
        latch = Latch(self.path / "latch")
        self.approver = LogApprover(KEY, self.journal, latch, AnyTree(), self.metrics, permit)
        self.known = max(self.clocks.wall, self.journal.last.time)
        self.started = self.clocks.boot

    @property
    def over(self) -> bool:
        """By the wall clock, or by all that has passed since this start."""
        passed = self.clocks.boot - self.started
        return max(self.clocks.wall, self.known + passed) >= self.until

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.clocks.pass_(seconds)

    @rule(seconds=st.floats(-100, 100))
    def the_clock_is_set(self, seconds: float) -> None:
        self.clocks.wall += seconds

    @rule(reboot=st.booleans())
    def the_oracle_is_restarted(self, reboot: bool) -> None:
        if reboot:
            self.clocks.boot = 0.0
        self.start()

    @rule(longer=st.integers(-30, 30))
    def another_permit_is_given(self, longer: int) -> None:
        self.until += longer
        if longer > 0:
            self.over_at = None
        self.start()

    @rule()
    def the_metrics_are_written(self) -> None:
        lines = self.metrics.render(OUTCOMES).decode().splitlines()
        self.look()
        assert f"sigsum_oracle_ungated {int(self.over_at is None)}" in lines
        assert f"sigsum_oracle_ungated_until_seconds {self.until}" in lines

    @rule(more=st.integers(0, 3))
    def log_go_asks(self, more: int) -> None:
        assert self.journal
        last = self.size
        size = min(last + more, len(LEAVES))
        outcome = "signed"
        try:
            self.approver.approve(head(size).checkpoint(KEY))
        except Refused as refusal:
            outcome = refusal.outcome
        if size == last:
            assert outcome == "signed"
            return
        if outcome == "signed":
            assert self.journal.last.time < self.until
        self.look()
        assert outcome == ("signed" if self.over_at is None else "permit-ended")

    def look(self) -> None:
        """The oracle has just looked whether it is over."""
        if self.over_at is None and (self.over or self.was_over()):
            self.over_at = self.size

    @property
    def size(self) -> int:
        assert self.journal
        return self.journal.last.head.size

    @invariant()
    def nothing_larger_is_signed_after_it_was_seen_to_be_over(self) -> None:
        if self.journal:
            assert self.over_at in (None, self.size)

    def was_over(self) -> bool:
        """A shorter permit in place of one that was seen to be over."""
        file = self.path / "permit-ended"
        if not file.exists():
            return False
        passed = self.clocks.boot - self.started
        return int(file.read_text()) + passed >= self.until

    def teardown(self) -> None:
        if self.journal:
            self.journal.close()
            self.patch.undo()
            self.directory.cleanup()


Ungated.TestCase.settings = settings(max_examples=75, stateful_step_count=30, deadline=None)
TestUngated = Ungated.TestCase
