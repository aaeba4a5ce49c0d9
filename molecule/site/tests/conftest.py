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
    """The configuration as delivered, or with both settings of replication removed from it.

    The latter needs a permit, or the guard refuses it.
    """
    directory, config, oracle = "/etc/sigsum", "config.toml", "oracle.toml"
    restart = f"systemctl restart sigsum-oracle; systemctl restart {LOG}"
    if request.param == "unreplicated":
        site.change(
            PRIMARY,
            f"cd {directory}; grep -c '^secondary-' {config} | grep -qx 2; cp -a {config} {oracle}"
            f" /root; sed -i '/^secondary-/d' {config};"
            f" sed -i '/^tree_id_file/a ungated_until = 2099-01-01T00:00:00Z' {oracle}; {restart}",
        )
    yield request.param
    if request.param == "unreplicated":
        site.change(PRIMARY, f"cd /root; mv {config} {oracle} {directory}; {restart}")


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
