"""Packages are the same bytes whenever, wherever and by whomever they are built."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.packages import deb


def dpkg_deb(*arguments: str | Path) -> str:
    command = ["dpkg-deb", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def contents(text: str = "hello\n") -> deb.Contents:
    return deb.Contents(
        fields={"Depends": "python3", "Description": "a test\n of more than one line"},
        files=[
            deb.File("/usr/share/hello/z", text.encode()),
            deb.File("/usr/bin/hello", b"#!/bin/sh\n", 0o755),
        ],
        scripts={"postinst": "#!/bin/sh\n"},
    )


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "somewhere" / "deeper"
    first.mkdir()
    second.mkdir(parents=True)
    shuffled = replace(contents(), files=[*reversed(contents().files)])
    one = deb.write("hello", "1", "all", contents(), first)
    before = os.umask(0o077)
    try:
        two = deb.write("hello", "1", "all", shuffled, second)
    finally:
        os.umask(before)
    assert one.read_bytes() == two.read_bytes()


def test_what_dpkg_reads(tmp_path: Path) -> None:
    package = deb.write("hello", "1.2-3", "all", contents(), tmp_path)
    assert package.name == "hello_1.2-3_all.deb"
    assert dpkg_deb("--show", package).split() == ["hello", "1.2-3"]
    assert dpkg_deb("--field", package, "Description") == "a test\n of more than one line\n"
    listing = [line.split() for line in dpkg_deb("--contents", package).splitlines()]
    assert {row[1] for row in listing} == {"root/root"}
    assert {row[3] for row in listing} == {"2026-01-01"}
    modes = {row[5]: row[0] for row in listing}
    assert modes["./usr/share/hello/z"] == "-rw-r--r--"
    assert modes["./usr/bin/hello"] == "-rwxr-xr-x"
    assert {mode for path, mode in modes.items() if path.endswith("/")} == {"drwxr-xr-x"}
    assert dpkg_deb("--info", package, "postinst") == "#!/bin/sh\n"


def test_md5sums_are_right(tmp_path: Path) -> None:
    package = deb.write("hello", "1", "all", contents(), tmp_path)
    unpacked = tmp_path / "unpacked"
    dpkg_deb("--raw-extract", package, unpacked)
    checked = subprocess.run(
        ["md5sum", "--check", "--strict", "DEBIAN/md5sums"],
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=True,
    )
    assert checked.stdout.splitlines() == ["usr/bin/hello: OK", "usr/share/hello/z: OK"]


@pytest.mark.parametrize(
    "other",
    [
        replace(contents(), fields={**contents().fields, "Depends": "python3-rich"}),
        replace(contents(), scripts={"prerm": "#!/bin/sh\n"}),
        replace(contents(), files=contents().files[:1]),
        replace(contents(), files=[replace(file, mode=0o600) for file in contents().files]),
        contents("other\n"),
    ],
)
def test_digest_covers_everything(other: deb.Contents) -> None:
    assert deb.digest(other) != deb.digest(contents())


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert deb.sha256_file(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_without_dpkg_deb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OpsError, match="dpkg-deb is not installed"):
        deb.write("hello", "1", "all", contents(), tmp_path)
