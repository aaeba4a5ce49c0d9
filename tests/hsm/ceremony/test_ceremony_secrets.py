"""Secrets: made of two sources, kept on media only, and seen nowhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.ceremony import media, secrets
from sigsum_ops.hsm.ceremony.media import Medium, Shares, combine
from sigsum_ops.hsm.ceremony.secrets import Secret, make
from sigsum_ops.hsm.ceremony.words import words
from sigsum_ops.hsm.plan import Plan
from tests.hsm.ceremony.table import HEX, SHARES, small_plan

DEVICE = bytes(range(64))
SYSTEM = bytes(range(100, 164))


def made(device: bytes = DEVICE, system: bytes = SYSTEM, purpose: str = "p") -> Secret:
    return make(purpose, 32, lambda _: device, lambda _: system)


def test_the_mix_is_the_one_that_the_docstring_says() -> None:
    mixed = b"sigsum-ops-ceremony-secret@v1\0p\0" + b"\0\x40" + DEVICE + b"\0\x40" + SYSTEM
    assert bytes(made().raw) == hashlib.sha512(mixed).digest()[:32]


def test_either_source_and_the_purpose_change_the_secret() -> None:
    other = bytes([1, *range(1, 64)])
    every = [made(), made(device=other), made(system=other), made(purpose="q")]
    assert len({bytes(secret.raw) for secret in every}) == 4


@pytest.mark.parametrize("bad", [b"", bytes(64), b"\xff" * 64, DEVICE[:-1]])
def test_a_source_without_randomness_is_refused(bad: bytes) -> None:
    with pytest.raises(OpsError, match="device gave no randomness"):
        made(device=bad)
    with pytest.raises(OpsError, match="operating system gave no randomness"):
        made(system=bad)


def test_a_secret_does_not_show_and_is_gone_when_wiped() -> None:
    secret = made()
    raw = secret.raw
    assert secret.raw.hex() not in repr(secret)
    with secret.hexadecimal() as digits:
        assert bytes.fromhex(digits.decode()) == bytes(raw)
    assert not any(digits)
    secret.wipe()
    assert not any(raw)
    with pytest.raises(ValueError, match="wiped"):
        _ = secret.raw


def test_commitments_differ_by_purpose_and_ceremony() -> None:
    secret = made()
    every = {secret.commitment(p, s) for p in ("a", "b") for s in ("0" * 64, "1" * 64)}
    assert len(every) == 4


@pytest.mark.parametrize("length", [16, 24, 32])
def test_shares_restore_from_any_threshold_and_from_no_fewer(length: int) -> None:
    secret = make("p", length, lambda _: DEVICE, lambda _: SYSTEM)
    shares = Shares(3, 5).split(secret)
    assert len(shares) == 5
    assert combine([shares[4], shares[0], shares[2]]) == secret
    with pytest.raises(OpsError):
        combine(shares[:2])
    misspelt = shares[0].replace(shares[0].split()[6], "abacus")
    with pytest.raises(OpsError):
        combine([misspelt, *shares[1:3]])


def test_a_medium_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medium = Medium("medium 1", tmp_path)
    medium.write("a/b.hex", b"00ff\n")
    assert bytes(medium.read("a/b.hex") or b"") == b"00ff\n"
    assert (tmp_path / "a/b.hex").stat().st_mode & 0o777 == 0o600
    assert medium.read("nothing") is None
    monkeypatch.setattr(Medium, "read", lambda *_: bytearray(b"00fe\n"))
    with pytest.raises(OpsError, match="reads back differently"):
        medium.write("c.hex", b"00ff\n")


def test_a_full_medium_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OpsError, match="No space left"):
        Medium("medium 1", tmp_path).write("x", b"y")
    assert not (tmp_path / "x").exists()


def test_a_working_directory_is_in_memory_and_gone_afterwards() -> None:
    with media.working_directory() as memory:
        assert media.file_system(memory).kind in media.MEMORY_FILE_SYSTEMS
        (memory / "key").write_text("secret")
        assert memory.stat().st_mode & 0o777 == 0o700
    assert not memory.exists()


MOUNTINFO = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 {device} / /somewhere rw - {kind} none rw
"""


@pytest.mark.parametrize(("kind", "memory"), [("tmpfs", True), ("ramfs", True), ("ext4", False)])
def test_what_a_directory_is_on_comes_from_the_kernel(
    tmp_path: Path, kind: str, memory: bool
) -> None:
    number = tmp_path.stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTINFO.format(device=device, kind=kind))
    found = media.file_system(tmp_path, table)
    assert (found.kind in media.MEMORY_FILE_SYSTEMS) is memory


def test_a_working_directory_on_a_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "file_system", lambda _: media.FileSystem("ext4", "8:1"))
    with pytest.raises(UsageError, match="is on ext4"), media.working_directory(tmp_path):
        raise AssertionError
    assert not list(tmp_path.iterdir())


def test_media_in_production_are_apart_from_the_machine_and_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.mkdir()
    assert len(media.check_media(paths, 2, apart=False)) == 2
    with pytest.raises(UsageError):
        media.check_media(paths, 2, apart=True)
    with pytest.raises(UsageError, match="plan says 3"):
        media.check_media(paths, 3, apart=False)


def test_swap_that_is_not_in_memory_is_found(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n/dev/zram0 x\n")
    assert secrets.swap_areas(swaps) == ["/dev/sda2"]


def test_words_are_those_of_the_list() -> None:
    # The published example of the list's use: a fingerprint of PGP's.
    said = words(bytes.fromhex("E58294F2E9A227486E8B061B31CC528FD7FA3F19"))
    assert " ".join(said[:6]) == "topmost Istanbul Pluto vagabond treadmill Pacific"
    every = [words(bytes([n, n])) for n in range(256)]
    assert len({two for two, _ in every}) == len({three for _, three in every}) == 256


# --- the whole ceremony, watched ----------------------------------------------------------------

WATCHER = """
import atexit, json, os, sys
seen = {"arguments": [], "written": []}
def watch(event, arguments):
    if event == "subprocess.Popen":
        seen["arguments"].append([str(a) for a in arguments[1]])
    elif event == "open":
        path, mode, flags = arguments
        if isinstance(path, (str, bytes, os.PathLike)) and isinstance(flags, int):
            if flags & (os.O_WRONLY | os.O_RDWR):
                seen["written"].append(os.path.abspath(os.fsdecode(path)))
sys.addaudithook(watch)
out = sys.argv.pop(1)
from sigsum_ops.cli import main
sys.argv[0] = "sigsum-ops"
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
with open(out, "w") as stream:
    json.dump(seen, stream)
sys.exit(code)
"""


def secrets_in(path: Path) -> set[bytes]:
    """Every secret on the media, in each spelling that could slip out."""
    found: set[bytes] = set()
    for file in [*path.rglob("*.hex"), *path.rglob("*.passphrase")]:
        digits = file.read_bytes().strip()
        raw = bytes.fromhex(digits.decode())
        found |= {digits, digits.upper(), raw, base64.b64encode(raw), base64.b64encode(digits)}
        found |= {base64.urlsafe_b64encode(raw), str(raw).encode(), str(list(raw)).encode()}
    for file in path.rglob("*.share-*.txt"):
        share = file.read_bytes().strip()
        found |= {share, b" ".join(share.split()[4:12])}
    return found


@pytest.mark.parametrize("backup", [HEX, SHARES])
def test_no_secret_anywhere_but_on_the_media(tmp_path: Path, memory: Path, backup: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(json.dumps(_jsonable(small_plan(backup=backup))).encode())
    out, seen = tmp_path / "out", tmp_path / "seen.json"
    command = [sys.executable, "-c", WATCHER, str(seen), "ceremony", "rehearse"]
    with subprocess.Popen(
        [*command, "--plan", str(plan), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "XDG_RUNTIME_DIR": str(memory)},
    ) as process:
        lines = _command_lines_while(process)
        output = process.communicate()
    assert process.returncode == 0, output
    wanted = secrets_in(out / "media")
    assert len(wanted) > 10
    watched = json.loads(seen.read_text())
    haystacks = {
        "standard output": output[0],
        "standard error": output[1],
        "process list": lines,
        "arguments": json.dumps(watched["arguments"]).encode(),
    }
    for file in out.rglob("*"):
        relative = file.relative_to(out)
        if file.is_file() and relative.parts[0] not in ("media", "devices"):
            haystacks[str(relative)] = file.read_bytes()
    assert "transcript.jsonl" in haystacks
    for where, content in haystacks.items():
        assert not [secret for secret in wanted if secret in content], f"a secret is in {where}"
        assert b"PRIVATE KEY" not in content
    elsewhere = [
        path
        for path in watched["written"]
        if not path.startswith((f"{out}/", f"{memory}/", "/dev/null", "/proc/"))
        and path != str(seen)
        and not path.endswith(".pyc")
        and "__pycache__" not in path
    ]
    assert not elsewhere
    assert not list(memory.iterdir())


def _command_lines_while(process: subprocess.Popen[bytes]) -> bytes:
    """Every command line and environment of the process and those that it starts."""
    seen: set[bytes] = set()
    while process.poll() is None:
        pids = [str(process.pid)]
        for pid in pids:
            for name in ("cmdline", "environ"):
                with suppress(OSError):
                    seen.add(Path(f"/proc/{pid}/{name}").read_bytes())
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with suppress(OSError):
                    pids += children.read_text().split()
        time.sleep(0.02)
    return b"\n".join(seen)


def _jsonable(plan: Plan) -> object:
    from sigsum_ops.hsm.ceremony import canonical

    return json.loads(canonical.dumps(plan.to_json()))
