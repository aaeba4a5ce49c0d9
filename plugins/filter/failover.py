"""Filters for the playbooks that change a log's primary; the logic is sigsum_ops.failover's."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: promotion_problems
short_description: Why a machine may not become the primary
version_added: 0.1.0
description:
  - Judges what M(sigsum_ops.site.failover) found on all log machines. Returns one text for each
    thing that speaks against promoting the target.
author:
  - The Sigsum Ops project
positional: target, log_key, fenced_by, fenced_how, seen
options:
  _input:
    description: What was found, by machine; none for one that does not answer.
    type: dict
    required: true
  target:
    description: The machine to promote.
    type: str
    required: true
  log_key:
    description: The log's public key, by which the controller's journal is found.
    type: str
    required: true
  seen:
    description: How many tree heads the operator has given.
    type: int
    default: 0
  fenced_by:
    description: Who attests that a machine which does not answer cannot sign any more.
    type: str
    default: ""
  fenced_how:
    description: How that was brought about.
    type: str
    default: ""
  ungated:
    description: Until when the target may go on alone, who allows it, and why.
    type: dict
    default: {}
  inventory:
    description: What the inventory says of that, by machine (C(signing_oracle_ungated_until)).
    type: dict
    default: {}
  hsm_out:
    description: Machines of which C(fenced_by) attests that their HSM is out, with commas.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Refuse what would lose leaves or split the view
  ansible.builtin.assert:
    that: looks | sigsum_ops.site.promotion_problems('log2', log_server_public_key) | length == 0
"""

RETURN = r"""
_value:
  description: One text for each problem, which begins with its name.
  type: list
  elements: str
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

from sigsum_ops.errors import UsageError
from sigsum_ops.failover import inventory, judge, procedure
from sigsum_ops.failover.ungated import Permit, parse
from sigsum_ops.log import archive
from sigsum_ops.log.archive import ArchiveError
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.packages import own


def failover_looks(
    hosts: Mapping[str, Mapping[str, Any]], names: Sequence[str], compared: str = "failover_look"
) -> dict[str, Any]:
    """What was found on each of the machines, None where nothing was.

    ``compared`` is the variable of a later look, which some of them have.
    """
    return {
        name: hosts[name].get(compared, {}).get("found")
        or hosts[name].get("failover_look", {}).get("found")
        for name in names
    }


def package_skew(hosts: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Machines that answer, and whose code is not this controller's."""
    here = own.recipe().version
    facts = {name: hosts[name].get("ansible_facts", {}) for name in names}
    found = {
        name: each.get("sigsum_machine", {}).get("packages", {}).get(own.NAME)
        for name, each in facts.items()
    }
    return [
        f"package: {name} has {own.NAME} {there}, and this controller is {here}: one of them may"
        " not understand the other.\n  Go back to the commit with which it was converged, or"
        f" converge it. In a hurry: playbooks/package.yml -e target={name}. A machine that cannot"
        " take it is powered off, and that attested."
        for name, there in found.items()
        if there not in (None, here)
    ]


def controller_problems(log_key: str) -> list[str]:
    """What this controller has seen of the log that forbids every change."""
    from sigsum_ops.log import keep  # an HTTP client, which few tasks need

    return keep.problems(PublicKey.parse(log_key))


def controller_archive(log_key: str) -> list[str]:
    """The file of all that this controller knows to have been published, if there is any."""
    from sigsum_ops.log import keep  # an HTTP client, which few tasks need

    path = keep.place(PublicKey.parse(log_key))
    return [str(path)] if path.exists() and path.stat().st_size else []


def failover_seen(looks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the machines know to have been signed, as the module failover takes it."""
    return [
        {**item, "source": f"{name}: {item['source']}"}
        for name, look in looks.items()
        for item in ([*look["promises"], *look["published"]] if look else [])
    ]


def failover_permits(
    hosts: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> dict[str, str]:
    """Until when the inventory lets machines go on alone."""
    found = {name: str(hosts[name].get("signing_oracle_ungated_until", "")) for name in names}
    return {name: until for name, until in found.items() if until}


def replaced(log_key: str) -> set[str]:
    """The machines that were replaced as primary and not re-seeded since."""
    return procedure.replaced(procedure.read(procedure.journal(PublicKey.parse(log_key).hash)))


def permits(log_key: str, inventory: Mapping[str, str]) -> dict[str, datetime]:
    """Until when machines may go on alone, by the controller's journal and the inventory."""
    journal = procedure.permits(procedure.read(procedure.journal(PublicKey.parse(log_key).hash)))
    found = {name: parse(until) for name, until in journal.items()}
    for name, until in inventory.items():
        try:
            parsed = parse(until)
        except UsageError as error:
            raise AnsibleFilterError(
                f"signing_oracle_ungated_until of {name}: {error.message}, in quotes"
            ) from error
        found[name] = max(found.get(name, parsed), parsed)
    return found


def promotion_problems(
    looks: Mapping[str, Any],
    target: str,
    log_key: str,
    fenced_by: str = "",
    fenced_how: str = "",
    seen: int = 0,
    ungated: Mapping[str, str] | None = None,
    inventory: Mapping[str, str] | None = None,
    hsm_out: str = "",
) -> list[str]:
    """One text for each problem; see DOCUMENTATION."""
    return [
        str(problem)
        for problem in judge.problems(
            looks,
            target,
            fenced_by=fenced_by,
            fenced_how=fenced_how,
            seen=seen,
            replaced=replaced(log_key),
            asked=Permit(**(ungated or {})),
            permits=permits(log_key, inventory or {}),
            hsm_out=[name.strip() for name in hsm_out.split(",")],
            now=time.time(),
        )
    ]


def promotion_choice(
    looks: Mapping[str, Any],
    log_key: str,
    fenced_by: str = "",
    fenced_how: str = "",
    seen: int = 0,
) -> dict[str, str]:
    """C(name) of the machine to promote where nobody has named one, and C(why)."""
    gone = replaced(log_key)
    now = time.time()

    def judged(name: str) -> list[judge.Problem]:
        return judge.problems(
            looks,
            name,
            fenced_by=fenced_by,
            fenced_how=fenced_how,
            seen=seen,
            replaced=gone,
            now=now,
        )

    return asdict(judge.choose(looks, judged, gone))


def reseed_problems(
    looks: Mapping[str, Any],
    target: str,
    log_key: str,
    fenced_by: str = "",
    fenced_how: str = "",
    wipe: bool = False,
) -> list[str]:
    """One text for each thing that speaks against making the target a secondary."""
    return [
        str(problem)
        for problem in judge.reseed_problems(
            looks,
            target,
            fenced_by=fenced_by,
            fenced_how=fenced_how,
            replaced=replaced(log_key),
            wipe=wipe,
        )
    ]


def abandon_problems(looks: Mapping[str, Any], target: str, log_key: str) -> list[str]:
    """One text for each thing that speaks against giving up a promotion."""
    path = procedure.journal(PublicKey.parse(log_key).hash)
    entries = procedure.read(path)
    found = judge.abandon_problems(
        looks,
        target,
        adopted=procedure.adopted(entries, target),
        unfenced=procedure.given_up(entries, target),
    )
    return [str(each) for each in found]


def to_unfence(looks: Mapping[str, Any], target: str, log_key: str) -> list[str]:
    """The machines that may start again once the promotion of ``target`` was given up."""
    path = procedure.journal(PublicKey.parse(log_key).hash)
    return judge.to_unfence(looks, target, procedure.unfinished(procedure.read(path)))


def outside_problems(
    looks: Mapping[str, Any], roles: Mapping[str, str], permits: Mapping[str, str], log_key: str
) -> list[str]:
    """One text for each thing that the inventory says and is not so."""
    return [str(each) for each in inventory.differs(looks, roles, permits, replaced(log_key))]


def seen_files(paths: Iterable[str], log_key: str) -> list[dict[str, str]]:
    """What the module failover takes as its option C(seen); of an archive, what stands for all."""
    return [item for path in paths for item in _seen_file(path, PublicKey.parse(log_key))]


def _seen_file(path: str, key: PublicKey) -> list[dict[str, str]]:
    try:
        data = Path(path).read_text(encoding="ascii")
        if not data.startswith(archive.MAGIC):
            return [{"source": path, "signed": data}]
        heads = archive.seen(Path(path), key)
    except (OSError, UnicodeDecodeError, ArchiveError) as error:
        raise AnsibleFilterError(f"{path}: {error}") from error
    texts = (
        "".join(f"{name}={value}\n" for name, value in archive.fields_of(head).items())
        for head in heads
    )
    return [{"source": path, "signed": text} for text in texts]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "abandon_problems": abandon_problems,
            "controller_archive": controller_archive,
            "controller_problems": controller_problems,
            "failover_followers": judge.followers,
            "failover_former": judge.former,
            "failover_gating": judge.gating,
            "failover_looks": failover_looks,
            "failover_permits": failover_permits,
            "failover_seen": failover_seen,
            "outside_problems": outside_problems,
            "package_skew": package_skew,
            "promotion_choice": promotion_choice,
            "promotion_problems": promotion_problems,
            "promotion_warnings": judge.warnings,
            "reseed_problems": reseed_problems,
            "seen_files": seen_files,
            "to_unfence": to_unfence,
        }
