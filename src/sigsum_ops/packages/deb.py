"""Write a Debian binary package so that the same contents always give the same bytes.

Debian policy chapters 3 to 6 (control fields, maintainer scripts) and deb(5). Order, owners, modes,
times and the compressor are fixed here; ``dpkg-deb`` does the rest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sigsum_ops.errors import OpsError

# Every time stamp in every package (2026-01-01T00:00:00Z): when something was built must not show.
EPOCH = 1767225600


@dataclass(frozen=True)
class File:
    """One regular file: its path on the host, its contents (or where they are), its mode."""

    path: str
    source: bytes | Path
    mode: int = 0o644

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True)
class Contents:
    """What goes into a package, besides its name, version and architecture."""

    fields: Mapping[str, str]
    files: Sequence[File]
    scripts: Mapping[str, str] = field(default_factory=dict)


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(contents: Contents) -> str:
    """SHA-256 over all that a package installs or runs: fields, scripts, paths, modes, bytes."""
    total = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            total.update(len(part).to_bytes(8, "big") + part)

    for key, value in sorted(contents.fields.items()):
        add(b"field", key.encode(), value.encode())
    for key, value in sorted(contents.scripts.items()):
        add(b"script", key.encode(), value.encode())
    for file in sorted(contents.files, key=lambda file: file.path):
        add(b"file", file.path.encode(), oct(file.mode).encode(), file.read())
    return total.hexdigest()


def control(name: str, version: str, architecture: str, contents: Contents) -> str:
    """The control file. ``Description`` comes last, as its text runs over several lines."""
    directories = {parent for file in contents.files for parent in PurePosixPath(file.path).parents}
    kibibytes = sum(-(-_size(file) // 1024) for file in contents.files) + len(directories)
    rows = {"Package": name, "Version": version, "Architecture": architecture}
    rows |= {key: value for key, value in contents.fields.items() if key != "Description"}
    rows |= {
        "Maintainer": "sigsum-ops <root@localhost>",
        "Installed-Size": str(kibibytes),
        "Section": "net",
        "Priority": "optional",
        "Description": contents.fields["Description"],
    }
    return "".join(f"{key}: {value}\n" for key, value in rows.items())


def write(name: str, version: str, architecture: str, contents: Contents, work: Path) -> Path:
    """Build the package in ``work``, an empty directory of ours, and return its file."""
    root = work / "root"
    sums = []
    for file in sorted(contents.files, key=lambda file: file.path):
        relative = file.path.removeprefix("/")
        target = root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.source, bytes):
            target.write_bytes(file.source)
        else:
            shutil.copyfile(file.source, target)
        target.chmod(file.mode)
        with target.open("rb") as stream:
            md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
        sums.append(f"{md5.hexdigest()}  {relative}\n")
    debian = root / "DEBIAN"
    debian.mkdir()
    (debian / "control").write_text(control(name, version, architecture, contents))
    (debian / "md5sums").write_text("".join(sums))
    for path in debian.iterdir():
        path.chmod(0o644)
    for script, text in contents.scripts.items():
        (debian / script).write_text(text)
        (debian / script).chmod(0o755)
    for directory, _, names in os.walk(root, topdown=False):
        for path in (*(Path(directory, entry) for entry in names), Path(directory)):
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (EPOCH, EPOCH))
    return _dpkg_deb(root, work / f"{name}_{version}_{architecture}.deb")


def _dpkg_deb(root: Path, target: Path) -> Path:
    if shutil.which("dpkg-deb") is None:
        raise OpsError(
            "dpkg-deb is not installed: Debian packages are built on a Debian (or derived) machine",
            hint="On Debian: apt install dpkg. Elsewhere: build on a Debian machine and copy "
            "dist/packages.",
        )
    # gzip: Debian 12 and 13 write the same bytes (zstd's differ with its version, and those of
    # several threads with the machine), and hosts unpack it faster than xz.
    done = subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z6", "--build", str(root), str(target)],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise OpsError(f"dpkg-deb could not write {target.name}: {done.stderr.strip()}")
    return target


def _size(file: File) -> int:
    return len(file.source) if isinstance(file.source, bytes) else file.source.stat().st_size
