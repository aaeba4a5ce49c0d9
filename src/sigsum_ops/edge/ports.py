"""The registry of ports: what each role has to reach, and who has to reach it.

One function for each role that speaks with other machines, in the order of the data's flow. The
role ``firewall`` lets through what is here and nothing else; ``sigsum-ops ports`` shows it. What a
role needs does not depend on which machine is the primary, so that a promotion changes no rule.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sigsum_ops.errors import UsageError
from sigsum_ops.log import policy

Variables = Mapping[str, Any]
Hosts = Mapping[str, Variables]
Groups = Mapping[str, Sequence[str]]

IN, OUT = "in", "out"
# The interface of the role tunnel.
TUNNEL = "sigsum0"
# Peers that are no addresses: whoever may come by ssh, and the name servers of /etc/resolv.conf.
OPERATORS, RESOLVERS = "operators", "resolvers"
EVERYBODY = ("0.0.0.0/0", "::/0")
SOURCES = "firewall_ssh_sources"
ALSO = "firewall_also"
_SCHEMES = {"http": 80, "https": 443, "sftp": 22}
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]*|", re.ASCII)
_FIELDS = {"direction", "protocol", "ports", "peers", "account", "what"}


@dataclass(frozen=True)
class Flow:
    """One thing that a machine answers or asks.

    Attributes:
        role: whose it is.
        what: for a person.
        direction: ``in`` or ``out``.
        ports: where it is answered.
        protocol: ``tcp`` or ``udp``.
        peers: networks, ``operators`` or ``resolvers``; nobody where there are none.
        account: of a flow that goes out, the user whose process asks; any where it is empty.
        interface: by which it comes or goes; any where it is empty.
    """

    role: str
    what: str
    direction: str
    ports: tuple[int, ...]
    protocol: str = "tcp"
    peers: tuple[str, ...] = EVERYBODY
    account: str = ""
    interface: str = ""

    @property
    def public(self) -> bool:
        """Whether strangers come by TCP, of whom none may take all connections."""
        return (self.direction, self.protocol, self.peers) == (IN, "tcp", EVERYBODY)


def flows(name: str, hosts: Hosts, groups: Groups) -> list[Flow]:
    """What the machine ``name`` answers and asks.

    Args:
        name: of the machine.
        hosts: the rendered variables of each.
        groups: the machines of each group.

    Raises:
        UsageError: a setting that names a peer or a port cannot be read.
    """
    site = Site(name, hosts, groups)
    found = [*_base(site), *_exporters(site)]
    for group, roles in ROLES.items():
        if name in groups.get(group, ()):
            for role in roles:
                found += role(site)
    return [*found, *_also(site)]


@dataclass(frozen=True)
class Site:
    """A machine among the others."""

    name: str
    hosts: Hosts
    groups: Groups

    def says(self, setting: str, default: Any = "") -> Any:
        """A setting of the machine; the default where it is not set, or empty."""
        return self.hosts[self.name].get(setting) or default

    @property
    def log_machines(self) -> tuple[str, ...]:
        """The addresses by which the other log machines know each other."""
        return tuple(
            str(self.hosts[other].get("log_server_internal_address") or "")
            for other in self.groups.get("log_machines", ())
            if other != self.name
        )

    @property
    def monitors(self) -> tuple[str, ...]:
        """The addresses from which the other machines of the monitoring ask."""
        said = (
            str(self.hosts[other].get(setting) or "").partition("/")[0]
            for other in self.groups.get("monitors", ())
            for setting in ("tunnel_address", "ansible_host")
            if other != self.name
        )
        return tuple(address for address in said if address and network(address) is not None)

    def listens(self, setting: str) -> list[tuple[str, int]]:
        """The endpoints of a setting at which others can reach the machine."""
        found = [str(each) for each in self.says(setting, ())]
        split = [(each.rpartition(":")[0].strip("[]"), each) for each in found]
        return [
            (address, self.port_of(each, setting))
            for address, each in split
            if not ((there := network(address)) and there.is_loopback)
        ]

    def port(self, setting: str, default: str) -> int:
        """That of a setting with an endpoint, ``host:port``."""
        return self.port_of(str(self.says(setting, default)), setting)

    def port_of(self, endpoint: str, setting: str = "tunnel_endpoint") -> int:
        """That of an endpoint, ``host:port``."""
        try:
            return int(endpoint.rpartition(":")[2])
        except ValueError:
            raise UsageError(
                f"{self.name}: {setting} is {endpoint!r}", hint="Allowed: host:port."
            ) from None

    def remote(self, setting: str, url: str) -> tuple[tuple[str, ...], int]:
        """Whom a URL leads to: an address where it has one, everybody by a name; and the port."""
        try:
            parts = urlsplit(url)
            port = parts.port or _SCHEMES[parts.scheme]
            host = parts.hostname or ""
        except (KeyError, ValueError):
            raise UsageError(
                f"{self.name}: {setting} has {url!r}", hint="Allowed: a URL with a known scheme."
            ) from None
        return (EVERYBODY if network(host) is None else (host,)), port


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """An address or a network; None for what is none, or has a scope: nftables knows none."""
    try:
        return None if "%" in text else ipaddress.ip_network(text)
    except ValueError:
        return None


# --- What each role needs -----------------------------------------------------------------------


def _base(site: Site) -> Iterator[Flow]:
    port = int(site.says("firewall_ssh_port", site.says("ansible_port", 22)))
    yield Flow("base", "ssh", IN, (port,), peers=(OPERATORS,))
    ports = tuple(int(each) for each in site.says("firewall_apt_ports", (80, 443)))
    yield Flow("base", "Debian's archive", OUT, ports, account="_apt")
    yield Flow("base", "time", OUT, (123,), "udp", account="systemd-timesync")
    for protocol in ("udp", "tcp"):
        yield Flow("base", "names", OUT, (53,), protocol, peers=(RESOLVERS,))


def _log_server(site: Site) -> Iterator[Flow]:
    others = site.log_machines
    inside = TUNNEL if site.says("tunnel_address") else ""
    external = site.port("log_server_external_endpoint", "0.0.0.0:6965")
    internal = int(site.says("log_server_internal_port", 6967))
    if site.says("tls_proxy_url"):
        # Who runs the procedures looks at each machine's log itself.
        what = "the log, past the proxy"
        yield Flow("log_server", what, IN, (external,), peers=(OPERATORS,))
        yield Flow("log_server", what, IN, (external,), peers=others, interface=inside)
    else:
        yield Flow("log_server", "the log, for its users", IN, (external,))
    for direction, account in ((IN, ""), (OUT, "sigsum-log")):
        yield Flow(
            "log_server",
            "replication",
            direction,
            (internal,),
            peers=others,
            account=account,
            interface=inside,
        )
    for peers, port in sorted(_witnesses(site)):
        yield Flow("log_server", "witnesses", OUT, (port,), peers=peers, account="sigsum-log")
        what = "witnesses, by a promotion"
        yield Flow("log_server", what, OUT, (port,), peers=peers, account="root")


def _witnesses(site: Site) -> set[tuple[tuple[str, ...], int]]:
    return {
        site.remote(setting, each.url)
        for setting in ("log_server_policy_file", "firewall_policy_before")
        if (path := site.says(setting))
        for each in policy.load(Path(str(path))).witnesses.values()
        if each.url
    }


def _tunnel(site: Site) -> Iterator[Flow]:
    if not site.says("tunnel_address"):
        return
    what = "the other log machines, encrypted"
    own = int(site.says("tunnel_port", 51820))
    for other in site.groups.get("log_machines", ()):
        if other != site.name:
            its = site.hosts[other]
            there = int(its.get("tunnel_port") or 51820)
            host = str(its.get("ansible_host") or other)
            if given := str(its.get("tunnel_endpoint") or ""):
                host, there = given.rpartition(":")[0].strip("[]"), site.port_of(given)
            peers = EVERYBODY if network(host) is None else (host,)
            # The kernel itself asks, of which there is no account.
            yield Flow("tunnel", what, IN, (own,), "udp", peers=peers)
            yield Flow("tunnel", what, OUT, (there,), "udp", peers=peers)


def _resolver(site: Site) -> Iterator[Flow]:
    if site.says("log_server_rate_limit"):
        for protocol in ("udp", "tcp"):
            yield Flow("resolver", "the world's DNS", OUT, (53,), protocol, account="unbound")
            yield Flow("resolver", "sigsum-ops dns check", OUT, (53,), protocol, account="root")


def _tls_proxy(site: Site) -> Iterator[Flow]:
    if not site.says("tls_proxy_url"):
        return
    of_a_log = site.says("tls_proxy_serves", "log") == "log"
    what = "the log, for its users" if of_a_log else "the witness, for logs"
    yield Flow("tls_proxy", what, IN, (443,))
    yield Flow("tls_proxy", "ACME's challenges", IN, (80,))
    peers = tuple(site.says("tls_proxy_peers", site.log_machines if of_a_log else ()))
    yield Flow("tls_proxy", "challenges", OUT, (80,), peers=peers, account="sigsum-proxy")
    if site.says("tls_proxy_acme_email"):
        default = "https://acme-v02.api.letsencrypt.org/directory"
        to, port = site.remote(
            "tls_proxy_acme_directory", site.says("tls_proxy_acme_directory", default)
        )
        yield Flow("tls_proxy", "certificates", OUT, (port,), peers=to, account="root")


def _head_archive(site: Site) -> Iterator[Flow]:
    setting = "head_archive_urls"
    for to, port in sorted({site.remote(setting, str(url)) for url in site.says(setting, ())}):
        yield Flow("head_archive", "tree heads", OUT, (port,), peers=to, account="sigsum-archive")


def _backup(site: Site) -> Iterator[Flow]:
    said = str(site.says("backup_repository"))
    if not said or said.startswith("/"):
        return
    scheme, _, rest = said.partition(":")
    # restic's own forms: sftp:USER@HOST:PATH, and URLs behind rest: and s3:.
    url = said if rest.startswith("//") else rest
    if scheme == "sftp" and not rest.startswith("//"):
        url = f"sftp://{rest.partition(':')[0]}"
    elif scheme == "s3" and not rest.startswith("http"):
        url = f"https://{rest}"
    to, port = site.remote("backup_repository", url)
    for account in ("sigsum-backup", "root"):  # root makes the repository, and restores
        yield Flow("backup", "backups", OUT, (port,), peers=to, account=account)


# Where each exporter answers.
EXPORTERS = {"site_exporter": "site_exporter_listen", "node_exporter": "node_exporter_listen"}


def _exporters(site: Site) -> Iterator[Flow]:
    for role, setting in EXPORTERS.items():
        for address, port in site.listens(setting):
            inside = TUNNEL if address == site.says("tunnel_address") else ""
            yield Flow(role, "Prometheus", IN, (port,), peers=site.monitors, interface=inside)


def _monitoring(site: Site) -> Iterator[Flow]:
    account = "prometheus"
    for role, setting in EXPORTERS.items():
        for name in sorted(site.hosts):
            if name != site.name:
                for address, port in Site(name, site.hosts, site.groups).listens(setting):
                    yield Flow(role, name, OUT, (port,), peers=(address,), account=account)
    receivers = site.says("monitoring_receivers", {})
    urls = {str(url) for ways in receivers.values() for url in ways.get("webhook") or ()}
    for to, port in sorted({site.remote("monitoring_receivers", url) for url in urls}):
        yield Flow("monitoring", "alerts", OUT, (port,), peers=to, account=account)
    for setting in ("monitoring_peers", "monitoring_smtp"):
        said = site.says(setting, [])
        for each in [said.get("smarthost", "")] if isinstance(said, dict) else said:
            host = str(each).rpartition(":")[0].strip("[]")
            to = EVERYBODY if network(host) is None else (host,)
            port = site.port_of(str(each), setting)
            yield Flow("monitoring", "alerts", OUT, (port,), peers=to, account=account)


def _witness(site: Site) -> Iterator[Flow]:
    setting = "witness_bastion"
    for each in filter(None, str(site.says(setting)).split(",")):
        to, port = site.remote(setting, f"https://{each}")
        yield Flow("witness", "the bastion", OUT, (port,), peers=to, account="litewitness")


def _bastion(site: Site) -> Iterator[Flow]:
    port = site.port("bastion_listen", ":443")
    yield Flow("bastion", "logs, and witnesses", IN, (port,))
    if site.says("bastion_acme_host"):
        yield Flow("bastion", "certificates", OUT, (443,), account="litebastion")


def _sigsum_tools(site: Site) -> Iterator[Flow]:
    setting = "sigsum_tools_log_url"
    if url := site.says(setting):
        to, port = site.remote(setting, str(url))
        yield Flow("sigsum_tools", "the log", OUT, (port,), peers=to)


ROLES: Mapping[str, tuple[Callable[[Site], Iterator[Flow]], ...]] = {
    "log_machines": (_tunnel, _log_server, _resolver, _tls_proxy, _head_archive, _backup),
    "witnesses": (_witness, _tls_proxy),
    "bastions": (_bastion,),
    "clients": (_sigsum_tools,),
    "monitors": (_monitoring,),
}


def _also(site: Site) -> Iterator[Flow]:
    for each in site.says(ALSO, ()):
        if wrong := also_problem(each):
            raise UsageError(f"{site.name}: {ALSO} {wrong[0]}", hint=f"Allowed: {wrong[1]}.")
        yield Flow(
            "firewall",
            str(each["what"]),
            str(each["direction"]),
            tuple(each["ports"]),
            str(each.get("protocol", "tcp")),
            tuple(each.get("peers") or EVERYBODY),
            str(each.get("account", "")),
        )


# --- What the settings may say ------------------------------------------------------------------


def problems(variables: Variables) -> Iterator[tuple[str, str, str]]:
    """What is wrong, each as setting, what was found, and what is allowed.

    Args:
        variables: of one machine, which has a firewall.
    """
    sources = variables.get(SOURCES)
    allowed = f"a list of networks; {', '.join(EVERYBODY)} for everywhere"
    if not isinstance(sources, list) or not sources:
        yield SOURCES, f"is {sources!r}: nobody could come to mend anything", allowed
    else:
        for each in sources:
            if network(str(each)) is None:
                yield SOURCES, f"has {each!r}", f"{allowed}, without bits of a host"
    for each in variables.get(ALSO) or ():
        if wrong := also_problem(each):
            yield ALSO, *wrong


def also_problem(each: object) -> tuple[str, str] | None:
    """The same of one of ``firewall_also``: what was found, and what is allowed."""
    if not isinstance(each, dict):
        return f"has {each!r}", f"a dictionary with {', '.join(sorted(_FIELDS))}"
    if unknown := set(each) - _FIELDS:
        return f"has {', '.join(sorted(map(str, unknown)))}", f"{', '.join(sorted(_FIELDS))}"
    what = each.get("what")
    if not isinstance(what, str) or not what.isprintable() or not what:
        return f"has {each!r}", "what, which says what it is for"
    if each.get("direction") not in (IN, OUT):
        return f"has {each.get('direction')!r} as direction", "in, out"
    if each.get("protocol", "tcp") not in ("tcp", "udp"):
        return f"has {each['protocol']!r} as protocol", "tcp, udp"
    ports = each.get("ports")
    if not isinstance(ports, list) or not ports or not all(_is_port(port) for port in ports):
        return f"has {ports!r} as ports", "a list of numbers from 1 to 65535"
    peers = each.get("peers", [])
    if not isinstance(peers, list) or any(network(str(peer)) is None for peer in peers):
        return f"has {peers!r} as peers", "a list of addresses and networks"
    if not _ACCOUNT.fullmatch(str(each.get("account", ""))):
        return f"has {each['account']!r} as account", "the name of a user"
    return None


def _is_port(port: object) -> bool:
    return isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536


# --- What becomes of them -----------------------------------------------------------------------


def shown(name: str, hosts: Hosts, groups: Groups) -> list[dict[str, Any]]:
    """The flows of a machine, as JSON has them."""
    return [asdict(flow) for flow in flows(name, hosts, groups)]


def matches(found: Sequence[Flow], accounts: Mapping[str, int]) -> dict[str, list[str]]:
    """What nftables' rules for the flows match (nft(8)): what stands before their verdict.

    IPv4 and IPv6 addresses cannot be in one match, so a flow may become two. One of an account that
    the machine does not have becomes none. The others have its number: of a file with a name that
    is gone nft takes no rule at all, and the machine would boot without any.

    Returns:
        Matches for ``in`` and for ``out``; ``answered`` are the ports of TCP that somebody may come
        to, ``public`` those to which strangers come.
    """
    made: dict[str, list[str]] = {IN: [], OUT: [], "answered": [], "public": []}
    for flow in found:
        if flow.account and flow.account not in accounts:
            continue
        card = "iifname" if flow.direction == IN else "oifname"
        before = f'{card} "{flow.interface}" ' if flow.interface else ""
        before += f"meta skuid {accounts[flow.account]} " if flow.account else ""
        ports = f"{flow.protocol} dport {{ {', '.join(map(str, flow.ports))} }}"
        for peers in _addresses(flow.peers, "saddr" if flow.direction == IN else "daddr"):
            made[flow.direction].append(f"{before}{peers}{ports}")
        made["public"] += map(str, flow.ports if flow.public else ())
        if (flow.direction, flow.protocol) == (IN, "tcp"):
            made["answered"] += [
                port for port in map(str, flow.ports) if port not in made["answered"]
            ]
    return made


def _addresses(peers: Sequence[str], side: str) -> Iterator[str]:
    """A match for each family and each named set, and one that needs none for everybody."""
    if tuple(peers) == EVERYBODY:
        yield ""
        return
    for name in (OPERATORS, RESOLVERS):
        if name in peers:
            yield f"ip {side} @{name}4 "
            yield f"ip6 {side} @{name}6 "
    given = [found for peer in peers if (found := network(peer)) is not None]
    for family, word in ((4, "ip"), (6, "ip6")):
        if own := ", ".join(str(each) for each in given if each.version == family):
            yield f"{word} {side} {{ {own} }} "


def lines(sites: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """What ``sigsum-ops ports`` prints of ``shown``, by machine."""
    for name, found in sites.items():
        yield f"{name}"
        for direction, heading in ((IN, "answers"), (OUT, "asks")):
            for flow in found:
                if flow["direction"] == direction:
                    ports = ", ".join(map(str, flow["ports"]))
                    everybody = tuple(flow["peers"]) == EVERYBODY
                    peers = "everybody" if everybody else ", ".join(flow["peers"]) or "nobody"
                    account = f" as {flow['account']}" if flow["account"] else ""
                    account += f" by {flow['interface']}" if flow["interface"] else ""
                    arrow = "from" if direction == IN else "to"
                    yield (
                        f"  {heading:8}{flow['protocol']} {ports:12} {arrow} {peers}{account}:"
                        f" {flow['what']} ({flow['role']})"
                    )
