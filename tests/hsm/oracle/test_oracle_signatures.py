"""The count of signatures: never less than the device may have made, whatever is killed when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.oracle.signatures import Count, Counter, parse, read


class No(Exception):  # noqa: N818 - an answer
    pass


def ask(counter: Counter, error: Exception | None = None) -> None:
    with counter.asked(No):
        if error:
            raise error


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signatures"


def count(path: Path) -> Count:
    found = read(path)
    assert found
    return found


def test_it_counts_what_came_of_each_command(path: Path) -> None:
    assert read(path) is None
    with Counter.open(path) as counter:
        begun = count(path)
        assert (begun.given, begun.lost, begun.pending) == (0, 0, False)
        ask(counter)
        ask(counter)
        with pytest.raises(No):
            ask(counter, No())
        before = int(time.time())
        with pytest.raises(TimeoutError):
            ask(counter, TimeoutError())
        found = count(path)
    assert (found.id, found.given, found.lost, found.pending) == (begun.id, 2, 1, False)
    assert before <= found.lost_at <= time.time()
    assert path.stat().st_mode & 0o777 == 0o644  # the audit is another user's
    with Counter.open(path) as counter:
        ask(counter)
    assert count(path) == Count(begun.id, 3, 1, found.lost_at)


def test_a_command_is_on_the_disk_before_it_is_sent(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.append(path.read_bytes()))
    with Counter.open(path) as counter, counter.asked(No):
        assert synced == [path.read_bytes()]
        assert count(path).pending


def test_a_kill_while_the_device_signs_is_one_that_was_lost(path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from sigsum_ops.hsm.oracle.signatures import Counter\n"
        "counter = Counter.open(pathlib.Path(sys.argv[1]))\n"
        "with counter.asked(ValueError): pass\n"
        "with counter.asked(ValueError): print('sent', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "sent\n"
        process.send_signal(signal.SIGKILL)
    left = count(path)
    assert (left.given, left.lost, left.pending) == (1, 0, True)
    with Counter.open(path):
        found = count(path)
    assert (found.id, found.given, found.lost, found.pending) == (left.id, 1, 1, False)


@pytest.mark.parametrize("damage", [b"", b"nonsense\n", b"\0" * 100])
def test_a_damaged_count_begins_anew_and_says_so(path: Path, damage: bytes) -> None:
    with Counter.open(path) as counter:
        ask(counter)
    before = count(path).id
    path.write_bytes(damage)
    with pytest.raises(OpsError, match="not as it was written"):
        read(path)
    with Counter.open(path) as counter:
        ask(counter)
    assert count(path).given == 1
    assert count(path).id != before


def test_each_changed_byte_is_noticed() -> None:
    line = Count("0123456789abcdef", 12, 3, 1_700_000_000, True).encode()
    assert parse(line).given == 12
    for place in range(len(line)):
        damaged = bytearray(line)
        damaged[place] ^= 1
        with pytest.raises(ValueError, match="not as it was written"):
            parse(bytes(damaged))
    assert len(Count("0123456789abcdef").encode()) == len(line) < 512


def test_a_disk_that_fails_sends_no_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Counter.open(path) as counter:

        def fail(*_: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail)
        sent = False
        with pytest.raises(OSError, match="Input/output"), counter.asked(No):
            sent = True
        assert not sent
        monkeypatch.undo()
        ask(counter)
        assert (counter.count.given, counter.count.lost, counter.count.pending) == (1, 0, False)
