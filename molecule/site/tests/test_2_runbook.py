"""What docs/bcp has an operator type where no machine changes its part: typed, as it is printed.

All other commands of the plan are typed by molecule/runbook, which takes half an hour.
"""

from __future__ import annotations

import subprocess

import pytest
from harness import Site
from resources.support import EPHEMERAL

from sigsum_ops.lab import rehearsal
from sigsum_ops.lab.rehearsal import BRIEF, Rehearsal
from sigsum_ops.site.runbook import document


@pytest.fixture(scope="module")
def typist(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """The site, and a checkout on the controller; what prints the pages is installed there."""
    try:
        import weasyprint  # noqa: F401
    except OSError:
        install = ["apt-get", "install", "--yes", "--no-install-recommends", *document.LIBRARIES]
        subprocess.run(install, check=True, capture_output=True)
    checkout = tmp_path_factory.mktemp("checkout")
    return Rehearsal(site.lab, checkout, {}, inventory=EPHEMERAL / "inventory", tell=print)


@pytest.mark.parametrize(("page", "scenes"), rehearsal.plan(BRIEF))
def test_the_page_is_right(
    site: Site, typist: Rehearsal, page: str, scenes: tuple[int, ...]
) -> None:
    typist.sound = site.sound
    try:
        typist.rehearse(page, *scenes)
    finally:
        typist.undo()
        site.sound = typist.sound
