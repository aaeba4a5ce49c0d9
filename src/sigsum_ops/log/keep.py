"""The controller's own archive of a log's published tree heads: ``sigsum-ops archive keep``.

The machines follow their log all the time, each into an archive of its own. The controller asks
once in a while: before each procedure, and from its timer. What it has kept remains where all
machines of the log are gone, and is evidence like theirs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sigsum_ops.log import follow
from sigsum_ops.log.archive import ArchiveError, InUse, evidence
from sigsum_ops.log.keys import PublicKey

TIMEOUT = 2.0  # seconds for one request: nobody waits for this
PATIENCE = 10.0  # seconds, where another process on this controller is at it


def place(log_key: PublicKey, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the archive of a log is, whether or not anything was kept."""
    base = environ.get("XDG_STATE_HOME") or Path(environ["HOME"]) / ".local/state"
    return Path(base) / "sigsum-ops/heads" / log_key.hash / "heads"


def keep(log_key: PublicKey, urls: Iterable[str]) -> dict[str, Any]:
    """Ask each machine of a log for its tree head, and keep it; returns ``follow.once``'s report.

    Raises:
        UsageError: a URL is none.
        ArchiveError: the archive is damaged, in use for long, or cannot be written.
    """
    file = place(log_key)
    settings = follow.parse(
        {"public_key": log_key.ssh, "urls": list(urls), "file": str(file)}, timeout=TIMEOUT
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{file.parent}: cannot be made: {error.strerror}") from error
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return asyncio.run(follow.once(settings))
        except InUse:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def main(arguments: list[str]) -> list[str]:
    """Keep, for the playbooks: the log's key and URLs; the problems, as text."""
    key = PublicKey.parse(arguments[0])
    try:
        keep(key, arguments[1:])
    except InUse:
        pass  # so somebody keeps them
    except ArchiveError as error:
        return [f"doubtful: the controller's archive: {error.message}\n  {error.hint or ''}"]
    return [
        f"split-view: this controller has seen two histories of this log: {path}\n"
        "  Nothing may be changed before this is understood: docs/bcp/split-view.md"
        for path in evidence(place(key))
    ]


if __name__ == "__main__":
    print(*main(sys.argv[1:]), sep="\n")
