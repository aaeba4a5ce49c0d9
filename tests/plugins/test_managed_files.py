"""managed_files: all candidates are checked before any file is replaced."""

from __future__ import annotations

import getpass
import grp
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.modules.managed_files import Converge, RefusalError

USER = getpass.getuser()
GROUP = grp.getgrgid(os.getgid()).gr_name
REFUSE = ["sh", "-c", "echo line 3: no such key >&2; exit 2", "%s"]


def entry(path: Path, content: str, **more: Any) -> dict[str, Any]:
    defaults = {"owner": USER, "group": GROUP, "mode": "0644", "validate": [], "secret": False}
    return {"path": str(path), "content": content, **defaults, **more}


def converge(tmp_path: Path, *files: dict[str, Any], check: bool = False, **more: Any) -> Converge:
    module = SimpleNamespace(
        check_mode=check,
        params={"files": list(files), "directories": [], "absent": [], **more},
    )
    run = Converge(module, staging=tmp_path)
    run.directories()
    run.files()
    run.absent()
    return run


def test_writes_once_and_then_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    assert converge(tmp_path, entry(path, "x\n", mode="0600")).paths == [str(path)]
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("x\n", 0o600)
    assert converge(tmp_path, entry(path, "x\n", mode="0600")).paths == []
    assert converge(tmp_path, entry(path, "x\n", mode="0640")).paths == [str(path)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_check_mode_reports_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    stranger = entry(path, "x\n", owner="nobody-made-this-account-yet")
    assert converge(tmp_path, stranger, check=True).paths == [str(path)]
    assert not path.exists()


def test_one_refused_file_leaves_all_others_as_they_were(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("old\n")
    with pytest.raises(RefusalError, match=r"second: refused by sh \(2\): line 3: no such key"):
        converge(tmp_path, entry(first, "new\n"), entry(second, "new\n", validate=REFUSE))
    assert not first.exists()
    assert second.read_text() == "old\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["second"]


def test_the_validator_sees_the_content_under_the_files_own_name(tmp_path: Path) -> None:
    path = tmp_path / "x.service"
    validate = ["sh", "-c", 'test "$(basename "$1")" = x.service && grep -q unit "$1"', "-", "%s"]
    assert converge(tmp_path, entry(path, "a unit\n", validate=validate)).paths == [str(path)]


def test_a_missing_validator_is_passed_over_only_for_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conf"
    missing = ["no-such-validator", "%s"]
    converge(tmp_path, entry(path, "x\n", validate=missing))
    with pytest.raises(RefusalError, match="no-such-validator is not installed"):
        converge(tmp_path, entry(path, "y\n", validate=missing))


def test_a_secret_is_not_in_the_diff(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old-secret")
    run = converge(tmp_path, entry(path, "new-secret", secret=True))
    assert "secret" in str(run.diff)
    assert "old-secret" not in str(run.diff)
    assert "new-secret" not in str(run.diff)


def test_an_unknown_account_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    with pytest.raises(RefusalError, match="nobody-of-that-name"):
        converge(tmp_path, entry(good, "x"), entry(bad, "x", owner="nobody-of-that-name"))
    assert not good.exists()


def test_directories_and_absent_files(tmp_path: Path) -> None:
    directory = {"path": str(tmp_path / "d"), "owner": USER, "group": GROUP, "mode": "0700"}
    gone = tmp_path / "gone"
    gone.write_text("")
    run = converge(tmp_path, directories=[directory], absent=[str(gone), str(tmp_path / "never")])
    assert run.paths == [directory["path"], str(gone)]
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    assert converge(tmp_path, directories=[directory], absent=[str(gone)]).paths == []
