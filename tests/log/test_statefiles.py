"""The small state files: strict to read, whole or absent to write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigsum_ops.errors import UsageError
from sigsum_ops.log.statefiles import (
    format_tree_id,
    parse_startup,
    parse_tree_id,
    read_if_there,
    remove_durably,
    write_durably,
)


@given(st.integers(1, 2**63 - 1))
def test_tree_id_round_trip(tree_id: int) -> None:
    assert parse_tree_id(format_tree_id(tree_id)) == tree_id


# hypothesis finds the constants of the source, which are no garbage.
@given(st.binary().filter(lambda data: not data.startswith((b"tree-id=", b"startup="))))
def test_garbage_is_refused(data: bytes) -> None:
    for parse in (parse_tree_id, parse_startup):
        with pytest.raises(UsageError):
            parse(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"empty", b"startup", b"startup=", b"startup=saved\n", b"startup=empty\n\n", b"=empty\n"],
)
def test_other_startup_files_are_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse_startup(data)


def test_a_new_file_is_whole_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        events.append(f"sync {kind} of {os.fstat(descriptor).st_size if kind == 'file' else ''}")
        fsync(descriptor)

    def recording_replace(source: str, target: Path) -> None:
        assert path.read_text() == "old"
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    write_durably(path, b"new one", 0o640)
    assert events == ["sync file of 7", "rename", "sync directory of "]
    assert path.read_text() == "new one"
    assert path.stat().st_mode & 0o777 == 0o640
    events.clear()
    remove_durably(path)
    assert events == ["sync directory of "]
    assert read_if_there(path) is None
    remove_durably(path)


@pytest.mark.parametrize("failing", ["fsync", "replace", "fchmod"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="no space"):
        write_durably(path, b"new")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "old")]
