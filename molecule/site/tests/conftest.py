"""Every test of the site finds it signing and replicating, and has to leave it so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from harness import CLIENT, Site
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

_REPORT = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def site(pytestconfig: pytest.Config, lab: Lab, machines: Mapping[str, Host]) -> Site:
    """The site that all tests share."""
    site = Site(lab, machines)
    pytestconfig.stash[_REPORT] = site.report
    site.ask(
        CLIENT, "command -v promtool || apt-get install --yes --no-install-recommends promtool"
    )
    return site


@pytest.fixture(autouse=True)
def sound(site: Site) -> Iterator[None]:
    """The site before and after each test: a new leaf is signed, proven, and on both machines."""
    if not site.sound:
        site.signs_and_replicates()
    yield
    if not site.sound:
        site.signs_and_replicates()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was measured."""
    terminalreporter.section("measured on the site")
    for line in config.stash.get(_REPORT, []):
        terminalreporter.line(line)
