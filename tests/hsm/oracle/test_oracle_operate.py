"""Seeding, looking, resolving: nothing begins by itself, nothing is lost or waved through."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from sigsum_ops import cli
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.oracle import operate
from sigsum_ops.hsm.oracle.decide import Latch as Latched
from sigsum_ops.hsm.oracle.decide import Proof
from sigsum_ops.hsm.oracle.journal import Journal, JournalError
from sigsum_ops.hsm.oracle.latch import Latch, read
from sigsum_ops.log.evidence import Evidence, format_promotion
from sigsum_ops.log.guard import Refused
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, TreeHead
from sigsum_ops.log.trillian import CannotTell
from tests.hsm.oracle.world import FOREIGN, KEY, LEAVES, SECRET, World, head
from tests.log.fake_trillian import Failure, FakeTree


def sth_file(
    world: World, signed: TreeHead, secret: Ed25519PrivateKey = SECRET, more: str = ""
) -> Path:
    path = world.directory / "sth"
    signature = secret.sign(signed.checkpoint(KEY)).hex()
    path.write_text(
        f"size={signed.size}\nroot_hash={signed.root.hex()}\nsignature={signature}\n{more}"
    )
    return path


def change_tree(world: World, **fields: object) -> None:
    for name, value in fields.items():
        setattr(world.trillian.trees[1], name, value)


def last(world: World) -> TreeHead:
    with Journal.open(world.journal, KEY.hash) as journal:
        return journal.last.head


def seed_signed(world: World, sth: Path) -> TreeHead:
    return operate.seed_signed(world.settings, sth, say=print, wait=0).last


# seed --empty


def test_a_new_log(world: World) -> None:
    world.grow(0)
    seeded = operate.seed_empty(world.settings, say=print, wait=0)
    assert seeded == operate.Seeded(EMPTY_TREE_HEAD, changed=True)
    assert last(world) == EMPTY_TREE_HEAD
    with pytest.raises(JournalError, match="already"):
        operate.seed_empty(world.settings, say=print, wait=0)


def test_no_new_log_over_leaves(world: World) -> None:
    with pytest.raises(Refused, match="not empty"):
        operate.seed_empty(world.settings, say=print, wait=0)
    assert not world.journal.exists()


def test_no_new_log_beside_another_tree(world: World) -> None:
    world.grow(0)
    world.trillian.trees[2] = FakeTree(2, leaves=LEAVES)
    with pytest.raises(Refused, match="another tree"):
        operate.seed_empty(world.settings, say=print, wait=0)
    assert not world.journal.exists()


def test_no_new_log_on_a_tree_that_cannot_be_read(world: World) -> None:
    """Trillian answers size 0 then, with an empty hash."""
    world.grow(0)
    world.trillian.root_is_unreadable = True
    with pytest.raises(CannotTell):
        operate.seed_empty(world.settings, say=print, wait=0)
    assert not world.journal.exists()


def test_no_new_log_without_a_tree(world: World) -> None:
    world.tree_id.unlink()
    with pytest.raises(OpsError, match="tree-id"):
        operate.seed_empty(world.settings, say=print, wait=0)
    world.tree_id.write_text("")
    with pytest.raises(OpsError, match="tree-id"):
        operate.seed_empty(world.settings, say=print, wait=0)


# seed --sth


@pytest.mark.parametrize("size", [1, 7, 12])
def test_a_log_that_is_taken_over(world: World, size: int) -> None:
    assert seed_signed(world, sth_file(world, head(size))) == head(size)
    assert last(world) == head(size)


def test_an_answer_to_get_tree_head(world: World) -> None:
    cosignature = f"cosignature={'ab' * 32} 1700000000 {'cd' * 64}\n"
    assert seed_signed(world, sth_file(world, head(5), more=cosignature)) == head(5)


@pytest.mark.parametrize(
    ("signed", "reason"),
    [
        (head(13), "smaller"),
        (head(5, FOREIGN), "does not extend"),
        (head(12, FOREIGN), "another root"),
    ],
)
def test_a_tree_that_is_not_the_one_that_was_signed(
    world: World, signed: TreeHead, reason: str
) -> None:
    with pytest.raises(Refused, match=reason):
        seed_signed(world, sth_file(world, signed))
    assert not world.journal.exists()


def test_a_tree_head_that_the_log_did_not_sign(world: World) -> None:
    for sth in (
        sth_file(world, head(5), Ed25519PrivateKey.generate()),
        sth_file(world, head(5), more="x\n"),
        world.directory / "missing",
        world.directory,
    ):
        with pytest.raises(UsageError):
            seed_signed(world, sth)
        assert not world.journal.exists()


def test_a_machine_that_was_primary_before(world: World) -> None:
    world.seed(head(5))
    assert seed_signed(world, sth_file(world, head(9))) == head(9)
    assert seed_signed(world, sth_file(world, head(9))) == head(9)
    assert seed_signed(world, sth_file(world, head(7))) == head(9)  # nothing to add
    with Journal.open(world.journal, KEY.hash) as journal:
        assert [journal.records, journal.root_at(5)] == [2, head(5).root]


def test_a_machine_whose_journal_is_of_another_tree(world: World) -> None:
    world.seed(head(5, FOREIGN))
    with pytest.raises(Refused, match="does not extend"):
        seed_signed(world, sth_file(world, head(9)))
    with pytest.raises(OpsError, match="two roots for size 5"):
        seed_signed(world, sth_file(world, head(5)))
    assert last(world) == head(5, FOREIGN)


def test_a_running_oracle_is_not_seeded(world: World) -> None:
    world.seed(head(5))
    with (
        Journal.open(world.journal, KEY.hash),
        pytest.raises(JournalError, match="in use"),
    ):
        seed_signed(world, sth_file(world, head(9)))


def test_a_latched_oracle_is_not_seeded(world: World) -> None:
    world.seed(head(5))
    world.latch.touch()
    with pytest.raises(OpsError, match="latched"):
        seed_signed(world, sth_file(world, head(9)))


def test_seed_on_the_command_line(world: World) -> None:
    def seed(*arguments: str) -> Any:
        return CliRunner().invoke(
            cli.app, ["oracle", "seed", "-c", str(world.config), *arguments, "--json"]
        )

    sth = ("--sth", str(sth_file(world, head(5))))
    for wrong in ((), ("--empty", *sth), ("--promotion", *sth), ("--empty", "--promotion")):
        assert isinstance(seed(*wrong).exception, UsageError)
    done = seed(*sth)
    shown = {"size": 5, "root_hash": head(5).root.hex(), "changed": True}
    assert json.loads(done.stdout) == shown
    assert json.loads(seed(*sth).stdout) == {**shown, "changed": False}


# seed --promotion


def promote(world: World, promoted: TreeHead, tree_id: int = 1, key_hash: str = KEY.hash) -> None:
    record = Evidence(promoted, tree_id, key_hash)
    world.promotion.write_bytes(format_promotion(record, datetime.now(UTC)))


def seed_promoted(world: World) -> operate.Seeded:
    return operate.seed_promoted(world.settings, say=print, wait=0)


@pytest.mark.parametrize("size", [0, 1, 12])
def test_a_promoted_machine(world: World, size: int) -> None:
    world.grow(size)
    promote(world, head(size))
    assert seed_promoted(world) == operate.Seeded(head(size), changed=True)
    before = world.journal.read_bytes()
    assert seed_promoted(world) == operate.Seeded(head(size), changed=False)
    assert world.journal.read_bytes() == before


def test_a_promoted_machine_whose_log_went_on(world: World) -> None:
    """The step is repeated after a crash, beside a running oracle."""
    promote(world, head(12))
    assert seed_promoted(world).changed
    world.grow(20)
    with Journal.open(world.journal, KEY.hash) as journal:
        journal.append(head(15))
        assert seed_promoted(world) == operate.Seeded(head(15), changed=False)
    assert last(world) == head(15)


def test_a_promoted_machine_that_was_primary_before(world: World) -> None:
    world.seed(head(5))
    promote(world, head(12))
    assert seed_promoted(world) == operate.Seeded(head(12), changed=True)
    with Journal.open(world.journal, KEY.hash) as journal:
        assert [journal.records, journal.root_at(5)] == [2, head(5).root]


@pytest.mark.parametrize(
    ("message", "spoil"),
    [
        ("grown since", lambda world: world.grow(13)),
        ("smaller", lambda world: world.grow(11)),
        ("another root", lambda world: world.grow(12, FOREIGN)),
        ("not of type LOG", lambda world: change_tree(world, type="PREORDERED_LOG")),
        ("not active", lambda world: change_tree(world, state="FROZEN")),
        ("no tree 1", lambda world: world.trillian.trees.clear()),
        ("about tree 2", lambda world: promote(world, head(12), tree_id=2)),
        ("about the log", lambda world: promote(world, head(12), key_hash="ab" * 32)),
        ("No such file", lambda world: world.promotion.unlink()),
        ("not a promotion's record", lambda world: world.promotion.write_text("{}")),
        ("No such file", lambda world: world.tree_id.unlink()),
        ("latched", lambda world: world.latch.touch()),
    ],
)
def test_a_promotion_that_is_not_to_be_believed(
    world: World, message: str, spoil: Callable[[World], object]
) -> None:
    promote(world, head(12))
    spoil(world)
    with pytest.raises(OpsError, match=message):
        seed_promoted(world)
    assert not world.journal.exists()


@pytest.mark.parametrize(
    ("message", "seeded", "spoil"),
    [
        ("does not extend", head(5, FOREIGN), lambda _world: None),
        ("two roots for size 12", head(12, FOREIGN), lambda _world: None),
        ("smaller", head(13), lambda _world: None),
        ("grown since", head(5), lambda world: world.grow(13)),
        ("latched", head(12), lambda world: world.latch.touch()),
        ("smaller", head(12), lambda world: world.grow(11)),
        ("another root", head(12), lambda world: world.grow(12, FOREIGN)),
    ],
)
def test_a_promotion_against_the_journal(
    world: World, message: str, seeded: TreeHead, spoil: Callable[[World], object]
) -> None:
    world.seed(seeded)
    before = world.journal.read_bytes()
    promote(world, head(12))
    spoil(world)
    with pytest.raises(OpsError, match=message):
        seed_promoted(world)
    assert world.journal.read_bytes() == before


def test_a_promoted_machine_had_signed_more_before(world: World) -> None:
    """What was promoted is journaled, and so is more that the tree does not have."""
    world.seed(head(12))
    with Journal.open(world.journal, KEY.hash) as journal:
        journal.append(head(14))
    promote(world, head(12))
    with pytest.raises(Refused, match="smaller"):
        seed_promoted(world)


def test_a_running_oracle_is_not_seeded_by_a_promotion(world: World) -> None:
    world.seed(head(5))
    promote(world, head(12))
    with Journal.open(world.journal, KEY.hash), pytest.raises(JournalError, match="in use"):
        seed_promoted(world)


def test_seed_by_a_promotion_on_the_command_line(world: World) -> None:
    promote(world, head(12))
    command = ["oracle", "seed", "-c", str(world.config), "--promotion"]
    first, second = (CliRunner().invoke(cli.app, command) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "unchanged" not in first.stdout
    assert second.stdout == f"{world.journal}: unchanged; the last tree head is {head(12)}\n"
    done = CliRunner().invoke(cli.app, [*command, "--json"])
    shown = {"size": 12, "root_hash": head(12).root.hex(), "changed": False}
    assert json.loads(done.stdout) == shown


# show and resolve


def latch(world: World) -> None:
    found = Latched(
        "not-proven", "why", head(5), head(9, FOREIGN), Proof(head(5), head(9, FOREIGN), ())
    )
    Latch(world.latch).set(found, {"tree_id": 1})


def test_show(world: World) -> None:
    world.seed(head(5))
    with Journal.open(world.journal, KEY.hash) as journal:
        journal.append(head(9))
        shown = operate.show(world.settings, 9)  # while the oracle runs
    assert (shown["latched"], shown["latch"]) == (False, None)
    assert shown["journal"]["records"] == 2
    assert shown["journal"]["first"]["size"] == 5
    assert shown["journal"]["last"]["root_hash"] == head(9).root.hex()
    assert shown["asked"] == {"size": 9, "root_hash": head(9).root.hex()}
    assert operate.show(world.settings, 7)["asked"] == {"size": 7, "root_hash": None}


def test_show_what_latched(world: World) -> None:
    world.seed(head(5))
    latch(world)
    shown = CliRunner().invoke(cli.app, ["oracle", "show", "-c", str(world.config), "--json"])
    assert shown.exit_code == 1
    evidence = json.loads(shown.stdout)["latch"]["evidence"]
    assert evidence["requested"] == {"size": 9, "root_hash": head(9, FOREIGN).root.hex()}
    text = CliRunner().invoke(cli.app, ["oracle", "show", "-c", str(world.config)])
    assert text.exit_code == 1
    assert head(9, FOREIGN).root.hex() in text.stdout


def digest(world: World) -> str:
    evidence = read(world.latch)
    assert evidence
    return evidence.digest


def resolve(world: World, followed: str | None, typed: str = "") -> dict[str, Any]:
    return operate.resolve(
        world.settings, followed=followed, ask=lambda _question: typed, say=print, wait=0
    )


def test_resolve(world: World) -> None:
    world.seed(head(5))
    latch(world)
    data, name = world.latch.read_bytes(), digest(world)
    done = resolve(world, None, f" {name[:8]}\n")
    aside = Path(done["evidence"])
    assert aside.read_bytes() == data
    assert aside.parent == world.state
    assert not world.latch.exists()
    note = json.loads(aside.with_name(f"{aside.name}.resolution").read_text())
    assert note["evidence_sha256"] == name == done["sha256"]
    assert note["proven"] == {"size": 12, "root_hash": head(12).root.hex()}
    assert note["resolved_by"]
    with pytest.raises(OpsError, match="not latched"):
        resolve(world, name)


def test_resolve_without_a_terminal(world: World) -> None:
    world.seed(head(5))
    latch(world)
    done = CliRunner().invoke(
        cli.app,
        ["oracle", "resolve", "-c", str(world.config), "--yes-i-have-followed", digest(world)],
    )
    assert done.exit_code == 0, done.output
    assert not world.latch.exists()


def unchanged(world: World, before: list[Path]) -> bool:
    return sorted(world.state.iterdir()) == before


@pytest.mark.parametrize("wrong", ["", "yes", "y", "0" * 64, "short"])
def test_resolve_needs_the_very_evidence(world: World, wrong: str) -> None:
    world.seed(head(5))
    latch(world)
    before = sorted(world.state.iterdir())
    with pytest.raises(UsageError, match="not the digest"):
        resolve(world, digest(world)[:8] if wrong == "short" else wrong)
    with pytest.raises(UsageError, match="not the digest"):
        resolve(world, None, digest(world)[:7] if wrong == "short" else wrong)
    assert unchanged(world, before)


def test_resolve_needs_the_right_tree(world: World) -> None:
    world.seed(head(5))
    latch(world)
    before = sorted(world.state.iterdir())
    for leaves in (FOREIGN[:12], LEAVES[:4]):
        world.trillian.trees[1].leaves = leaves
        with pytest.raises(Refused):
            resolve(world, digest(world))
        assert unchanged(world, before)


def test_resolve_needs_trillian(world: World) -> None:
    world.seed(head(5))
    latch(world)

    def fail(_method: str) -> None:
        raise Failure("UNAVAILABLE")

    world.trillian.before = fail
    with pytest.raises(CannotTell):
        resolve(world, digest(world))
    assert world.latch.exists()


def test_resolve_needs_the_oracle_stopped(world: World) -> None:
    world.seed(head(5))
    latch(world)
    with Journal.open(world.journal, KEY.hash), pytest.raises(JournalError, match="in use"):
        resolve(world, digest(world))
    assert world.latch.exists()


def test_resolve_needs_the_journal(world: World) -> None:
    latch(world)
    with pytest.raises(JournalError, match="no journal"):
        resolve(world, digest(world))
    assert world.latch.exists()


# The latch itself


def test_whatever_is_there_latches(world: World) -> None:
    assert not Latch(world.latch).latched
    world.latch.symlink_to("nowhere")
    assert Latch(world.latch).latched


def test_a_latch_that_cannot_be_written_is_one_all_the_same(world: World) -> None:
    empty = Latch(world.directory / "missing" / "latch")
    found = Latched("other-root", "why", head(5), head(5, FOREIGN), None)
    said = empty.set(found, {})
    assert empty.latched
    assert "NOT YET ON DISK" in said
    assert head(5).root.hex() in said
    assert head(5, FOREIGN).root.hex() in said
    assert "docs/bcp/oracle-latched.md" in said
    empty.path.parent.mkdir()
    empty.retry()
    assert json.loads(empty.path.read_text())["reason"] == "other-root"
