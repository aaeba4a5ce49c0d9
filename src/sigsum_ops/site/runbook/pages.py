"""The pages of docs/bcp: in which order, and what stands in their placeholders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined, TemplateError
from jinja2.utils import missing

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.site.runbook import PAGES, REPOSITORY
from sigsum_ops.site.runbook.facts import Named, Site

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_INDEX = "README.md"
_ORDER = "\n## The procedures\n"
_LINK = re.compile(r"\]\(([a-z-]+\.md)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Page:
    """One page as it is in the repository, with its placeholders."""

    path: Path
    text: str

    @property
    def place(self) -> str:
        """How messages call it."""
        path = self.path
        return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


class _Missing(StrictUndefined):
    """Names what is missing by the inventory's names, and refuses to be nothing."""

    @property
    def _undefined_message(self) -> str:
        owner = self._undefined_obj
        if owner is missing:
            return f"{self._undefined_name} is not defined"
        where = owner.label if isinstance(owner, Named) else type(owner).__name__
        return f"{where}: {self._undefined_name} is not set"


def load(directory: Path = PAGES) -> list[Page]:
    """All pages, the index first and then in the order of its list of procedures.

    Raises:
        OpsError: there are none, or the index leaves one out.
    """
    try:
        index = (directory / _INDEX).read_text(encoding="utf-8")
    except OSError as error:
        raise OpsError(
            f"{directory / _INDEX}: {error.strerror}",
            hint="The pages are in a checkout of this project: run its sigsum-ops.",
        ) from error
    order = list(dict.fromkeys([_INDEX, *_LINK.findall(index.partition(_ORDER)[2])]))
    there = {path.name for path in directory.glob("*.md")}
    if wrong := there ^ set(order):
        raise OpsError(f"{directory / _INDEX}: does not agree with the pages: {sorted(wrong)}")
    return [Page(directory / name, (directory / name).read_text("utf-8")) for name in order]


def fill(page: Page, text: str, site: Site, line: int = 1) -> str:
    """A part of a page with the site's values in the place of its placeholders.

    Args:
        line: where in the page the part begins, for messages.

    Raises:
        UsageError: a variable is not set, named with page and line.
    """
    # Markdown, not HTML: what is written here is escaped when that is made.
    environment = Environment(  # noqa: S701
        undefined=_Missing, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    try:
        return environment.from_string(text).render(site.values)
    except TemplateError as error:
        raise UsageError(
            f"{page.place}:{_line(error, line)}: {error.message}",
            hint="inventories/example/group_vars/all/runbook.yml shows what the runbook needs.",
        ) from error


def parser() -> MarkdownIt:
    """CommonMark with tables; what looks like HTML is text."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _line(error: TemplateError, first: int) -> int:
    """The page's line that an error arose at: where its traceback enters the template."""
    trace, line = error.__traceback__, getattr(error, "lineno", None)
    while line is None and trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return first - 1 + (line or 1)
