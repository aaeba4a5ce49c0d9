"""Two secondaries, one of them warm: the primary dies, and the better one takes its place."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from resources.procedures import (
    ATTESTED,
    PLAYBOOKS,
    acknowledge,
    head,
    procedure,
    refused,
    spoiled,
    url,
)
from resources.support import Ansible, eventually
from testinfra.host import Host

from sigsum_ops.lab.drill import Load, missing
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import load_public_key
from sigsum_ops.log.loadgen import Heads

# Re-seeding, which the warm one makes needless, takes longer.
SECONDS_TO_ACKNOWLEDGE = 20.0


@pytest.fixture(scope="module")
def log3(machines: dict[str, Host]) -> Host:
    """The machine log3, which is warm."""
    return machines["log3"]


@pytest.fixture(scope="module")
def acknowledged(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Leaves that a secondary had before they were acknowledged with 200."""
    return Load(str(tmp_path_factory.mktemp("load")), 20)


async def proven(lab: Lab, address: str, load: Load) -> int:
    """How many of the acknowledged leaves the log proves."""
    async with LogClient(address) as client:
        heads = Heads(client, load_public_key(lab.state / "log-key.pub"))
        await heads.look()
        return len(load.acknowledged) - await missing(client, heads, load)


def test_the_warm_one_holds_nobody_up(log1: Host, log3: Host, acknowledged: Load) -> None:
    log3.check_output("systemctl stop sigsum-log-secondary")
    asyncio.run(acknowledge(url(log1), acknowledged))
    assert len(acknowledged.acknowledged) == len(acknowledged.leaves)


def test_the_warm_one_is_not_promoted_in_the_place_of_the_better(
    ansible: Ansible, lab: Lab, log2: Host, log3: Host
) -> None:
    """What is refused would have lost the leaves that only the gating one has."""
    lab.kill("log1")
    log3.check_output("systemctl start sigsum-log-secondary")  # it finds no primary any more
    said = refused(ansible, "log3", **ATTESTED)
    assert "better-candidate: log2 has 20 leaves, and log3 has 0" in said
    assert "behind: log3 cannot prove what was signed" in said
    with spoiled(log2, "systemctl stop mariadb", "systemctl start mariadb"):
        said = refused(ansible, "log3", **ATTESTED)
    assert "other-secondary: log2 is a secondary too, and its tree cannot be read" in said


def test_without_a_name_the_best_is_promoted_and_the_other_gates_at_once(
    ansible: Ansible, lab: Lab, log2: Host, acknowledged: Load, tmp_path: Path
) -> None:
    run = procedure(ansible, "promote", "", **ATTESTED)
    assert run.ok, run.output
    assert "the best of log2 (20 leaves), log3 (0 leaves; behind; better-candidate)" in run.text
    assert "log3 copies from it, and it signs what log3 has." in run.text
    begun = time.monotonic()
    more = Load(str(tmp_path), 5)
    asyncio.run(acknowledge(url(log2), more))
    assert time.monotonic() - begun <= SECONDS_TO_ACKNOWLEDGE
    assert asyncio.run(proven(lab, url(log2), acknowledged)) == 20
    assert asyncio.run(proven(lab, url(log2), more)) == 5


def test_the_old_primary_becomes_the_warm_one(
    ansible: Ansible, lab: Lab, log1: Host, log2: Host
) -> None:
    lab.start("log1")
    # Back, it finds no secondary that copies from it, and so signs nothing.
    eventually(lambda: head(url(log1)) is not None, seconds=60, what="the old primary is back")
    last = head(url(log1))
    now = head(url(log2))
    assert last is not None
    assert now is not None
    assert last.size < now.size
    again = procedure(ansible, "reseed", "log1")
    assert again.ok, again.output
    parts = {"log1": "secondary", "log2": "primary", "log3": "secondary"}
    roles = {
        name: {"log_server_role": part, "log_server_gating_secondary": "log3"}
        for name, part in parts.items()
    }
    converged = ansible.playbook(hosts=roles)
    assert converged.ok, converged.output
    assert not any(ansible.playbook(hosts=roles).changed.values())
    said = ansible.playbook(path=PLAYBOOKS / "outside.yml", hosts=roles, log_url=url(log2))
    assert said.ok, said.output
