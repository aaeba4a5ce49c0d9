#!/usr/bin/python
"""Ensure that a witness knows the logs of the inventory, and never begins one anew."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: witness_logs
short_description: Have a witness cosign for these logs and no others
version_added: 0.1.0
description:
  - Adds logs to litewitness's database, and takes the keys of others out, by upstream's
    witnessctl. litewitness reads its database for each request, so nothing is restarted.
  - A log stays in the database for ever, also without a key, since a witness that forgot what it
    has cosigned could cosign another history.
  - Refuses a database that has less than what the signing oracle has cosigned, and a log whose key
    is another.
author:
  - The Sigsum Ops project
requirements:
  - The Debian packages sigsum-ops and torchwood on the managed machine.
options:
  database:
    description: litewitness's database.
    type: path
    required: true
  oracle:
    description: The configuration of the witness's signing oracle.
    type: path
    required: true
  account:
    description: The user that owns the database.
    type: str
    required: true
  logs:
    description: The public key of each log by its origin, in hex or as an OpenSSH line.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
    description: Can run in check mode and predict changes without modifying the machine.
"""

EXAMPLES = r"""
- name: Cosign for one log
  sigsum_ops.site.witness_logs:
    database: /var/lib/litewitness/litewitness.db
    oracle: /etc/sigsum/oracle.toml
    account: litewitness
    logs:
      example.org/log: ssh-ed25519 AAAA…
"""

RETURN = r"""
changes:
  description: What was done, or would be.
  returned: always
  type: list
  elements: str
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

Run = Callable[..., str]


class LogsError(Exception):
    """Nothing may be changed, or a program has failed."""


def as_account(account: str) -> Run:
    """Runs a program as the database's owner: files that SQLite makes must be the witness's."""

    def run(*argv: str) -> str:
        done = subprocess.run(
            argv, user=account, group=account, extra_groups=[], capture_output=True, text=True,
            check=False, cwd="/",
        )  # fmt: skip
        if done.returncode not in (0, 1) or (done.returncode and not done.stdout):
            raise LogsError(f"{' '.join(argv[:2])}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    return run


def steps(shown: Mapping[str, Any], wanted: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """What is to be done, as sentences with the arguments of witnessctl.

    Args:
        shown: what ``sigsum-ops witness show --json`` says.
        wanted: the key of each log by its origin, as a note has it.

    Raises:
        LogsError: the database was rolled back, or a log's key is another.
    """
    logs = shown["logs"]
    if not shown["ok"]:
        raise LogsError(
            "the database was lost or rolled back. Do not start the witness: docs/witness.md. "
            + "; ".join(shown["problems"])
        )
    found: list[tuple[str, tuple[str, ...]]] = []
    for origin, key in sorted(wanted.items()):
        log = logs.get(origin)
        if log and log["keys"] not in ([], [key]):
            raise LogsError(
                f"{origin} has the key {', '.join(log['keys'])} here, and {key} in the inventory."
                " A log's key never changes; is it another log?"
            )
        if log is None or log["database"] is None:
            found.append((f"{origin}: added", ("add-log", "-origin", origin)))
        if log is None or not log["keys"]:
            text = f"{origin}: served with {key}"
            found.append((text, ("add-key", "-origin", origin, "-key", key)))
    for origin, log in sorted(logs.items()):
        if origin not in wanted:
            for key in log["keys"]:
                text = f"{origin}: served no more"
                found.append((text, ("del-key", "-origin", origin, "-key", key)))
    return found


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "path", "required": True},
            "oracle": {"type": "path", "required": True},
            "account": {"type": "str", "required": True},
            "logs": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        from sigsum_ops.errors import OpsError
        from sigsum_ops.log.keys import PublicKey
        from sigsum_ops.log.treehead import verifier_key
    except ImportError:
        module.fail_json(msg="the Debian package sigsum-ops is not installed on this machine")
    run = as_account(params["account"])
    ours = ("--db", params["database"], "--oracle", params["oracle"])
    try:
        wanted = {
            origin: verifier_key(origin, PublicKey.parse(key))
            for origin, key in params["logs"].items()
        }
        todo = steps(json.loads(run("sigsum-ops", "witness", "show", "--json", *ours)), wanted)
        if not module.check_mode:
            for _, (verb, *arguments) in todo:
                run("witnessctl", verb, "-db", params["database"], *arguments)
    except (LogsError, OpsError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(todo), changes=[text for text, _ in todo])


if __name__ == "__main__":
    main()
