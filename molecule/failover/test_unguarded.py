"""What promote.yml refuses, done all the same, as one does it by hand: it ends the log.

These leave the site broken, so they come last.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from resources.support import Ansible, add_leaves, eventually, http
from resources.unguarded import AGENT, openssl_verifies, plain_agent
from test_failover import STATE, head, refused, url
from testinfra.host import Host

from sigsum_ops.lab.drill import Load
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.keys import load_public_key
from sigsum_ops.log.treehead import SignedTreeHead

TRILLIAN = "trillian-log-server trillian-log-signer"
ATTESTED = {"fenced_by": "a test", "fenced_how": "its power was cut"}
CONFIG = f"""
external-endpoint = "0.0.0.0:6965"
internal-endpoint = "0.0.0.0:6967"
trillian-rpc-server = "127.0.0.1:8090"
backend = "trillian"
trillian-tree-id-file = "{STATE}/tree-id"
key-file = "/etc/sigsum/log.pub"
interval = "1s"
[primary]
policy-file = "/etc/sigsum/policy"
sth-file = "{STATE}/sth"
"""
# The tree is frozen, becomes a LOG, and is made active; each by Trillian's own tool.
BY_HAND = f"""
systemctl stop sigsum-log-secondary
id=$(sed -n 's/^tree-id=//p' {STATE}/tree-id)
for change in tree_state=FROZEN tree_type=LOG tree_state=ACTIVE; do
  trillian_updatetree --admin_server=127.0.0.1:8090 --tree_id="$id" --$change
done
echo startup=local-tree > {STATE}/sth.startup
chown sigsum-log: {STATE}/sth.startup
systemd-run --quiet --unit=by-hand --property=User=sigsum-log --setenv=SSH_AUTH_SOCK={AGENT} \\
  --setenv=GODEBUG=httpmuxgo121=0 sigsum-log-primary
"""


def test_a_secondary_that_is_behind_loses_leaves_and_shows_a_second_history(
    ansible: Ansible, lab: Lab, log1: Host, log2: Host, tmp_path: Path
) -> None:
    key = load_public_key(lab.state / "log-key.pub")
    log2.check_output("mariadb-dump --single-transaction trillian > /root/older.sql")
    older = head(url(log1))
    acknowledged = Load(str(tmp_path), 20)
    asyncio.run(submitted(url(log1), acknowledged))
    first = asyncio.run(signed(url(log1)))
    assert older is not None
    assert first.head.size >= older.size + 20
    log2.check_output(
        f"systemctl stop sigsum-log-secondary {TRILLIAN}; mariadb trillian < /root/older.sql;"
        f" systemctl start {TRILLIAN}"
    )
    published = http(log1, f"{url(log1)}/get-tree-head")[1]
    (tmp_path / "seen").write_text(f"{published}\n")
    lab.kill("log1")
    said = refused(ansible, "log2", seen=[str(tmp_path / "seen")], **ATTESTED)
    assert "behind: log2 cannot prove what was signed" in said
    assert f"has cosigned size {first.head.size}, and the tree of log2 ends at size" in said

    lab.exec("log2", ["sh", "-ec", "cat > /etc/sigsum/config.toml"], stdin=CONFIG, check=True)
    with plain_agent(lab, "log2", key):
        log2.check_output("sh -ec %s", BY_HAND)
        eventually(lambda: head(url(log2)) is not None, seconds=20, what="the log answers")
        # A user's leaf has a proof, and is gone.
        assert asyncio.run(known(url(log2), acknowledged)) == 0
        add_leaves(url(log2), first.head.size - older.size)
        eventually(
            lambda: (now := head(url(log2))) is not None and now.size == first.head.size,
            seconds=30,
            what="the log signs a tree head of the size that was published before",
        )
        second = asyncio.run(signed(url(log2)))
    assert second.head.root != first.head.root
    for each in (first, second):
        each.verify(key)
        openssl_verifies(key, each, tmp_path)


async def submitted(address: str, load: Load) -> None:
    """Have all of them acknowledged with 200."""
    async with LogClient(address) as client:
        await asyncio.wait_for(load.submit(client, asyncio.Event()), 60)


async def signed(address: str) -> SignedTreeHead:
    """What a log publishes."""
    async with LogClient(address) as client:
        return (await client.get_tree_head()).signed


async def known(address: str, load: Load) -> int:
    """How many of the acknowledged leaves the log can prove."""
    found = 0
    async with LogClient(address) as client:
        size = (await client.get_tree_head()).signed.head.size
        for leaf in load.acknowledged:
            try:
                await client.get_inclusion_proof(size, leaf.leaf_hash)
                found += 1
            except ApiError as error:
                if error.status != 404:
                    raise
    return found
