"""Filters: whom a monitoring machine asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
---
name: scrape_targets
short_description: Whom a monitoring machine asks
version_added: 0.1.0
description:
  - The endpoint of each machine's exporters by the machine's name, by job.
author:
  - The Sigsum Ops project
options:
  _input:
    description: The variables of each machine, hostvars.
    type: dict
    required: true
  monitor:
    description: The machine that asks.
    type: str
    required: true
"""

EXAMPLES = r"""
targets: "{{ hostvars | sigsum_ops.site.scrape_targets(inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description: Such as C(sigsum), with C(log1) and its C(10.0.0.1:6970).
  type: dict
"""

# Each worker of Ansible loads all filters of a collection, and few need what these import.


def scrape_targets(hosts: Mapping[str, Any], monitor: str) -> dict[str, dict[str, str]]:
    """By job and by machine."""
    from sigsum_ops.monitoring import targets

    return targets.targets(monitor, _listening(hosts))


def scrape_problems(hosts: Mapping[str, Any], monitor: str) -> list[str]:
    """One sentence for each exporter that the monitor could never reach."""
    from sigsum_ops.monitoring import targets

    return targets.problems(monitor, _listening(hosts))


def receiver_problems(receivers: object, smtp: object) -> list[str]:
    """What is wrong with who is told, each with its setting and what is allowed."""
    from sigsum_ops.monitoring import receivers as judge

    return list(judge.problems(receivers, smtp))


def _listening(hosts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    from sigsum_ops.monitoring.targets import JOBS

    return {
        name: {setting: hosts[name].get(setting) for setting in JOBS.values()} for name in hosts
    }


class FilterModule:
    """The filters, by their names in the collection."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Name to function."""
        return {
            "receiver_problems": receiver_problems,
            "scrape_problems": scrape_problems,
            "scrape_targets": scrape_targets,
        }
