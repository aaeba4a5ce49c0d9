"""The comparison of the log machines as a filter; the logic is sigsum_ops.site.diversity's."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: diversity
short_description: Whether the log machines are unlike each other
version_added: 0.1.0
description:
  - Compares the hardware of all log machines and judges by the site's policy what they share.
  - Runs on the controller. Needs the Python package C(sigsum_ops) there.
author:
  - The Sigsum Ops project
positional: _input
options:
  _input:
    description:
      - By host, a mapping with C(hardware), as M(sigsum_ops.site.hardware_raw) answers, and the
        C(policy) and C(overrides) of the inventory.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Judge the machines
  ansible.builtin.assert:
    that: report.ok
    fail_msg: "{{ report.summary }}"
  vars:
    report: "{{ records | sigsum_ops.site.diversity }}"
"""

RETURN = r"""
_value:
  description: C(ok), C(machines), C(components), and for people C(table) and C(summary).
  type: dict
"""

from collections.abc import Callable, Mapping

from ansible.errors import AnsibleFilterError

try:
    from sigsum_ops.errors import OpsError
    from sigsum_ops.site.diversity import judge
    from sigsum_ops.site.diversity_report import plain, summary
except ImportError as error:  # the collection was installed without the Python package
    raise ImportError(
        "the collection sigsum_ops.site needs the Python package sigsum-ops on the controller: "
        "run ansible-playbook from the virtual environment that `make venv` makes"
    ) from error


def diversity(records: Mapping[str, object]) -> dict[str, object]:
    """The report; see DOCUMENTATION."""
    try:
        report = judge(records)
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from error
    return {**report.as_json(), "table": plain(report), "summary": summary(report)}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., dict[str, object]]]:
        """The filters by name."""
        return {"diversity": diversity}
