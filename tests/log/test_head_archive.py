"""The archive of tree heads: what was kept stays, what is not as it was written is refused."""

from __future__ import annotations

import errno
import itertools
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sigsum_ops.log import archive as module
from sigsum_ops.log.archive import (
    MAX_EVIDENCE,
    Archive,
    ArchiveError,
    SplitView,
    check,
    evidence,
    last,
    read,
    seen,
    unproven,
)
from sigsum_ops.log.keys import PublicKey, public_key_of
from sigsum_ops.log.merkle import ProofError
from sigsum_ops.log.treehead import SignedTreeHead, TreeHead, parse_signed_tree_head
from tests.log import rfc9162
from tests.log.conftest import LOG_KEY

KEY = public_key_of(LOG_KEY)
OTHER_KEY = public_key_of(Ed25519PrivateKey.from_private_bytes(b"o" * 32))
URL = "http://192.0.2.1:6965/"
LEAVES = [bytes([n]) for n in range(100)]
OTHER_LEAVES = [bytes([n, 0]) for n in range(100)]
SIZES = [1, 2, 5, 8, 13]

Path_ = tuple[bytes, ...]


def signed(size: int, leaves: list[bytes] = LEAVES) -> SignedTreeHead:
    head = TreeHead(size, rfc9162.root(leaves[:size]))
    return SignedTreeHead(head, LOG_KEY.sign(head.checkpoint(KEY)))


def proof(old: int, new: int) -> Path_:
    return tuple(rfc9162.consistency(old, LEAVES[:new])) if old not in (0, new) else ()


def grown(path: Path, sizes: list[int]) -> bytes:
    with Archive.open(path, KEY) as archive:
        for size in sizes:
            before = archive.last.signed.head.size if archive.last else 0
            archive.append(signed(size), URL, proof(before, size))
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "heads"
    grown(path, SIZES)
    return path


def refused(path: Path, key: PublicKey = KEY) -> str:
    """What each of the ways to read it says; nothing is changed."""
    before = path.read_bytes()
    said = set()
    for attempt in (check, last, lambda p, k: list(read(p, k)), Archive.open):
        with pytest.raises(ArchiveError) as refusal:
            attempt(path, key)
        said.add(refusal.value.message)
    assert path.read_bytes() == before
    (message,) = said
    return message


def rewritten(path: Path, change: Callable[[list[list[str]]], None]) -> None:
    """As somebody would who forges it: fields are changed, and the checksums made anew."""
    rows = [line.split(" ")[:-1] for line in path.read_text().splitlines()]
    change(rows)
    data = b""
    for row in rows:
        data += " ".join([*row, ""]).encode()
        data += b"%08x\n" % zlib.crc32(data)
    path.write_bytes(data)


# --- what is kept -------------------------------------------------------------------------------


def test_format(path: Path) -> None:
    """As the module describes it; verified with nothing of the module's own."""
    data = path.read_bytes()
    header, *lines = data.decode().splitlines()
    assert header.split(" ")[:-1] == ["sigsum-head-archive/v1", KEY.hash]
    sizes: list[int] = []
    for line in lines:
        size, root, signature, seen, url, nodes, _ = line.split(" ")
        head = TreeHead(int(size), bytes.fromhex(root))
        KEY.verify(bytes.fromhex(signature), head.checkpoint(KEY))
        assert abs(int(seen) - time.time()) < 60
        assert url == URL
        before = sizes[-1] if sizes else 0
        assert nodes == (",".join(node.hex() for node in proof(before, head.size)) or "-")
        sizes.append(head.size)
    assert sizes == SIZES
    at = 0
    for row in data.splitlines(keepends=True):
        at += len(row)
        assert int(row[-9:], 16) == zlib.crc32(data[: at - 9])
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["heads"]


@given(st.sets(st.integers(0, 100), min_size=1), st.data())
@settings(max_examples=25, deadline=None)
def test_any_growth_is_read_again(sizes: set[int], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path, order = Path(directory, "heads"), sorted(sizes)
        cuts = data.draw(st.integers(0, len(order)))
        for part in (order[:cuts], order[cuts:]):  # closed and opened again between them
            grown(path, part)
        assert list(read(path, KEY)) == [signed(size) for size in order]
        assert last(path, KEY) == signed(order[-1])
        checked = check(path, KEY)
        assert (checked.heads, checked.cut) == (len(order), 0)
        assert (checked.first.signed, checked.last.signed) == (signed(order[0]), signed(order[-1]))
        with Archive.open(path, KEY) as archive:
            assert (archive.heads, archive.last) == (len(order), checked.last)
            for size in range(102):
                assert archive.find(size) == (signed(size) if size in sizes else None)


def test_it_can_be_read_while_it_is_written(path: Path) -> None:
    with Archive.open(path, KEY) as archive:
        archive.append(signed(21), URL, proof(13, 21))
        assert last(path, KEY) == signed(21)
        with pytest.raises(ArchiveError, match="in use by another process"):
            Archive.open(path, KEY)
    Archive.open(path, KEY).__exit__()


@pytest.mark.parametrize(
    ("head", "nodes", "said"),
    [
        (signed(13), (), "size 13 is not larger than 13"),
        (signed(12), (), "size 12 is not larger than 13"),
        (SignedTreeHead(signed(21).head, signed(20).signature), proof(13, 21), "signature"),
        (signed(21), (), "the path is empty"),
        (signed(21), proof(12, 21), "consistency proof"),
        (signed(21, OTHER_LEAVES), proof(13, 21), "consistency proof"),
    ],
)
def test_only_what_is_proven_is_kept(
    path: Path, head: SignedTreeHead, nodes: Path_, said: str
) -> None:
    before = path.read_bytes()
    with Archive.open(path, KEY) as archive:
        with pytest.raises(ProofError, match=said):
            archive.append(head, URL, nodes)
        assert (archive.heads, archive.last and archive.last.signed) == (5, signed(13))
    assert path.read_bytes() == before


def test_a_first_line_of_no_tree_is_refused(tmp_path: Path) -> None:
    head = TreeHead(0, bytes(32))
    with Archive.open(tmp_path / "heads", KEY) as archive:
        with pytest.raises(ProofError, match="not the root of the empty tree"):
            archive.append(SignedTreeHead(head, LOG_KEY.sign(head.checkpoint(KEY))), URL, ())
        assert archive.last is None


# --- power cuts, full disks ---------------------------------------------------------------------


def test_an_unfinished_line_is_cut_off_wherever_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # it would take most of the time
    path = tmp_path / "heads"
    sizes = SIZES[:2]
    data = grown(path, sizes)
    ends = list(itertools.accumulate(len(line) for line in data.splitlines(keepends=True)))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        whole = [end for end in ends if end <= length]
        kept = sizes[: max(len(whole) - 1, 0)]
        cut = length - max(whole, default=0)
        if kept:
            assert [one.head.size for one in read(path, KEY)] == kept
            checked = check(path, KEY)
            assert (checked.heads, checked.cut) == (len(kept), cut)
        else:
            assert "no tree head is in it yet" in _message(path)
        assert path.read_bytes() == data[:length], "reading changes nothing"
        with Archive.open(path, KEY) as archive:
            assert (archive.heads, archive.cut) == (len(kept), cut)
        assert path.read_bytes() == data[: max(whole, default=ends[0])]
        if length % 50 == 0:
            grown(path, sizes[len(kept) :])
            assert list(read(path, KEY)) == [signed(size) for size in sizes]


def _message(path: Path) -> str:
    said = set()
    for attempt in (check, last):
        with pytest.raises(ArchiveError) as refusal:
            attempt(path, KEY)
        said.add(refusal.value.message)
    (message,) = said
    return message


@pytest.mark.parametrize("failing", ["write", "fdatasync"])
def test_a_head_that_the_disk_did_not_take_is_not_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    before = path.read_bytes()
    real: Callable[..., Any] = getattr(os, failing)
    calls: list[int] = []

    def fails(descriptor: int, *rest: bytes) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            return real(descriptor, *rest)  # type: ignore[no-any-return]
        if rest:
            real(descriptor, rest[0][:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Archive.open(path, KEY) as archive:
        monkeypatch.setattr(os, failing, fails)
        with pytest.raises(ArchiveError, match=r"cannot be written: No space left"):
            archive.append(signed(21), URL, proof(13, 21))
        assert path.read_bytes() == before
        archive.append(signed(30), URL, proof(13, 30))
    assert last(path, KEY) == signed(30)
    assert check(path, KEY).heads == 6


def test_a_failure_that_cannot_be_undone_ends_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Archive.open(path, KEY) as archive:
        monkeypatch.setattr(os, "fdatasync", fails)
        for said in ("Input/output error", "could not be undone"):
            with pytest.raises(ArchiveError, match=said):
                archive.append(signed(21), URL, proof(13, 21))
        assert archive.last is not None
        assert archive.last.signed == signed(13)


def test_a_head_counts_as_kept_only_once_it_is_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    with Archive.open(path, KEY) as archive:
        monkeypatch.setattr(
            os, "fdatasync", lambda _fd: seen.append((archive.heads, path.stat().st_size))
        )
        before = path.stat().st_size
        archive.append(signed(21), URL, proof(13, 21))
        assert archive.heads == 6
    ((heads, size),) = seen
    assert (heads, size) == (5, path.stat().st_size)
    assert size > before


def test_beginning_syncs_file_and_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(module, "sync_directory", synced.append)
    Archive.open(tmp_path / "heads", KEY).__exit__()
    assert synced == [tmp_path]
    Archive.open(tmp_path / "heads", KEY).__exit__()
    assert synced == [tmp_path]


# --- damage and forgery -------------------------------------------------------------------------


def test_every_change_of_one_byte_is_refused(tmp_path: Path) -> None:
    """Also of the last newline, after which the line could be taken for one that was cut short."""
    path = tmp_path / "heads"
    data = grown(path, [1, 3])
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            values = range(256) if place == len(data) - 1 else [byte ^ 1, ord("\n"), ord("a")]
            for value in set(values) - {byte}:
                os.pwrite(file.fileno(), bytes([value]), place)
                with pytest.raises(ArchiveError):
                    check(path, KEY)
            for way in (last, Archive.open):
                with pytest.raises(ArchiveError):
                    way(path, KEY)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert check(path, KEY).heads == 2


def test_damage_is_named_by_its_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    for number, wrong in [(1, b"x" + lines[0][1:]), (3, lines[2][:-2] + b"\n"), (6, lines[5][1:])]:
        changed = [*lines]
        changed[number - 1] = wrong
        path.write_bytes(b"".join(changed))
        assert f"{path}: line {number}: " in refused(path)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert "line 3: not as it was written" in refused(path)
    path.write_bytes(b"".join(lines) + bytes(100))
    assert "line 7: not the beginning of a line either" in refused(path)


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda rows: rows.pop(3), "line 4: consistency proof"),
        (lambda rows: rows.insert(3, rows[3]), "line 5: size 5 is not larger than 5"),
        (lambda rows: rows[4].__setitem__(0, "9"), "line 5: signature"),
        (lambda rows: rows[4].__setitem__(1, "ab" * 32), "line 5: signature"),
        (lambda rows: rows[4].__setitem__(2, rows[3][2]), "line 5: signature"),
        (lambda rows: rows[4].__setitem__(5, rows[3][5]), "line 5: consistency proof"),
        (lambda rows: rows[4].__setitem__(5, "-"), "line 5: consistency proof"),
        (lambda rows: rows[1].__setitem__(5, "ab" * 32), "line 2: consistency proof"),
    ],
)
def test_good_checksums_do_not_make_it_verify(
    path: Path, forge: Callable[[list[list[str]]], None], said: str
) -> None:
    rewritten(path, lambda _rows: None)
    check(path, KEY)
    rewritten(path, forge)
    for attempt in (check, lambda p, k: list(read(p, k))):
        with pytest.raises(ArchiveError, match=said):
            attempt(path, KEY)


def test_the_last_head_is_not_believed_without_its_signature(path: Path) -> None:
    rewritten(path, lambda rows: rows[-1].__setitem__(1, "ab" * 32))
    assert "line 6: signature is not by the key" in refused(path)


@pytest.mark.parametrize("field", ["01", "-1", str(2**63)])
def test_sizes_are_numbers_of_a_log(path: Path, field: str) -> None:
    rewritten(path, lambda rows: rows[-1].__setitem__(0, field))
    assert "line 6: not as it was written" in refused(path)


def test_of_another_log(path: Path) -> None:
    message = refused(path, OTHER_KEY)
    assert f"key hash {KEY.hash}, not of {OTHER_KEY.hash}" in message


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "heads"
    for attempt in (check, last, lambda p, k: list(read(p, k))):
        with pytest.raises(ArchiveError, match="there is no archive") as refusal:
            attempt(path, KEY)
        assert "archive follow" in str(refusal.value)
    assert not path.exists()
    path.write_bytes(b"x" * 100_000)
    assert "line 1: not an archive's first line" in refused(path)
    for way in (check, last, Archive.open):
        with pytest.raises(ArchiveError, match="cannot be"):
            way(tmp_path, KEY)
    with pytest.raises(ArchiveError, match="cannot be opened"):
        Archive.open(tmp_path / "missing" / "heads", KEY)


# --- beside the archive -------------------------------------------------------------------------


def test_what_is_unproven_is_in_the_form_of_an_sth_file(path: Path) -> None:
    with Archive.open(path, KEY) as archive:
        for _ in range(2):
            archive.keep_unproven(signed(50))
        archive.keep_unproven(signed(21))
        (file,) = path.parent.glob("unproven-50-*.sth")
        assert parse_signed_tree_head(file.read_bytes()) == signed(50)
        assert unproven(path, KEY) == [signed(21), signed(50)]
        assert seen(path, KEY) == [signed(21), signed(50), signed(13)]
        archive.forget_unproven(signed(22))
        archive.forget_unproven(signed(21))
    with Archive.open(path, KEY) as archive:
        assert archive.unproven == (signed(50),)


@pytest.mark.parametrize("damage", [b"", b"size=5\n", None])
def test_what_is_unproven_is_verified_too(path: Path, damage: bytes | None) -> None:
    with Archive.open(path, KEY) as archive:
        archive.keep_unproven(signed(50))
    (file,) = path.parent.glob("unproven-*.sth")
    file.write_bytes(file.read_bytes().replace(b"50", b"51", 1) if damage is None else damage)
    for attempt in (unproven, seen, Archive.open):
        with pytest.raises(ArchiveError, match=str(file)):
            attempt(path, KEY)


def test_nothing_was_seen_yet(tmp_path: Path) -> None:
    Archive.open(tmp_path / "heads", KEY).__exit__()
    assert seen(tmp_path / "heads", KEY) == []


# --- evidence -----------------------------------------------------------------------------------


def split(size: int = 13) -> SplitView:
    found = signed(size, OTHER_LEAVES)
    return SplitView("other-root", signed(size), found, None, URL, "two roots")


def test_evidence_is_kept_once_and_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Archive.open(path, KEY) as archive:
        file = archive.keep_evidence(split())
        assert file is not None
        assert file.parent == path.parent
        data = file.read_bytes()
        for key in ("kept", "found"):  # anybody can verify both signatures
            fields = json.loads(data)[key]
            head = TreeHead(fields["size"], bytes.fromhex(fields["root_hash"]))
            log_key = PublicKey.from_ssh(json.loads(data)["log_public_key"])
            log_key.verify(bytes.fromhex(fields["signature"]), head.checkpoint(log_key))
        monkeypatch.setattr(module, "write_durably", lambda *_: pytest.fail("written again"))
        assert archive.keep_evidence(split()) == file
    assert file.read_bytes() == data
    assert evidence(path) == [file]


def test_evidence_does_not_fill_the_disk(path: Path) -> None:
    with Archive.open(path, KEY) as archive:
        files = [archive.keep_evidence(split(size)) for size in range(1, 100)]
        for n in range(MAX_EVIDENCE - 99):
            path.with_name(f"split-view-{n}.json").touch()
        assert None not in files
        assert archive.keep_evidence(split(100)) is None
        assert archive.keep_evidence(split(1)) == files[0]
    assert len(evidence(path)) == MAX_EVIDENCE


def test_evidence_that_the_disk_does_not_take_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_durably", fails)
    with Archive.open(path, KEY) as archive, pytest.raises(ArchiveError, match="No space left"):
        archive.keep_evidence(split())
