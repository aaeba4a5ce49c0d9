"""The log with its witnesses, as users and operators see them."""

from __future__ import annotations

import json
import re
import secrets
import urllib.request
from dataclasses import dataclass
from typing import Any

from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.keys import PublicKey

DOMAIN = "submitter.example.org"
TOKEN_KEY = "/etc/sigsum/private/token-key"  # noqa: S105 - where it is


# Arguments: the token's header, and the files.
_POST = """
import sys, urllib.error, urllib.request
header = dict([sys.argv[1].split(": ", 1)])
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        leaf = urllib.request.Request("https://log.example.org/add-leaf", file.read(), header)
    try:
        print(urllib.request.urlopen(leaf, timeout=10).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""


@dataclass
class Log:
    """The log, as its primary and its submitter see it."""

    lab: Lab
    machines: dict[str, Host]

    def quorum(self, wait: float = 0) -> dict[str, Any]:
        """What the submitter's policy says of the newest tree head; with ``wait``, of a new one."""
        said = self.machines["client1"].run(
            "sigsum-ops policy check /etc/sigsum/policy --json --wait %s", str(wait)
        )
        assert said.rc in (0, 1), said.stderr
        parsed: dict[str, Any] = json.loads(said.stdout)
        assert parsed["ok"] == (said.rc == 0)
        return parsed

    def status(self) -> int:
        """Of what the primary itself answers an operator; 0 where it answers nothing."""
        try:
            with urllib.request.urlopen(
                f"http://{self.lab.hosts()['log1']}:6965/get-tree-head", timeout=5
            ) as answer:
                return int(answer.status)
        except OSError:
            return 0

    def submit(self, message: str, *, timeout: int = 60) -> str:
        """Submit a new leaf over TLS with a token, and wait for its cosigned proof.

        Returns:
            What was said where that failed.
        """
        said = self.machines["client1"].run(
            "mkdir -p /root/leaves && cd /root/leaves"
            " && { test -e key || sigsum-key generate -o key; }"
            " && printf %%s %s > message && rm -f message.proof"
            " && sigsum-submit --policy=/etc/sigsum/policy --signing-key=key"
            " --token-domain=%s --token-signing-key=%s --timeout=%ss message",
            f"{message} {secrets.token_hex(8)}", DOMAIN, TOKEN_KEY, str(timeout),
        )  # fmt: skip
        return "" if said.rc == 0 else said.stderr

    def statuses(self, number: int, domain: str = DOMAIN) -> list[int]:
        """What that many new leaves are answered, each sent once over TLS with a token."""
        said: str = self.machines["client1"].check_output(
            "cd /root/leaves && rm -f many.*"
            " && for i in $(seq %s); do head -c 32 /dev/urandom > many.$i"
            " && sigsum-submit --signing-key=key -o many.$i.req many.$i || exit; done"
            ' && python3 -c %s "$(sigsum-ops token %s -k %s)" many.*.req',
            str(number), _POST, domain, TOKEN_KEY,
        )  # fmt: skip
        return [int(each) for each in said.split()]

    def verifies(self) -> bool:
        """What upstream's verifier thinks of the last proof."""
        return bool(
            self.machines["client1"]
            .run(
                "cd /root/leaves && sigsum-verify --policy=/etc/sigsum/policy --key=key.pub"
                " message.proof < message"
            )
            .succeeded
        )


def probed(bastion: Host) -> dict[str, Any]:
    """What the bastion's own probe says, by the witness's name."""
    said = bastion.run("sigsum-ops bastion probe --json")
    assert said.rc in (0, 1), said.stderr
    return {each["name"]: each for each in json.loads(said.stdout)["backends"]}


def shown(witness: Host) -> dict[str, Any]:
    """What the witness itself says of its logs."""
    said = witness.run("runuser -u litewitness -- sigsum-ops witness show --json")
    assert said.rc in (0, 1), said.stderr
    parsed: dict[str, Any] = json.loads(said.stdout)
    return parsed


def key_of(witness: Host) -> PublicKey:
    """With what it cosigns."""
    text = witness.file("/etc/sigsum/oracle.toml").content_string
    return PublicKey.from_ssh(re.findall(r'^public_key = "(.*)"', text, re.M)[0])
