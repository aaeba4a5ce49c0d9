"""What changes which machine is the primary, run as an operator does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resources.support import EPHEMERAL, Ansible, Run
from testinfra.host import Host

from sigsum_ops.lab import drill
from sigsum_ops.lab.drill import Load
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.treehead import TreeHead

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
# What a converge.yml tells site.yml; an operator has it in the inventory.
SETTINGS = {"log_server_interval": "2s"}
if (EPHEMERAL / "policy").exists():
    SETTINGS["log_server_policy_file"] = str(EPHEMERAL / "policy")
ATTESTED = {"fenced_by": "a test", "fenced_how": "its power was cut"}


def procedure(
    ansible: Ansible, name: str, target: str, *arguments: str, **variables: object
) -> Run:
    """Run one of the playbooks; an empty ``target`` is not told to it."""
    extra = {**({"target": target} if target else {}), **SETTINGS, **variables}
    path = PLAYBOOKS / f"{name}.yml"
    return ansible.playbook("--extra-vars", json.dumps(extra), *arguments, path=path)


def refused(ansible: Ansible, target: str, **variables: object) -> str:
    """What promote.yml says, which must refuse, change nothing and leave the log as it is."""
    run = procedure(ansible, "promote", target, **variables)
    assert not run.ok
    assert not any(run.changed.values()), run.output
    assert "Nothing was changed." in run.text, run.output
    return run.text


def url(host: Host) -> str:
    """Where the machine's log answers its users."""
    address: str = host.check_output("hostname -I").split()[0]
    return f"http://{address}:{drill.PORT}"


@contextmanager
def spoiled(host: Host, spoil: str, mend: str) -> Iterator[None]:
    """Something that is wrong for a while."""
    host.check_output(spoil)
    try:
        yield
    finally:
        host.check_output(mend)


async def acknowledge(address: str, load: Load) -> None:
    """Have a log acknowledge all of them with 200."""
    async with LogClient(address) as client:
        await asyncio.wait_for(load.submit(client, asyncio.Event()), 60)


def head(address: str) -> TreeHead | None:
    """What a log publishes; None where it does not answer."""

    async def ask() -> TreeHead | None:
        async with LogClient(address, timeout=2) as client:
            with suppress(ApiError):
                return (await client.get_tree_head()).signed.head
        return None

    return asyncio.run(ask())
