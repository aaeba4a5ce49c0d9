"""What an inventory may not say, found before any machine is touched.

``problems`` judges; the filter ``sigsum_ops.site.inventory_problems`` hands it the variables as
Ansible renders them, and ``check`` is that filter run by Ansible for the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import yaml

from sigsum_ops.edge import access, endpoint, policies, ports, zones
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log import policy, ratelimit
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.site import ansible

LOG_MACHINES = "log_machines"
WITNESSES = "witnesses"
BASTIONS = "bastions"
CLIENTS = "clients"

Variables = Mapping[str, object]
# By setting: whether a text is of its form, and what is allowed.
Forms = Mapping[str, tuple[Callable[[str], bool], str]]

_ROLE = "log_server_role"
_LOG_KEY = "log_server_public_key"
_WITNESS_KEY = "witness_public_key"
_SERVES = "tls_proxy_serves"
_BASTION = "witness_bastion"
_SECONDARY_KEY = "log_server_secondary_public_key"
_SECONDARY_URL = "log_server_secondary_url"
_ADDRESS = "log_server_internal_address"
_EXTERNAL = "log_server_external_endpoint"
_GATING = "log_server_gating_secondary"
_POLICY = "log_server_policy_file"
_ZONES = "resolver_zones"
_TUNNEL = "tunnel_address"
_DESCRIBED = "sigsum_policy"
_RATE_LIMIT = "log_server_rate_limit"
_SOFTWARE_KEY = "log_server_software_key_file"
_ALLOW_SOFTWARE_KEY = "log_server_allow_software_key"
_CLIENT_KEY = "sigsum_tools_log_key"
_CLIENT_URL = "sigsum_tools_log_url"
_CLIENT_POLICY = "sigsum_tools_policy_file"
_KEYS = (_LOG_KEY, _SECONDARY_KEY, _CLIENT_KEY, _WITNESS_KEY)
_REQUIRED = (_LOG_KEY, _ADDRESS, _CLIENT_KEY, _CLIENT_URL, _WITNESS_KEY)

# time.ParseDuration of Go: decimal numbers, each with its unit, one after the other.
_DURATION = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One thing that the inventory may not say.

    ``where`` is a host, several hosts or a group; ``found`` ends a sentence that starts with the
    setting ("is …", "differs …"); ``allowed`` says what may stand there instead.
    """

    where: str
    setting: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.where}: {self.setting} {self.found}. Allowed: {self.allowed}."


def problems(
    hosts: Mapping[str, Variables],
    groups: Mapping[str, Sequence[str]],
    roles: Mapping[str, Iterable[str]],
) -> list[Problem]:
    """Everything that is wrong, in an order that does not depend on the inventory's.

    Args:
        hosts: the rendered variables of each host; read only where a rule needs the value.
        groups: the hosts of each group.
        roles: the variables of each role. A name that starts with a role's name and an underscore
            is that role's, so one that is not in its list is misspelt.
    """
    machines = {name: hosts[name] for name in groups.get(LOG_MACHINES, ())}
    found = [
        *_unknown_variables(hosts, roles),
        *_twice(hosts, "ansible_host", _endpoint),
        *_twice(machines, _ADDRESS, _internal_address),
        *(_roles(machines) if machines or not _without_log(groups) else ()),
        *_parts(groups, hosts),
        *_one_log(machines),
        *_one_door(machines),
        *_tunnel(machines),
    ]
    for group, forms in VALUES.items():
        for name in groups.get(group, ()):
            found += _values(name, hosts[name], forms)
    for name, variables in machines.items():
        found += _replication(name, variables, machines)
        found += _log_key(name, variables)
        found += _policy_file(name, variables, _POLICY, _LOG_KEY)
        found += _rate_limit(name, variables)
        for wrong, allowed in zones.problems(variables.get(_ZONES)):
            found.append(Problem(name, _ZONES, wrong, allowed))
        found += _public_endpoint(name, variables)
        found += _past_the_proxy(name, variables)
    for name in groups.get(WITNESSES, ()):
        found += _public_endpoint(name, hosts[name])
    for name, variables in hosts.items():
        found += _way_in(name, variables)
    for name in groups.get(CLIENTS, ()):
        found += _policy_file(name, hosts[name], _CLIENT_POLICY, _CLIENT_KEY)
    return sorted(found, key=lambda problem: (problem.where, problem.setting, problem.found))


def role_variables(roles: Path) -> dict[str, list[str]]:
    """The variables of each role below a ``roles`` directory, from its argument_specs.

    Raises:
        OpsError: a role whose specification cannot be read.
    """
    found = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        try:
            entry_points = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
            found[path.parts[-3]] = sorted(
                {name for entry in entry_points.values() for name in entry.get("options", {})}
            )
        except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
            raise OpsError(f"{path}: not an argument specification: {error}") from error
    return found


def check(inventory: Path | None) -> list[str]:
    """Have Ansible render an inventory and judge it; ``None`` is the one that ansible.cfg names.

    Ansible itself renders the variables (templates, vaulted values, group order), so that what is
    checked is what ``site.yml`` would use. No machine is contacted.

    Args:
        inventory: file or directory, as for ``ansible-playbook -i``.

    Raises:
        UsageError: Ansible cannot read or render the inventory.
        OpsError: Ansible is not installed, or its answer is not understood.
    """
    template = "{{ hostvars | sigsum_ops.site.inventory_problems(groups) }}"
    return cast(list[str], ansible.render(template, inventory))


# --- Rules over several machines ----------------------------------------------------------------


def _without_log(groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether it is the site of a witness or a bastion, whose logs are other people's."""
    return bool(groups.get(WITNESSES) or groups.get(BASTIONS))


def _parts(
    groups: Mapping[str, Sequence[str]], hosts: Mapping[str, Variables]
) -> Iterator[Problem]:
    """What one machine cannot be at the same time, and no two witnesses with one key."""
    for name in sorted(set(groups.get(WITNESSES, ())) & set(groups.get(LOG_MACHINES, ()))):
        found = f"is in the group {LOG_MACHINES}, too, and has one signing oracle"
        yield Problem(name, f"group {WITNESSES}", found, "a log or a witness on one machine")
    for name in groups.get(BASTIONS, ()):
        port = (_text(hosts[name], "bastion_listen") or ":443").rpartition(":")[2]
        if hosts[name].get(endpoint.URL) and port == "443":
            found = "is :443, where the proxy of tls_proxy_url answers"
            yield Problem(name, "bastion_listen", found, "another port, or another machine")
    for group, serves in ((LOG_MACHINES, "log"), (WITNESSES, "witness")):
        for name in groups.get(group, ()):
            if hosts[name].get(endpoint.URL):
                if (_text(hosts[name], _SERVES) or "log") != serves:
                    found = f"{_is(hosts[name], _SERVES)}, and {endpoint.URL} is set"
                    yield Problem(name, _SERVES, found, f"{serves}, in the group {group}")
                if serves == "witness" and _text(hosts[name], _BASTION):
                    found = f"is set, and {_BASTION}, through which logs come instead"
                    yield Problem(name, endpoint.URL, found, "one of the two")
    seen: dict[str, str] = {}
    for name in groups.get(WITNESSES, ()):
        if key := _key(hosts[name], _WITNESS_KEY):
            if key == _key(hosts[name], _LOG_KEY):
                allowed = "a key of the witness's own"
                yield Problem(name, _WITNESS_KEY, "is the log's own key", allowed)
            if key.hex in seen:
                where = f"{seen[key.hex]}, {name}"
                yield Problem(where, _WITNESS_KEY, "is the same", "a key for each witness")
            seen[key.hex] = name


def _unknown_variables(
    hosts: Mapping[str, Variables], roles: Mapping[str, Iterable[str]]
) -> Iterator[Problem]:
    where = defaultdict(list)
    for host, variables in hosts.items():
        for name in variables:
            where[name].append(host)
    for role, known in roles.items():
        names = sorted(known)
        for name in where:
            if name.startswith(f"{role}_") and name not in names:
                close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
                allowed = f"did you mean {close[0]}?" if close else f"one of {', '.join(names)}"
                yield Problem(
                    ", ".join(sorted(where[name])), name, "is not a variable of its role", allowed
                )


def _twice(
    hosts: Mapping[str, Variables], setting: str, identity: Callable[[str, Variables], str | None]
) -> Iterator[Problem]:
    seen = defaultdict(list)
    for name, variables in hosts.items():
        if (place := identity(name, variables)) is not None:
            seen[place].append(name)
    for place, names in seen.items():
        if len(names) > 1:
            yield Problem(
                ", ".join(sorted(names)), setting, f"is {place} for each", "each machine once"
            )


def _endpoint(name: str, variables: Variables) -> str:
    """Where ssh goes, so that two spellings of one place are equal."""
    host = _text(variables, "ansible_host") or name
    address = _ip(host)
    place = str(address) if address else host.rstrip(".").lower()
    return f"{place} port {_text(variables, 'ansible_port') or '22'}"


def _internal_address(_name: str, variables: Variables) -> str | None:
    address = _ip(_text(variables, _ADDRESS))
    return str(address) if address else None


def _roles(machines: Mapping[str, Variables]) -> Iterator[Problem]:
    part: dict[str, list[str]] = {"primary": [], "secondary": []}
    for name, variables in machines.items():
        role = _text(variables, _ROLE)
        if role in part:
            part[role].append(name)
        else:
            yield Problem(name, _ROLE, _is(variables, _ROLE), "primary or secondary")
    if len(part["primary"]) != 1:
        found = f"is primary on {', '.join(sorted(part['primary'])) or 'no host'}"
        yield Problem(f"group {LOG_MACHINES}", _ROLE, found, "primary on exactly one host")
    if not part["secondary"]:
        yield Problem(
            f"group {LOG_MACHINES}",
            _ROLE,
            "is secondary on no host",
            "secondary on at least one host, else the log is not replicated",
        )


def _one_door(machines: Mapping[str, Variables]) -> Iterator[Problem]:
    """A machine without would be a primary that nobody reaches, once it is promoted."""
    urls = {str(machine.get(endpoint.URL) or "") for machine in machines.values()}
    if len(urls) > 1:
        found = f"differs between the machines ({', '.join(sorted(map(repr, urls)))})"
        yield Problem(f"group {LOG_MACHINES}", endpoint.URL, found, "one URL, on all or on none")


def _tunnel(machines: Mapping[str, Variables]) -> Iterator[Problem]:
    """All log machines are in it, each by the address that the others know it by."""
    without = sorted(name for name, its in machines.items() if not _text(its, _TUNNEL))
    if len(without) == len(machines):
        return
    for name in without:
        allowed = "an address within the tunnel, on all log machines or on none"
        yield Problem(name, _TUNNEL, "is not set, and on other log machines it is", allowed)
    for name, its in machines.items():
        address = _text(its, _TUNNEL)
        if address is None:
            continue
        if _ip(address) is None:
            yield Problem(name, _TUNNEL, _is(its, _TUNNEL), "an IPv4 or IPv6 address")
        elif _ip(address) != _ip(_text(its, _ADDRESS)):
            allowed = f"{_TUNNEL} ({address}), so that replication goes through the tunnel"
            yield Problem(name, _ADDRESS, _is(its, _ADDRESS), allowed)
        elif (host := _ip(_text(its, "ansible_host"))) and host == _ip(address):
            allowed = "an address that the machine has within the tunnel only"
            yield Problem(name, _TUNNEL, "is ansible_host, where it is reached without", allowed)


def _one_log(machines: Mapping[str, Variables]) -> Iterator[Problem]:
    keys = {key.hex for machine in machines.values() if (key := _key(machine, _LOG_KEY))}
    if len(keys) > 1:
        yield Problem(
            f"group {LOG_MACHINES}",
            _LOG_KEY,
            f"differs between the machines ({', '.join(sorted(keys))})",
            "one key: the machines of a site serve one log",
        )


# --- Rules about one machine --------------------------------------------------------------------


def _values(name: str, variables: Variables, forms: Forms) -> Iterator[Problem]:
    for setting, (valid, allowed) in forms.items():
        text = _text(variables, setting)
        if setting in _KEYS and isinstance(variables.get(setting), int | float):
            # Hex that happens to have no letters, or one e: YAML has lost the digits already.
            yield Problem(name, setting, "is a number to YAML", f"{allowed}, in quotes")
        elif (text is None and setting in _REQUIRED) or (text is not None and not valid(text)):
            yield Problem(name, setting, _is(variables, setting), allowed)


def _replication(
    name: str, variables: Variables, machines: Mapping[str, Variables]
) -> Iterator[Problem]:
    url, key = (_text(variables, setting) for setting in (_SECONDARY_URL, _SECONDARY_KEY))
    if (url is None) != (key is None):
        missing, there = (_SECONDARY_URL, _SECONDARY_KEY)[:: 1 if url is None else -1]
        yield Problem(
            name,
            missing,
            f"is not set while {there} is, which would turn replication off",
            "both or none of the two",
        )
    secondary_key = _key(variables, _SECONDARY_KEY)
    if secondary_key is not None and secondary_key == _key(variables, _LOG_KEY):
        yield Problem(
            name,
            _SECONDARY_KEY,
            "is the log's own key",
            "the secondary's node key, made on that machine",
        )
    secondaries = sorted(
        other for other, its in machines.items() if _text(its, _ROLE) == "secondary"
    )
    gating = _text(variables, _GATING)
    # With one secondary there is no choice; with more, a guess could replicate to the wrong site.
    free = gating is None and (len(secondaries) < 2 or _text(variables, _ROLE) != "primary")
    if not free and gating not in secondaries:
        allowed = f"a secondary of this inventory: {', '.join(secondaries) or 'there is none'}"
        yield Problem(name, _GATING, _is(variables, _GATING), allowed)


def _log_key(name: str, variables: Variables) -> Iterator[Problem]:
    allowed = (_text(variables, _ALLOW_SOFTWARE_KEY) or "").lower()
    if _text(variables, _SOFTWARE_KEY) and allowed not in {"true", "yes", "on", "1"}:
        yield Problem(
            name,
            _SOFTWARE_KEY,
            "is set: the log would sign with a key in a file",
            f"a key in an HSM, or {_ALLOW_SOFTWARE_KEY}: true where the log is a test",
        )


def _rate_limit(name: str, variables: Variables) -> Iterator[Problem]:
    try:
        ratelimit.parse(variables.get(_RATE_LIMIT))
    except UsageError as error:
        yield Problem(name, _RATE_LIMIT, error.message, error.hint or "")


def _way_in(name: str, variables: Variables) -> Iterator[Problem]:
    """Who may come in, from where."""
    for setting, judge in ((ports.SOURCES, ports.problems), (access.OPERATORS, access.problems)):
        if setting in variables:
            for wrong in judge(variables):
                yield Problem(name, *wrong)


def _public_endpoint(name: str, variables: Variables) -> Iterator[Problem]:
    if not variables.get(endpoint.URL):
        return
    for wrong in endpoint.problems(variables):
        yield Problem(name, *wrong)


def _past_the_proxy(name: str, variables: Variables) -> Iterator[Problem]:
    everywhere = endpoint.is_everywhere(_text(variables, _EXTERNAL) or "0.0.0.0:6965")
    if variables.get(endpoint.URL) and everywhere:
        found = f"{_is(variables, _EXTERNAL)}: the log would answer past its proxy, without TLS"
        allowed = "the machine's internal address with a port, such as 192.0.2.10:6965"
        yield Problem(name, _EXTERNAL, found, allowed)


def _policy_file(
    name: str, variables: Variables, setting: str, key_setting: str
) -> Iterator[Problem]:
    text = _text(variables, setting)
    if text is None:
        if variables.get(_DESCRIBED) and setting == _POLICY:
            allowed = f"the file that is made of {_DESCRIBED} by `sigsum-ops policy build`"
            yield Problem(name, setting, "is not set", allowed)
        return
    if not Path(text).is_absolute():
        allowed = "an absolute path on the controller, such as {{ inventory_dir }}/policy.txt"
        yield Problem(name, setting, _is(variables, setting), allowed)
        return
    try:
        parsed = policy.load(Path(text))
    except UsageError as error:
        allowed = error.hint or "a readable Sigsum policy file"
        yield Problem(name, setting, f"is refused: {error.message}", allowed.rstrip("."))
        return
    key = _key(variables, key_setting)
    if key is not None and parsed.logs and key not in {log.key for log in parsed.logs}:
        found = f"({text}) has no log line for {key_setting}"
        yield Problem(name, setting, found, f"no log line, or log {key.hex}")
    yield from _described(name, variables, setting, parsed)


def _described(
    name: str, variables: Variables, setting: str, parsed: policy.Policy
) -> Iterator[Problem]:
    """The file that everybody uses, compared with what the inventory says of its witnesses."""
    if not (described := variables.get(_DESCRIBED)):
        return
    try:
        wanted = policy.parse(policy.build(described).encode())
    except UsageError as error:
        yield Problem(name, _DESCRIBED, error.message, (error.hint or "").rstrip("."))
        return
    if any(policies.differences(wanted, dataclasses.replace(parsed, logs=[]))):
        found = f"does not say what {_DESCRIBED} says"
        yield Problem(name, setting, found, "what `sigsum-ops policy build` prints")


# --- Values -------------------------------------------------------------------------------------


def _text(variables: Variables, setting: str) -> str | None:
    """A setting as text; absent, null and empty are all ``None``, "not set"."""
    value = variables.get(setting)
    return None if value is None or value == "" else str(value)


def _is(variables: Variables, setting: str) -> str:
    """How a message shows what was found: on one line, and not a screenful."""
    text = _text(variables, setting)
    return "is not set" if text is None else f"is {text[:80]!r}"


def _key(variables: Variables, setting: str) -> PublicKey | None:
    try:
        return PublicKey.parse(_text(variables, setting) or "")
    except UsageError:
        return None


def _ip(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text or "")
    except ValueError:
        return None


def _is_key(text: str) -> bool:
    try:
        PublicKey.parse(text)
    except UsageError:
        return False
    return True


def _is_peer_address(text: str) -> bool:
    address = _ip(text)
    return address is not None and not (
        address.is_unspecified or address.is_loopback or address.is_multicast
    )


def _is_duration(text: str) -> bool:
    return _DURATION.fullmatch(text) is not None and re.search(r"[1-9]", text) is not None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) > 0


def _is_count_to(least: int, most: int) -> Callable[[str], bool]:
    return lambda text: text.isascii() and text.isdecimal() and least <= int(text) <= most


def _is_host_and_port(text: str) -> bool:
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        known_host = isinstance(_ip(host[1:-1]), ipaddress.IPv6Address)
    else:
        known_host = _HOST_NAME.fullmatch(host) is not None
    return bool(separator) and known_host and _is_port(port)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number or out of range; a broken IPv6 address
        return False


_KEY_FORMS = "one Ed25519 public key, as an OpenSSH line (ssh-ed25519 AAAA…) or 64 hex digits"
_DURATION_FORM = "a duration as Go writes it, above zero, such as 10s, 500ms or 1m30s"
_ENDPOINT_FORM = "host:port with a port from 1 to 65535, IPv6 in brackets"
_URL_FORM = "an http or https URL, such as http://192.0.2.10:6967"

# What a role's specification cannot say of a value: its form. By the group that has the role.
_PROXY: Forms = {
    "tls_proxy_upstream": (_is_host_and_port, _ENDPOINT_FORM),
    "tls_proxy_requests_per_second": (_is_count, "requests in a second, 1 or more"),
    "tls_proxy_connections": (_is_count, "connections at a time, 1 or more"),
    "tls_proxy_log_days": (_is_count_to(0, 3650), "days, 0 to 3650"),
}
VALUES: Mapping[str, Forms] = {
    LOG_MACHINES: {
        _LOG_KEY: (_is_key, _KEY_FORMS),
        _SECONDARY_KEY: (_is_key, _KEY_FORMS),
        _ADDRESS: (
            _is_peer_address,
            "the IP address at which the other log machine reaches this one",
        ),
        "log_server_internal_port": (_is_port, "a port from 1 to 65535"),
        _EXTERNAL: (_is_host_and_port, _ENDPOINT_FORM),
        "tunnel_endpoint": (_is_host_and_port, _ENDPOINT_FORM),
        "tunnel_port": (_is_port, "a port from 1 to 65535"),
        "log_server_trillian_endpoint": (_is_host_and_port, _ENDPOINT_FORM),
        "trillian_rpc_endpoint": (_is_host_and_port, _ENDPOINT_FORM),
        "trillian_http_endpoint": (_is_host_and_port, _ENDPOINT_FORM),
        "trillian_signer_rpc_endpoint": (_is_host_and_port, _ENDPOINT_FORM),
        "trillian_signer_http_endpoint": (_is_host_and_port, _ENDPOINT_FORM),
        "log_server_primary_url": (_is_url, _URL_FORM),
        _SECONDARY_URL: (_is_url, _URL_FORM),
        "log_server_interval": (_is_duration, _DURATION_FORM),
        "log_server_secondary_interval": (_is_duration, _DURATION_FORM),
        "log_server_timeout": (_is_duration, _DURATION_FORM),
        "trillian_sequencer_interval": (_is_duration, _DURATION_FORM),
        **_PROXY,
        "resolver_cache_mb": (_is_count_to(2, 65536), "MiB, 2 to 65536"),
        "resolver_max_ttl": (_is_count_to(1, 86400), "seconds, 1 to 86400"),
        "resolver_max_negative_ttl": (_is_count_to(1, 86400), "seconds, 1 to 86400"),
        "log_server_max_range": (_is_count, "a number of leaves, 1 or more"),
        "log_server_log_level": (
            lambda text: text in {"debug", "info", "warning", "error"},
            "debug, info, warning or error",
        ),
    },
    WITNESSES: {_WITNESS_KEY: (_is_key, _KEY_FORMS), **_PROXY},
    CLIENTS: {
        _CLIENT_KEY: (_is_key, _KEY_FORMS),
        _CLIENT_URL: (_is_url, _URL_FORM),
    },
}
