"""The start guard on the real log-go, Trillian and MariaDB, with replication and without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from damage import KEEP, KEPT, as_head, name_foreign_tree, restore, spoil
from harness import LOG, PRIMARY, STATE, Site, passed, refused

from sigsum_ops.log.treehead import TreeHead

# By the guard's reason. The result is the tree that the guard should find, where it looks at one.
DAMAGES: dict[str, Callable[[Site], TreeHead | None]] = {
    "tree-id-empty": lambda site: spoil(site, ": > tree-id"),
    "tree-id-missing": lambda site: spoil(site, "rm tree-id"),
    "sth-missing": lambda site: spoil(site, "rm sth"),
    "startup-and-sth": lambda site: spoil(site, "echo startup=local-tree > sth.startup"),
    "tree-not-extension": lambda site: name_foreign_tree(site, 1),
}


@pytest.mark.usefixtures("replication")
@pytest.mark.parametrize("reason", DAMAGES)
def test_the_guard_refuses(site: Site, reason: str) -> None:
    head, sth = site.signed().head, site.sth()
    site.change(PRIMARY, KEEP)
    found = DAMAGES[reason](site)
    marker = refused(site, reason, sth=None if reason == "sth-missing" else sth)
    assert as_head(marker["tree"]) == found
    if reason == "sth-missing":
        assert marker["earlier"]["source"] == f"{STATE}/guard-evidence.json"
    else:
        assert as_head(marker["earlier"]) == head
    database = restore("now.sql") if found else "true"
    site.change(
        PRIMARY,
        f"cp -a {KEPT}/state/sth {KEPT}/state/tree-id {STATE}; rm -f {STATE}/sth.startup;"
        f" {database}; systemctl start {LOG}",
    )
    passed(site)
