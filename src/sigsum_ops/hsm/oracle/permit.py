"""A permit to sign without the secondary until a time, and how that time is known to have come.

The wall clock alone would let a permit come back whenever somebody puts that clock back. So a
permit has ended as soon as any of these says so, and then stays ended:

* the wall clock;
* the time that passed since the oracle's start, on a clock that nobody can set, counted from the
  latest that was known then: by the wall clock, the last record of the journal, and the file;
* the file. It holds the end of the permit that was last seen to be over, and is written then.

So one that was seen to be over lets nothing grow again, whatever the clock does, in this process or
after a restart. Only a permit with a later end does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.log.statefiles import read_if_there, write_durably

_FORM = re.compile(rb"([0-9]{1,12})\n")


def since_boot() -> float:
    """Seconds on the clock that only goes forward, also while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Permit:
    """One permit. Can be asked from several threads."""

    def __init__(
        self,
        until: datetime,
        file: Path,
        journaled: int,
        *,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = since_boot,
    ) -> None:
        """Begin to count.

        Args:
            until: its end, with its offset, in whole seconds.
            file: where the end is kept that was seen to have come.
            journaled: when the last record of the journal was written, in Unix seconds.
            wall: the wall clock, in Unix seconds.
            boot: a clock that only goes forward, in seconds.

        Raises:
            OpsError: the file cannot be read, or holds something else.
        """
        self.until = int(until.timestamp())
        self._file = file
        self._wall = wall
        self._boot = boot
        kept = _read(file)
        self._kept = kept >= self.until
        # What the wall clock would say at least if it had been right at the start.
        self._ahead = max(wall(), journaled, kept) - boot()
        self._ended = False

    def ended(self) -> bool:
        """Whether it is over. Once it was, it is, whether or not the disk takes that down."""
        # Only ever set, never taken back: another thread may have found it over meanwhile.
        if max(self._wall(), self._boot() + self._ahead) >= self.until:
            self._ended = True
        if self._ended and not self._kept:
            try:
                write_durably(self._file, b"%d\n" % self.until)
            except OSError:
                return True  # it is tried again each time
            self._kept = True
        return self._ended


def _read(file: Path) -> int:
    try:
        data = read_if_there(file)
    except OSError as error:
        raise OpsError(f"{file}: cannot be read: {error.strerror}") from error
    if data is None:
        return 0
    match = _FORM.fullmatch(data)
    if not match:
        raise OpsError(
            f"{file}: {data[:40]!r} is not one line with a Unix time",
            hint="It holds the end of the last permit that was seen to be over. Remove it only"
            " where nobody has put the clock back since.",
        )
    return int(match[1])
