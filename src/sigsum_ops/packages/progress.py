"""Tell a person how far a build is: a moving line on a terminal, now and then one in a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from sigsum_ops.packages.recipe import Progress

_LINE_EVERY = 10.0  # seconds, where lines stay (a log of CI)


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """A Progress that writes to ``console``, with the seconds since the build began."""
    started = time.monotonic()
    printed = -_LINE_EVERY

    def text(message: str) -> str:
        return f"{time.monotonic() - started:4.0f} s  {message}"

    def line(message: str) -> None:
        nonlocal printed
        step = not message.startswith(("compiling", "downloading"))
        if step or time.monotonic() - printed >= _LINE_EVERY:
            console.print(text(message), markup=False, highlight=False, soft_wrap=True)
            printed = time.monotonic()

    if not console.is_terminal:
        yield line
        return
    with console.status("") as status:
        yield lambda message: status.update(escape(text(message)))
