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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

from sigsum_ops.failover import judge, procedure
from sigsum_ops.log.keys import PublicKey


def failover_looks(hosts: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """What was found on each of the machines, None where nothing was."""
    return {name: hosts[name].get("failover_look", {}).get("found") for name in names}


def replaced(log_key: str) -> set[str]:
    """The machines that were replaced as primary and not re-seeded since."""
    return procedure.replaced(procedure.read(procedure.journal(PublicKey.parse(log_key).hash)))


def promotion_problems(
    looks: Mapping[str, Any],
    target: str,
    log_key: str,
    fenced_by: str = "",
    fenced_how: str = "",
    seen: int = 0,
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
            now=time.time(),
        )
    ]


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


def seen_file(path: str) -> dict[str, str]:
    """What the module failover takes as one of its option C(seen)."""
    try:
        return {"source": path, "signed": Path(path).read_text(encoding="ascii")}
    except (OSError, UnicodeDecodeError) as error:
        raise AnsibleFilterError(f"{path}: {error}") from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "failover_looks": failover_looks,
            "promotion_problems": promotion_problems,
            "reseed_problems": reseed_problems,
            "seen_file": seen_file,
        }
