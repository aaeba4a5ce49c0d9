"""An honest log is never latched, whatever breaks: the oracle may only wait, and signs again.

What a latch costs is a person, in the night. So each of these ends with the log signing again by
itself.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest
from harness import (
    DEVICE,
    LOG,
    ORACLE,
    ORACLE_STATE,
    PRIMARY,
    SECONDARY,
    STATE,
    TRILLIAN,
    Site,
    latched,
)
from resources.support import add_leaves, eventually

# Shorter only while working on this file.
OUTAGE_SECONDS = float(os.environ.get("SITE_OUTAGE_SECONDS", "60"))
UNITS = ["mariadb", *TRILLIAN.split(), DEVICE, ORACLE, LOG]
# Forwards and backwards have every pair in both orders; of the 720 some more.
_RANDOM = random.Random(4)  # noqa: S311 - some of them, the same in each run
ORDERS = [UNITS, UNITS[::-1], *(_RANDOM.sample(UNITS, len(UNITS)) for _ in range(3))]


@pytest.fixture(autouse=True)
def not_latched(site: Site) -> Iterator[None]:
    """It was not latched for a moment either: a latch stays."""
    yield
    assert not latched(site)


def journaled(site: Site) -> int:
    """The size of the newest tree head that the oracle was asked to sign."""
    return int(site.ask(PRIMARY, f"tail -n 1 {ORACLE_STATE}/journal").split()[0])


def signatures(site: Site) -> int:
    """How many the oracle was given by its device."""
    return int(site.ask(PRIMARY, f"cut -d ' ' -f 3 {ORACLE_STATE}/signatures"))


@pytest.mark.parametrize("secondary", ["answers", "dies"])
def test_a_tree_head_that_was_signed_and_not_stored(site: Site, secondary: str) -> None:
    """Also what a kill -9 between the signature and the file leaves behind."""
    published, sth = site.signed().head.size, site.sth()
    site.change(PRIMARY, f"chown root {STATE}")
    add_leaves(site.url, 1)
    eventually(lambda: journaled(site) > published, seconds=20, what="the oracle signs")
    assert (site.signed().head.size, site.sth()) == (published, sth)
    if secondary == "dies":
        site.change(SECONDARY, "systemctl stop sigsum-log-secondary")
    site.change(
        PRIMARY,
        f"systemctl kill --signal=KILL --kill-whom=main {LOG}; chown sigsum-log {STATE}",
    )
    if secondary == "dies":
        eventually(site.serves, seconds=20, what="the log answers")
        add_leaves(site.url, 3)
        signed = signatures(site)
        # The tree head that it has, which is smaller than what was signed last.
        eventually(lambda: signatures(site) > signed, seconds=30, what="the log asks again")
        assert journaled(site) > site.signed().head.size == published
        site.change(SECONDARY, "systemctl start sigsum-log-secondary")
    site.recovers(f"a tree head signed and not stored, the secondary {secondary}", within=30)


def test_trillian_away(site: Site) -> None:
    # Otherwise systemd would start it again.
    site.change(PRIMARY, f"systemctl mask --runtime --now {TRILLIAN}")
    time.sleep(OUTAGE_SECONDS)
    site.change(PRIMARY, f"systemctl unmask --runtime {TRILLIAN}; systemctl start {TRILLIAN}")
    site.recovers(f"{OUTAGE_SECONDS:.0f} s without Trillian", within=30)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: ",".join(order))
def test_restarts_in_any_order(site: Site, order: list[str]) -> None:
    site.change(PRIMARY, "; ".join(f"systemctl restart {unit}" for unit in order))
    site.recovers(f"restarts: {', '.join(order)}", within=30)
