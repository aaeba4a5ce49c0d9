"""Which log to put under load: one that the operator owns, which is to say the inventory's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.site import ansible


class Target(NamedTuple):
    """A log; ``policy`` is what its inventory says of its witnesses, ``sigsum_policy``."""

    url: str
    key: PublicKey
    policy: object = None


def choose_target(
    url: str | None,
    key: PublicKey | None,
    *,
    owned: bool,
    listed: Callable[[], Target],
) -> Target:
    """The log to load: the inventory's, unless the operator says that another one is theirs.

    Args:
        url: the URL asked for; None for the inventory's.
        key: the public key that goes with it; None for the inventory's.
        owned: ``--i-own-this-log``: do not ask the inventory.
        listed: reads the inventory's log.

    Raises:
        UsageError: not enough was said.
        OpsError: the log is not the inventory's.
    """
    if owned:
        if url is None or key is None:
            raise UsageError(
                "--i-own-this-log needs to know which log",
                hint="Give its URL, and its public key with --log-key.",
            )
        return Target(url, key)
    own = listed()
    asked = Target(url or own.url, key or own.key)
    if (asked.url.rstrip("/"), asked.key) != (own.url.rstrip("/"), own.key):
        raise OpsError(
            f"{asked.url} with key {asked.key.hex} is not the log of the inventory,"
            f" which is {own.url} with key {own.key.hex}",
            hint="Load what is not yours, and you attack it. If it is yours: --i-own-this-log",
        )
    return own


def log_of_inventory(inventory: Path | None) -> Target:
    """The log that an inventory describes, by its ``log_url`` and ``log_server_public_key``.

    Ansible renders the variables, as they may be templates; it contacts no machine.

    Args:
        inventory: as for ``ansible-playbook -i``; None for the one that ansible.cfg names.
    """
    wanted = {
        "role": "{{ log_server_role | default('') }}",
        "url": "{{ log_url | default('') }}",
        "key": "{{ log_server_public_key | default('') }}",
        "policy": "{{ sigsum_policy | default({}) }}",
    }
    # On the machines' behalf, not localhost's: a variable is rendered as its own host sees it.
    done = ansible.run(
        "ansible",
        "log_machines",
        "--module-name=ansible.builtin.debug",
        "--args",
        json.dumps({"msg": wanted}),
        inventory=inventory,
    )
    for answer in done.stdout.split(" | SUCCESS => ")[1:]:
        found = json.JSONDecoder().raw_decode(answer)[0]["msg"]
        if found["role"] == "primary" and found["url"]:
            return Target(found["url"], PublicKey.parse(found["key"]), found["policy"] or None)
    said = f": {(done.stderr + done.stdout).strip()[-400:]}" if done.returncode else ""
    raise UsageError(
        f"the inventory {inventory or 'of ansible.cfg'} has no primary with a log_url{said}",
        hint="Set log_url there, or name the log: URL, --log-key and --i-own-this-log.",
    )
