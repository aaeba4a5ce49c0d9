"""Whom a monitoring machine asks, from the inventory. Pure.

An exporter that answers on loopback only is asked by its own machine, and by nobody else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sigsum_ops.edge.ports import EXPORTERS

JOBS = {"sigsum": EXPORTERS["site_exporter"], "node": EXPORTERS["node_exporter"]}

Hosts = Mapping[str, Mapping[str, Any]]


def targets(monitor: str, hosts: Hosts) -> dict[str, dict[str, str]]:
    """The endpoint of each machine by its name, by job; only what the monitor can reach."""
    return {
        job: {
            name: there[0]
            for name, variables in sorted(hosts.items())
            if (there := list(reachable(variables.get(setting) or (), own=name == monitor)))
        }
        for job, setting in JOBS.items()
    }


def problems(monitor: str, hosts: Hosts) -> list[str]:
    """One sentence for each exporter that the monitor could never reach."""
    return [
        f"{name}: {setting} is {', '.join(listen)}: {monitor} cannot ask it there."
        " Add an address of the tunnel, or of a network that is nobody else's."
        for name, variables in sorted(hosts.items())
        for setting in JOBS.values()
        if (listen := [str(each) for each in variables.get(setting) or ()])
        and not list(reachable(listen, own=name == monitor))
    ]


def reachable(listen: Sequence[Any], *, own: bool) -> Iterator[str]:
    """Those of an exporter's endpoints at which it can be asked, loopback first."""
    for endpoint in sorted(map(str, listen), key=lambda each: not loopback(each)):
        if own or not loopback(endpoint):
            yield endpoint


def loopback(endpoint: str) -> bool:
    """Whether an ``address:port`` is nobody's but the machine's own."""
    address = endpoint.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
