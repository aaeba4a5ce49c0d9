"""Ask again and again while something happens, and see how long nobody answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Asking:
    """Somebody who asks all the time, and what came of it."""

    statuses: list[int] = field(default_factory=list)
    gap: float = 0.0  # the longest time without an answer of 200, in seconds


@contextmanager
def asking(ask: Callable[[], int], pause: float = 0.02) -> Iterator[Asking]:
    """Ask all the time while the block runs."""
    seen, end = Asking(), threading.Event()

    def run() -> None:
        served = time.monotonic()
        while not end.is_set():
            seen.statuses.append(ask())
            now = time.monotonic()
            if seen.statuses[-1] == 200:
                seen.gap, served = max(seen.gap, now - served), now
            end.wait(pause)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join(30)
