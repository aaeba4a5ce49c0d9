"""Which Trillian tree is this log's: find it, or create it once, and never a second time.

A new tree where one existed is how a log forks, so a tree is created only where neither Trillian
nor this machine's files show that there ever was one. Everything in doubt is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log.statefiles import (
    format_tree_id,
    parse_tree_id,
    read_if_there,
    write_durably,
)
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, TreeHead
from sigsum_ops.log.trillian import CannotTell, Tree, TreeNotFound, TreeNotInitialised, Trillian

TreeType = Literal["LOG", "PREORDERED_LOG"]
Action = Literal["create", "keep", "recover"]

DISPLAY_NAME = "sigsum-ops"  # of the trees that this project creates
STARTUP_EMPTY = b"startup=empty\n"

_ROLE = {"LOG": "a primary", "PREORDERED_LOG": "a secondary"}
_CHANGE_ROLE = (
    "A machine's part changes only by playbooks/promote.yml (secondary to primary) or"
    " playbooks/handover.yml (primary to secondary); otherwise correct the inventory."
)
_LOST = (
    "A new tree would be another log under the same key. Primary: docs/bcp/start-refused.md."
    " Secondary: playbooks/reseed.yml."
)


class TreeRefused(OpsError):  # noqa: N818 - an outcome
    """It is in doubt which tree is this log's; nothing was changed."""


@dataclass(frozen=True)
class Decision:
    """What is to be done; ``tree`` is the one to use, None before it is created."""

    action: Action
    tree: Tree | None


@dataclass(frozen=True)
class Request:
    """What the inventory wants, and where this machine keeps what it knows.

    ``evidence`` are files that only a log with a past has. The startup file is written for a new
    primary only, so it is None for a secondary.
    """

    type: TreeType
    tree_id_file: Path
    sth_file: Path | None = None
    startup_file: Path | None = None
    evidence: tuple[Path, ...] = ()

    def existing_evidence(self) -> tuple[Path, ...]:
        """Those of the files that exist; a tree-id file that was emptied is one of them."""
        files = (self.tree_id_file, self.sth_file, *self.evidence)
        return tuple(
            path
            for path in files
            if path and path.exists() and (path != self.tree_id_file or path.stat().st_size == 0)
        )


@dataclass(frozen=True)
class Outcome:
    """What was found and done, or in check mode would have been; ``head`` is None before that."""

    action: Action
    tree: Tree | None
    head: TreeHead | None
    initialised: bool
    tree_id_written: bool
    startup_written: bool

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, done."""
        return (
            self.action == "create"
            or self.initialised
            or self.tree_id_written
            or self.startup_written
        )


def decide(
    wanted: TreeType,
    tree_id: int | None,
    trees: Sequence[Tree],
    evidence: Sequence[object],
) -> Decision:
    """Decide without touching anything.

    Args:
        wanted: type of the tree that the inventory's role for this machine needs.
        tree_id: what the tree-id file says, None where it is lost or empty.
        trees: all trees that Trillian has, those marked as deleted too.
        evidence: what shows that this log has a past; named in messages.

    Raises:
        TreeRefused: with the facts that disagree and what to do about it.
    """
    living = [tree for tree in trees if not tree.deleted]
    if tree_id is not None:
        return Decision("keep", _named(tree_id, living, trees, wanted))
    if len(living) > 1:
        raise TreeRefused(
            f"Trillian holds {len(living)} trees and no tree-id file says which is this log's: "
            + _list(living),
            hint="Find out which one it is, and delete the others. Never guess.",
        )
    if living:
        (tree,) = living
        if tree.display_name != DISPLAY_NAME:
            raise TreeRefused(
                f"Trillian's only {tree.described} was not created by this project, and no"
                " tree-id file says that it is this log's",
                hint=f"If it is, write the file yourself: tree-id={tree.id}",
            )
        _check_usable(tree, wanted)
        return Decision("recover", tree)
    if trees:
        raise TreeRefused(f"Trillian holds only deleted trees: {_list(trees)}", hint=_LOST)
    if evidence:
        raise TreeRefused(
            "Trillian holds no tree, but this machine has had one: "
            + ", ".join(str(item) for item in evidence),
            hint=_LOST,
        )
    return Decision("create", None)


def _named(tree_id: int, living: list[Tree], trees: Sequence[Tree], wanted: TreeType) -> Tree:
    tree = next((tree for tree in trees if tree.id == tree_id), None)
    if tree is None:
        raise TreeRefused(
            f"the tree-id file names tree {tree_id}, which Trillian does not have;"
            f" it has {_list(trees) or 'none'}",
            hint=_LOST,
        )
    if tree.deleted:
        raise TreeRefused(f"this log's {tree.described} is deleted in Trillian", hint=_LOST)
    if len(living) > 1:
        raise TreeRefused(
            f"this log's tree is {tree_id}, but Trillian holds others: {_list(living)}",
            hint="Find out who made them, and delete those that are not this log's.",
        )
    _check_usable(tree, wanted)
    return tree


def _check_usable(tree: Tree, wanted: TreeType) -> None:
    if tree.type != wanted:
        raise TreeRefused(
            f"the inventory makes this machine {_ROLE[wanted]}, whose tree is of type {wanted},"
            f" but its tree is {_ROLE.get(tree.type, 'neither part')}'s: {tree.described}",
            hint=_CHANGE_ROLE,
        )
    if tree.state != "ACTIVE":
        raise TreeRefused(
            f"this log's {tree.described} is not active",
            hint="A procedure froze it and did not finish, or did so on purpose: run that"
            " procedure's playbook again.",
        )


def _list(trees: Sequence[Tree]) -> str:
    return ", ".join(tree.described for tree in trees)


def ensure(trillian: Trillian, request: Request, *, check: bool) -> Outcome:
    """Bring the tree, its tree-id file and a new primary's startup file into being.

    Can be interrupted anywhere and run again: what is missing is then finished. With ``check``
    nothing is changed.

    Raises:
        TreeRefused: see ``decide``; nothing was changed.
        CannotTell: Trillian did not answer.
        OSError: a file cannot be read or written.
    """
    evidence = request.existing_evidence()
    tree_id = _read_tree_id(request.tree_id_file)
    trees = _all_trees(trillian, tree_id)
    decision = decide(request.type, tree_id, trees, evidence)
    tree, head = decision.tree, None
    if tree is None and not check:
        tree = trillian.create_tree(request.type, DISPLAY_NAME)
    if tree:
        head = _root(trillian, tree, evidence)
    initialise = head is None
    if tree and initialise and not check:
        trillian.init_log(tree.id)
        head = trillian.latest_root(tree.id)
    if decision.action == "create" and not check:
        tree = _read_back(trillian, request.type)

    write_tree_id = decision.action != "keep"
    if tree and write_tree_id and not check:
        write_durably(request.tree_id_file, format_tree_id(tree.id))
    startup_file = request.startup_file
    write_startup = (
        startup_file is not None
        and request.type == "LOG"
        and head in (None, EMPTY_TREE_HEAD)
        and not evidence
        and not startup_file.exists()
    )
    if startup_file and write_startup and not check:
        write_durably(startup_file, STARTUP_EMPTY)
    return Outcome(decision.action, tree, head, initialise, write_tree_id, write_startup)


def _read_tree_id(path: Path) -> int | None:
    data = read_if_there(path)
    if not data:
        return None
    try:
        return parse_tree_id(data)
    except UsageError as error:
        raise TreeRefused(
            f"{path}: {error.message}",
            hint="Correct it; or remove it, and it is written again if Trillian leaves no doubt.",
        ) from error


def _all_trees(trillian: Trillian, tree_id: int | None) -> tuple[Tree, ...]:
    """The list, with the tree that the tree-id file names checked by itself: see ``list_trees``."""
    trees = trillian.list_trees()
    if tree_id is not None and tree_id not in {tree.id for tree in trees}:
        try:
            trillian.get_tree(tree_id)
        except TreeNotFound:
            return trees
        raise CannotTell(f"Trillian's list of trees leaves out tree {tree_id}, which exists")
    return trees


def _root(trillian: Trillian, tree: Tree, evidence: Sequence[Path]) -> TreeHead | None:
    try:
        return trillian.latest_root(tree.id)
    except TreeNotInitialised:
        if evidence:
            raise TreeRefused(
                f"this log's {tree.described} has no root, but this machine has a past: "
                + ", ".join(str(item) for item in evidence),
                hint=_LOST,
            ) from None
        return None


def _read_back(trillian: Trillian, wanted: TreeType) -> Tree:
    """The tree just created, as Trillian shows it, provided that it is the only one.

    The list before the creation may have been cut short by a database error; see ``list_trees``.
    """
    trees = trillian.list_trees()
    if not trees:
        raise CannotTell("Trillian does not show the tree that it has just created")
    if len(trees) > 1:
        raise TreeRefused(
            f"after creating a tree, Trillian holds {len(trees)}: {_list(trees)}",
            hint="Someone else created one, or the list was cut short. Delete the empty one.",
        )
    _check_usable(trees[0], wanted)
    return trees[0]
