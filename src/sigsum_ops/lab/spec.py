"""What a lab consists of: its machines, its addresses and the inventory that describes them.

Pure: nothing here touches the host.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import yaml

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.site.state import state_home

DEFAULT_NAME = "lab"
# Becomes part of directory and container names.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_NETWORKS = 256


@dataclass(frozen=True)
class Machine:
    """One host of a lab. ``index`` is the last number of its addresses.

    ``optional``: only in a lab that was asked for with it.
    """

    name: str
    index: int
    group: str
    host_vars: Mapping[str, str | int] = field(default_factory=dict)
    optional: bool = False


# Serial numbers as in inventories/lab/hsm-plan.yml.
MACHINES = (
    Machine(
        "log1", 11, "log_machines", {"log_server_role": "primary", "rehearsal_hsm_serial": 90000003}
    ),
    Machine(
        "log2",
        12,
        "log_machines",
        {"log_server_role": "secondary", "rehearsal_hsm_serial": 90000004},
    ),
    Machine(
        "log3",
        13,
        "log_machines",
        {"log_server_role": "secondary", "rehearsal_hsm_serial": 90000006},
        optional=True,
    ),
    Machine("client1", 21, "clients"),
    Machine("bastion1", 41, "bastions", optional=True),
    # The first has its key in the device that the lab's plan makes for it.
    Machine("witness1", 51, "witnesses", {"rehearsal_hsm_serial": 90000005}, optional=True),
    Machine("witness2", 52, "witnesses", optional=True),
    Machine("monitor1", 61, "monitors", optional=True),
    # What the internet is to a real site.
    Machine("infra1", 31, "infra", optional=True),
)


@dataclass(frozen=True)
class Network:
    """The addresses of one lab. ``number`` (0-255) is unique on the host, and so are the names."""

    number: int

    @property
    def device(self) -> str:
        """The bridge, the cgroup and the podman network are all called this."""
        return f"sigsum-lab{self.number}"

    @property
    def v4(self) -> IPv4Network:
        return IPv4Network(f"10.33.{self.number}.0/24")

    @property
    def v6(self) -> IPv6Network:
        return IPv6Network(f"fd33:0:0:{self.number:x}::/64")

    def address(self, index: int) -> str:
        return str(self.v4[index])

    def address6(self, index: int) -> str:
        # The decimal digits of the index, so that .11 and ::11 are recognisably one machine.
        return str(self.v6[int(str(index), 16)])

    def mac(self, index: int) -> str:
        """A machine's locally administered MAC address: the same after a power cut."""
        return "02:00:" + ":".join(f"{byte:02x}" for byte in self.v4[index].packed)


def check_name(name: str) -> str:
    """Return ``name`` if a lab can be called that; raise UsageError otherwise."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a lab cannot be called {name!r}",
            hint="allowed: a lower-case letter, then up to 30 lower-case letters, digits, hyphens",
        )
    return name


def select(names: Sequence[str] | None) -> list[Machine]:
    """The machines called ``names``, or all that are not optional.

    Raises:
        UsageError: a name that is not known, or none.
    """
    known = {machine.name: machine for machine in MACHINES}
    if names is None:
        return [machine for machine in MACHINES if not machine.optional]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"the lab has no host {', '.join(map(repr, unknown))}",
            hint=f"hosts: {', '.join(known)}",
        )
    if not names:
        raise UsageError("no host named", hint=f"hosts: {', '.join(known)}")
    return [machine for machine in MACHINES if machine.name in names]


def more_devices(hosts: Container[str]) -> dict[str, int]:
    """Serial numbers of the rehearsal devices that the plan of the default lab does not have."""
    return {
        machine.name: int(machine.host_vars["rehearsal_hsm_serial"])
        for machine in MACHINES
        if machine.optional and machine.group == "log_machines" and machine.name in hosts
    }


def choose_network(name: str, taken: Iterable[int], routes: Iterable[str]) -> Network:
    """The network for a new lab: number 0 for the default lab, else the first free one.

    ``taken`` are the numbers of the user's other labs, ``routes`` the host's destinations as
    ``ip route`` prints them. Wide routes (shorter than /16: a default route, a VPN for all of 10/8)
    do not count, because the lab's own route is more specific and wins.
    """
    busy = {net for net in map(_route, routes) if net is not None and net.prefixlen >= 16}
    taken = set(taken)
    candidates = [0] if name == DEFAULT_NAME else range(1, _NETWORKS)
    for number in candidates:
        network = Network(number)
        if number not in taken and not any(network.v4.overlaps(net) for net in busy):
            return network
    raise OpsError(
        f"no network is free for the lab {name!r}",
        hint=f"{Network(0).v4} is already routed on this host (see `ip route`), maybe by another "
        "user's lab; a lab with a --name takes another network"
        if name == DEFAULT_NAME
        else "all of 10.33.1.0/24 to 10.33.255.0/24 are routed or belong to labs",
    )


def _route(destination: str) -> IPv4Network | None:
    try:
        network = ip_network(destination, strict=False)
    except ValueError:  # "default", "unreachable", …
        return None
    return network if isinstance(network, IPv4Network) else None


def hosts_file(machine: Machine, network: Network) -> str:
    """/etc/hosts of one machine: it knows every machine that a lab can have."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for other in MACHINES:
        lines += [f"{network.address(other.index)} {other.name}"]
        lines += [f"{network.address6(other.index)} {other.name}"]
    return f"# {machine.name}, in the lab on {network.v4}\n" + "\n".join(lines) + "\n"


def ssh_options(directory: str) -> list[str]:
    """The ``-o`` values that tie ssh to the keys in a lab's state ``directory``."""
    return [
        f'UserKnownHostsFile="{directory}/ssh/known_hosts"',
        "StrictHostKeyChecking=yes",
        "IdentitiesOnly=yes",
        # A machine that lost its power does not close connections: give them up in 15 seconds.
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
    ]


def inventory(machines: Iterable[Machine], network: Network, lab_state: str) -> dict[str, Any]:
    """The Ansible inventory; ``lab_state`` is the state directory, or a template for it."""
    groups: dict[str, dict[str, Any]] = {}
    machines = list(machines)
    secondaries = [m.name for m in machines if m.host_vars.get("log_server_role") == "secondary"]
    for machine in machines:
        address = network.address(machine.index)
        host_vars: dict[str, Any] = {"ansible_host": address, **machine.host_vars}
        if machine.group == "log_machines":
            host_vars["log_server_internal_address"] = address
            if len(secondaries) > 1:
                host_vars["log_server_gating_secondary"] = secondaries[0]
        groups.setdefault(machine.group, {"hosts": {}})["hosts"][machine.name] = host_vars
    arguments = " ".join(f"-o '{option}'" for option in ssh_options("{{ lab_state }}"))
    return {
        "all": {
            "vars": {
                "lab_state": lab_state,
                "ansible_user": "root",
                "ansible_ssh_private_key_file": "{{ lab_state }}/ssh/id_ed25519",
                "ansible_ssh_common_args": arguments,
            },
            "children": groups,
        }
    }


def inventory_text(content: Mapping[str, Any]) -> str:
    """``hosts.yml`` as it is written and, for the default lab, committed."""
    header = "---\n# Written by `sigsum-ops lab`: the hosts of the container lab.\n"
    return header + yaml.safe_dump(dict(content), sort_keys=False, width=110)


def default_inventory() -> str:
    """The committed inventory of the default lab: the same for every user and clone."""
    env = "lookup('ansible.builtin.env', '{}')"
    base = f"({env.format('XDG_STATE_HOME')} or {env.format('HOME')} ~ '/.local/state')"
    lab_state = "{{ " + base + f" ~ '/sigsum-ops/lab/{DEFAULT_NAME}' }}}}"
    return inventory_text(inventory(select(None), Network(0), lab_state))


def state_root(environ: Mapping[str, str]) -> Path:
    """Where labs are kept: XDG Base Directory Specification, as the committed inventory says."""
    return state_home(environ) / "lab"


def cache_root(environ: Mapping[str, str]) -> Path:
    """Where root file systems are kept between labs."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ["HOME"]) / ".cache"
    return Path(base) / "sigsum-ops/lab"
