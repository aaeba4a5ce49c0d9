"""What the scenarios' tests have in common: Ansible to act, and questions to machines."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from testinfra.host import Host

from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.leaf import LeafRequest

# What molecule tells: its own inventory, which has the lab's machines in it, and the scenario.
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])

PATIENCE = 3
SSH = {"tcp 0.0.0.0:22", "tcp [::]:22"}


class Run:
    """How a playbook ended: ``ok``, all that it said, and the number of changes by machine."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.ok = done.returncode == 0
        self.output = done.stdout + done.stderr
        self.text = " ".join(self.output.split())  # messages are broken into lines
        counts = re.findall(r"^(\S+) +: .*?changed=(\d+)", done.stdout, re.M)
        self.changed = {name: int(count) for name, count in counts}


class Ansible:
    """Playbooks and single modules, with the inventory and the settings that molecule uses."""

    def __init__(self, machines: Iterable[str], overlay: Path) -> None:
        self._machines = machines
        self._overlay = overlay

    def playbook(
        self,
        *arguments: str,
        path: Path = SCENARIO / "converge.yml",
        hosts: Mapping[str, Mapping[str, object]] | None = None,
        **variables: object,
    ) -> Run:
        """Run a playbook, the scenario's converge.yml if no other is named.

        Args:
            arguments: more for the command line, such as ``--check``.
            path: the playbook.
            hosts: variables of single machines, as if the inventory had them.
            variables: variables of all machines.
        """
        # Variables of a host, since those of a group would be weaker than the lab's group_vars.
        own = {name: {**variables, **(hosts or {}).get(name, {})} for name in self._machines}
        self._overlay.write_text(yaml.safe_dump({"all": {"hosts": own}}))
        command = _command("ansible-playbook", "--inventory", str(self._overlay), *arguments)
        return Run(_run([*command, str(path)]))

    def module(
        self, machine: str, name: str, /, *, check: bool = False, **arguments: object
    ) -> dict[str, Any]:
        """Run one module on one machine; returns its result, with ``failed``."""
        options = ["--module-name", name, "--args", json.dumps(arguments)]
        done = _run(_command("ansible", machine, *options, *(["--check"] if check else [])))
        heading, arrow, result = done.stdout.partition("=> ")
        assert arrow, done.stdout + done.stderr
        parsed: dict[str, Any] = json.JSONDecoder().raw_decode(result)[0]
        return {"failed": "FAILED" in heading, **parsed}


def _command(program: str, *arguments: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name(program)),
        f"--inventory={EPHEMERAL / 'inventory'}",
        f"--extra-vars=controller_package_dir={EPHEMERAL / 'packages'}",
        *arguments,
    ]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    plain = {"ANSIBLE_FORCE_COLOR": "false", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    return subprocess.run(command, env={**os.environ, **plain}, capture_output=True, text=True)


def listening(host: Host) -> set[str]:
    """The sockets on which a machine listens, such as ``tcp 127.0.0.1:8090``."""
    rows = host.check_output("ss --no-header --listening -ntu").splitlines()
    return {f"{row.split()[0]} {row.split()[4]}" for row in rows}


def scrape(host: Host, address: str = "127.0.0.1") -> str:
    """What the machine's exporter tells on the machine itself."""
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode(), end='')"
    told: str = host.check_output("python3 -c %s %s", code, f"http://{address}:6970/metrics")
    return told


def exposure(host: Host, unit: str) -> float:
    """What ``systemd-analyze security`` says of a unit as it runs, from 0 to 10."""
    said = host.check_output("systemd-analyze security --no-pager %s", unit)
    (number,) = re.findall(r"Overall exposure level for .*: ([0-9.]+)", said)
    return float(number)


def main_pid(host: Host, unit: str) -> str:
    """The unit's main process; ``0`` where it does not run."""
    pid: str = host.check_output("systemctl show --value --property=MainPID %s", unit)
    return pid


_SHOWN = """
import glob, subprocess, sys
with open(sys.argv[1], "rb") as file:
    secret = file.read().strip()
assert len(secret) >= 20
found = []
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        with open(path, "rb") as file:
            found += [path] * (secret in file.read())
    except OSError:
        pass  # it ended meanwhile
journal = subprocess.run(["journalctl", "--no-pager"], stdout=subprocess.PIPE, check=True).stdout
assert len(journal) > 1000
found += ["the journal"] * (secret in journal)
print(*found, sep="\\n")
"""


def shown(host: Host, path: str) -> list[str]:
    """Where the secret in a file is shown: arguments of processes, or the journal."""
    return str(host.check_output("python3 -c %s %s", _SHOWN, path)).splitlines()


def runs_anew(host: Host, unit: str, ended: str) -> bool:
    """Whether the unit has a main process that is not the one that ended."""
    return main_pid(host, unit) not in ("0", ended)


def eventually(holds: Callable[[], bool], *, seconds: float, what: str) -> float:
    """Wait until ``holds()``; return how many seconds that took, or fail naming ``what``.

    A machine that is busy with other scenarios is given ``PATIENCE`` times as long. Where the time
    is what is tested, the caller compares what is returned.
    """
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < PATIENCE * seconds, (
            f"not within {PATIENCE * seconds} s: {what}"
        )
        time.sleep(0.2)
    return time.monotonic() - start


def http(host: Host, url: str) -> tuple[int, str]:
    """Status and body of what a machine itself is answered; status 0 where nothing answers."""
    program = (
        "import sys, urllib.request, urllib.error\n"
        "try: answer = urllib.request.urlopen(sys.argv[1], timeout=5)\n"
        "except urllib.error.HTTPError as error: answer = error\n"
        "except OSError: sys.exit(print(0))\n"
        "print(answer.status, answer.read().decode())"
    )
    status, _, body = host.check_output("python3 -c %s %s", program, url).partition(" ")
    return int(status), body


def submit(client: Host) -> None:
    """Submit a leaf and wait for its proof, as a user does."""
    client.check_output(
        "cd $(mktemp -d) && sigsum-key generate -o key && head -c 32 /dev/urandom > message &&"
        " sigsum-submit --policy=/etc/sigsum/policy --signing-key=key --timeout=60s message"
    )


def add_leaves(url: str, number: int) -> None:
    """Submit that many new leaves (or none), waiting for a log that restarts but for no proof."""
    key, patient_until = Ed25519PrivateKey.generate(), time.monotonic() + 30

    async def submit() -> None:
        async with LogClient(url) as client:
            for _ in range(number):
                # It queues the leaf before it looks for it in the tree of the size that it has
                # signed, which fails where the leaf is integrated already and the tree smaller.
                while await fails_to_connect(client) and time.monotonic() < patient_until:
                    await asyncio.sleep(0.1)

    async def fails_to_connect(client: LogClient) -> bool:
        try:
            await client.add_leaf(LeafRequest.sign(key, os.urandom(32)).body)
        except ApiError as error:
            return error.kind == "connection"
        return False

    asyncio.run(submit())
