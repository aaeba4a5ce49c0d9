"""A witness's database against what its oracle has cosigned; upstream's schema, SQLite itself."""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.oracle.cosign import Cosigned
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.treehead import TreeHead, verifier_key
from sigsum_ops.witness import database, guard
from sigsum_ops.witness.database import KnownLog

# As torchwood 0.9.0 makes it (internal/witness).
SCHEMA = """
CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL);
CREATE TABLE key (
    origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin)
);
CREATE TABLE bastion (
    origin TEXT NOT NULL, bastion TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin)
);
"""
ONE, TWO = "sigsum.org/v1/tree/" + "a" * 64, "example.org/log"
ROOTS = [bytes([number]) * 32 for number in range(3)]
KEY = PublicKey(bytes(range(32)))


class Site:
    """A witness's two accounts in a directory, with the oracle's configuration."""

    def __init__(self, path: Path) -> None:
        self.database = path / "litewitness.db"
        self.oracle = path / "oracle.toml"
        self.oracle.write_text(
            f'public_key = "{KEY.ssh}"\nstate_directory = "{path}"\n'
            f'[witness]\norigins = ["{ONE}"]\n'
            '[software_key]\nfile = "/nowhere"\nlab_only = true\n'
        )
        self.cosigned = Cosigned.begin(path / "cosigned")
        with closing(sqlite3.connect(self.database)) as made:
            made.executescript(SCHEMA)

    def has(self, origin: str, head: TreeHead, *keys: str) -> None:
        """Have the database know a log at a tree head."""
        root = base64.b64encode(head.root).decode()
        with closing(sqlite3.connect(self.database)) as changed:
            changed.execute(
                "INSERT OR REPLACE INTO log VALUES (?, ?, ?)", (origin, head.size, root)
            )
            changed.executemany("INSERT INTO key VALUES (?, ?)", [(origin, key) for key in keys])
            changed.commit()

    @property
    def problems(self) -> list[str]:
        return guard.look(self.database, self.oracle).problems


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_what_upstreams_database_has_is_read(site: Site) -> None:
    site.has(ONE, TreeHead(5, ROOTS[0]), "b", "a")
    site.has(TWO, TreeHead(0, ROOTS[1]))
    assert database.read(site.database) == {
        ONE: KnownLog(TreeHead(5, ROOTS[0]), ("a", "b")),
        TWO: KnownLog(TreeHead(0, ROOTS[1]), ()),
    }


def test_no_database_is_no_log_and_none_is_made(tmp_path: Path) -> None:
    assert database.read(tmp_path / "none.db") == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"rubbish", b"SQLite format 3\0" + bytes(100)])
def test_what_is_no_database_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(OpsError, match="not a database that can be used"):
        database.read(path)


@pytest.mark.parametrize("size", [5, 9])
def test_a_database_with_as_much_or_more_is_good(site: Site, size: int) -> None:
    """litewitness writes first: a power cut may be between the two."""
    site.cosigned.append(ONE, TreeHead(5, ROOTS[0]))
    site.has(ONE, TreeHead(size, ROOTS[0]))
    site.has(TWO, TreeHead(3, ROOTS[0]))  # never cosigned by this oracle
    assert site.problems == []
    guard.guard(site.database, site.oracle)


def test_an_older_another_and_a_lost_tree_head_are_refused(site: Site) -> None:
    site.cosigned.append(ONE, TreeHead(5, ROOTS[0]))
    assert "not in the database" in site.problems[0]
    for head in (TreeHead(4, ROOTS[0]), TreeHead(5, ROOTS[1])):
        site.has(ONE, head)
        assert (
            f"cosigned at {TreeHead(5, ROOTS[0])}, and the database has {head}" in site.problems[0]
        )
    site.database.unlink()
    with pytest.raises(OpsError, match="not what this witness has cosigned"):
        guard.guard(site.database, site.oracle)


def test_recovered_it_goes_on_from_what_was_cosigned(site: Site) -> None:
    site.cosigned.append(ONE, TreeHead(5, ROOTS[0]))
    site.cosigned.append(TWO, TreeHead(7, ROOTS[1]))
    site.has(ONE, TreeHead(3, ROOTS[2]), "key")
    assert set(guard.recover(site.database, site.oracle)) == {ONE, TWO}
    assert database.read(site.database) == {
        ONE: KnownLog(TreeHead(5, ROOTS[0]), ("key",)),
        TWO: KnownLog(TreeHead(7, ROOTS[1]), ()),
    }
    assert guard.recover(site.database, site.oracle) == []
    assert site.problems == []


def test_recovering_never_goes_back(site: Site) -> None:
    site.cosigned.append(ONE, TreeHead(5, ROOTS[0]))
    site.has(ONE, TreeHead(9, ROOTS[2]))
    assert guard.recover(site.database, site.oracle) == []
    assert database.read(site.database)[ONE].head == TreeHead(9, ROOTS[2])


def test_a_beginning_is_said_once_and_never_of_a_key_that_has_cosigned(site: Site) -> None:
    """Also where only the oracle's record is gone: nobody knows what is left of it."""
    arguments = ["--db", str(site.database), "--oracle", str(site.oracle)]
    directory = site.oracle.parent / "cosigned"
    with pytest.raises(OpsError, match="cannot be begun"):
        guard.begin(site.database, site.oracle)
    directory.rmdir()
    for verb in ("guard", "show", "recover"):
        done = CliRunner().invoke(app, ["witness", verb, *arguments])
        assert done.exit_code == 1
        assert "is not known" in str(done.exception)
    site.has(ONE, TreeHead(5, ROOTS[0]))
    with pytest.raises(OpsError, match="this is no beginning"):
        guard.begin(site.database, site.oracle)
    site.has(ONE, TreeHead(0, ROOTS[0]))
    assert CliRunner().invoke(app, ["witness", "begin", *arguments]).exit_code == 0
    assert directory.stat().st_mode & 0o777 == 0o755
    guard.guard(site.database, site.oracle)


def test_beside_a_running_witness_nothing_is_rolled_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cosigns between the two looks."""
    site.cosigned.append(ONE, TreeHead(5, ROOTS[0]))
    site.has(ONE, TreeHead(5, ROOTS[0]))

    def read(path: Path) -> dict[str, KnownLog]:
        site.has(ONE, TreeHead(6, ROOTS[1]))
        site.cosigned.append(ONE, TreeHead(6, ROOTS[1]))
        return real(path)

    real = database.read
    monkeypatch.setattr(database, "read", read)
    assert site.problems == []


def test_two_trees_of_one_size_are_not_recovered(site: Site) -> None:
    site.cosigned.append(ONE, TreeHead(5, ROOTS[0]))
    site.has(ONE, TreeHead(5, ROOTS[1]))
    with pytest.raises(OpsError, match="two trees of one size"):
        guard.recover(site.database, site.oracle)
    assert database.read(site.database)[ONE].head == TreeHead(5, ROOTS[1])


def test_a_logs_oracle_is_none(site: Site) -> None:
    text = site.oracle.read_text().replace(
        f'[witness]\norigins = ["{ONE}"]', '[log]\ntrillian = "h:1"\ntree_id_file = "/t"'
    )
    site.oracle.write_text(text)
    with pytest.raises(OpsError, match="not of a witness's"):
        guard.look(site.database, site.oracle)


def test_the_commands(site: Site) -> None:
    arguments = ["--db", str(site.database), "--oracle", str(site.oracle)]
    site.cosigned.append(ONE, TreeHead(5, ROOTS[0]))
    shown = CliRunner().invoke(app, ["witness", "show", "--json", *arguments])
    assert shown.exit_code == 1
    assert json.loads(shown.stdout) == {
        "ok": False,
        "problems": [f"{ONE}: cosigned at {TreeHead(5, ROOTS[0])}, and not in the database"],
        "logs": {
            ONE: {
                "database": None,
                "cosigned": {"size": 5, "root_hash": ROOTS[0].hex()},
                "keys": [],
            }
        },
    }
    assert CliRunner().invoke(app, ["witness", "guard", *arguments]).exit_code == 1
    assert "ROLLED BACK" in CliRunner().invoke(app, ["witness", "show", *arguments]).stdout
    recovered = CliRunner().invoke(app, ["witness", "recover", *arguments])
    assert recovered.exit_code == 0
    assert "put forward" in recovered.stdout
    assert CliRunner().invoke(app, ["witness", "guard", *arguments]).exit_code == 0
    again = CliRunner().invoke(app, ["witness", "recover", *arguments])
    assert "has all that was cosigned" in again.stdout


def test_a_logs_key_as_witnesses_are_given_it() -> None:
    """The example of torchwood's own page on witnessctl."""
    raw = base64.b64decode("Af/cLU2Y5BJNP+r3iMDC+av9eWCD0fBJVDfzAux5zxAP")[1:]
    origin = "sigsum.org/v1/tree/4d6d8825a6bb689d459628312889dfbb0bcd41b5211d9e1ce768b0ff0309e562"
    assert verifier_key(origin, PublicKey(raw)) == (
        f"{origin}+5202289b+Af/cLU2Y5BJNP+r3iMDC+av9eWCD0fBJVDfzAux5zxAP"
    )
