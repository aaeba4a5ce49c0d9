"""The decision, against a model that knows the leaves and has never heard of proofs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from sigsum_ops.hsm.oracle.decide import CannotProve, Decision, Latch, NotNow, Sign, decide
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, MAX_NUMBER, TreeHead
from tests.log import rfc9162

LEAVES = [b"leaf %d" % number for number in range(40)]
FOREIGN = [b"foreign", *LEAVES[1:]]


def head(size: int, leaves: list[bytes] = LEAVES) -> TreeHead:
    return TreeHead(size, rfc9162.root(leaves[:size]))


@dataclass
class MemoryTree:
    """A tree as Trillian shows it."""

    leaves: list[bytes]
    fails: bool = False
    asked: list[tuple[int, int]] = field(default_factory=list)
    spoil: bytes | None = None  # to be put before the path

    def latest(self) -> TreeHead:
        if self.fails:
            raise CannotProve("down")
        return head(len(self.leaves), self.leaves)

    def path(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        self.asked.append((old_size, new_size))
        if self.fails or new_size > len(self.leaves):
            raise CannotProve("no proof")
        if old_size == new_size:
            return ()
        path = rfc9162.consistency(old_size, self.leaves[:new_size])
        return (self.spoil, *path) if self.spoil else tuple(path)


def decided(
    requested: TreeHead,
    journal: list[TreeHead],
    tree: MemoryTree,
    permit_ended: Callable[[], bool] | None = None,
) -> Decision:
    roots = {entry.size: entry.root for entry in journal}
    return decide(
        requested,
        journaled_root=roots.get(requested.size),
        last=journal[-1],
        tree=tree,
        permit_ended=permit_ended,
    )


JOURNAL = [EMPTY_TREE_HEAD, head(3), head(5), head(11)]


@pytest.mark.parametrize("requested", JOURNAL)
def test_what_is_journaled_is_signed_again_without_asking(requested: TreeHead) -> None:
    tree = MemoryTree([], fails=True)
    assert decided(requested, JOURNAL, tree) == Sign(new=False)
    assert not tree.asked


@pytest.mark.parametrize("size", [12, 16, 20])
def test_a_proven_extension_is_signed(size: int) -> None:
    tree = MemoryTree(LEAVES[:20])
    assert decided(head(size), JOURNAL, tree) == Sign(new=True)
    assert tree.asked == [(11, size)]


@pytest.mark.parametrize("size", [1, 4, 10])
def test_a_smaller_size_that_was_never_signed_has_to_wait(size: int) -> None:
    for leaves in (LEAVES, FOREIGN):
        tree = MemoryTree(LEAVES)
        assert isinstance(decided(head(size, leaves), JOURNAL, tree), NotNow)
        assert not tree.asked


@pytest.mark.parametrize("size", [0, 3, 5, 11])
def test_another_root_for_a_journaled_size_latches(size: int) -> None:
    other = TreeHead(size, bytes(32))
    decision = decided(other, JOURNAL, MemoryTree(LEAVES))
    assert isinstance(decision, Latch)
    assert (decision.reason, decision.requested) == ("other-root", other)
    assert decision.journaled == head(size)
    assert decision.proof is None


@pytest.mark.parametrize("leaves", [FOREIGN, [*LEAVES[:10], b"x", *LEAVES[11:]]])
def test_a_larger_tree_that_is_no_extension_latches(leaves: list[bytes]) -> None:
    decision = decided(head(15, leaves), JOURNAL, MemoryTree(leaves))
    assert isinstance(decision, Latch)
    assert (decision.reason, decision.journaled) == ("not-proven", head(11))
    assert decision.proof
    assert decision.proof.path == tuple(rfc9162.consistency(11, leaves[:15]))


def test_a_root_that_is_not_trillians_latches() -> None:
    assert isinstance(decided(TreeHead(15, bytes(32)), JOURNAL, MemoryTree(LEAVES)), Latch)


def test_a_proof_that_is_damaged_latches() -> None:
    tree = MemoryTree(LEAVES, spoil=bytes(32))
    assert isinstance(decided(head(15), JOURNAL, tree), Latch)


@pytest.mark.parametrize(
    "requested", [head(12), head(20, FOREIGN), TreeHead(MAX_NUMBER, bytes(32))]
)
def test_without_an_answer_or_a_proof_it_has_to_wait(requested: TreeHead) -> None:
    assert isinstance(decided(requested, JOURNAL, MemoryTree(LEAVES, fails=True)), NotNow)
    assert isinstance(decided(requested, JOURNAL, MemoryTree(LEAVES[:11])), NotNow)


def test_the_first_tree_head_must_be_one_that_the_tree_has() -> None:
    """Everything extends the empty tree: asking only for that would let anything be signed."""
    new_log = [EMPTY_TREE_HEAD]
    for size in (1, 7, 8):
        assert decided(head(size), new_log, MemoryTree(LEAVES[:8])) == Sign(new=True)
    assert isinstance(decided(head(9), new_log, MemoryTree(LEAVES[:8])), NotNow)
    assert isinstance(decided(head(1), new_log, MemoryTree(LEAVES[:8], fails=True)), NotNow)
    for size in (1, 7, 8):
        decision = decided(TreeHead(size, bytes(32)), new_log, MemoryTree(LEAVES[:8]))
        assert isinstance(decision, Latch)
        assert decision.journaled == EMPTY_TREE_HEAD


@pytest.mark.parametrize("size", [12, 20])
def test_without_a_permit_any_more_nothing_larger_is_signed(size: int) -> None:
    tree = MemoryTree(LEAVES[:20])
    assert decided(head(size), JOURNAL, tree, lambda: False) == Sign(new=True)
    decision = decided(head(size), JOURNAL, tree, lambda: True)
    assert isinstance(decision, NotNow)
    assert decision.reason == "permit-ended"
    assert "size 11" in decision.message
    assert "playbooks/reseed.yml" in decision.message


def test_without_a_permit_any_more_what_is_journaled_is_signed_again() -> None:
    for requested in JOURNAL:
        assert decided(requested, JOURNAL, MemoryTree([]), lambda: True) == Sign(new=False)


def test_without_a_permit_any_more_another_tree_latches_as_ever() -> None:
    for requested in (head(11, FOREIGN), head(15, FOREIGN)):
        tree = MemoryTree(FOREIGN)
        assert isinstance(decided(requested, JOURNAL, tree, lambda: True), Latch)


def test_a_permit_that_ends_while_the_proof_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, ended = MemoryTree(LEAVES[:20]), False

    def slow(old_size: int, new_size: int) -> tuple[bytes, ...]:
        nonlocal ended
        ended = True
        return tuple(rfc9162.consistency(old_size, LEAVES[:new_size]))

    monkeypatch.setattr(tree, "path", slow)
    assert isinstance(decided(head(12), JOURNAL, tree, lambda: ended), NotNow)


class Log(RuleBasedStateMachine):
    """A log whose database is restored, replaced and lost, with a Trillian that fails.

    It begins with a permit to go on without its secondary, which ends.
    """

    states = Bundle("states")

    def __init__(self) -> None:
        super().__init__()
        self.database: list[bytes] = []
        self.made = 0
        self.down = False
        self.journal = [EMPTY_TREE_HEAD]
        self.history: list[bytes] = []  # the leaves of the last tree head that was signed
        self.latched = False
        self.honest = True
        self.ended_at: int | None = None  # the largest size when the permit ended

    def leaves(self, count: int) -> list[bytes]:
        self.made += count
        return [b"%d" % number for number in range(self.made - count, self.made)]

    @rule(count=st.integers(1, 5))
    def grow(self, count: int) -> None:
        self.database = self.database + self.leaves(count)

    @rule(target=states)
    def back_up(self) -> list[bytes]:
        return self.database

    @rule(state=states)
    def restore(self, state: list[bytes]) -> None:
        self.honest = self.honest and state == self.database
        self.database = state

    @rule()
    def make_a_new_tree(self) -> None:
        self.honest = self.honest and not self.database
        self.database = []

    @rule(down=st.booleans())
    def trillian(self, down: bool) -> None:
        self.down = down

    @precondition(lambda self: len(self.journal) > 1)
    @rule()
    def the_permit_ends(self) -> None:
        if self.ended_at is None:
            self.ended_at = self.journal[-1].size

    @precondition(lambda self: not self.latched)
    @rule(back=st.integers(0, 8))
    def log_go_asks(self, back: int) -> None:
        size = max(len(self.database) - back, 0)
        self.ask(head(size, self.database))

    @precondition(lambda self: not self.latched)
    @rule(data=st.data(), root=st.binary(min_size=32, max_size=32))
    def somebody_else_asks(self, data: st.DataObject, root: bytes) -> None:
        size = data.draw(st.integers(0, len(self.database) + 2))
        self.honest = False
        self.ask(TreeHead(size, root))

    def ask(self, requested: TreeHead) -> None:
        journaled = {entry.size: entry.root for entry in self.journal}
        last = self.journal[-1]
        tree = MemoryTree(self.database, fails=self.down)
        ended = self.ended_at is not None
        decision = decided(requested, self.journal, tree, lambda: ended)
        if requested.size in journaled:
            good = journaled[requested.size] == requested.root
            assert decision == Sign(new=False) if good else isinstance(decision, Latch)
        elif requested.size < last.size or self.down or requested.size > len(self.database):
            assert isinstance(decision, NotNow)
        else:
            shown = self.database[: requested.size]
            good = shown[: last.size] == self.history and rfc9162.root(shown) == requested.root
            if good and ended:
                assert isinstance(decision, NotNow)
                assert decision.reason == "permit-ended"
            else:
                assert decision == Sign(new=True) if good else isinstance(decision, Latch)
        if isinstance(decision, Latch):
            assert not self.honest, "an honest log was latched"
            self.latched = True
        if decision == Sign(new=True):
            self.journal.append(requested)
            self.history = self.database[: requested.size]

    @invariant()
    def nothing_larger_is_signed_without_a_permit(self) -> None:
        assert self.ended_at in (None, self.journal[-1].size)

    @invariant()
    def all_that_was_signed_is_one_tree(self) -> None:
        for signed in self.journal:
            assert head(signed.size, self.history) == signed


Log.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestLog = Log.TestCase
