"""Filter: log-go's rate-limit file, from the inventory's setting."""

from __future__ import annotations

from collections.abc import Callable

DOCUMENTATION = r"""
---
name: rate_limit
short_description: The rate-limit file of log-go
version_added: 0.1.0
description: >-
  Renders C(log_server_rate_limit) as the file that log-go reads. A setting that cannot be right is
  an error; an empty one gives an empty text.
author:
  - The Sigsum Ops project
options:
  _input:
    description: The setting.
    type: dict
    required: true
"""

EXAMPLES = r"""
file: "{{ {'domain': {'example.org': 1000}, 'public': 100} | sigsum_ops.site.rate_limit }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: str
"""

from ansible.errors import AnsibleFilterError

from sigsum_ops.errors import OpsError
from sigsum_ops.log.ratelimit import parse, render


def rate_limit(setting: object) -> str:
    """Render the setting; empty where submissions are not limited."""
    try:
        limits = parse(setting)
    except OpsError as error:
        raise AnsibleFilterError(f"log_server_rate_limit: {error}") from error
    return "" if limits is None else render(limits)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[[object], str]]:
        """Name the filters."""
        return {"rate_limit": rate_limit}
