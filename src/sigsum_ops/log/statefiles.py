"""The small files in a log's state directory, and how they are written: whole, or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Literal, cast, get_args

from sigsum_ops.errors import UsageError
from sigsum_ops.log.treehead import MAX_NUMBER

Startup = Literal["empty", "local-tree"]

EVIDENCE_FILE = "guard-evidence.json"
PROMOTION_FILE = "promotion.json"
STARTUP_SUFFIX = ".startup"  # of the sth file's name; log-go allows no other


def parse_tree_id(data: bytes) -> int:
    """Parse a tree-id file: ``tree-id=<number>`` and a newline, which log-go wants exactly so."""
    match = re.fullmatch(rb"tree-id=([1-9][0-9]{0,18})\n", data)
    if not match or int(match[1]) > MAX_NUMBER:
        raise UsageError(f"{data[:40]!r} is not one line tree-id=NUMBER ended by a newline")
    return int(match[1])


def format_tree_id(tree_id: int) -> bytes:
    """The tree-id file's content."""
    return f"tree-id={tree_id}\n".encode()


def parse_startup(data: bytes) -> Startup:
    """Parse a startup file; sigsum-mktree writes it without a newline, which is allowed here."""
    keyword, _, mode = data.removesuffix(b"\n").partition(b"=")
    text = mode.decode("ascii", "replace")
    if keyword != b"startup" or text not in get_args(Startup):
        raise UsageError(f"{data[:40]!r} is neither startup=empty nor startup=local-tree")
    return cast(Startup, text)


def read_if_there(path: Path) -> bytes | None:
    """The file's content, None where there is no such file; other errors are OSError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write_durably(
    path: Path, data: bytes, mode: int = 0o644, *, owner: tuple[int, int] | None = None
) -> None:
    """Replace the file atomically; when this returns, the new content survives a power cut.

    ``owner`` is user and group; without it, those of whoever writes.

    Raises:
        OSError: the old content, or absence, is then still in place.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - beside mkstemp and fsync, os reads best
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Remove the file if it is there, so that it stays away after a power cut."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Flush the directory itself: a rename or removal is in it, not in the file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
