"""How long the oracle takes beside what the device takes, with proofs by the real Trillian."""

from __future__ import annotations

import json
import time

import pytest
from resources.support import add_leaves, eventually
from signing import LOG, Log, fault
from testinfra.host import Host

# Asks for a signature over each size beyond the journal's last, one after the other, like log-go;
# then has the device sign as often without the oracle. Prints the seconds of both.
MEASURE = r"""
import json, socket, struct, subprocess, sys, time
from pathlib import Path
from yubihsm.core import YubiHsm
from yubihsm.defs import OBJECT
from sigsum_ops.hsm.oracle.agent import ALGORITHM, SIGN_REQUEST, SIGN_RESPONSE, string
from sigsum_ops.hsm.connector import Connector
from sigsum_ops.log.keys import load_public_key
from sigsum_ops.log.merkle import root_of
from sigsum_ops.log.treehead import TreeHead

# The audit has to follow, or it would find a gap; a real device takes 0.1 s for each.
PAUSE = 0.2
key = load_public_key(Path("/etc/sigsum/log.pub"))
tree_id = int(Path("/var/lib/sigsum-log/tree-id").read_text().split("=")[1])
query = ("SELECT HEX(MerkleLeafHash) FROM SequencedLeafData"
         f" WHERE TreeId={tree_id} ORDER BY SequenceNumber")
said = subprocess.check_output(["mariadb", "-N", "trillian", "-e", query], text=True)
leaves = [bytes.fromhex(line) for line in said.split()]
journal = Path("/var/lib/sigsum-oracle/journal").read_bytes().splitlines()
first = int(journal[-1].split()[0]) + 1
agent = socket.socket(socket.AF_UNIX)
agent.connect("/run/sigsum-oracle/agent.sock")
blob = string(ALGORITHM) + string(key.raw)

def asked(size):
    data = TreeHead(size, root_of(leaves[:size])).checkpoint(key)
    frame = string(bytes([SIGN_REQUEST]) + string(blob) + string(data) + bytes(4))
    time.sleep(PAUSE)
    begin = time.perf_counter()
    agent.sendall(frame)
    answer = agent.recv(4096)
    seconds = time.perf_counter() - begin
    assert answer[4] == SIGN_RESPONSE, size
    return seconds

# The first one opens a session again, which the device forgot while it was unplugged.
_, *oracle = [asked(size) for size in range(first, len(leaves) + 1)[:61]]
# Its health key: what the log's signs is counted.
passphrase = Path("/etc/sigsum/private/hsm-health-passphrase").read_text().strip()
connector = Connector("http://127.0.0.1:12345")
connector.deadline = time.monotonic() + 60
with YubiHsm(connector).create_session_derived(800, passphrase) as session:
    signing = session.get_object(900, OBJECT.ASYMMETRIC_KEY)
    device = []
    for _ in oracle:
        time.sleep(PAUSE)
        begin = time.perf_counter()
        signing.sign_eddsa(bytes(150))
        device.append(time.perf_counter() - begin)
print(json.dumps([oracle, device]))
"""
AT_LEAST = 50


def quantile(seconds: list[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(seconds)[int(share * (len(seconds) - 1))]


@pytest.fixture
def unsigned(log: Log, log1: Host) -> None:
    """A tree with leaves that were never signed over; the log stands still."""
    fault(log1, "unplug")
    add_leaves(log.url, 6 * AT_LEAST)
    log1.check_output(f"systemctl stop {LOG}")
    fault(log1)
    # The audit, too, was refused. It tries again after 10 s, and has to be there before so much is
    # signed, or it would find a gap.
    time.sleep(15)
    log1.check_output("sigsum-ops hsm audit --show")


@pytest.mark.usefixtures("unsigned")
def test_the_oracle_adds_milliseconds(log: Log, log1: Host) -> None:
    """Promised are 10 ms at p99 on a quiet machine; the bound here is for a busy one."""
    oracle, device = json.loads(log1.check_output("python3 -c %s", MEASURE))
    log1.check_output(f"systemctl start {LOG}")
    eventually(log.answers, seconds=10, what="the log answers")
    log.signs()
    assert len(oracle) > AT_LEAST
    numbers = {
        f"{name}_{share}_ms": round(quantile(seconds, share), 2)
        for name, seconds in (("oracle", oracle), ("device", device))
        for share in (0.5, 0.99)
    }
    print(numbers)  # shown by pytest -s, or when it fails
    assert numbers["oracle_0.5_ms"] - numbers["device_0.5_ms"] < 50
