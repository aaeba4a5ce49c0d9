"""An inventory that cannot be right is refused: the host, the setting and what is allowed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.log import policy
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.site.inventory import VALUES, check, problems, role_variables

ROOT = Path(__file__).parents[2]
LOG_KEY, NODE_KEY, OTHER_KEY = (PublicKey(bytes([octet]) * 32) for octet in (1, 2, 3))
RSA = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ"

Hosts = dict[str, dict[str, object]]

ROLES = role_variables(ROOT / "roles")


def site() -> tuple[Hosts, dict[str, list[str]]]:
    """A site that may be converged: everything set that a rule reads, apart from files."""
    shared: dict[str, object] = {
        "log_server_public_key": LOG_KEY.ssh + " the log",
        "log_server_external_endpoint": "log.example.org:6965",
        "log_server_internal_port": 6967,
        "log_server_trillian_endpoint": "[::1]:8090",
        "log_server_interval": "10s",
        "log_server_secondary_interval": "500ms",
        "log_server_timeout": "1m30s",
        "log_server_max_range": 512,
        "log_server_log_level": "info",
        "trillian_rpc_endpoint": "127.0.0.1:8090",
        "trillian_sequencer_interval": "100ms",
        "unrelated": "{{ never read }}",
    }
    hosts: Hosts = {
        "north": {
            **shared,
            "ansible_host": "192.0.2.10",
            "log_server_role": "primary",
            "log_server_internal_address": "192.0.2.10",
            "log_server_secondary_url": "http://198.51.100.20:6967",
            "log_server_secondary_public_key": NODE_KEY.hex,
            "log_server_gating_secondary": "south",
        },
        "south": {
            **shared,
            "ansible_host": "south.example.org",
            "log_server_role": "secondary",
            "log_server_internal_address": "2001:db8::20",
            "log_server_primary_url": "http://192.0.2.10:6967/",
        },
        "desk": {
            "sigsum_tools_log_key": LOG_KEY.hex,
            "sigsum_tools_log_url": "https://log.example.org/",
        },
    }
    return hosts, {"log_machines": ["north", "south"], "clients": ["desk"], "all": list(hosts)}


@dataclass(frozen=True)
class Mutation:
    """One thing made wrong, and where and how it must be named."""

    change: Callable[[Hosts], object]
    where: str
    setting: str
    says: str


def _set(host: str, setting: str, value: object, says: str) -> Mutation:
    return Mutation(lambda hosts: hosts[host].update({setting: value}), host, setting, says)


def _unset(host: str, setting: str, says: str) -> Mutation:
    return Mutation(lambda hosts: hosts[host].pop(setting, None), host, setting, says)


GROUP = "group log_machines"
KEY, NODE = "log_server_public_key", "log_server_secondary_public_key"
ADDRESS, URL = "log_server_internal_address", "log_server_secondary_url"
EXTERNAL, ROLE = "log_server_external_endpoint", "log_server_role"
RATE = "log_server_rate_limit"

MUTATIONS = {
    "two primaries": Mutation(
        lambda hosts: hosts["south"].update({ROLE: "primary"}), GROUP, ROLE, "on north, south"
    ),
    "no primary": Mutation(
        lambda hosts: hosts["north"].update({ROLE: "secondary"}), GROUP, ROLE, "on no host"
    ),
    "no secondary": Mutation(
        lambda hosts: hosts["south"].update({ROLE: "primary"}), GROUP, ROLE, "not replicated"
    ),
    "no role": _unset("south", ROLE, "is not set. Allowed: primary or secondary"),
    "another role": _set("south", ROLE, "replica", "is 'replica'. Allowed: primary or secondary"),
    "one machine under two names": Mutation(
        lambda hosts: hosts["desk"].update(ansible_host="South.Example.org.", ansible_port=22),
        "desk, south",
        "ansible_host",
        "south.example.org port 22",
    ),
    "one address in two spellings": Mutation(
        lambda hosts: hosts["north"].update({ADDRESS: "2001:DB8:0::20"}),
        "north, south",
        ADDRESS,
        "2001:db8::20",
    ),
    "no address": _unset("north", ADDRESS, "is not set"),
    "a name as address": _set("north", ADDRESS, "north.example.org", "IP address"),
    "an address nobody else reaches": _set("north", ADDRESS, "127.0.0.1", "IP address"),
    "replication without key": _unset("north", NODE, "turn replication off"),
    "replication with an empty key": _set("north", NODE, "", "turn replication off"),
    "replication without URL": _set("north", URL, None, "turn replication off"),
    "no log key": _unset("south", KEY, "is not set. Allowed: one Ed25519"),
    "a log key that is RSA": _set("south", KEY, RSA, "one Ed25519 public key"),
    "a log key of digits that YAML made a number": _set("south", KEY, 10**63, "in quotes"),
    "a log key cut short": _set("south", KEY, LOG_KEY.hex[:-1], "one Ed25519 public key"),
    "a node key that is RSA": _set("north", NODE, RSA, "one Ed25519 public key"),
    "the log's key for the node": _set("north", NODE, LOG_KEY.ssh, "is the log's own key"),
    "a client without the log's key": _unset("desk", "sigsum_tools_log_key", "is not set"),
    "a client with an RSA key": _set("desk", "sigsum_tools_log_key", RSA, "one Ed25519"),
    "a client without URL": _unset("desk", "sigsum_tools_log_url", "http or https URL"),
    "a client without policy": _set(
        "desk", "sigsum_tools_policy_file", "/nonexistent/policy", "cannot read the policy file"
    ),
    "a public URL without TLS": _set(
        "north", "tls_proxy_url", "http://log.example.org", "https://"
    ),
    "a log that answers past its proxy": Mutation(
        lambda hosts: hosts["north"].update(
            {
                EXTERNAL: "0.0.0.0:6965",
                "tls_proxy_url": "https://log.example.org/",
                "tls_proxy_acme_email": "operator@example.org",
            }
        ),
        "north",
        EXTERNAL,
        "past its proxy",
    ),
    "a door on one machine": Mutation(
        lambda hosts: hosts["north"].update(
            {
                EXTERNAL: "192.0.2.10:6965",
                "tls_proxy_url": "https://log.example.org/",
                "tls_proxy_acme_email": "operator@example.org",
            }
        ),
        GROUP,
        "tls_proxy_url",
        "one URL, on all or on none",
    ),
    "a tunnel from one machine": Mutation(
        lambda hosts: hosts["north"].update({"tunnel_address": "10.9.0.1", ADDRESS: "10.9.0.1"}),
        "south",
        "tunnel_address",
        "on other log machines it is",
    ),
    "replication beside the tunnel": Mutation(
        lambda hosts: [
            hosts[name].update({"tunnel_address": f"10.9.0.{number}"})
            for number, name in enumerate(("north", "south"))
        ],
        "north",
        ADDRESS,
        "so that replication goes through the tunnel",
    ),
    "a tunnel to a name": _set("north", "tunnel_address", "north", "an IPv4 or IPv6 address"),
    "ssh from nowhere": _set("desk", "firewall_ssh_sources", [], "nobody could come"),
    "an operator without keys": _set(
        "desk", "ssh_access_operators", {"alice": {}}, "has no keys for alice"
    ),
    "two logs in one site": Mutation(
        lambda hosts: hosts["south"].update({KEY: OTHER_KEY.hex}), GROUP, KEY, OTHER_KEY.hex
    ),
    "a key in a file": _set(
        "south", "log_server_software_key_file", "/etc/key", "log_server_allow_software_key: true"
    ),
    "gated on itself": _set(
        "north", "log_server_gating_secondary", "north", "a secondary of this inventory: south"
    ),
    "gated on nobody": _set("north", "log_server_gating_secondary", "west", "is 'west'"),
    "a near miss": Mutation(
        lambda hosts: hosts["north"].update(log_server_secondary_pubkey="x"),
        "north",
        "log_server_secondary_pubkey",
        "did you mean log_server_secondary_public_key?",
    ),
    "an unknown name outside the group": Mutation(
        lambda hosts: hosts["desk"].update(mariadb_zzz=1),
        "desk",
        "mariadb_zzz",
        "one of mariadb_buffer_pool_mb, ",
    ),
    "an interval without unit": _set("south", "log_server_interval", 10, "is '10'. Allowed: a dur"),
    "an interval in words": _set("south", "log_server_interval", "10 s", "such as 10s"),
    "an interval of nothing": _set("south", "log_server_secondary_interval", "0s", "above zero"),
    "a time-out below zero": _set("south", "log_server_timeout", "-1s", "above zero"),
    "a sequencer without unit": _set("south", "trillian_sequencer_interval", 100, "such as 10s"),
    "a rate limit in words": _set("south", RATE, {"public": "ten"}, "public: is 'ten'. Allowed: a"),
    "a rate limit of a misspelt kind": _set("south", RATE, {"publc": 1}, "has 'publc'"),
    "a rate limit for a record": _set(
        "south", RATE, {"domain": {"_sigsum_v1.example.org": 1}}, "without the label _sigsum_v1"
    ),
    "a port out of range": _set("north", "log_server_internal_port", 65536, "from 1 to 65535"),
    "a port in words": _set("north", "log_server_internal_port", "http", "from 1 to 65535"),
    "an endpoint without port": _set("north", EXTERNAL, "log.example.org", "host:port"),
    "an endpoint with port 0": _set("north", EXTERNAL, "log.example.org:0", "host:port"),
    "an endpoint of bare IPv6": _set("north", EXTERNAL, "2001:db8::1:6965", "IPv6 in brackets"),
    "an endpoint with a scheme": _set(
        "north", "log_server_trillian_endpoint", "http://localhost:8090", "host:port"
    ),
    "a URL without scheme": _set("north", URL, "198.51.100.20:6967", "http or https URL"),
    "a URL with a bad port": _set("south", "log_server_primary_url", "http://a:99999", "http or"),
    "a range of nothing": _set("north", "log_server_max_range", 0, "1 or more"),
    "a level log-go lacks": _set("north", "log_server_log_level", "trace", "debug, info"),
}


def test_a_valid_site_has_no_problems() -> None:
    hosts, groups = site()
    assert problems(hosts, groups, ROLES) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mistake_is_named(name: str) -> None:
    mutation = MUTATIONS[name]
    hosts, groups = site()
    mutation.change(hosts)
    _assert_named(mutation, [str(problem) for problem in problems(hosts, groups, ROLES)])


def _assert_named(mutation: Mutation, lines: list[str]) -> None:
    start = f"{mutation.where}: {mutation.setting} "
    assert any(line.startswith(start) and mutation.says in line for line in lines), lines
    assert all("\n" not in line for line in lines)


_durations = st.from_regex(
    r"([1-9][0-9]{0,3}(\.[0-9]{1,3})?(ns|us|µs|ms|s|m|h)){1,3}", fullmatch=True
)
_keys = st.sampled_from([LOG_KEY.hex, LOG_KEY.ssh, f"  {LOG_KEY.ssh} some comment\n"])


@st.composite
def valid_sites(draw: st.DrawFn) -> tuple[Hosts, dict[str, list[str]]]:
    """Valid variations: order, forms of values, optional settings left out, more hosts."""
    hosts, groups = site()
    for name in groups["log_machines"]:
        hosts[name]["log_server_public_key"] = draw(_keys)
        hosts[name]["log_server_interval"] = draw(_durations)
        hosts[name]["log_server_internal_port"] = draw(
            st.integers(1, 65535) | st.integers(1, 65535).map(str)
        )
        for optional in draw(st.sets(st.sampled_from(["log_server_timeout", EXTERNAL]))):
            hosts[name].pop(optional)
    for number in range(draw(st.integers(0, 3))):
        hosts[f"extra{number}"] = {"ansible_host": f"203.0.113.{number}"}
    order = draw(st.permutations(list(hosts)))
    groups["log_machines"] = draw(st.permutations(groups["log_machines"]))
    return {name: hosts[name] for name in order}, groups


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(variation=valid_sites(), name=st.sampled_from(sorted(MUTATIONS)))
def test_any_valid_site_passes_and_any_mistake_in_it_is_named(
    variation: tuple[Hosts, dict[str, list[str]]], name: str
) -> None:
    hosts, groups = variation
    assert problems(hosts, groups, ROLES) == []
    changed = copy.deepcopy(hosts)
    MUTATIONS[name].change(changed)
    _assert_named(MUTATIONS[name], [str(problem) for problem in problems(changed, groups, ROLES)])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_value_whatever_breaks_the_check(data: st.DataObject) -> None:
    hosts, groups = site()
    setting = data.draw(st.sampled_from([*ROLES["log_server"], "ansible_host", "ansible_port"]))
    value = data.draw(
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
    )
    hosts["north"][setting] = value
    for problem in problems(hosts, groups, ROLES):
        assert "\n" not in str(problem)


def test_an_inventory_without_log_machines_names_both_parts() -> None:
    settings_named = [str(problem) for problem in problems({}, {}, ROLES)]
    assert len(settings_named) == 2
    assert all(line.startswith(f"{GROUP}: {ROLE} ") for line in settings_named)


def witnesses() -> tuple[Hosts, dict[str, list[str]]]:
    """The site of two witnesses and a bastion, whose logs are other people's."""
    hosts: Hosts = {
        "east": {"witness_public_key": NODE_KEY.ssh},
        "west": {"witness_public_key": OTHER_KEY.hex, "tls_proxy_url": ""},
        "gate": {},
    }
    return hosts, {"witnesses": ["east", "west"], "bastions": ["gate"], "all": list(hosts)}


def test_a_site_may_be_without_a_log() -> None:
    assert problems(*witnesses(), ROLES) == []


@pytest.mark.parametrize(
    ("host", "settings", "says"),
    [
        ("east", {"witness_public_key": ""}, "east: witness_public_key is not set"),
        ("east", {"witness_public_key": "ssh-rsa x"}, "east: witness_public_key is 'ssh-rsa x'"),
        (
            "east",
            {"witness_public_key": OTHER_KEY.ssh},
            "east, west: witness_public_key is the same",
        ),
        ("east", {KEY: NODE_KEY.hex}, "east: witness_public_key is the log's own key"),
        ("east", {"tls_proxy_url": "http://w.example.org/"}, "east: tls_proxy_url"),
        ("gate", {"tls_proxy_url": "https://w.example.org/"}, "gate: bastion_listen is :443"),
        ("east", {"tls_proxy_url": "https://w.example.org/"}, "tls_proxy_serves is not set"),
        (
            "east",
            {
                "tls_proxy_url": "https://w.example.org/",
                "tls_proxy_serves": "witness",
                "witness_bastion": "b.example.org:443",
            },
            "east: tls_proxy_url is set, and witness_bastion",
        ),
        ("east", {"witness_logz": []}, "did you mean witness_logs?"),
    ],
)
def test_what_a_witness_and_a_bastion_cannot_be(
    host: str, settings: dict[str, object], says: str
) -> None:
    hosts, groups = witnesses()
    hosts[host].update(settings)
    assert any(says in str(problem) for problem in problems(hosts, groups, ROLES)), says


def test_a_machine_signs_for_a_log_or_is_a_witness() -> None:
    hosts, groups = site()
    hosts["north"]["witness_public_key"] = OTHER_KEY.ssh
    found = problems(hosts, {**groups, "witnesses": ["north"]}, ROLES)
    assert [(problem.where, problem.setting) for problem in found] == [("north", "group witnesses")]


def test_with_two_secondaries_the_gating_one_is_chosen_by_a_person() -> None:
    hosts, groups = site()
    hosts["west"] = {**hosts["south"], "ansible_host": "192.0.2.30", ADDRESS: "192.0.2.30"}
    groups["log_machines"].append("west")
    assert problems(hosts, groups, ROLES) == []
    del hosts["north"]["log_server_gating_secondary"]
    (problem,) = problems(hosts, groups, ROLES)
    assert problem.setting == "log_server_gating_secondary"
    assert problem.allowed.endswith("south, west")


@pytest.mark.parametrize("consent", [True, "yes", "True"])
def test_a_software_key_needs_consent(consent: object) -> None:
    hosts, groups = site()
    hosts["north"]["log_server_software_key_file"] = "/etc/key"
    hosts["north"]["log_server_allow_software_key"] = False
    assert [problem.where for problem in problems(hosts, groups, ROLES)] == ["north"]
    hosts["north"]["log_server_allow_software_key"] = consent
    assert problems(hosts, groups, ROLES) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read the policy file: No such file"),
        ("quorum nobody\n", "policy:1: 'nobody' is no witness or group"),
        ("log 00\nquorum none\n", "The form is: log <public key in hex> [<url>]"),
        (f"log {OTHER_KEY.hex}\nquorum none\n", f"no log line, or log {LOG_KEY.hex}"),
    ],
)
def test_a_bad_policy_file_is_refused(content: str | None, says: str, tmp_path: Path) -> None:
    hosts, groups = site()
    path = tmp_path / "policy"
    if content is not None:
        path.write_text(content)
    hosts["north"]["log_server_policy_file"] = str(path)
    (problem,) = problems(hosts, groups, ROLES)
    assert (problem.where, problem.setting) == ("north", "log_server_policy_file")
    assert says in str(problem)
    assert str(path) in str(problem)


@pytest.mark.parametrize(
    "logs", ["", f"log {OTHER_KEY.hex}\nlog {LOG_KEY.hex} https://x.example\n"]
)
def test_a_policy_of_this_log_or_of_none_passes(logs: str, tmp_path: Path) -> None:
    hosts, groups = site()
    path = tmp_path / "policy"
    path.write_text(logs + "quorum none\n")
    hosts["north"]["log_server_policy_file"] = str(path)
    assert problems(hosts, groups, ROLES) == []


def test_a_policy_file_says_what_the_inventory_says_of_its_witnesses(tmp_path: Path) -> None:
    hosts, groups = site()
    path = tmp_path / "policy"
    witness = {"key": OTHER_KEY.hex, "url": "https://w.example.org/"}
    described = {"witnesses": {"w": witness}, "quorum": "w"}
    path.write_text(policy.build(described, (LOG_KEY, "https://log.example.org/")))
    hosts["north"] |= {"log_server_policy_file": str(path), "sigsum_policy": described}
    assert problems(hosts, groups, ROLES) == []
    for changed in ({**described, "quorum": "none"}, {"witnesses": {}, "quorum": "none"}):
        hosts["north"]["sigsum_policy"] = changed
        (problem,) = problems(hosts, groups, ROLES)
        assert problem.setting == "log_server_policy_file"
        assert "sigsum-ops policy build" in problem.allowed
    hosts["north"]["sigsum_policy"] = {**described, "quorum": "x"}
    (problem,) = problems(hosts, groups, ROLES)
    assert problem.setting == "sigsum_policy"
    del hosts["north"]["log_server_policy_file"]
    (problem,) = problems(hosts, groups, ROLES)
    assert (problem.setting, problem.found) == ("log_server_policy_file", "is not set")


def test_a_relative_policy_file_is_refused() -> None:
    hosts, groups = site()
    hosts["north"]["log_server_policy_file"] = "files/policy"
    (problem,) = problems(hosts, groups, ROLES)
    assert "{{ inventory_dir }}" in problem.allowed


def test_values_are_not_read_where_no_rule_needs_them() -> None:
    """Ansible renders a variable when it is read; one that cannot be rendered is no problem."""

    class Lazy(dict[str, object]):
        def __getitem__(self, name: str) -> object:
            assert name != "unrelated"
            return super().__getitem__(name)

        def get(self, name: str, default: object = None) -> object:
            assert name != "unrelated"
            return super().get(name, default)

    hosts, groups = site()
    assert (
        problems({name: Lazy(variables) for name, variables in hosts.items()}, groups, ROLES) == []
    )


def test_each_setting_with_a_form_is_a_variable_of_a_role() -> None:
    settings = {setting for forms in VALUES.values() for setting in forms}
    assert settings <= {name for names in ROLES.values() for name in names}


def test_role_variables_are_those_of_the_specifications(tmp_path: Path) -> None:
    meta = tmp_path / "pump" / "meta"
    meta.mkdir(parents=True)
    meta.joinpath("argument_specs.yml").write_text(
        "argument_specs: {main: {options: {pump_b: {}, pump_a: {}}}, other: {}}"
    )
    assert role_variables(tmp_path) == {"pump": ["pump_a", "pump_b"]}
    meta.joinpath("argument_specs.yml").write_text("argument_specs: [")
    with pytest.raises(OpsError, match=r"argument_specs\.yml: not an argument specification"):
        role_variables(tmp_path)


# --- As Ansible renders it ----------------------------------------------------------------------

BAD = f"""\
log_machines:
  vars:
    log_server_public_key: "{{{{ key }}}}"
    key: "{LOG_KEY.hex}"
    unrelated: "{{{{ undefined_here }}}}"
    log_server_internal_address: "{{{{ ansible_host }}}}"
    log_server_primary_url: http://{{{{ hostvars.one.log_server_internal_address }}}}:6967
    log_server_timeout: "{{{{ lookup('ansible.builtin.file', inventory_dir ~ '/time-out.txt') }}}}"
  hosts:
    one: {{ansible_host: 192.0.2.1, log_server_role: primary}}
    two: {{ansible_host: 192.0.2.2, log_server_role: "{{{{ 'prim' ~ 'ary' }}}}"}}
"""


@pytest.fixture
def bad_inventory(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yml"
    path.write_text(BAD)
    (tmp_path / "time-out.txt").write_text("5s\n")
    return path


def test_the_command_judges_rendered_values(bad_inventory: Path) -> None:
    result = CliRunner().invoke(app, ["inventory", "check", "-i", str(bad_inventory), "--json"])
    assert result.exit_code == 1, result.output
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert [line.split(".")[0] for line in answer["problems"]] == [
        f"{GROUP}: {ROLE} is primary on one, two",
        f"{GROUP}: {ROLE} is secondary on no host",
    ]


def test_the_playbook_refuses_before_any_machine_and_also_with_a_limit(bad_inventory: Path) -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            *("-i", bad_inventory, "--limit", "two", "playbooks/preflight.yml"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{GROUP}: {ROLE} is primary on one, two." in done.stdout
    # 192.0.2.0/24 is routed nowhere: a connection would have been reported so.
    assert "unreachable=0" in done.stdout


def test_the_example_inventory_passes() -> None:
    assert check(ROOT / "inventories" / "example") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("log_machines: [", "cannot read the inventory"),
        (
            "log_machines: {hosts: {a: {log_server_role: '{{ nowhere }}'}}}",
            "'nowhere' is undefined",
        ),
    ],
)
def test_what_ansible_cannot_read_is_malformed(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.yml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        check(path)
    with pytest.raises(UsageError, match="no such inventory"):
        check(tmp_path / "elsewhere")
