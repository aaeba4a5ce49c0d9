"""The business continuity plan of docs/bcp, with one site's names, addresses, keys and contacts.

``facts`` asks Ansible what the inventory says, ``pages`` fills it into the pages, ``document``
makes one HTML file of them and from that a PDF, and ``commands`` finds what a person would type,
so that a test can type it first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sigsum_ops.errors import OpsError

# In a checkout; the pages are no part of a package.
REPOSITORY = Path(__file__).parents[4]
PAGES = REPOSITORY / "docs/bcp"
MEASUREMENTS = REPOSITORY / "docs/measurements"
HTML, PDF = "runbook.html", "runbook.pdf"


@dataclass(frozen=True)
class Written:
    """What was rendered, and where it is."""

    html: Path
    pdf: Path
    pages: int
    commands: int


def write(inventory: Path, out: Path, *, say: Callable[[str], None]) -> Written:
    """Render the plan of an inventory's site into ``runbook.html`` and ``runbook.pdf``.

    Args:
        inventory: as for ``ansible-playbook -i``, and as it stands in the commands of the pages.
        out: the directory; it is made if it is not there.
        say: told of each file that was written.

    Raises:
        UsageError: the inventory cannot be rendered, or lacks what a page needs.
        OpsError: the PDF cannot be made here; the HTML was.
    """
    from sigsum_ops.site.runbook import commands, document, facts, pages

    known = facts.read(inventory)
    sources = pages.load()
    typed = commands.extract(sources, known)
    page = document.html(sources, known)
    written = Written(out / HTML, out / PDF, len(sources), len(typed))
    try:
        out.mkdir(parents=True, exist_ok=True)
        written.html.write_text(page, encoding="utf-8")
        say(f"{written.html}: {len(sources)} pages, {len(typed)} commands")
        written.pdf.write_bytes(document.pdf(page))
    except OSError as error:
        raise OpsError(f"{error.filename or out}: cannot be written: {error.strerror}") from error
    say(str(written.pdf))
    return written
