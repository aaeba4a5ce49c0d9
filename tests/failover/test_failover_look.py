"""What is read of a machine: all of it, in part where parts are gone, and without a change."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sigsum_ops.backup import quarantine
from sigsum_ops.errors import OpsError
from sigsum_ops.failover import database, judge, units
from sigsum_ops.failover import look as module
from sigsum_ops.failover.adopt import Places
from sigsum_ops.failover.database import Sequenced
from sigsum_ops.failover.look import look, parts
from sigsum_ops.failover.seen import Seen
from sigsum_ops.hsm.oracle import journal
from sigsum_ops.log.archive import Archive
from sigsum_ops.log.treehead import TreeHead, parse_signed_tree_head
from sigsum_ops.log.trillian import Trillian
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
from tests.log.fake_trillian import FakeTrillian

PRIMARY_UNITS = ("sigsum-log-primary.service", "sigsum-oracle.service")
SECONDARY_UNITS = ("sigsum-log-secondary.service", "trillian-log-signer.service")

Look = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeTrillian]:
    with FakeTrillian() as trillian:
        yield trillian


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    directory = tmp_path / "system"
    directory.mkdir()
    systemd = Systemd(directory)
    systemd.install(*SECONDARY_UNITS)
    monkeypatch.setattr(units, "_systemctl", systemd)
    monkeypatch.setattr(units, "MARK", tmp_path / "fenced.json")
    monkeypatch.setattr(units, "read_mark", partial(units.read_mark, units.MARK))
    return systemd


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return secondary(tmp_path / "state")


@pytest.fixture
def run(
    tmp_path: Path,
    places: Places,
    server: FakeTrillian,
    systemd: Systemd,
    monkeypatch: pytest.MonkeyPatch,
) -> Look:
    """Look at a secondary in order."""
    reset(server)
    for name in ("oracle", "archive", "etc", "database"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(quarantine, "MARK", tmp_path / "etc/quarantined.json")
    monkeypatch.setattr(quarantine, "RESTORED", tmp_path / "restored")
    monkeypatch.setattr(module, "ORACLE", tmp_path / "oracle")
    monkeypatch.setattr(module, "ARCHIVE", tmp_path / "archive/heads")
    monkeypatch.setattr(module, "NODE_KEY", tmp_path / "etc/node-key.pub")
    monkeypatch.setattr(module, "POLICY", tmp_path / "etc/policy")
    monkeypatch.setattr(module, "DATABASE", tmp_path / "database")
    monkeypatch.setattr(module, "CONFIG", tmp_path / "etc/config.toml")
    monkeypatch.setattr(module, "ORACLE_CONFIG", tmp_path / "etc/oracle.toml")
    module.NODE_KEY.write_text(f"{KEY.ssh} node\n")
    module.POLICY.write_text("")
    monkeypatch.setattr(database, "sequenced", lambda _tree, size: Sequenced(size, 2, size + 1))

    def run(*known: Seen) -> dict[str, Any]:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with Trillian(server.address) as trillian:
            found = look(trillian, KEY, list(known), places)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert systemd.calls == []
        assert not {"UpdateTree", "CreateTree", "InitLog"} & set(server.calls)
        answer: dict[str, Any] = json.loads(json.dumps(found))
        return answer

    return run


def become_primary(places: Places, server: FakeTrillian, systemd: Systemd) -> None:
    for name in SECONDARY_UNITS:
        (systemd.directory / name).unlink()
    systemd.running.clear()
    systemd.enabled.clear()
    systemd.install(*PRIMARY_UNITS)
    server.trees[TREE].type = "LOG"
    places.sth.write_bytes(signed(head(10)))
    journal.create(module.ORACLE / "journal", KEY.hash, head(11))


def test_a_secondary(run: Look, places: Places) -> None:
    found = run()
    assert found["tree"] == {
        "id": TREE,
        "type": "PREORDERED_LOG",
        "state": "ACTIVE",
        "size": SIZE,
        "root_hash": head().root.hex(),
        "waiting": 2,
        "behind": [],
    }
    expected = {
        "parts": ["secondary"],
        "fenced": None,
        "quarantine": None,
        "signed": [],
        "promises": [
            {"size": SIZE, "root_hash": head().root.hex(), "source": "its own tree"},
        ],
        "to_retire": False,
        "has_sth": False,
        "has_startup": False,
        "has_latch": False,
        "promoted": None,
        "node_key": KEY.hex,
        "permit": "",
        "replicated": False,
        "has_policy": True,
        "unreadable": [],
    }
    assert {key: found[key] for key in expected} == expected
    assert set(found["units"]) == set(SECONDARY_UNITS)
    assert list(found["free_mb"]) == [str(places.state), str(module.DATABASE)]
    assert min(found["free_mb"].values()) > 0
    assert judge.problems({"x": found}, "x", now=found["time"]) == []


def test_a_primary_tells_what_it_signed(
    run: Look, places: Places, server: FakeTrillian, systemd: Systemd
) -> None:
    become_primary(places, server, systemd)
    found = run()
    assert found["parts"] == ["primary"]
    assert (
        found["signed"]
        == found["promises"]
        == [
            {"size": 10, "root_hash": head(10).root.hex(), "source": str(places.sth)},
            {
                "size": 11,
                "root_hash": head(11).root.hex(),
                "source": str(module.ORACLE / "journal"),
            },
        ]
    )
    assert (found["has_sth"], found["to_retire"], found["tree"]["behind"]) == (True, True, [])
    assert found["stopped"] == [f"{name} is loaded and active" for name in PRIMARY_UNITS]


def publish(head: TreeHead) -> None:
    """The archive on this machine has seen it."""
    with Archive.open(module.ARCHIVE, KEY) as archive:
        archive.append(parse_signed_tree_head(signed(head)), "http://192.0.2.1:6965/", ())


def test_what_the_archive_has_seen_is_told_and_compared(run: Look, server: FakeTrillian) -> None:
    publish(head(SIZE))
    found = run()
    assert found["published"] == [
        {"size": SIZE, "root_hash": head().root.hex(), "source": str(module.ARCHIVE)}
    ]
    assert (found["signed"], found["to_retire"], found["tree"]["behind"]) == ([], False, [])
    server.trees[TREE].leaves = LEAVES[: SIZE - 1]
    assert run()["tree"]["behind"] == [
        f"{module.ARCHIVE} has {head()}: the tree here ends at size {SIZE - 1}"
    ]


def test_split_views_that_were_seen_are_told(run: Look) -> None:
    evidence = module.ARCHIVE.with_name("split-view-1.json")
    evidence.write_text("{}")
    found = run()
    assert found["split_views"] == [str(evidence)]
    problems = judge.problems({"x": found}, "x", now=found["time"])
    assert [problem.name for problem in problems] == ["split-view"]


def test_the_tree_is_compared_with_all_that_is_known(
    run: Look, places: Places, server: FakeTrillian, systemd: Systemd
) -> None:
    become_primary(places, server, systemd)
    server.trees[TREE].leaves = LEAVES[:10]
    found = run(Seen(head(10), "log2"), Seen(head(9, FOREIGN), "a client"))
    assert [text.partition(" has")[0] for text in found["tree"]["behind"]] == [
        "a client",
        str(module.ORACLE / "journal"),
    ]


def test_without_trillian_it_still_tells_what_it_signed(
    run: Look, places: Places, server: FakeTrillian, systemd: Systemd
) -> None:
    become_primary(places, server, systemd)
    server.root_is_unreadable = True
    found = run()
    assert (found["tree"], len(found["signed"]), found["to_retire"]) == (None, 2, True)
    assert "could not read its database" in found["unreadable"][0]


def test_without_mariadb(run: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_tree: int, _size: int) -> Sequenced:
        raise OpsError("MariaDB at /run: gone")

    monkeypatch.setattr(database, "sequenced", fail)
    found = run()
    assert (found["tree"], found["unreadable"]) == (None, ["MariaDB at /run: gone"])


def test_each_part_that_cannot_be_read(
    run: Look, places: Places, server: FakeTrillian, systemd: Systemd
) -> None:
    become_primary(places, server, systemd)
    places.sth.write_bytes(signed(head(10)).replace(b"size=10", b"size=11"))
    (module.ORACLE / "journal").write_bytes(b"damaged")
    module.NODE_KEY.write_text("no key")
    places.promotion.write_text("[]")
    places.tree_id.unlink()
    module.ARCHIVE.write_bytes(b"damaged")
    found = run()
    for part in ("tree", "promoted", "node_key"):
        assert found[part] is None
    assert found["signed"] == found["published"] == []
    assert (found["has_sth"], found["has_tree_id"]) == (True, False)
    for reasons, expected in (
        ("doubts", ("not signed by the log", "journal", "archive")),
        ("unreadable", ("No such file", "the keys", "public key")),
    ):
        assert len(found[reasons]) == len(expected)
        for text, words in zip(found[reasons], expected, strict=True):
            assert words in text


def test_a_dead_disk_hides_nothing_else(run: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("shutil.disk_usage", dead)
    found = run()
    assert set(found["free_mb"].values()) == {None}
    assert found["tree"]["size"] == SIZE
    assert [problem.name for problem in judge.problems({"x": found}, "x", now=found["time"])] == [
        "disk"
    ]


def test_a_new_machine(run: Look, places: Places, systemd: Systemd) -> None:
    places.tree_id.unlink()
    places.state.rmdir()
    module.POLICY.unlink()
    module.NODE_KEY.unlink()
    module.DATABASE.rmdir()
    for path in systemd.directory.iterdir():
        path.unlink()
    systemd.reload()
    found = run()
    assert (found["parts"], found["units"]) == ([], {})
    assert found["free_mb"] == {str(places.state): None, str(module.DATABASE): None}
    assert (found["node_key"], found["has_policy"]) == (None, False)


def test_a_promotion_is_told(run: Look, places: Places) -> None:
    promote(places, head())
    places.startup.write_text("startup=local-tree\n")
    found = run()
    assert found["promoted"] == {"size": SIZE, "root_hash": head().root.hex()}
    assert found["has_startup"]


ALONE = """\
trillian-tree-id-file = "/tree-id"
trillian-rpc-server = "127.0.0.1:8090"
[primary]
sth-file = "/sth"
"""
GATED = f'{ALONE}secondary-url = "http://192.0.2.2:6967/"\nsecondary-pubkey-file = "/pub"\n'
ORACLE = f"""\
public_key = "{KEY.ssh}"
[software_key]
file = "/key"
lab_only = true
[log]
trillian = "127.0.0.1:8090"
tree_id_file = "/tree-id"
"""


@pytest.mark.parametrize(
    ("config", "oracle", "replicated", "permit"),
    [
        (None, None, False, ""),
        (GATED, ORACLE, True, ""),
        (ALONE, f"{ORACLE}ungated_until = 2026-11-23T12:00:00Z\n", False, "2026-11-23T12:00:00Z"),
        (GATED, f"{ORACLE}ungated_until = 2026-11-23 12:00:00Z\n", True, "2026-11-23T12:00:00Z"),
        (GATED.rpartition("secondary-")[0], ORACLE, False, ""),
    ],
)
def test_whether_the_log_goes_on_alone(
    run: Look, config: str | None, oracle: str | None, replicated: bool, permit: str
) -> None:
    for path, text in ((module.CONFIG, config), (module.ORACLE_CONFIG, oracle)):
        if text is not None:
            path.write_text(text)
    found = run()
    assert (found["replicated"], found["permit"], found["unreadable"]) == (replicated, permit, [])


def test_a_witness_has_no_permit(run: Look) -> None:
    module.ORACLE_CONFIG.write_text(f'{ORACLE.partition("[log]")[0]}[witness]\norigins = ["x"]\n')
    assert run()["permit"] == ""


def test_a_permit_that_cannot_be_read_is_not_taken_for_none(run: Look) -> None:
    for path in (module.CONFIG, module.ORACLE_CONFIG):
        path.write_text("x")
    found = run()
    assert (found["replicated"], found["permit"]) == (None, None)
    assert len(found["unreadable"]) == 2


def test_a_latch_and_a_mark_are_told(run: Look) -> None:
    (module.ORACLE / "latch").write_text("")
    units.MARK.write_text('{"by": "a person"}')
    found = run()
    assert (found["has_latch"], found["fenced"]) == (True, {"by": "a person"})


def restored(proof: TreeHead | None) -> dict[str, Any]:
    """A backup of an older tree was restored; its log had signed ``head(5)``."""
    sth = quarantine.RESTORED / quarantine.OWN_HEADS[0]
    sth.parent.mkdir(parents=True)
    sth.write_bytes(signed(head(5)))
    mark: dict[str, Any] = {"since": "now", "reason": "a test", "proof": None}
    if proof is not None:
        seen = {"size": 7, "root_hash": head(7).root.hex(), "source": "a user"}
        proven = {"size": proof.size, "root_hash": proof.root.hex(), "ahead_of": [seen]}
        mark["proof"] = proven
    quarantine.MARK.write_text(json.dumps(mark))
    return mark


def test_a_quarantine_is_told_with_what_the_backup_tells(run: Look) -> None:
    mark = restored(None)
    found = run()
    assert (found["quarantine"], found["to_retire"]) == (mark, True)
    assert [item["size"] for item in found["published"]] == [5]
    assert found["promises"] == []  # the tree was not copied from a primary
    problems = judge.problems({"x": found}, "x", now=found["time"])
    assert [problem.name for problem in problems] == ["quarantined"]


def test_a_tree_that_is_not_the_proven_one_any_more_is_seen(run: Look) -> None:
    restored(head())
    assert run()["tree"]["behind"] == []
    restored_again = json.loads(quarantine.MARK.read_text())
    restored_again["proof"]["root_hash"] = "00" * 32
    quarantine.MARK.write_text(json.dumps(restored_again))
    (behind,) = run()["tree"]["behind"]
    assert behind.startswith(f"{quarantine.MARK} has")


@pytest.mark.parametrize(
    "text", ["", "{}", '{"since": "", "reason": "", "proof": {"size": 1, "ahead_of": []}}']
)
def test_a_mark_that_cannot_be_read_is_a_doubt(run: Look, text: str) -> None:
    quarantine.MARK.write_text(text)
    found = run()
    assert len(found["doubts"]) == 1
    assert str(quarantine.MARK) in found["doubts"][0]
    assert found["to_retire"]


def leave_quarantine(_places: Places, _server: FakeTrillian, _systemd: Systemd) -> None:
    quarantine.MARK.write_text('{"since": "", "reason": ""}')


def leave_mark(_places: Places, _server: FakeTrillian, _systemd: Systemd) -> None:
    units.MARK.write_text("{}")


def leave_sth(places: Places, _server: FakeTrillian, _systemd: Systemd) -> None:
    places.sth.write_bytes(b"damaged")


def leave_promotion(places: Places, _server: FakeTrillian, _systemd: Systemd) -> None:
    promote(places, head())


def leave_journal(_places: Places, _server: FakeTrillian, _systemd: Systemd) -> None:
    journal.create(module.ORACLE / "journal", KEY.hash, head(0))


def freeze(_places: Places, server: FakeTrillian, _systemd: Systemd) -> None:
    server.trees[TREE].state = "FROZEN"


def convert(_places: Places, server: FakeTrillian, _systemd: Systemd) -> None:
    server.trees[TREE].type = "LOG"


def leave_mask(_places: Places, _server: FakeTrillian, systemd: Systemd) -> None:
    (systemd.directory / "sigsum-oracle.service").symlink_to("/dev/null")
    systemd.reload()


@pytest.mark.parametrize(
    "past",
    [
        *(leave_quarantine, leave_mark, leave_sth, leave_promotion, leave_journal),
        *(freeze, convert, leave_mask),
    ],
)
def test_any_trace_of_another_life_must_be_put_aside(
    run: Look, places: Places, server: FakeTrillian, systemd: Systemd, past: Callable[..., None]
) -> None:
    past(places, server, systemd)
    assert run()["to_retire"]


def test_a_tree_that_cannot_be_read_is_not_taken_for_lost(run: Look, server: FakeTrillian) -> None:
    server.trees.clear()
    found = run()
    assert (found["tree"], found["has_tree_id"], found["to_retire"]) == (None, True, False)


@pytest.mark.parametrize(
    ("load", "active", "enabled", "taken"),
    [
        ("loaded", "active", "disabled", True),
        ("loaded", "activating", "disabled", True),
        ("loaded", "inactive", "enabled", True),
        ("loaded", "failed", "enabled", True),
        ("loaded", "inactive", "disabled", False),
        ("loaded", "failed", "disabled", False),
        ("masked", "active", "masked", False),
        ("masked", "inactive", "enabled", False),
    ],
)
@pytest.mark.parametrize("part", ["primary", "secondary"])
def test_the_parts_that_it_takes_or_would(
    part: str, load: str, active: str, enabled: str, taken: bool
) -> None:
    unit = {"LoadState": load, "ActiveState": active, "UnitFileState": enabled}
    assert parts({f"sigsum-log-{part}.service": unit}) == ([part] if taken else [])


# The database


def fake_pymysql(monkeypatch: pytest.MonkeyPatch, rows: Any) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    class Error(Exception):
        pass

    class Context(SimpleNamespace):
        def __enter__(self) -> Context:
            return self

        def __exit__(self, *_: object) -> None:
            asked.append(("closed",))

    def execute(statement: str, values: tuple[int, ...]) -> None:
        asked.append((statement, values))

    def connect(**options: Any) -> Context:
        asked.append(tuple(options.items()))
        if rows is None:
            raise Error(2002, "no such socket")
        return Context(cursor=lambda: Context(execute=execute, fetchall=lambda: rows))

    fake = ModuleType("pymysql")
    fake.connect, fake.Error = connect, Error  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pymysql", fake)
    return asked


@pytest.mark.parametrize(
    ("row", "expected", "drained"),
    [((0, None), Sequenced(5, 0, None), True), ((3, 9), Sequenced(5, 3, 9), False)],
)
def test_what_is_numbered_beyond_a_size(
    monkeypatch: pytest.MonkeyPatch, row: tuple[Any, ...], expected: Sequenced, drained: bool
) -> None:
    asked = fake_pymysql(monkeypatch, (row,))
    found = database.sequenced(TREE, 5, Path("/run/x.sock"))
    assert found == expected
    assert found.drained() is drained
    connection, (statement, values), *closed = asked
    assert dict(connection)["unix_socket"] == "/run/x.sock"
    assert dict(connection)["database"] == "trillian"
    assert values == (TREE, 5)
    assert "SequenceNumber >= %s" in statement
    assert closed == [("closed",)] * 2


def test_a_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pymysql(monkeypatch, None)
    with pytest.raises(OpsError, match=r"MariaDB at /run/x.sock: no such socket"):
        database.sequenced(TREE, 5, Path("/run/x.sock"))
