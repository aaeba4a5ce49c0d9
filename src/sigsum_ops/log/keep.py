"""The controller's own archive of a log's published tree heads: ``sigsum-ops archive keep``.

The machines follow their log all the time, each into an archive of its own. The controller asks
once in a while: before each procedure, and from its timer. What it has kept remains where all
machines of the log are gone, and is evidence like theirs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError
from sigsum_ops.log import archive, follow
from sigsum_ops.log.archive import ArchiveError, InUse
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.site.state import state_home

TIMEOUT = 2.0  # seconds for one request
PATIENCE = 10.0  # seconds, where another process on this controller is at it
IN_A_HURRY = 5.0  # seconds for all of it before a procedure, which goes on without it


def place(log_key: PublicKey, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the archive of a log is, whether or not anything was kept."""
    return state_home(environ) / "heads" / log_key.hash / "heads"


def keep(log_key: PublicKey, urls: Iterable[str]) -> dict[str, Any]:
    """Ask each machine of a log for its tree head, and keep it; returns ``follow.once``'s report.

    Raises:
        UsageError: a URL is none.
        ArchiveError: the archive is damaged, in use for long, or cannot be written.
    """
    file = place(log_key)
    once_each = list(dict.fromkeys(f"{url.rstrip('/')}/" for url in urls))
    settings = follow.parse(
        {"public_key": log_key.ssh, "urls": once_each, "file": str(file)}, timeout=TIMEOUT
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


def problems(log_key: PublicKey) -> list[str]:
    """What forbids to change which machine is the primary; contacts nobody."""
    path = place(log_key)
    found = [
        f"split-view: this controller has seen two histories of this log: {each}\n"
        "  Nothing may be changed before this is understood: docs/bcp/split-view.md"
        for each in archive.evidence(path)
    ]
    try:
        if path.exists() and path.stat().st_size:
            archive.seen(path, log_key)
    except ArchiveError as error:
        found.append(f"doubtful: this controller's archive: {error.message}\n  {error.hint or ''}")
    return found


def main(arguments: list[str]) -> None:
    """Keep, for the playbooks, and never hold them up: says what became of it, and ends."""
    said: list[str] = []

    def work() -> None:
        try:
            report = keep(PublicKey.parse(arguments[0]), arguments[1:])
        except OpsError as error:
            said.append(f"not kept: {error.message}")
        else:
            said.extend(f"{answer['outcome']}: {answer['text']}" for answer in report["answers"])

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(IN_A_HURRY)
    print(*(said or [f"not kept: nobody has answered in {IN_A_HURRY:.0f} s"]), sep="\n")
    sys.stdout.flush()
    # A look-up of a name cannot be ended, and Python would wait for its thread.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
