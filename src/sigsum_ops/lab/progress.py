"""Progress on stderr: what is being done, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False)


@contextmanager
def step(text: str, *, expected: str = "") -> Iterator[None]:
    """Show ``text`` while the block runs; leave a line with the seconds if it took one or more.

    ``expected`` says how long it may take, and is also printed where there is no terminal.
    """
    start = time.monotonic()
    announced = f"{text} ({expected}) …" if expected else f"{text} …"
    if expected and not console.is_terminal:
        console.print(announced, markup=False, soft_wrap=True)
    with console.status(announced):
        yield
    seconds = time.monotonic() - start
    if seconds >= 1:
        console.print(f"{text}: {seconds:.1f} s", markup=False, soft_wrap=True)
