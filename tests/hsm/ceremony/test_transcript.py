"""The append-only file: durable, chained, resumable, one writer, nothing after the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm import plan
from sigsum_ops.hsm.ceremony import records, transcript
from sigsum_ops.hsm.ceremony.records import Mode, Step
from sigsum_ops.hsm.ceremony.transcript import Transcript, WrongLineError, decode_all
from tests.hsm.ceremony.synthesis import CEREMONY, plan_text

PLAN = plan.loads(plan_text(), "plan")
OPENED = records.Opened(CEREMONY, PLAN.to_json(), PLAN.hash(), Mode.REHEARSAL, "test", {})
STARTED = Step("reset", 90000001, "started")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "transcript.jsonl"


def test_lines_are_chained_and_survive(path: Path) -> None:
    with Transcript(path) as writer:
        first = writer.append(OPENED)
        second = writer.append(STARTED)
        assert path.read_bytes() == first.raw + b"\n" + second.raw + b"\n"
    assert first.prev == "0" * 64
    assert second.prev == first.hash
    with Transcript(path) as again:
        assert [line.record for line in again.lines] == [OPENED, STARTED]
        assert again.head == second.hash
        assert again.append(STARTED).prev == second.hash
    assert len(decode_all(path.read_bytes())) == 3


def test_a_line_that_power_cut_off_is_removed_and_counted(path: Path) -> None:
    with Transcript(path) as writer:
        writer.append(OPENED)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"body":')
    with Transcript(path) as again:
        assert again.discarded_bytes == 8
        assert len(again.lines) == 1
    assert path.read_bytes() == whole


@given(where=st.integers(0), flip=st.integers(1, 255))
@settings(max_examples=40)
def test_a_changed_record_is_not_gone_on_with(
    tmp_path_factory: pytest.TempPathFactory, where: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("changed") / "transcript.jsonl"
    with Transcript(path) as writer:
        writer.append(OPENED)
        for _ in range(3):
            writer.append(STARTED)
    data = bytearray(path.read_bytes())
    intact = data.rfind(b"\n", 0, -1)  # nothing vouches for the last line before it is signed
    data[where % intact] ^= flip
    path.write_bytes(data)
    with pytest.raises(OpsError, match=r"line \d"):
        Transcript(path)
    assert path.read_bytes() == data


def test_only_one_writes(path: Path) -> None:
    with Transcript(path), pytest.raises(OpsError, match="another process writes"):
        Transcript(path)
    with Transcript(path):
        pass


def test_the_opening_record_comes_first_and_once(path: Path) -> None:
    with Transcript(path) as writer:
        with pytest.raises(OpsError, match="opening record"):
            writer.append(STARTED)
        writer.append(OPENED)
        with pytest.raises(OpsError, match="opening record"):
            writer.append(OPENED)


def test_nothing_comes_after_the_closing_record(path: Path) -> None:
    with Transcript(path) as writer:
        writer.append(OPENED)
        writer.append(STARTED)
        line = writer.close([])
        assert isinstance(line.record, records.Closed)
        assert line.record.lines == 3
        assert (line.record.plan_hash, line.record.mode) == (PLAN.hash(), Mode.REHEARSAL)
        with pytest.raises(OpsError, match="closed"):
            writer.append(STARTED)
    with Transcript(path) as again:
        assert again.closed
        with pytest.raises(OpsError, match="closed"):
            again.close([])


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Transcript(path) as writer:
        writer.append(OPENED)
        before = path.read_bytes()
        real = os.write
        calls = iter([10])

        def fails(descriptor: int, data: bytes) -> int:
            try:
                return real(descriptor, data[: next(calls)])
            except StopIteration:
                raise OSError(28, "No space left on device") from None

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fails)
            with pytest.raises(OpsError, match="No space left"):
                writer.append(STARTED)
        assert path.read_bytes() == before
        writer.append(STARTED)
    assert len(decode_all(path.read_bytes())) == 2


def _write_forever(path: Path) -> None:
    with Transcript(path) as writer:
        while True:
            writer.append(STARTED)


def test_kill_9_leaves_a_record_that_goes_on(path: Path) -> None:
    with Transcript(path) as writer:
        writer.append(OPENED)
    size = path.stat().st_size
    process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(path,))
    process.start()
    deadline = time.monotonic() + 20
    while path.stat().st_size < size + 1000 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Transcript(path) as again:
        assert len(again.lines) > 3
        again.append(STARTED)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b'"n":1', b'"n":2'), "numbered 2"),
        ((b'"kind":"opened"', b'"kind":"opaned"'), "none of"),
        ((b'"mode":"rehearsal"', b'"mode":"rehearsed"'), "none of production, rehearsal"),
        ((b'"software":"test"', b'"software":3'), "opened.software: str is expected"),
        ((b'"software":"test"', b'"software":"test","zeal":1'), "unknown: zeal"),
        ((b'.000Z"', b'+01:00"'), "not of the form"),
        ((b'{"body"', b'{ "body"'), "canonical"),
    ],
)
def test_a_line_of_another_form_says_what_is_wrong(
    change: tuple[bytes, bytes], reason: str
) -> None:
    raw = transcript.encode(1, "0" * 64, "2026-01-31T09:00:00.000Z", OPENED).raw
    assert change[0] in raw
    with pytest.raises(WrongLineError, match=reason):
        decode_all(raw.replace(*change, 1) + b"\n")
