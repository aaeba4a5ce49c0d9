"""Split views that log-go would sign, on the real log-go, Trillian and MariaDB.

For the very same fork: the start guard refuses to start the log; without the guard the oracle
refuses to sign and latches; and a plain ssh-agent, which is what log-go is usually given, signs the
second root. So it is guard and oracle that save the log, each by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import KEEP, KEPT, as_head, name_foreign_tree, restore, spoil
from harness import (
    LOG,
    ORACLE,
    ORACLE_STATE,
    PRIMARY,
    SECONDARY,
    STATE,
    Site,
    latched,
    passed,
    refused,
    resolve,
)
from resources.support import add_leaves, eventually
from resources.unguarded import AGENT, openssl_verifies, plain_agent

from sigsum_ops.log.api import LogClient
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, TreeHead

DROP_IN = f"/run/systemd/system/{LOG}.service.d"
# Not one leaf more than were lost: the secondary has as many as there were, and would copy the next
# one. Where more are needed to see the fork, it has to stand still.
LARGER = "a larger tree named"


def restore_older_database(site: Site, older: TreeHead) -> TreeHead:
    """Put the older dump in the database's place, and start the log."""
    # The start is refused, which is what the caller looks for.
    site.change(
        PRIMARY, f"systemctl stop {LOG}; {restore('older.sql')}; systemctl start {LOG} || true"
    )
    return older


def restore_under_the_running_log(site: Site, older: TreeHead) -> TreeHead:
    """The same, with nothing stopped: log-go looks at its tree only when it signs."""
    site.change(PRIMARY, f"mariadb trillian < {KEPT}/older.sql")
    return older


def name_new_tree(site: Site, _: TreeHead) -> TreeHead:
    """Lose the tree-id file, and do what upstream's start script then does."""
    create = "trillian_createtree --admin_server=127.0.0.1:8090 --tree_type=LOG"
    tree_id = site.change(PRIMARY, create)
    spoil(site, f"rm tree-id; echo tree-id={tree_id} > tree-id")
    return EMPTY_TREE_HEAD


# What is done, and the guard's reason where there is a start to refuse. The result of what is done
# is the tree that is then in the log's place.
FORKS: dict[str, tuple[str | None, Callable[[Site, TreeHead], TreeHead]]] = {
    "an older database restored": ("tree-smaller", restore_older_database),
    "an older database restored under the running log": (None, restore_under_the_running_log),
    "the tree-id lost, a new tree created": ("tree-smaller", name_new_tree),
    "a tree of equal size named": ("tree-other-root", lambda site, _: name_foreign_tree(site, 0)),
    LARGER: ("tree-not-extension", lambda site, _: name_foreign_tree(site, 1)),
}
CASES = [
    (replication, fork)
    for replication in ("replicated", "unreplicated")
    for fork in FORKS
    # With replication, log-go signs no more leaves than its secondary has.
    if not (replication == "replicated" and fork == LARGER)
]


@pytest.fixture(scope="module")
def older(site: Site) -> TreeHead:
    """Have a dump of the database from before more leaves came; this is its tree head."""
    site.signs_and_replicates()
    site.change(PRIMARY, f"mkdir -p {KEPT}; mariadb-dump trillian > {KEPT}/older.sql")
    return site.signed().head


@pytest.fixture(name="plain_agent")
def _plain_agent(site: Site) -> Iterator[None]:
    with plain_agent(site.lab, PRIMARY, site.log_key):
        yield


@pytest.mark.usefixtures("plain_agent")
@pytest.mark.parametrize(("replication", "fork"), CASES, indirect=["replication"])
def test_guard_and_oracle_each_prevent_the_second_root_that_a_plain_agent_signs(
    site: Site, replication: str, older: TreeHead, fork: str, tmp_path: Path
) -> None:
    reason, make = FORKS[fork]
    if fork == LARGER:
        site.change(SECONDARY, "systemctl stop sigsum-log-secondary")
    first, sth = site.signed(), site.sth()
    site.change(PRIMARY, KEEP)
    found = make(site, older)

    if reason is not None:
        marker = refused(site, reason, sth=sth)
        assert (as_head(marker["earlier"]), as_head(marker["tree"])) == (first.head, found)
    site.change(PRIMARY, override("unguarded", "ExecStartPre="))
    if reason is not None:
        site.change(PRIMARY, f"systemctl start {LOG}")

    eventually(site.serves, seconds=10, what="the log answers")
    add_leaves(site.url, first.head.size - found.size)
    eventually(lambda: latched(site), seconds=30, what="the oracle latches")
    assert site.signed() == first
    evidence = json.loads(site.ask(PRIMARY, f"cat {ORACLE_STATE}/latch"))
    wanted = first.head.size + (fork == LARGER)
    assert as_head(evidence["journaled"]) == first.head
    assert evidence["requested"]["size"] == wanted
    assert evidence["requested"]["root_hash"] != first.head.root.hex()

    site.change(
        PRIMARY,
        f"{override('plain-agent', f'Environment=SSH_AUTH_SOCK={AGENT}')}; systemctl restart {LOG}",
    )
    eventually(site.serves, seconds=10, what="the log answers")
    eventually(
        lambda: site.signed().head != first.head, seconds=30, what="the log signs another tree head"
    )
    second = site.signed()
    assert as_head(evidence["requested"]) == second.head
    site.report.append(f"log-go alone, {replication}, {fork}, signs both:")
    for signed in (first, second):
        signed.verify(site.log_key)
        openssl_verifies(site.log_key, signed, tmp_path)
        site.report.append(f"    {signed.head}")
    if fork == LARGER:
        with pytest.raises(ProofError):
            asyncio.run(check_extends(site.url, first.head, second.head))

    site.change(
        PRIMARY,
        f"systemctl stop {LOG} {ORACLE}; rm -r {DROP_IN}; systemctl daemon-reload;"
        f" cp -a {KEPT}/state/. {STATE}; {restore('now.sql')}",
    )
    resolve(site)
    site.change(PRIMARY, f"systemctl start {ORACLE}; systemctl start {LOG}")
    passed(site)
    if fork == LARGER:
        site.change(SECONDARY, "systemctl start sigsum-log-secondary")


def override(name: str, setting: str) -> str:
    """The command that changes a setting of the log's unit, until it is taken back."""
    return (
        f"mkdir -p {DROP_IN}; printf '[Service]\\n{setting}\\n' > {DROP_IN}/{name}.conf;"
        " systemctl daemon-reload"
    )


async def check_extends(url: str, old: TreeHead, new: TreeHead) -> None:
    """Verify the proof that the log itself gives."""
    async with LogClient(url) as client:
        path = await client.get_consistency_proof(old.size, new.size)
    verify_consistency(old.size, old.root, new.size, new.root, path)
