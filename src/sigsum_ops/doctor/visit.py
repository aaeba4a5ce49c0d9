"""All of it: ``sigsum-ops doctor``. Runs on the controller, and changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sigsum_ops.doctor.ask import ask
from sigsum_ops.doctor.judge import Finding, Machine, findings, primary_size
from sigsum_ops.errors import OpsError
from sigsum_ops.log import policy as policies
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.site import ansible
from sigsum_ops.site.inventory import check

PLAYBOOK = "sigsum_ops.site.doctor"


def visit(inventory: Path | None, url: str = "") -> list[Finding]:
    """Ask every machine of an inventory, and its log; what is wrong.

    Args:
        inventory: as for ``ansible-playbook -i``; None for the one that ansible.cfg names.
        url: where to find the log, if not at its ``log_url``.

    Raises:
        OpsError: Ansible did not come to its end.
    """
    from sigsum_ops.packages import own  # a room that hosts do not have

    unfit = check(inventory)
    told = gather(inventory)
    machines = {said["machine"]: machine(said) for said in told}
    asked = {}
    log = next((said["log"] for said in told if said["log"]), None)
    if log and (url or log["url"]):
        policy = policies.parse(log["policy"].encode()) if log["policy"] else None
        key = PublicKey.parse(log["key"])
        asked = ask(url or log["url"], key, policy, primary_size(machines))
    version = own.recipe().version
    return findings(machines, asked, version=version, now=time.time(), unfit=unfit)


def gather(inventory: Path | None) -> list[dict[str, Any]]:
    """What playbooks/doctor.yml prints of each machine. Raises OpsError where that is nothing."""
    done = ansible.run("ansible-playbook", PLAYBOOK, inventory=inventory)
    found = [
        said
        for said in ansible.said(done.stdout, "] => ")
        if isinstance(said, dict) and "machine" in said
    ]
    if not found:
        raise OpsError(
            f"the machines could not be asked:\n{done.stdout[-3000:]}{done.stderr[-1000:]}",
            hint="`ansible -m ping all` says whether they can be reached at all.",
        )
    return found


def machine(said: Mapping[str, Any]) -> Machine:
    """One of them, as the judge takes it."""
    return Machine(
        said["machine"],
        role=said["role"],
        permit=said["permit"],
        ours=said["ours"],
        answers=said["answers"],
        package=said["package"] or None,
        public=said["limited"],
        facts=said["facts"] or None,
        why=said["why"],
    )


def lines(found: list[Finding]) -> Iterator[str]:
    """The findings for people."""
    for each in found:
        yield f"{each.weight.upper():6} {each.name}: {each.machine or 'the site'}: {each.what}"
        yield f"       {each.fix}"
    if not found:
        yield "Nothing is found."


def as_json(found: list[Finding]) -> str:
    """The findings for machines."""
    return json.dumps({"ok": not found, "findings": [each.as_json() for each in found]})
