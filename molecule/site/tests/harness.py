"""The site as its users and its operators see it, and the ways in which the tests disturb it."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from resources.support import eventually
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import PublicKey, load_public_key
from sigsum_ops.log.merkle import verify_consistency
from sigsum_ops.log.treehead import SignedTreeHead, TreeHead, parse_cosigned_tree_head

PRIMARY, SECONDARY, CLIENT = "log1", "log2", "client1"
LOG, ORACLE, DEVICE = "sigsum-log-primary", "sigsum-oracle", "sigsum-rehearsal-hsm"
STATE = "/var/lib/sigsum-log"
ORACLE_STATE = "/var/lib/sigsum-oracle"
TRILLIAN = "trillian-log-server trillian-log-signer"

_PROPERTIES = (
    "ActiveState,SubState,MainPID,ControlPID,NRestarts,InvocationID,ExecMainCode,ExecMainStatus"
)

# A user's whole way: make a key, submit, collect the proof, verify it. The log may be away first.
_SUBMIT = """
cd "$(mktemp -d)"; trap 'rm -rf "$PWD"' EXIT
sigsum-key generate -o key
head -c 32 /dev/urandom > message
end=$(($(date +%s) + {seconds}))
until sigsum-submit --policy=/etc/sigsum/policy --signing-key=key --timeout=20s message 2> error; do
  test "$(date +%s)" -lt $end || {{ cat error >&2; exit 1; }}
  sleep 0.2
done
sigsum-verify --policy=/etc/sigsum/policy --key=key.pub message.proof < message
"""


class Site:
    """The lab's two log machines and their client.

    Attributes:
        sound: nothing was done to the site since it was last seen to sign and replicate.
        report: what was measured, for the end of the run.
    """

    def __init__(self, lab: Lab, machines: Mapping[str, Host]) -> None:
        self.lab = lab
        self.machines = machines
        self.sound = False
        self.report: list[str] = []
        self.log_key = load_public_key(lab.state / "log-key.pub")
        addresses = lab.hosts()
        self.url = f"http://{addresses[PRIMARY]}:6965/"
        self._secondary = f"http://{addresses[SECONDARY]}:6967/get-secondary-tree-head"
        self._last = TreeHead(0, b"")

    def ask(self, name: str, script: str) -> str:
        """What a shell script that changes nothing prints on a machine."""
        said: str = self.machines[name].check_output("sh -ec %s", script)
        return said

    def change(self, name: str, script: str) -> str:
        """Run a shell script as root on a machine."""
        self.sound = False
        return self.ask(name, script)

    def unit(self, name: str, unit: str = LOG) -> dict[str, str]:
        """A unit's state, as systemd has it."""
        said = self.ask(name, f"systemctl show --property={_PROPERTIES} {unit}")
        return dict(line.split("=", 1) for line in said.splitlines())

    def sth(self) -> str:
        """SHA-256 of the primary's signed tree head's file."""
        return self.ask(PRIMARY, f"sha256sum {STATE}/sth").split()[0]

    def cut_power(self, names: Sequence[str]) -> None:
        """Stop machines at once; ``lab.start`` starts them again."""
        self.sound = False
        for name in names:
            self.lab.kill(name)

    @cached_property
    def node_key(self) -> PublicKey:
        """The secondary's own public key."""
        return PublicKey.parse(self.ask(SECONDARY, "cat /etc/sigsum/node-key.pub"))

    def signed(self) -> SignedTreeHead:
        """What the primary publishes; the signature is verified."""
        return _fetch(self.url + "get-tree-head", self.log_key)

    def serves(self) -> bool:
        """Whether the primary answers."""
        try:
            return bool(self.signed())
        except OSError:
            return False

    def stored(self) -> SignedTreeHead:
        """What the secondary says it has stored, signed by its own key."""
        return _fetch(self._secondary, self.node_key)

    def signs_and_replicates(self, *, within: float = 30.0, since: float | None = None) -> float:
        """Seconds until a new leaf is logged, proven, and signed and stored alike by both machines.

        Counted from ``since`` (``time.monotonic``), or from now. The new tree head must also extend
        all that were seen earlier in this run.
        """
        start = since or time.monotonic()
        self.ask(CLIENT, _SUBMIT.format(seconds=int(within)))

        def agree() -> bool:
            try:
                return self.signed().head == self.stored().head
            except OSError:
                return False

        eventually(agree, seconds=10, what="primary and secondary agree")
        self._check_extends_what_was_seen(self.signed().head)
        seconds = time.monotonic() - start
        assert seconds < within, f"signed and replicated after {seconds:.1f} s"
        self.sound = True
        return seconds

    def _check_extends_what_was_seen(self, new: TreeHead) -> None:
        old = self._last

        async def proof() -> tuple[bytes, ...]:
            async with LogClient(self.url) as client:
                return await client.get_consistency_proof(old.size, new.size)

        assert old.size < new.size
        if old.size:
            verify_consistency(old.size, old.root, new.size, new.root, asyncio.run(proof()))
        self._last = new

    def recovers(self, what: str, *, within: float, since: float | None = None) -> None:
        """Like ``signs_and_replicates``, after ``what``; the time is reported."""
        seconds = self.signs_and_replicates(within=within, since=since)
        self.report.append(f"{seconds:6.1f} s  until it signs and replicates after: {what}")


def _fetch(url: str, key: PublicKey) -> SignedTreeHead:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the lab's
        signed = parse_cosigned_tree_head(answer.read()).signed
    signed.verify(key)
    return signed


# All that a refusal leaves behind, read at one moment.
_LOOK = """
import hashlib, json, pathlib, subprocess
def said(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
state = pathlib.Path("/var/lib/sigsum-log")
unit = "sigsum-log-primary"
run = said("systemctl", "show", "--value", "--property=InvocationID", unit).strip()
sth = state / "sth"
print(json.dumps({
    "marker": json.loads((state / "guard-refused.json").read_text()),
    "metrics": (state / "guard.prom").read_text(),
    "sth": hashlib.sha256(sth.read_bytes()).hexdigest() if sth.exists() else None,
    "listeners": [line for line in said("ss", "-Hlntp").splitlines() if '"sigsum-log' in line],
    "journal": said("journalctl", "--output=cat", f"_SYSTEMD_INVOCATION_ID={run}"),
}))
"""


def refused(site: Site, reason: str, *, sth: str | None) -> dict[str, Any]:
    """Check that the guard has refused for ``reason``, for good, and that nothing was signed.

    Args:
        reason: its stable name.
        sth: SHA-256 of the signed tree head's file as it was before; None if there was none.

    Returns:
        The guard's marker.
    """
    eventually(
        lambda: site.unit(PRIMARY)["ActiveState"] == "failed", seconds=30, what="the unit fails"
    )
    before, since = site.unit(PRIMARY), time.monotonic()
    seen = json.loads(site.machines[PRIMARY].check_output("python3 -c %s", _LOOK))
    marker: dict[str, Any] = seen["marker"]
    assert marker["reason"] == reason
    assert marker["procedure"] in seen["journal"]
    for head in (marker["earlier"], marker["tree"]):
        assert head is None or head["root_hash"] in seen["journal"]
    assert seen["listeners"] == []
    assert seen["sth"] == sth
    samples = promtool(site, seen["metrics"])
    assert samples["sigsum_guard_refused"] == (f'reason="{reason}"', 1.0)
    # A retry would come after RestartSec=1.
    time.sleep(max(0.0, since + 2.5 - time.monotonic()))
    assert site.unit(PRIMARY) == before
    return marker


def passed(site: Site) -> None:
    """Check that the guard has let the log start, and taken back an earlier refusal."""
    assert site.unit(PRIMARY)["ActiveState"] == "active"
    said = site.ask(PRIMARY, f"test ! -e {STATE}/guard-refused.json; cat {STATE}/guard.prom")
    assert promtool(site, said)["sigsum_guard_refused"] == ("", 0.0)


def promtool(site: Site, text: str) -> dict[str, tuple[str, float]]:
    """Samples by name, as (labels, value), of a text that Prometheus's own tool accepts."""
    site.machines[CLIENT].check_output("printf '%%s\\n' %s | promtool check metrics", text)
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.removesuffix("}").partition("{")
            samples[name] = (labels, float(value))
    return samples


def latched(site: Site) -> bool:
    """Whether the oracle has latched, by the file that makes it so."""
    return bool(site.machines[PRIMARY].file(f"{ORACLE_STATE}/latch").exists)


def resolve(site: Site) -> None:
    """Let a latched oracle sign again, as docs/bcp/oracle-latched.md says; log and oracle stand."""
    # `show` of a latched oracle exits 1.
    said = site.machines[PRIMARY].run("sigsum-ops oracle show --json").stdout
    digest = json.loads(said)["latch"]["sha256"]
    site.change(PRIMARY, f"sigsum-ops oracle resolve --yes-i-have-followed {digest}")
