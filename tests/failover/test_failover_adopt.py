"""A secondary's tree becomes a primary's once, at one tree head, wherever it is interrupted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sigsum_ops.errors import UsageError
from sigsum_ops.failover import adopt as module
from sigsum_ops.failover import database, judge, look, units
from sigsum_ops.failover.adopt import NotAdopted, Places, adopt, convert
from sigsum_ops.failover.database import Sequenced
from sigsum_ops.failover.seen import Seen
from sigsum_ops.log.evidence import parse_promotion
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.statefiles import write_durably
from sigsum_ops.log.treehead import TreeHead
from sigsum_ops.log.trillian import CannotTell, TreeNotFound, Trillian
from tests.failover.systemd import Systemd
from tests.failover.world import (
    FOREIGN,
    KEY,
    LEAVES,
    SIZE,
    TREE,
    head,
    promote,
    reset,
    secondary,
    signed,
)
from tests.log.fake_trillian import Failure, FakeTree, FakeTrillian

# Everything that adopting does on a machine on which nothing was done yet, in its order.
ROOT, TREE_READ, CHANGE = "GetLatestSignedLogRoot", "GetTree", "UpdateTree"
STEPS = [
    *("stop", ROOT, "drain", ROOT, TREE_READ, "GetConsistencyProof", "promotion.json"),
    *(TREE_READ, CHANGE, TREE_READ, CHANGE, TREE_READ, CHANGE, TREE_READ),
    *(ROOT, "sth.startup"),
]
FROZEN, CONVERTED = ("PREORDERED_LOG", "FROZEN"), ("LOG", "FROZEN")
PRIMARY, SECONDARY = ("LOG", "ACTIVE"), ("PREORDERED_LOG", "ACTIVE")


class Killed(BaseException):
    """The process is no more."""


@dataclass
class Machine:
    """A secondary that is to become the primary, and may die ``at`` a step, before or after it."""

    places: Places
    server: FakeTrillian
    monkeypatch: pytest.MonkeyPatch
    seen: list[Seen] = field(default_factory=lambda: [Seen(head(5), "log1")])
    steps: list[str] = field(default_factory=list)
    owners: list[object] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)  # after each change
    waiting: list[int] = field(default_factory=list)  # numbered leaves, look by look
    time: float = 0.0
    kill: tuple[int, bool] | None = None  # (index of the step, after it)

    def __post_init__(self) -> None:
        self.server.before = lambda method: self.step(method, Failure("UNAVAILABLE"))
        self.server.after = self.changed
        self.monkeypatch.setattr(module, "write_durably", self.write)

    def step(self, name: str, death: BaseException) -> None:
        self.steps.append(name)
        if self.kill == (len(self.steps) - 1, False):
            raise death

    def done(self, death: BaseException) -> None:
        if self.kill == (len(self.steps) - 1, True):
            raise death

    def changed(self, method: str) -> None:
        if method == CHANGE:
            self.states.append(self.state)
        self.done(Failure("UNAVAILABLE"))

    def write(self, path: Path, data: bytes, *, owner: tuple[int, int]) -> None:
        self.step(path.name, Killed())
        self.owners.append(owner)
        write_durably(path, data, owner=owner)
        self.done(Killed())

    def stop(self) -> None:
        self.step("stop", Killed())
        self.done(Killed())

    def drain(self, tree_id: int, size: int) -> Sequenced:
        assert tree_id == TREE
        self.step("drain", Killed())
        count = self.waiting.pop(0) if self.waiting else 0
        self.done(Killed())
        return Sequenced(size, count, size + count - 1 if count else None)

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def adopt(self, kill: tuple[int, bool] | None = None) -> tuple[TreeHead, bool]:
        """Run once; dies at the given step if that is reached."""
        self.steps.clear()
        self.kill = kill
        with Trillian(self.server.address) as trillian:
            return adopt(
                trillian,
                KEY,
                self.seen,
                self.places,
                drain=self.drain,
                stop=self.stop,
                clock=lambda: self.time,
                sleep=self.sleep,
            )

    def problems(self) -> list[str]:
        """What the playbook would say against going on, but for this computer's disk."""
        self.kill, steps = None, list(self.steps)
        for name in ("ORACLE", "ARCHIVE", "NODE_KEY"):
            self.monkeypatch.setattr(look, name, self.places.state.parent / name)
        self.monkeypatch.setattr(look, "POLICY", self.places.tree_id)  # any file that is there
        self.monkeypatch.setattr(units, "MARK", self.places.state.parent / "MARK")
        self.monkeypatch.setattr(units, "_systemctl", Systemd(self.places.state))
        self.monkeypatch.setattr(database, "sequenced", lambda _, size: Sequenced(size, 0, None))
        with Trillian(self.server.address) as trillian:
            found = look.look(trillian, KEY, self.seen, self.places)
        self.steps[:] = steps
        problems = judge.problems({"log2": found}, "log2", now=found["time"])
        return [str(problem) for problem in problems if problem.name != "disk"]

    @property
    def tree(self) -> FakeTree:
        return self.server.trees[TREE]

    @property
    def state(self) -> tuple[str, str]:
        return self.tree.type, self.tree.state

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.places.state.iterdir())

    def check_adopted(self, at: TreeHead) -> None:
        assert self.state == PRIMARY
        assert self.tree.head == at
        assert self.files == ["promotion.json", "sth.startup", "tree-id"]
        record = parse_promotion(self.places.promotion.read_bytes())
        assert (record.head, record.tree_id, record.log_key_hash) == (at, TREE, KEY.hash)
        assert self.places.startup.read_bytes() == b"startup=local-tree\n"

    def check_untouched(self) -> None:
        assert self.state == SECONDARY
        assert CHANGE not in self.steps
        assert self.files == ["tree-id"]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeTrillian]:
    with FakeTrillian() as trillian:
        yield trillian


@pytest.fixture
def machine(tmp_path: Path, server: FakeTrillian, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(secondary(tmp_path / "state"), reset(server), monkeypatch)


def test_the_order_of_a_whole_run(machine: Machine) -> None:
    assert machine.adopt() == (head(), True)
    assert machine.steps == STEPS
    assert machine.states == [FROZEN, CONVERTED, PRIMARY]
    machine.check_adopted(head())
    owner = machine.places.state.stat()
    assert machine.owners == [(owner.st_uid, owner.st_gid)] * 2


def test_once_more_changes_nothing(machine: Machine) -> None:
    machine.adopt()
    before = machine.places.promotion.read_bytes()
    assert machine.adopt()[0] == head()
    assert CHANGE not in machine.steps
    assert machine.places.promotion.read_bytes() == before
    machine.check_adopted(head())


def check_between(machine: Machine) -> None:
    """What must hold at every moment, for a reboot may start what is there."""
    assert machine.tree.head == head()
    if machine.tree.type == "LOG":
        record = parse_promotion(machine.places.promotion.read_bytes())
        assert record.head == head()
    if machine.places.startup.exists():
        assert machine.state == PRIMARY


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("index", range(len(STEPS)), ids=lambda n: f"{n}-{STEPS[n]}")
def test_killed_at_each_step_and_run_again(machine: Machine, index: int, after: bool) -> None:
    with pytest.raises((CannotTell, Killed)):
        machine.adopt((index, after))
    assert machine.steps == STEPS[: index + 1]
    check_between(machine)
    assert machine.problems() == []
    assert machine.adopt() == (head(), True)
    assert machine.states == [FROZEN, CONVERTED, PRIMARY]  # each of them once
    machine.check_adopted(head())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.booleans()), max_size=8))
@example([(8, True), (10, True), (6, True), (13, False), (12, True)])
def test_killed_again_and_again(server: FakeTrillian, kills: list[tuple[int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        machine = Machine(secondary(Path(directory) / "state"), reset(server), patch)
        for kill in kills:
            try:
                assert machine.adopt(kill)[0] == head()
            except (CannotTell, Killed):
                check_between(machine)
        assert machine.adopt()[0] == head()
        assert machine.states == [FROZEN, CONVERTED, PRIMARY]
        machine.check_adopted(head())


@pytest.mark.parametrize("size", [0, 1, SIZE])
def test_any_tree_that_covers_what_was_seen(machine: Machine, size: int) -> None:
    machine.tree.leaves = LEAVES[:size]
    machine.seen = [Seen(head(0), "new"), Seen(head(size), "all of it")]
    assert machine.adopt() == (head(size), True)
    machine.check_adopted(head(size))


# Refused, and nothing was changed


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (head(SIZE + 1), "ends at size 12"),
        (head(SIZE, FOREIGN), "another one"),
        (head(5, FOREIGN), "another one"),
    ],
)
def test_what_was_signed_and_is_not_here(machine: Machine, seen: TreeHead, reason: str) -> None:
    machine.seen.append(Seen(seen, "the archive"))
    with pytest.raises(NotAdopted, match=f"the archive has size {seen.size}.*{reason}"):
        machine.adopt()
    machine.check_untouched()


def test_leaves_that_wait_are_waited_for(machine: Machine) -> None:
    machine.waiting = [3, 1]
    assert machine.adopt() == (head(), True)
    assert machine.steps[:6] == ["stop", ROOT, "drain", ROOT, "drain", ROOT]
    assert machine.time == pytest.approx(0.2)


def test_leaves_that_wait_for_ever(machine: Machine) -> None:
    machine.waiting = [3] * 1000
    with pytest.raises(NotAdopted, match=r"3 leaves from number 12 to 14 .* after 30 s"):
        machine.adopt()
    assert machine.time == pytest.approx(module.DRAIN_FOR, abs=0.2)
    machine.check_untouched()


def test_a_leaf_that_is_integrated_meanwhile(machine: Machine) -> None:
    """The signer was faster than the look into the database: the tree head is the later one."""

    def integrate(method: str) -> None:
        if method == ROOT and machine.server.calls.count(ROOT) == 1:
            machine.tree.leaves = LEAVES[: SIZE + 1]

    machine.server.after = integrate
    assert machine.adopt() == (head(SIZE + 1), True)
    machine.check_adopted(head(SIZE + 1))


def test_a_former_primary(machine: Machine) -> None:
    machine.places.sth.write_bytes(signed(head(5)))
    with pytest.raises(NotAdopted, match="has been the primary") as refused:
        machine.adopt()
    assert "reseed" in str(refused.value)
    assert machine.steps == []
    assert machine.state == SECONDARY


def test_one_that_serves_already(machine: Machine) -> None:
    """Its log has signed since: nothing is stopped, and the tree may have grown."""
    promote(machine.places, head(5))
    machine.places.sth.write_bytes(signed(head(6)))
    machine.tree.type = "LOG"
    assert machine.adopt() == (head(5), False)
    assert not {"stop", CHANGE} & set(machine.steps)
    assert not machine.places.startup.exists()


def test_one_that_serves_what_another_has_gone_beyond(machine: Machine) -> None:
    promote(machine.places, head(5))
    machine.places.sth.write_bytes(signed(head(6)))
    machine.tree.type = "LOG"
    machine.seen.append(Seen(head(6, FOREIGN), "log3"))
    with pytest.raises(NotAdopted, match="log3 has size 6") as refused:
        machine.adopt()
    assert "Re-seed" in str(refused.value)
    assert not {"stop", CHANGE} & set(machine.steps)


@pytest.mark.parametrize(("tree_id", "key"), [(TREE + 1, KEY), (TREE, PublicKey(bytes(32)))])
@pytest.mark.parametrize("serves", [False, True])
def test_a_record_of_another_log_or_tree(
    machine: Machine, tree_id: int, key: PublicKey, serves: bool
) -> None:
    promote(machine.places, head(), tree_id=tree_id, key=key)
    if serves:
        machine.places.sth.write_bytes(signed(head()))
    with pytest.raises(NotAdopted, match="another log or tree"):
        machine.adopt()
    assert machine.steps == []


@pytest.mark.parametrize("now", [head(SIZE + 1), head(SIZE - 1), head(SIZE, FOREIGN)])
def test_a_tree_that_changed_since_the_record(machine: Machine, now: TreeHead) -> None:
    machine.adopt()
    leaves = FOREIGN if now.root == head(SIZE, FOREIGN).root else LEAVES
    machine.tree.leaves = leaves[: now.size]
    record = machine.places.promotion.read_bytes()
    with pytest.raises(NotAdopted, match="was promoted at size 12") as refused:
        machine.adopt()
    assert "split-view" in str(refused.value)
    assert machine.places.promotion.read_bytes() == record


def test_a_record_of_a_promotion_that_was_given_up(machine: Machine) -> None:
    """The tree is a secondary's still, and has grown since: it is promoted at what it is now."""
    promote(machine.places, head(5))
    assert machine.adopt() == (head(), True)
    machine.check_adopted(head())


def test_a_record_does_not_replace_what_was_seen_since(machine: Machine) -> None:
    machine.adopt()
    machine.places.startup.unlink()
    machine.seen.append(Seen(head(SIZE + 1), "a client"))
    with pytest.raises(NotAdopted, match="a client has size 13"):
        machine.adopt()
    assert not machine.places.startup.exists()


def test_a_tree_that_changes_while_it_is_converted(machine: Machine) -> None:
    def write(method: str) -> None:
        if method == CHANGE and machine.state == PRIMARY:
            machine.tree.leaves = LEAVES[: SIZE + 1]

    machine.server.after = write
    with pytest.raises(NotAdopted, match="changed while it was converted"):
        machine.adopt()
    assert not machine.places.startup.exists()
    with pytest.raises(NotAdopted, match="was promoted at size 12"):
        machine.adopt()


def test_a_record_that_is_damaged_is_no_absence(machine: Machine) -> None:
    machine.places.promotion.write_text("{}\n")
    with pytest.raises(UsageError):
        machine.adopt()
    assert machine.steps == []


def test_a_machine_without_a_tree(machine: Machine) -> None:
    machine.places.tree_id.write_text("")
    with pytest.raises(UsageError, match="tree-id"):
        machine.adopt()
    machine.places.tree_id.unlink()
    with pytest.raises(FileNotFoundError):
        machine.adopt()
    assert machine.steps == []


# One conversion


@pytest.mark.parametrize(
    ("begin", "states"),
    [
        (SECONDARY, [FROZEN, CONVERTED, PRIMARY]),
        (FROZEN, [CONVERTED, PRIMARY]),
        (CONVERTED, [PRIMARY]),
        (PRIMARY, []),
    ],
)
def test_no_state_is_skipped_or_repeated(
    machine: Machine, begin: tuple[str, str], states: list[tuple[str, str]]
) -> None:
    machine.tree.type, machine.tree.state = begin
    with Trillian(machine.server.address) as trillian:
        tree = convert(trillian, TREE)
    assert (tree.type, tree.state) == PRIMARY
    assert machine.states == states


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "UNKNOWN_TREE_TYPE"},
        {"state": "UNKNOWN_TREE_STATE"},
        {"state": "DRAINING"},
        {"type": "LOG", "state": "DRAINING"},
        *({"type": kind, "state": state, "deleted": True} for kind, state in (PRIMARY, SECONDARY)),
    ],
)
def test_any_other_tree_is_left_alone(machine: Machine, fields: dict[str, object]) -> None:
    for name, value in fields.items():
        setattr(machine.tree, name, value)
    before = machine.tree.message
    with (
        Trillian(machine.server.address) as trillian,
        pytest.raises(NotAdopted, match="cannot be made an active LOG"),
    ):
        convert(trillian, TREE)
    assert machine.states == []
    assert machine.tree.message == before


def test_a_tree_that_trillian_does_not_have(machine: Machine) -> None:
    with Trillian(machine.server.address) as trillian, pytest.raises(TreeNotFound):
        convert(trillian, TREE + 1)


def test_success_is_what_is_read_back(machine: Machine) -> None:
    """Trillian says yes, and the database keeps what it had: it is not asked for ever."""

    def forget(method: str) -> None:
        if method == CHANGE:
            machine.tree.state = "ACTIVE"

    machine.server.after = forget
    with Trillian(machine.server.address) as trillian, pytest.raises(NotAdopted):
        convert(trillian, TREE)
    assert machine.state == SECONDARY
    assert machine.steps.count(CHANGE) <= 4
