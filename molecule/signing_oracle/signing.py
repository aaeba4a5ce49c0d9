"""The log as its users see it, and its device as somebody may treat it."""

from __future__ import annotations

import time
import urllib.request

from resources.support import submit
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.treehead import SignedTreeHead, parse_cosigned_tree_head

DEVICE = "http://127.0.0.1:12345"
LOG = "sigsum-log-primary"


class Log:
    """The log as its users see it."""

    def __init__(self, lab: Lab, key: PublicKey, client: Host) -> None:
        self.url = f"http://{lab.hosts()['log1']}:6965/"
        self._key = key
        self._client = client

    def signed(self) -> SignedTreeHead:
        """What it publishes, verified with the ceremony's key."""
        with urllib.request.urlopen(f"{self.url}get-tree-head", timeout=5) as answer:  # noqa: S310 - the lab's
            signed = parse_cosigned_tree_head(answer.read()).signed
        signed.verify(self._key)
        return signed

    def answers(self) -> bool:
        """Whether it does."""
        try:
            return bool(self.signed())
        except OSError:
            return False

    def signs(self, *, since: float | None = None) -> float:
        """Seconds from ``since``, or now, until a new leaf is logged and proven."""
        start = since or time.monotonic()
        size = self.signed().head.size
        submit(self._client)
        assert self.signed().head.size > size
        return time.monotonic() - start


# With the package that the machine has.
FAULT = f"""
import sys
from sigsum_ops.hsm.rehearsal import clear, strike
strike("{DEVICE}", *sys.argv[1:]) if sys.argv[1:] else clear("{DEVICE}")
"""


def fault(machine: Host, kind: str = "") -> None:
    """Have something go wrong in the machine's rehearsal device; without a kind, end all faults."""
    machine.check_output(f"python3 -c %s {kind}", FAULT)
