"""The module trillian_tree, run as Ansible runs it, against a Trillian in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from plugins.modules import trillian_tree
from tests.log.fake_trillian import FakeTree, FakeTrillian

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def trillian() -> Iterator[FakeTrillian]:
    with FakeTrillian() as server:
        yield server


@pytest.fixture
def run(trillian: FakeTrillian, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*, check: bool = False, **arguments: Any) -> dict[str, Any]:
        parameters = {
            "address": trillian.address,
            "type": "LOG",
            "tree_id_file": str(tmp_path / "tree-id"),
            "sth_file": str(tmp_path / "sth"),
            "startup_file": str(tmp_path / "sth.startup"),
            "evidence_paths": [str(tmp_path / "guard-evidence.json")],
            "wait_seconds": 0,
            "_ansible_check_mode": check,
            **arguments,
        }
        given = {key: value for key, value in parameters.items() if value is not None}
        with patch_module_args(given), pytest.raises(SystemExit) as ended:
            trillian_tree.main()
        result: dict[str, Any] = json.loads(capfd.readouterr().out)
        assert bool(result.get("failed")) is (ended.value.code != 0)
        return result

    return run


def test_creates_keeps_and_recovers(run: Run, tmp_path: Path) -> None:
    told = run(check=True)
    assert (told["changed"], told["decision"], told["tree_id"]) == (True, "create", None)
    assert list(tmp_path.iterdir()) == []
    made = run()
    assert made["changed"]
    assert {key: made[key] for key in ("decision", "tree_id", "type", "state", "size")} == {
        "decision": "create",
        "tree_id": 1001,
        "type": "LOG",
        "state": "ACTIVE",
        "size": 0,
    }
    assert made["root"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [(part["before"], part["after"]) for part in made["diff"]] == [
        ("", "tree-id=1001\n"),
        ("", "startup=empty\n"),
    ]
    for check in (True, False):
        kept = run(check=check)
        assert (kept["changed"], kept["decision"], kept["diff"]) == (False, "keep", [])
    (tmp_path / "tree-id").write_text("")
    assert run(check=True)["changed"]
    recovered = run()
    assert (recovered["changed"], recovered["decision"]) == (True, "recover")
    assert (tmp_path / "tree-id").read_text() == "tree-id=1001\n"


def test_mode_is_kept(run: Run, tmp_path: Path) -> None:
    run(mode="0640")
    for name in ("tree-id", "sth.startup"):
        path = tmp_path / name
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o600)
        assert run(mode="0640", check=True)["changed"]
        assert path.stat().st_mode & 0o777 == 0o600
        assert run(mode="0640")["changed"]
        assert path.stat().st_mode & 0o777 == 0o640
    assert not run(mode="0640")["changed"]


def test_a_secondary(run: Run, tmp_path: Path) -> None:
    made = run(type="PREORDERED_LOG", startup_file=None, sth_file=None)
    assert (made["type"], made["changed"]) == ("PREORDERED_LOG", True)
    assert [path.name for path in tmp_path.iterdir()] == ["tree-id"]
    refused = run()
    assert refused["failed"]
    assert "promote.yml" in refused["msg"]


def test_refusals_fail(run: Run, trillian: FakeTrillian, tmp_path: Path) -> None:
    trillian.trees = {1: FakeTree(1), 2: FakeTree(2)}
    for check in (True, False):
        assert "Trillian holds 2 trees" in run(check=check)["msg"]
    assert list(tmp_path.iterdir()) == []
    assert "startup_file is" in run(startup_file="/elsewhere")["msg"]
    assert "sth_file" in run(sth_file=None)["msg"]
    (tmp_path / "tree-id").mkdir()
    assert "Is a directory" in run()["msg"]


def test_without_trillian(run: Run, tmp_path: Path) -> None:
    """A new machine in check mode has nothing installed yet; any other one is in trouble."""
    told = run(check=True, address="127.0.0.1:1", wait_seconds=30)
    assert (told["changed"], told["decision"]) == (True, "create")
    assert "would create" in told["msg"]
    assert "UNAVAILABLE" in run(address="127.0.0.1:1")["msg"]
    for name in ("tree-id", "sth", "guard-evidence.json"):
        path = tmp_path / name
        path.write_text("tree-id=1\n")
        failed = run(check=True, address="127.0.0.1:1")
        assert failed["failed"]
        assert "UNAVAILABLE" in failed["msg"]
        path.unlink()


def test_waits_for_trillian(run: Run, trillian: FakeTrillian) -> None:
    trillian.root_is_unreadable = True

    def recover(_method: str) -> None:
        if trillian.calls.count("GetLatestSignedLogRoot") > 2:
            trillian.root_is_unreadable = False

    trillian.before = recover
    assert run(wait_seconds=30)["changed"]
    assert list(trillian.trees) == [1001]


def test_without_the_package(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trillian_tree, "IMPORT_ERROR", "ModuleNotFoundError")
    assert "Debian package sigsum-ops" in run()["msg"]
    assert run(check=True)["changed"]
    (tmp_path / "sth").write_text("")
    assert "Debian package sigsum-ops" in run(check=True)["msg"]


def test_documentation_agrees_with_the_arguments() -> None:
    options = yaml.safe_load(trillian_tree.DOCUMENTATION)["options"]
    for option in options.values():
        del option["description"]
    assert options == trillian_tree.ARGUMENTS


def test_returns_what_it_documents(run: Run) -> None:
    documented = set(yaml.safe_load(trillian_tree.RETURN))
    for result in (run(check=True), run(), run()):
        assert documented <= set(result)
