"""Filters for playbooks/upgrade.yml; the logic is sigsum_ops.site.upgrade's."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: upgrade_problems
short_description: Why the log machines may not be upgraded
version_added: 0.1.0
description:
  - Judges what was found on all log machines. Returns one text for each thing that speaks against
    the upgrade.
author:
  - The Sigsum Ops project
options:
  _input:
    description:
      - What was found, by machine, as the fields of C(sigsum_ops.site.upgrade.Machine).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse what could not be undone
  ansible.builtin.assert:
    that: machines | sigsum_ops.site.upgrade_problems | length == 0
"""

RETURN = r"""
_value:
  description: One text for each problem, which begins with its name.
  type: list
  elements: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from sigsum_ops.site import upgrade


def upgrade_problems(machines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One text for each problem; see DOCUMENTATION."""
    return upgrade.problems({name: upgrade.Machine(**its) for name, its in machines.items()})


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters by name."""
        return {
            "upgrade_changes": upgrade.changes,
            "upgrade_in_tandem": upgrade.in_tandem,
            "upgrade_problems": upgrade_problems,
            "upgrade_size": upgrade.size,
            "upgrade_text": upgrade.text,
        }
