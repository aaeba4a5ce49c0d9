"""Every test of the site finds it signing and replicating, and has to leave it so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from harness import CLIENT, LOG, PRIMARY, Site
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


@pytest.fixture(params=["replicated", "unreplicated"], scope="module")
def replication(request: pytest.FixtureRequest, site: Site) -> Iterator[str]:
    """The configuration as delivered, or with both settings of replication removed from it."""
    config = "/etc/sigsum/config.toml"
    if request.param == "unreplicated":
        site.change(
            PRIMARY,
            f"grep -c '^secondary-' {config} | grep -qx 2; cp -a {config} /root;"
            f" sed -i '/^secondary-/d' {config}; systemctl restart {LOG}",
        )
    yield request.param
    if request.param == "unreplicated":
        site.change(PRIMARY, f"mv /root/config.toml {config}; systemctl restart {LOG}")


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
