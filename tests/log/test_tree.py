"""One tree, and never a second: every decision, every interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from sigsum_ops.log import statefiles
from sigsum_ops.log import tree as tree_module
from sigsum_ops.log.tree import (
    DISPLAY_NAME,
    Outcome,
    Request,
    TreeRefused,
    TreeType,
    decide,
    ensure,
)
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD
from sigsum_ops.log.trillian import CannotTell, Tree, Trillian
from tests.log.fake_trillian import FakeTree, FakeTrillian

OURS = Tree(1, "LOG", "ACTIVE", DISPLAY_NAME, deleted=False)
TYPES: tuple[TreeType, TreeType] = ("LOG", "PREORDERED_LOG")
CANDIDATES = [
    replace(OURS, id=tree_id, type=kind, state=state, display_name=name, deleted=deleted)
    for tree_id, kind, state, name, deleted in product(
        (1, 2), TYPES, ("ACTIVE", "FROZEN"), (DISPLAY_NAME, ""), (False, True)
    )
]
SETS: list[tuple[Tree, ...]] = [
    *((),),
    *((tree,) for tree in CANDIDATES),
    *(pair for pair in combinations(CANDIDATES, 2) if pair[0].id != pair[1].id),
]


def expected(wanted: str, tree_id: int | None, trees: tuple[Tree, ...], evidence: bool) -> str:
    """What the issue says, as a table: the only ways not to be refused."""
    living = [tree for tree in trees if not tree.deleted]
    only = living[0] if len(living) == 1 else None
    usable = only is not None and (only.type, only.state) == (wanted, "ACTIVE")
    if usable and only and only.id == tree_id:
        return "keep"
    if usable and only and tree_id is None and only.display_name == DISPLAY_NAME:
        return "recover"
    if not trees and tree_id is None and not evidence:
        return "create"
    return "refuse"


def test_every_decision() -> None:
    counts = dict.fromkeys(("keep", "recover", "create", "refuse"), 0)
    for wanted, tree_id, trees, evidence in product(TYPES, (None, 1, 9), SETS, (False, True)):
        want = expected(wanted, tree_id, trees, evidence)
        counts[want] += 1
        known = ["a file"] if evidence else []
        if want == "refuse":
            with pytest.raises(TreeRefused) as refusal:
                decide(wanted, tree_id, trees, known)
            assert refusal.value.hint
            continue
        decision = decide(wanted, tree_id, trees, known)
        assert decision.action == want, (wanted, tree_id, trees, evidence)
        assert (decision.tree is None) if want == "create" else (decision.tree in trees)
    assert all(counts.values())


@pytest.mark.parametrize(
    ("wanted", "tree_id", "trees", "evidence", "facts"),
    [
        ("PREORDERED_LOG", 1, [OURS], [], ["a secondary", "a primary's", "promote.yml"]),
        (
            "LOG",
            1,
            [replace(OURS, type="PREORDERED_LOG")],
            [],
            ["a primary", "a secondary's", "handover.yml"],
        ),
        ("LOG", 9, [OURS], [], ["tree 9", "tree 1 (LOG, ACTIVE", "reseed.yml"]),
        ("LOG", 9, [], [], ["tree 9", "it has none"]),
        ("LOG", 1, [replace(OURS, deleted=True)], [], ["deleted", "start-refused.md"]),
        ("LOG", None, [replace(OURS, deleted=True)], [], ["only deleted trees"]),
        ("LOG", 1, [replace(OURS, state="FROZEN")], [], ["FROZEN", "not active"]),
        ("LOG", None, [OURS, replace(OURS, id=2)], [], ["2 trees", "tree 1", "tree 2"]),
        ("LOG", 1, [OURS, replace(OURS, id=2)], [], ["holds others", "tree 2"]),
        ("LOG", None, [replace(OURS, display_name="x")], [], ["'x'", "tree-id=1"]),
        ("LOG", None, [], ["/state/sth"], ["has had one: /state/sth"]),
    ],
)
def test_refusals_name_the_facts_and_the_procedure(
    wanted: TreeType, tree_id: int | None, trees: list[Tree], evidence: list[str], facts: list[str]
) -> None:
    with pytest.raises(TreeRefused) as refusal:
        decide(wanted, tree_id, trees, evidence)
    for fact in facts:
        assert fact in str(refusal.value)


@dataclass
class Machine:
    """A log machine's files and its Trillian."""

    directory: Path
    trillian: FakeTrillian
    type: TreeType = "LOG"

    @property
    def request(self) -> Request:
        sth = self.directory / "sth"
        return Request(
            self.type,
            self.directory / "tree-id",
            sth,
            sth.with_name("sth.startup"),
            (self.directory / "guard-evidence.json",),
        )

    def ensure(self, *, check: bool = False) -> Outcome:
        with Trillian(self.trillian.address) as client:
            return ensure(client, self.request, check=check)

    def become_a_secondary(self) -> None:
        self.type = self.trillian.trees[1001].type = "PREORDERED_LOG"

    def snapshot(self) -> tuple[dict[str, bytes], str]:
        files = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        return files, repr(self.trillian.trees)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with FakeTrillian() as trillian:
        yield Machine(tmp_path, trillian)


@pytest.mark.parametrize("wanted", TYPES)
def test_created_once(machine: Machine, wanted: TreeType) -> None:
    machine.type = wanted
    outcome = machine.ensure()
    assert outcome.changed
    assert outcome.action == "create"
    assert outcome.tree == Tree(1001, wanted, "ACTIVE", DISPLAY_NAME, deleted=False)
    assert outcome.head == EMPTY_TREE_HEAD
    files, _ = before = machine.snapshot()
    assert files["tree-id"] == b"tree-id=1001\n"
    assert files.get("sth.startup") == (b"startup=empty\n" if wanted == "LOG" else None)
    again = machine.ensure()
    assert not again.changed
    assert again.action == "keep"
    assert machine.snapshot() == before


def started(machine: Machine) -> None:
    """As after the first start: log-go took the startup file and left an sth file."""
    machine.ensure()
    (machine.directory / "sth.startup").unlink()
    (machine.directory / "sth").write_text("whatever")
    (machine.directory / "guard-evidence.json").write_text("{}")
    machine.trillian.trees[1001].leaves = [b"a", b"b"]


@pytest.mark.parametrize("content", [None, b""])
def test_a_lost_tree_id_file_is_recovered(machine: Machine, content: bytes | None) -> None:
    started(machine)
    before = machine.snapshot()
    path = machine.directory / "tree-id"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert machine.ensure(check=True).changed
    outcome = machine.ensure()
    assert (outcome.action, outcome.tree_id_written) == ("recover", True)
    assert machine.snapshot() == before


def test_an_emptied_tree_id_file_is_evidence(machine: Machine) -> None:
    (machine.directory / "tree-id").write_bytes(b"")
    with pytest.raises(TreeRefused, match=r"has had one: .*tree-id"):
        machine.ensure()
    assert machine.trillian.trees == {}


def test_a_malformed_tree_id_file_is_refused(machine: Machine) -> None:
    machine.ensure()
    path = machine.directory / "tree-id"
    path.write_bytes(b"tree_id=1001\n")
    with pytest.raises(TreeRefused, match=f"{path}: .*tree_id=1001"):
        machine.ensure()


@pytest.mark.parametrize("name", ["sth", "guard-evidence.json"])
def test_no_tree_where_one_was(machine: Machine, name: str) -> None:
    (machine.directory / name).write_text("")
    with pytest.raises(TreeRefused, match=name):
        machine.ensure()
    assert machine.trillian.trees == {}


def test_a_tree_without_root_on_a_machine_with_a_past(machine: Machine) -> None:
    started(machine)
    machine.trillian.trees[1001].leaves = None
    with pytest.raises(TreeRefused, match="has no root, but this machine has a past"):
        machine.ensure()
    assert machine.trillian.trees[1001].leaves is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: (m.directory / "sth").write_text(""),
        lambda m: (m.directory / "guard-evidence.json").write_text(""),
        lambda m: m.trillian.trees[1001].leaves.append(b"a"),
        lambda m: m.become_a_secondary(),
    ],
)
def test_no_startup_file_for_a_log_with_a_past(
    machine: Machine, spoil: Callable[[Machine], Any]
) -> None:
    machine.ensure()
    startup = machine.directory / "sth.startup"
    startup.unlink()
    spoil(machine)
    assert not machine.ensure().changed
    assert not startup.exists()


def test_a_startup_file_is_left_as_it_is(machine: Machine) -> None:
    machine.ensure()
    startup = machine.directory / "sth.startup"
    startup.write_text("startup=local-tree")  # promote.yml's
    assert not machine.ensure().changed
    assert startup.read_text() == "startup=local-tree"


class Killed(BaseException):
    """As kill -9: nothing catches it."""


STEPS = ("CreateTree", "InitLog", "tree-id", "sth.startup")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_any_interruption_is_finished_by_the_next_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    with monkeypatch.context() as patch:

        def killing(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any) -> Any:
                if name == step and when == "before":
                    raise Killed
                result = act(*arguments)
                if name == step:
                    raise Killed
                return result

            return wrapped

        patch.setattr(Trillian, "create_tree", killing("CreateTree", Trillian.create_tree))
        patch.setattr(Trillian, "init_log", killing("InitLog", Trillian.init_log))
        patch.setattr(
            tree_module,
            "write_durably",
            lambda path, data: killing(path.name, statefiles.write_durably)(path, data),
        )
        with pytest.raises(Killed):
            machine.ensure()
    outcome = machine.ensure()
    assert outcome.changed is ((step, when) != ("sth.startup", "after"))
    assert list(machine.trillian.trees) == [1001]
    assert machine.trillian.trees[1001].leaves == []
    assert machine.snapshot()[0] == {
        "tree-id": b"tree-id=1001\n",
        "sth.startup": b"startup=empty\n",
    }
    assert not machine.ensure().changed


@pytest.mark.parametrize("trees", [(), (1,), (1, 2)])
@pytest.mark.parametrize("leaves", [None, [], [b"a"]])
@pytest.mark.parametrize("tree_id", [None, 1])
def test_check_mode_changes_nothing_and_tells_what_would(
    machine: Machine, trees: tuple[int, ...], leaves: list[bytes] | None, tree_id: int | None
) -> None:
    machine.trillian.trees = {i: FakeTree(i, leaves=leaves) for i in trees}
    if tree_id is not None:
        (machine.directory / "tree-id").write_text(f"tree-id={tree_id}\n")
    before = machine.snapshot()

    def run(*, check: bool) -> tuple[Any, ...]:
        try:
            outcome = machine.ensure(check=check)
        except TreeRefused as refusal:
            return (refusal.message,)
        return (
            outcome.action,
            outcome.initialised,
            outcome.tree_id_written,
            outcome.startup_written,
            outcome.changed,
        )

    told = run(check=True)
    assert machine.snapshot() == before
    assert run(check=False) == told


def test_a_list_cut_short_creates_nothing(machine: Machine) -> None:
    machine.ensure()
    machine.trillian.list_is_cut_short = True
    with pytest.raises(CannotTell, match="leaves out tree 1001"):
        machine.ensure()
    assert list(machine.trillian.trees) == [1001]


def test_a_tree_that_appears_meanwhile_is_noticed(machine: Machine) -> None:
    def another(method: str) -> None:
        if method == "CreateTree":
            machine.trillian.trees[5] = FakeTree(5)

    machine.trillian.before = another
    with pytest.raises(TreeRefused, match=r"holds 2: tree 5 .*, tree 1001 "):
        machine.ensure()
    assert machine.snapshot()[0] == {}


def test_what_was_created_is_read_back(machine: Machine) -> None:
    """Trillian may do less than it says: updatetree's exit status was seen to lie."""

    def freeze(method: str) -> None:
        if method == "CreateTree":
            machine.trillian.trees[1001].state = "FROZEN"

    machine.trillian.after = freeze
    with pytest.raises(TreeRefused, match="FROZEN"):
        machine.ensure()
    assert machine.snapshot()[0] == {}


def test_init_log_that_did_not_take_is_noticed(machine: Machine) -> None:
    """ "Already exists" is also the answer when the table of tree heads cannot be read."""
    machine.trillian.root_is_unreadable = True
    with pytest.raises(CannotTell, match="could not read its database"):
        machine.ensure()
    assert machine.snapshot()[0] == {}
    machine.trillian.root_is_unreadable = False
    assert machine.ensure().action == "recover"
