"""Filters over the whole site; the logic is sigsum_ops.site's, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: inventory_problems
short_description: What an inventory may not say
version_added: 0.1.0
description:
  - Judges the variables of all machines before any of them is touched. Returns one line for
    each thing that is wrong, with host or group, setting, what was found and what is allowed.
  - The variables that the roles know are read from the C(meta/argument_specs.yml) of each role of
    this collection.
  - Runs on the controller and contacts no machine. Needs the Python package C(sigsum_ops) there.
author:
  - The Sigsum Ops project
positional: groups
options:
  _input:
    description: The variables of every host by its name, as C(hostvars) has them.
    type: dict
    required: true
  groups:
    description: The hosts of each group.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse an inventory that cannot be right
  ansible.builtin.assert:
    that: problems | length == 0
    fail_msg: "{{ problems | join('\\n') }}"
  vars:
    problems: "{{ hostvars | sigsum_ops.site.inventory_problems(groups) }}"
"""

RETURN = r"""
_value:
  description: One line for each problem, empty where there is none.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible.vars.hostvars import HostVars

try:
    from sigsum_ops.edge import ports
    from sigsum_ops.errors import OpsError
except ImportError as error:  # the collection was installed without the Python package
    raise ImportError(
        "the collection sigsum_ops.site needs the Python package sigsum-ops on the controller: "
        "run ansible-playbook from the virtual environment that `make venv` makes"
    ) from error


class _Machine(Mapping[str, object]):
    """A host's variables, each rendered when it is read.

    ``hostvars[host]`` does the same, but its templates have no ``hostvars``: a setting made from
    another machine's address would be undefined here and nowhere else.
    """

    def __init__(self, hosts: HostVars, name: str, own: Mapping[str, object] | None = None) -> None:
        """``own`` are settings that its play has, and the inventory not."""
        self._raw: Mapping[str, object] = {**hosts.raw_get(name), **(own or {})}
        self._templar = Templar(DataLoader(), {**self._raw, "hostvars": hosts})

    def __getitem__(self, name: str) -> object:
        rendered: object = self._templar.template(self._raw[name])
        return rendered

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)


def inventory_problems(hosts: HostVars, groups: Mapping[str, Sequence[str]]) -> list[str]:
    """One line for each problem; see DOCUMENTATION."""
    # What it needs to judge certificates and zones, the other filters' workers need not load.
    from sigsum_ops.site.inventory import problems, role_variables

    try:
        roles = role_variables(Path(__file__).parents[2] / "roles")
        machines = {name: _Machine(hosts, name) for name in hosts}
        return [str(problem) for problem in problems(machines, groups, roles)]
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from error


def firewall_flows(
    hosts: HostVars, groups: Mapping[str, Sequence[str]], name: str, own: Mapping[str, object]
) -> list[dict[str, object]]:
    """What one machine answers and asks; see ``sigsum_ops.edge.ports``.

    ``own`` are settings of the machine that its play may have, and the inventory not.
    """
    try:
        machines = {each: _Machine(hosts, each, own if each == name else None) for each in hosts}
        return ports.shown(name, machines, groups)
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from error


def firewall_matches(
    flows: Sequence[Mapping[str, Any]], accounts: Mapping[str, int]
) -> dict[str, list[str]]:
    """The rules for them; see ``sigsum_ops.edge.ports.matches``."""
    tuples = ("ports", "peers")
    made = [ports.Flow(**{**flow, **{key: tuple(flow[key]) for key in tuples}}) for flow in flows]
    return ports.matches(made, accounts)


def site_ports(
    hosts: HostVars, groups: Mapping[str, Sequence[str]]
) -> dict[str, list[dict[str, object]]]:
    """The flows of every machine by its name."""
    try:
        machines = {each: _Machine(hosts, each) for each in hosts}
        return {name: ports.shown(name, machines, groups) for name in machines}
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """The filters by name."""
        return {
            "firewall_flows": firewall_flows,
            "firewall_matches": firewall_matches,
            "inventory_problems": inventory_problems,
            "site_ports": site_ports,
        }
