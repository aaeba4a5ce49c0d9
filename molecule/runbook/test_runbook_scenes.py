"""Every command of docs/bcp, typed as it is printed, in the situation that it is for.

The pages follow each other in the plan's own order, each on machines as the one before left them:
which machine is the primary changes on the way, and the pages are rendered anew.
"""

from __future__ import annotations

import pytest
from resources.support import EPHEMERAL

from sigsum_ops.lab import rehearsal
from sigsum_ops.lab.lab import Lab
from sigsum_ops.lab.rehearsal import Rehearsal
from sigsum_ops.site.runbook.commands import SITUATIONS


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """The lab, and the controller's checkout."""
    settings = {
        "log_server_interval": "2s",
        "controller_package_dir": str(EPHEMERAL / "packages"),
    }
    checkout = tmp_path_factory.mktemp("checkout")
    return Rehearsal(lab, checkout, settings, inventory=EPHEMERAL / "inventory", tell=print)


@pytest.mark.parametrize(("page", "scenes"), rehearsal.plan(SITUATIONS))
def test_the_page_is_right(site: Rehearsal, page: str, scenes: tuple[int, ...]) -> None:
    site.rehearse(page, *scenes)


def test_in_the_end_the_log_is_whole(site: Rehearsal) -> None:
    """What the last page left is mended as its own words have it."""
    site.mend()
