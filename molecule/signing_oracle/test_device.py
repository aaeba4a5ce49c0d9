"""Debian's own clients judge the rehearsal device on a machine that has them; none is skipped."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path

from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

ROOT = Path(__file__).parents[2]
# python-yubihsm, the tests' own client, speaks HTTP by way of requests.
CLIENTS = (
    "yubihsm-shell yubihsm-wrap openssl python3-pytest python3-requests python3-shamir-mnemonic"
)
# What is judged there: the device itself, and the pages that tell people what to type.
TESTS = (
    "tests/hsm/rehearsal/test_rehearsal_shell.py",
    "tests/hsm/ceremony/test_custody.py",
)
BESIDE = (
    *(f"tests/hsm/rehearsal/{name}.py" for name in ("client", "conftest")),
    *(f"tests/hsm/ceremony/{name}.py" for name in ("conftest", "table")),
    *(f"docs/ceremonies/{name}.md" for name in ("custody", "routine-checks")),
)


def test_debians_clients_agree_with_the_rehearsal_device(lab: Lab, log2: Host) -> None:
    """The tests with yubihsm-shell, on Debian's Python and our package as it is deployed."""
    log2.check_output(
        f"DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends {CLIENTS}"
    )
    archive = subprocess.run(
        ["tar", "-C", ROOT, "-cz", *TESTS, *BESIDE], capture_output=True, check=True
    )
    unpack = "mkdir -p /root/judge && base64 -d | tar -C /root/judge -xz"
    lab.exec(
        "log2",
        ["sh", "-c", unpack],
        stdin=base64.b64encode(archive.stdout).decode(),
        check=True,
    )
    done = log2.run(f"cd /root/judge && python3 -m pytest -q -p no:cacheprovider {' '.join(TESTS)}")
    # None was skipped.
    assert re.search(r"^\d+ passed(, \d+ warnings?)? in ", done.stdout, re.M), done.stdout
