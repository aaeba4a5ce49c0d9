"""Filters: what the roles of the edge refuse of their settings."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

DOCUMENTATION = r"""
---
name: public_endpoint_problems
short_description: What is wrong with the settings of a log's public endpoint
version_added: 0.1.0
description: >-
  Judges the URL, and the certificate in its files: its name, its key, its chain and its time.
author:
  - The Sigsum Ops project
options:
  _input:
    description: The role's settings by their names.
    type: dict
    required: true
"""

EXAMPLES = r"""
problems: >-
  {{ {'tls_proxy_url': 'https://log.example.org/', 'tls_proxy_acme_email': 'ops@example.org'}
     | sigsum_ops.site.public_endpoint_problems }}
"""

RETURN = r"""
_value:
  description: One sentence for each; none where all can be right.
  type: list
  elements: str
"""

from sigsum_ops.edge import endpoint, zones


def public_endpoint_problems(settings: Mapping[str, object]) -> list[str]:
    """What is wrong, each with its setting and what is allowed."""
    found = endpoint.problems(settings, datetime.datetime.now(datetime.UTC))
    return [f"{setting} {wrong}. Allowed: {allowed}." for setting, wrong, allowed in found]


def resolver_zone_problems(setting: object) -> list[str]:
    """The same of ``resolver_zones``."""
    return [
        f"resolver_zones {wrong}. Allowed: {allowed}." for wrong, allowed in zones.problems(setting)
    ]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Name the filters."""
        return {
            "public_endpoint_problems": public_endpoint_problems,
            "resolver_zone_problems": resolver_zone_problems,
        }
