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
  Judges what is written, and the texts of the files where they are given: name, key, chain and
  time of the certificate.
author:
  - The Sigsum Ops project
options:
  _input:
    description: The role's settings by their names.
    type: dict
    required: true
  certificate:
    description: The text of O(_input)'s certificate file.
    type: str
  key:
    description: The text of its key file.
    type: str
  acme_root:
    description: The text of its file with the root of the ACME directory.
    type: str
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

# Each worker of Ansible loads all filters of a collection, and few need what these import.


def public_endpoint_problems(
    settings: Mapping[str, object],
    certificate: str | None = None,
    key: str | None = None,
    acme_root: str | None = None,
) -> list[str]:
    """What is wrong, each with its setting and what is allowed."""
    from sigsum_ops.edge import endpoint

    found = list(endpoint.problems(settings))
    if not found and certificate is not None and key is not None:
        name = endpoint.host(str(settings[endpoint.URL])) or ""
        now = datetime.datetime.now(datetime.UTC)
        found += endpoint.pair_problems(certificate, key, name, now)
    if acme_root is not None:
        found += endpoint.root_problems(acme_root)
    return [f"{setting} {wrong}. Allowed: {allowed}." for setting, wrong, allowed in found]


def ssh_access_problems(settings: Mapping[str, object]) -> list[str]:
    """The same of ``ssh_access_operators`` and ``ssh_access_host_key``."""
    from sigsum_ops.edge import access

    found = access.problems(settings)
    return [f"{setting} {wrong}. Allowed: {allowed}." for setting, wrong, allowed in found]


def firewall_problems(settings: Mapping[str, object]) -> list[str]:
    """The same of ``firewall_ssh_sources`` and ``firewall_also``."""
    from sigsum_ops.edge import ports

    found = ports.problems(settings)
    return [f"{setting} {wrong}. Allowed: {allowed}." for setting, wrong, allowed in found]


def resolver_zone_problems(setting: object) -> list[str]:
    """The same of ``resolver_zones``."""
    from sigsum_ops.edge import zones

    return [
        f"resolver_zones {wrong}. Allowed: {allowed}." for wrong, allowed in zones.problems(setting)
    ]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Name the filters."""
        return {
            "firewall_problems": firewall_problems,
            "public_endpoint_problems": public_endpoint_problems,
            "ssh_access_problems": ssh_access_problems,
            "resolver_zone_problems": resolver_zone_problems,
        }
