"""Where secrets may be written: backup media that people carry away, and memory that forgets.

A **medium** is a directory that the operator names, such as where a USB stick is mounted. Each
ceremony writes into a directory of its own there, each file whole or not at all, and each is read
back from the medium, not from the kernel's memory of it, before anything depends on it.

A **working directory** for what must be a file for a while (a rehearsal's ssh keys) is on a tmpfs,
which is checked, and is overwritten and removed at the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.ceremony.secrets import Secret

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})
_CANDIDATES = ("/dev/shm", "/run")  # noqa: S108 - checked to be memory, and made private


@dataclass(frozen=True)
class FileSystem:
    """What a path is on: ``device`` is major:minor."""

    kind: str
    device: str


@dataclass(frozen=True)
class Medium:
    """A backup medium: ``label`` is what records and people call it."""

    label: str
    path: Path

    def write(self, name: str, content: bytes | bytearray) -> None:
        """Write a file, and prove by reading it that the medium holds it.

        A file of this name is replaced: it is a remnant of this ceremony, for others have
        directories of their own.

        Raises:
            OpsError: the medium is full, write-protected or broken; it then holds the old file or
                none.
        """
        target = self.path / name
        part = target.with_name(f".{target.name}.part")
        try:
            for directory in (self.path, target.parent):
                directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(part, target)  # noqa: PTH105 - beside fsync, os reads best
            _sync_directory(target.parent)
        except OSError as error:
            raise OpsError(
                f"cannot write {target.name} on {self.label}: {error.strerror}",
                hint=f"Is {self.path} the right, writable medium? Replace it and resume.",
            ) from error
        if bytes(self.read(name) or b"") != bytes(content):
            raise OpsError(
                f"{self.label} did not keep {target.name}: it reads back differently",
                hint="The medium is faulty. Replace it and resume.",
            )

    def read(self, name: str) -> bytearray | None:
        """What the medium holds, None where it has no such file. Raises OpsError."""
        try:
            with (self.path / name).open("rb") as stream:
                # Else the answer would come from the kernel's memory of what was written.
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return bytearray(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OpsError(
                f"cannot read {name} on {self.label}: {error.strerror}",
                hint="Is it plugged in and mounted?",
            ) from error


@dataclass(frozen=True)
class Shares:
    """How a secret is divided: ``threshold`` of ``count`` shares restore it (SLIP-39)."""

    threshold: int
    count: int

    def split(self, secret: Secret) -> list[str]:
        """The shares, each a line of words of SLIP-39, tried in groups before they are returned."""
        from shamir_mnemonic import generate_mnemonics  # type: ignore[import-untyped] # it has none

        shares = generate_mnemonics(1, [(self.threshold, self.count)], bytes(secret.raw))[0]
        self._try(shares, secret)
        return list(shares)

    def _try(self, shares: Sequence[str], secret: Secret) -> None:
        """Restore from as many groups as have each share in one of them at least."""
        doubled = [*shares, *shares]
        for first in range(self.count):
            if combine(doubled[first : first + self.threshold]) != secret:
                raise OpsError("the shares do not restore the secret", hint="This is a bug.")


def combine(shares: Sequence[str]) -> Secret:
    """The secret of enough shares.

    Raises:
        OpsError: a word is misspelt, or the shares are too few or of different secrets.
    """
    from shamir_mnemonic import MnemonicError, combine_mnemonics

    try:
        return Secret(combine_mnemonics(list(shares)))
    except MnemonicError as error:
        raise OpsError(
            f"these shares do not restore a secret: {error}",
            hint="Bring enough shares of this ceremony, each as it was written.",
        ) from error


def file_system(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> FileSystem:
    """What ``path`` is on, as the kernel says (proc_pid_mountinfo(5))."""
    device = path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == name:
            return FileSystem(rest.split()[0], name)
    # Btrfs subvolumes and the like report numbers that are in no line; they are disks in any case.
    return FileSystem("unknown", name)


def check_memory(path: Path) -> None:
    """Refuse a directory that is not in memory."""
    kind = file_system(path).kind
    if kind not in MEMORY_FILE_SYSTEMS:
        raise UsageError(
            f"{path} is on {kind}, which keeps what is written",
            hint="Give a directory on a tmpfs, such as one in /dev/shm.",
        )


@contextmanager
def working_directory(parent: Path | None = None) -> Iterator[Path]:
    """A private directory in memory, overwritten and removed at the end.

    Raises:
        UsageError: ``parent`` is not on a tmpfs, or no tmpfs can be written to.
    """
    directory = Path(tempfile.mkdtemp(prefix="sigsum-ceremony-", dir=parent or _tmpfs()))
    try:
        check_memory(directory)
        yield directory
    finally:
        for file in directory.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with suppress(OSError), file.open("r+b") as stream:
                    stream.write(bytes(file.stat().st_size))
        # What is left is overwritten, and an error here would hide the one that ended the ceremony.
        shutil.rmtree(directory, ignore_errors=True)


def _tmpfs() -> Path:
    candidates = [os.environ.get("XDG_RUNTIME_DIR", ""), *_CANDIDATES]
    for candidate in (Path(name) for name in candidates if name):
        usable = candidate.is_dir() and os.access(candidate, os.W_OK | os.X_OK)
        if usable and file_system(candidate).kind in MEMORY_FILE_SYSTEMS:
            return candidate
    raise UsageError(
        "no directory in memory (tmpfs) can be written to",
        hint="Mount one: mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
    )


def check_media(paths: Sequence[Path], count: int, *, apart: bool) -> tuple[Medium, ...]:
    """The media, once each is a writable directory, and another one than the others.

    With ``apart`` (production) each must be on a device of its own, and not on the machine's disk
    nor in memory: two directories of one stick are lost together.
    """
    if len(paths) != count:
        raise UsageError(
            f"{len(paths)} backup media were given; the plan says {count}",
            hint="Give --media DIRECTORY once for each.",
        )
    for path in paths:
        if not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
            raise UsageError(
                f"{path} is not a directory that can be written to",
                hint="Mount the medium, and name the directory where it is mounted.",
            )
    if len({path.resolve() for path in paths}) != count:
        raise UsageError("two of the backup media are the same directory")
    if apart:
        systems = [file_system(path) for path in paths]
        disk = file_system(Path("/")).device
        for path, system in zip(paths, systems, strict=True):
            if system.device == disk or system.kind in MEMORY_FILE_SYSTEMS:
                raise UsageError(
                    f"{path} is on this machine ({system.kind}), not on a medium of its own",
                    hint="Mount a medium that can be taken away, and name where it is mounted.",
                )
        if len({system.device for system in systems}) != count:
            raise UsageError("two of the backup media are on the same device")
    return tuple(
        Medium(f"medium {place} ({path.resolve().name})", path)
        for place, path in enumerate(paths, 1)
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
