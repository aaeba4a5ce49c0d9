"""What promote.yml refuses, done all the same, as one does it by hand: it ends the log.

These leave the site broken, so they come last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resources.procedures import ATTESTED, acknowledge, head, refused, spoiled, url
from resources.support import EPHEMERAL, Ansible, add_leaves, eventually, http
from resources.unguarded import AGENT, openssl_verifies, plain_agent
from test_failover import STATE
from testinfra.host import Host

from sigsum_ops.failover import witness
from sigsum_ops.lab.drill import Load
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log import keep
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.keys import PublicKey, load_public_key
from sigsum_ops.log.policy import load as witness_policy
from sigsum_ops.log.treehead import CosignedTreeHead

ARCHIVE = "/var/lib/sigsum-archive/heads"
TRILLIAN = "trillian-log-server trillian-log-signer"
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
CONVERT = f"""
systemctl stop sigsum-log-secondary
id=$(sed -n 's/^tree-id=//p' {STATE}/tree-id)
for change in tree_state=FROZEN tree_type=LOG tree_state=ACTIVE; do
  trillian_updatetree --admin_server=127.0.0.1:8090 --tree_id="$id" --$change
done
"""
START_LOCAL = f"""
rm -f {STATE}/sth
echo startup=local-tree > {STATE}/sth.startup
chown sigsum-log: {STATE}/sth.startup
"""
RUN = f"""
systemd-run --quiet --collect --unit=by-hand --property=User=sigsum-log \\
  --setenv=SSH_AUTH_SOCK={AGENT} --setenv=GODEBUG=httpmuxgo121=0 sigsum-log-primary
"""
SETTLED = 30  # seconds


@contextmanager
def aside(path: Path) -> Iterator[None]:
    """Without a file, for a while."""
    there = path.rename(path.with_name("aside"))
    try:
        yield
    finally:
        there.rename(path)


@contextmanager
def by_hand(lab: Lab, host: Host, key: PublicKey, *scripts: str) -> Iterator[None]:
    """A primary without guard, oracle and secondary, as one has it who follows prose in a hurry."""
    name = host.check_output("hostname")
    lab.exec(name, ["sh", "-ec", "cat > /etc/sigsum/config.toml"], stdin=CONFIG, check=True)
    with plain_agent(lab, name, key):
        host.check_output("sh -ec %s", "".join(scripts) + RUN)
        eventually(lambda: head(url(host)) is not None, seconds=SETTLED, what="the log answers")
        yield
        host.check_output("systemctl stop by-hand")


def settled(host: Host, size: int, cosignatures: int) -> CosignedTreeHead:
    """What a log publishes as soon as it has this size, and so many cosignatures."""

    def there() -> bool:
        now = asyncio.run(published(url(host)))
        return (now.signed.head.size, len(now.cosignatures)) == (size, cosignatures)

    eventually(there, seconds=SETTLED, what=f"{url(host)} publishes size {size}")
    return asyncio.run(published(url(host)))


def two_histories(
    key: PublicKey, first: CosignedTreeHead, second: CosignedTreeHead, directory: Path
) -> None:
    """Both are signed, of the same size, and not the same; the witness stands by the first."""
    assert second.signed.head.size == first.signed.head.size
    assert second.signed.head.root != first.signed.head.root
    for each in (first.signed, second.signed):
        each.verify(key)
        openssl_verifies(key, each, directory)
    asked = witness_policy(EPHEMERAL / "policy").witnesses
    (answer,) = witness.ask(asked, first.signed, key)
    assert (answer.size, answer.other_root) == (first.signed.head.size, False)
    (answer,) = witness.ask(asked, second.signed, key)
    assert answer.other_root


def test_a_secondary_that_is_behind_loses_leaves_and_shows_a_second_history(
    ansible: Ansible, lab: Lab, log1: Host, log2: Host, tmp_path: Path
) -> None:
    """Refused as ``behind``, or ``witness-ahead`` where only a witness has seen what was there."""
    key = load_public_key(lab.state / "log-key.pub")
    asyncio.run(acknowledge(url(log1), Load(f"{tmp_path}/before", 5)))
    log2.check_output(
        f"cp /etc/sigsum/config.toml {STATE}/tree-id /root;"
        " mariadb-dump --single-transaction trillian > /root/older.sql"
    )
    older = looked(ansible, key)["size"]
    acknowledged = Load(str(tmp_path), 20)
    asyncio.run(acknowledge(url(log1), acknowledged))
    size = looked(ansible, key)["size"]
    assert size >= older + 20
    first = settled(log1, size, cosignatures=1)
    keep.keep(key, [url(log1)])  # as the controller's timer does
    log2.check_output(
        f"systemctl stop sigsum-log-secondary {TRILLIAN}; mariadb trillian < /root/older.sql;"
        f" systemctl start {TRILLIAN}"
    )
    (tmp_path / "seen").write_text(f"{http(log1, f'{url(log1)}/get-tree-head')[1]}\n")
    lab.kill("log1")
    said = refused(ansible, "log2", seen=[str(tmp_path / "seen")], **ATTESTED)
    assert "behind: log2 cannot prove what was signed" in said
    assert f"has cosigned size {size}, and the tree of log2 ends at size {older}" in said
    with spoiled(log2, f"mv {ARCHIVE} /root/heads", f"mv /root/heads {ARCHIVE}"):
        kept = keep.place(key)
        assert f"{kept} has size" in refused(ansible, "log2", **ATTESTED)
        # Where nobody tells what was published, nobody can say what is missing.
        with aside(kept):
            said = refused(ansible, "log2", **ATTESTED)
    assert "nothing-seen: nothing is known of what the log has published" in said
    assert "behind: " not in said

    with by_hand(lab, log2, key, CONVERT, START_LOCAL):
        # A user's leaf has a proof, and is gone.
        assert asyncio.run(known(url(log2), acknowledged)) == 0
        add_leaves(url(log2), size - older)
        two_histories(key, first, settled(log2, size, cosignatures=0), tmp_path)


def test_a_primary_that_is_not_fenced_shows_a_second_history(
    lab: Lab, log1: Host, log2: Host, tmp_path: Path
) -> None:
    """Refused as ``not-fenced`` or ``ungated-permit``: both have all that was ever published."""
    key = load_public_key(lab.state / "log-key.pub")
    lab.start("log1")
    log1.check_output("systemctl stop sigsum-log-primary")
    dump = lab.exec(
        "log1", ["mariadb-dump", "--single-transaction", "--hex-blob", "trillian"], check=True
    ).stdout
    tree = log1.check_output("cat %s/tree-id", STATE)
    log2.check_output(f"systemctl stop {TRILLIAN}")
    lab.exec("log2", ["mariadb", "trillian"], stdin=dump, check=True)
    log2.check_output(f"echo '{tree}' > {STATE}/tree-id; systemctl start {TRILLIAN}")
    with by_hand(lab, log1, key), by_hand(lab, log2, key, START_LOCAL):
        both = head(url(log1))
        assert both == head(url(log2))
        assert both is not None
        add_leaves(url(log1), 7)
        first = settled(log1, both.size + 7, cosignatures=1)
        add_leaves(url(log2), 7)
        two_histories(key, first, settled(log2, both.size + 7, cosignatures=0), tmp_path)


def test_a_secondary_that_is_not_drained_never_signs_again(
    ansible: Ansible, lab: Lab, log1: Host, log2: Host
) -> None:
    """Refused as long as leaves have a number and are not in the tree yet."""
    key = load_public_key(lab.state / "log-key.pub")
    log2.check_output(
        f"systemctl stop {TRILLIAN}; mariadb trillian < /root/older.sql; rm {STATE}/sth*;"
        f" cp /root/config.toml /etc/sigsum/; cp /root/tree-id {STATE}/;"
        " systemctl start trillian-log-server"
    )
    with by_hand(lab, log1, key):
        # Its signer is stopped, so what it copies has a number and waits.
        log2.check_output("systemctl start sigsum-log-secondary")
        eventually(
            lambda: int(looked(ansible, key)["waiting"]) > 0, seconds=SETTLED, what="leaves wait"
        )
        log2.check_output("systemctl stop sigsum-log-secondary")
    step = ansible.module("log2", "sigsum_ops.site.failover", step="adopt", log_key=key.ssh)
    assert step["failed"]
    assert "are not in the tree after 30 s" in step["msg"], step
    before = looked(ansible, key)
    assert (before["type"], before["state"]) == ("PREORDERED_LOG", "ACTIVE")

    with by_hand(lab, log2, key, CONVERT, START_LOCAL, "systemctl start trillian-log-signer\n"):
        add_leaves(url(log2), 7)
        time.sleep(SETTLED)
        assert log2.service("trillian-log-signer").is_running
        count = "SELECT COUNT(*) FROM Unsequenced"
        assert int(log2.check_output("mariadb -BNe %s trillian", count)) == 7
        now = head(url(log2))
        assert now is not None
        assert now.size == before["size"]


def looked(ansible: Ansible, key: PublicKey) -> dict[str, Any]:
    """The tree of log2."""
    found = ansible.module("log2", "sigsum_ops.site.failover", step="look", log_key=key.ssh)
    tree: dict[str, Any] = found["found"]["tree"]
    return tree


async def published(address: str) -> CosignedTreeHead:
    """What a log shows to its users."""
    async with LogClient(address) as client:
        return await client.get_tree_head()


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
