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
CLIENTS = "yubihsm-shell yubihsm-wrap openssl python3-pytest python3-requests"


def test_debians_clients_agree_with_the_rehearsal_device(lab: Lab, log2: Host) -> None:
    """The unit tests with yubihsm-shell, on Debian's Python and our package as it is deployed."""
    log2.check_output(
        f"DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends {CLIENTS}"
    )
    files = ["tests/hsm/rehearsal/client.py", "tests/hsm/rehearsal/conftest.py"]
    test = "tests/hsm/rehearsal/test_rehearsal_shell.py"
    archive = subprocess.run(
        ["tar", "-C", ROOT, "-cz", *files, test], capture_output=True, check=True
    )
    unpack = "mkdir -p /root/judge && base64 -d | tar -C /root/judge -xz"
    lab.exec(
        "log2",
        ["sh", "-c", unpack],
        stdin=base64.b64encode(archive.stdout).decode(),
        check=True,
    )
    said = log2.check_output(f"cd /root/judge && python3 -m pytest -q -p no:cacheprovider {test}")
    assert re.search(r"^\d+ passed in ", said, re.M), said
