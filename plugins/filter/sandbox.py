"""Filter: the sandbox of a unit, for templates."""

from __future__ import annotations

from collections.abc import Callable

DOCUMENTATION = r"""
---
name: sandbox
short_description: The sandbox directives of a unit
version_added: 0.1.0
description: Renders the directives that every unit of this collection has in its Service section.
author:
  - The Sigsum Ops project
options:
  _input:
    description: What the service may reach, C(loopback) or C(internet).
    type: str
    required: true
  writable:
    description: Directories that the service may write.
    type: list
    elements: str
    default: []
  without:
    description: Directives that the program cannot live with.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
unit: "[Service]\n{{ 'loopback' | sigsum_ops.site.sandbox }}"
"""

RETURN = r"""
_value:
  description: Lines for a unit file.
  type: str
"""

try:
    from sigsum_ops.site.sandbox import directives
except ImportError as error:  # the collection was installed without the Python package
    raise ImportError(
        "the collection sigsum_ops.site needs the Python package sigsum-ops on the controller: "
        "run ansible-playbook from the virtual environment that `make venv` makes"
    ) from error


def sandbox(
    network: str, writable: list[str] | None = None, without: list[str] | None = None
) -> str:
    """Render the directives; see sigsum_ops.site.sandbox."""
    return directives(network=network, writable=writable or [], without=without or [])


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Name the filters."""
        return {"sandbox": sandbox}
