"""The journal: nothing acknowledged is lost, nothing damaged is believed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigsum_ops.hsm.oracle import journal as module
from sigsum_ops.hsm.oracle.journal import Journal, JournalError, create
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, MAX_NUMBER, TreeHead

KEY_HASH = "ab" * 32
HEADER, RECORD = 99, 105


def head(size: int) -> TreeHead:
    return TreeHead(size, size.to_bytes(32, "big"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    create(path, KEY_HASH, EMPTY_TREE_HEAD)
    return path


def grown(path: Path, *sizes: int) -> bytes:
    with Journal.open(path, KEY_HASH) as journal:
        for size in sizes:
            journal.append(head(size))
    return path.read_bytes()


def refused(path: Path, key_hash: str = KEY_HASH) -> str:
    before = path.read_bytes()
    messages = set()
    for writable in (True, False):
        with pytest.raises(JournalError) as refusal:
            Journal.open(path, key_hash, writable=writable)
        messages.add(refusal.value.message)
    assert path.read_bytes() == before
    (message,) = messages
    return message


def test_format(path: Path) -> None:
    """As the module describes it: a line of text each, a checksum over all that is before it."""
    data = grown(path, 5, MAX_NUMBER)
    lines = data.splitlines(keepends=True)
    assert [len(line) for line in lines] == [HEADER, RECORD, RECORD, RECORD]
    assert lines[0].startswith(b"sigsum-oracle-journal/v1 " + KEY_HASH.encode() + b" ")
    size, root, time, _ = lines[2].decode().split()
    assert (int(size), root) == (5, head(5).root.hex())
    assert 1_700_000_000 < int(time) < 10_000_000_000
    at = 0
    for line in lines:
        at += len(line)
        assert int(line[-9:], 16) == zlib.crc32(data[: at - 9])
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["journal"]


def test_what_was_appended_is_found(path: Path) -> None:
    sizes = [1, 2, 7, 100, 101, 5000]
    grown(path, *sizes)
    for writable in (True, False):
        with Journal.open(path, KEY_HASH, writable=writable) as journal:
            assert (journal.first.head, journal.last.head) == (EMPTY_TREE_HEAD, head(5000))
            assert (journal.records, journal.cut) == (7, 0)
            for size in range(5002):
                if size in sizes:
                    assert journal.root_at(size) == head(size).root
                else:
                    assert journal.root_at(size) == (EMPTY_TREE_HEAD.root if not size else None)


@given(st.lists(st.integers(1, MAX_NUMBER), max_size=30), st.data())
@settings(max_examples=30, deadline=None)
def test_any_sizes(sizes: list[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "journal")
        create(path, KEY_HASH, EMPTY_TREE_HEAD)
        grown(path, *sorted(set(sizes)))
        with Journal.open(path, KEY_HASH) as journal:
            for size in sizes:
                assert journal.root_at(size) == head(size).root
            other = data.draw(st.integers(1, MAX_NUMBER))
            assert (journal.root_at(other) is not None) == (other in sizes)


@pytest.mark.parametrize("size", [0, 4, 5])
def test_only_larger_ones(path: Path, size: int) -> None:
    grown(path, 5)
    with Journal.open(path, KEY_HASH) as journal, pytest.raises(ValueError, match="not larger"):
        journal.append(head(size))


# Beginning


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for writable in (True, False):
        with pytest.raises(JournalError) as refusal:
            Journal.open(path, KEY_HASH, writable=writable)
        assert "seed --empty" in str(refusal.value)
    assert not path.exists()


def test_create_replaces_nothing(path: Path) -> None:
    before = grown(path, 3)
    with pytest.raises(JournalError, match="already"):
        create(path, KEY_HASH, EMPTY_TREE_HEAD)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


def test_create_where_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be written"):
        create(tmp_path / "missing" / "journal", KEY_HASH, EMPTY_TREE_HEAD)


def test_create_syncs_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []

    def sync(directory: Path) -> None:
        assert (directory / "journal").exists()
        synced.append(directory)

    monkeypatch.setattr(module, "sync_directory", sync)
    create(tmp_path / "journal", KEY_HASH, EMPTY_TREE_HEAD)
    assert synced == [tmp_path]


def test_of_another_log(path: Path) -> None:
    assert "key hash " + KEY_HASH in refused(path, "cd" * 32)


def test_one_writer_and_any_readers(path: Path) -> None:
    with Journal.open(path, KEY_HASH) as writer:
        with pytest.raises(JournalError, match="in use") as refusal:
            Journal.open(path, KEY_HASH)
        assert "systemctl stop sigsum-oracle" in str(refusal.value)
        with Journal.open(path, KEY_HASH, writable=False) as reader:
            writer.append(head(5))
            assert reader.last.head == EMPTY_TREE_HEAD
    with Journal.open(path, KEY_HASH) as again:
        assert again.last.head == head(5)


def test_a_killed_writer_leaves_no_lock(path: Path) -> None:
    program = (
        "import os, signal, sys, pathlib\n"
        "from sigsum_ops.hsm.oracle.journal import Journal\n"
        "from sigsum_ops.log.treehead import TreeHead\n"
        f"journal = Journal.open(pathlib.Path(sys.argv[1]), '{KEY_HASH}')\n"
        "journal.append(TreeHead(9, bytes(32)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == -9
    with Journal.open(path, KEY_HASH) as journal:
        assert journal.last.head == TreeHead(9, bytes(32))


# Power cuts


def test_an_unfinished_last_line_is_cut_off(path: Path) -> None:
    whole = grown(path, 5, 6)
    kept = whole[:-RECORD]
    for length in range(1, RECORD):
        path.write_bytes(kept + whole[-RECORD:][:length])
        with Journal.open(path, KEY_HASH, writable=False) as journal:
            assert (journal.last.head, journal.cut) == (head(5), length)
        assert len(path.read_bytes()) == len(kept) + length
        with Journal.open(path, KEY_HASH) as journal:
            assert (journal.last.head, journal.cut) == (head(5), length)
            assert path.read_bytes() == kept
            journal.append(head(6))
            assert journal.root_at(6) == head(6).root
        with Journal.open(path, KEY_HASH) as journal:
            assert (journal.last.head, journal.cut) == (head(6), 0)


@pytest.mark.parametrize("rest", [b"\n", b"x", b"\0", b"00 ", b"0" * 19 + b" \n"])
def test_what_is_not_the_beginning_of_a_line_is_damage(path: Path, rest: bytes) -> None:
    path.write_bytes(grown(path, 5) + rest)
    assert "line 4" in refused(path)


def test_a_whole_line_with_a_wrong_checksum_was_acknowledged(path: Path) -> None:
    """Only its newline says that a line is whole: then it was synced, and cutting it off would
    let another tree head be signed for its size."""
    whole = grown(path, 5, 6)
    path.write_bytes(whole[:-RECORD] + bytes(whole[-RECORD:]).replace(b"6 ", b"7 "))
    assert "line 4: not as it was written" in refused(path)


def test_a_seed_is_all_there_or_not(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


# Damage


def test_each_damaged_byte_is_refused(path: Path) -> None:
    whole = grown(path, 5, 6, 7)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
        line = 1 if at < HEADER else 2 + (at - HEADER) // RECORD
        assert f"line {line}: " in refused(path), at


EDITS: list[tuple[str, Callable[[list[bytes]], list[bytes]], int]] = [
    ("dropped", lambda lines: [*lines[:2], *lines[3:]], 3),
    ("doubled", lambda lines: [*lines[:3], *lines[2:]], 4),
    ("swapped", lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),
    ("header dropped", lambda lines: lines[1:], 1),
    ("first dropped", lambda lines: [lines[0], *lines[2:]], 2),
    ("emptied", lambda _lines: [], 1),
    ("header only", lambda lines: lines[:1], 2),
]


@pytest.mark.parametrize(
    ("edit", "line"), [row[1:] for row in EDITS], ids=[row[0] for row in EDITS]
)
def test_each_edit_is_refused(
    path: Path, edit: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    lines = grown(path, 5, 6, 7).splitlines(keepends=True)
    path.write_bytes(b"".join(edit(lines)))
    assert f"line {line}: " in refused(path)


def test_a_refusal_says_what_to_do(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(JournalError) as refusal:
        Journal.open(path, KEY_HASH)
    assert "docs/bcp/oracle-latched.md" in str(refusal.value)


def test_damage_under_a_running_oracle(path: Path) -> None:
    grown(path, 5, 6, 7)
    with Journal.open(path, KEY_HASH) as journal:
        data = bytearray(path.read_bytes())
        data[HEADER + RECORD + 30] ^= 1
        with path.open("r+b") as stream:
            stream.write(data)
        with pytest.raises(JournalError, match="line 3"):
            journal.root_at(5)


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(JournalError, match="cannot be"):
        Journal.open(tmp_path / "journal", KEY_HASH)


# A disk that does not take it


def test_appended_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    write, sync = os.write, os.fdatasync

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            order.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(os, "write", noted("write", write))
    monkeypatch.setattr(os, "fdatasync", noted("sync", sync))
    with Journal.open(path, KEY_HASH) as journal:
        journal.append(head(1))
    assert order == ["write", "sync"]


@pytest.mark.parametrize("fault", ["full", "short", "sync"])
def test_a_failed_append_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    write, sync = os.write, os.fdatasync

    def failing_write(descriptor: int, data: bytes) -> int:
        if fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:40] if fault == "short" else data)

    calls = []

    def failing_sync(descriptor: int) -> None:
        calls.append(descriptor)
        if fault == "sync" and len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    before = grown(path, 5)
    with Journal.open(path, KEY_HASH) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", failing_write)
            patch.setattr(os, "fdatasync", failing_sync)
            with pytest.raises(JournalError, match="cannot be written"):
                journal.append(head(6))
        assert path.read_bytes() == before
        assert journal.root_at(6) is None
        journal.append(head(7))
        assert journal.last.head == head(7)
    with Journal.open(path, KEY_HASH) as journal:
        assert (journal.root_at(6), journal.root_at(7)) == (None, head(7).root)


def test_what_cannot_be_taken_back_ends_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Journal.open(path, KEY_HASH) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(JournalError):
                journal.append(head(6))
        with pytest.raises(JournalError, match="earlier write"):
            journal.append(head(7))
        assert journal.root_at(0) == EMPTY_TREE_HEAD.root
    with Journal.open(path, KEY_HASH) as journal:
        journal.append(head(7))
