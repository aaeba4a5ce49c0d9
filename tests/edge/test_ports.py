"""The registry of ports: what a site's roles need, and what nftables makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.edge import ports
from sigsum_ops.edge.ports import EVERYBODY, Flow, flows, matches
from sigsum_ops.errors import UsageError

ROOT = Path(__file__).parents[2]
POLICY = """\
log 4644af2abd40f4895a003bca350f9d5912ab301a49c77f13e5b6d905c20a5fe6 https://log.example.org/
witness near 1c25f8a44c635457e2e391d1efbca7d4c2951a0aef06225a881e46b98962ac6c http://192.0.2.7:7380
witness far 28c92a5a3a054d317c86fc2eeb6a7ab2054d6217100d0be67ded5b74323c5806 https://w.example.org/
witness silent 4a921c02ac9e4c5e5a8bf43bb7b3fd29f9b1c8d1b4d1d1c1f5e3a5d5ad7e8d31
quorum near
"""
GROUPS = {"log_machines": ["north", "south"], "clients": ["desk"], "bastions": ["gate"]}
NORTH, SOUTH = "2001:db8::10", "192.0.2.20"


@pytest.fixture
def hosts(tmp_path: Path) -> dict[str, dict[str, Any]]:
    (tmp_path / "policy").write_text(POLICY)
    log = {
        "firewall_ssh_sources": ["198.51.100.0/24"],
        "log_server_policy_file": str(tmp_path / "policy"),
        "tls_proxy_url": "https://log.example.org/",
        "log_server_external_endpoint": "[2001:db8::10]:6965",
        "tls_proxy_acme_email": "operator@example.org",
        "head_archive_urls": [f"http://[{NORTH}]:6965/", "https://log.example.org/"],
        "backup_repository": "sftp:backup@vault.example.org:/srv/log",
    }
    return {
        "north": {**log, "log_server_internal_address": NORTH, "log_server_role": "primary"},
        "south": {
            **log,
            "log_server_internal_address": SOUTH,
            "log_server_role": "secondary",
            "ansible_port": 2222,
        },
        "desk": {"sigsum_tools_log_url": "http://192.0.2.20:6965"},
        "gate": {"bastion_listen": ":8443", "bastion_acme_host": "gate.example.org"},
    }


def about(found: list[Flow], what: str) -> Flow:
    (flow,) = [flow for flow in found if flow.what == what]
    return flow


def test_a_log_machine(hosts: dict[str, dict[str, Any]]) -> None:
    found = flows("north", hosts, GROUPS)
    assert {(flow.protocol, flow.ports) for flow in found if flow.direction == "in"} == {
        ("tcp", (port,)) for port in (22, 80, 443, 6965, 6967)
    }
    assert about(found, "ssh").peers == ("operators",)
    past = [flow.peers for flow in found if flow.what == "the log, past the proxy"]
    assert past == [("operators",), (SOUTH,)]
    replication = [flow for flow in found if flow.what == "replication"]
    assert [(flow.direction, flow.peers, flow.account) for flow in replication] == [
        ("in", (SOUTH,), ""),
        ("out", (SOUTH,), "sigsum-log"),
    ]
    asked = {(flow.peers, flow.ports, flow.account) for flow in found if "witnesses" in flow.what}
    assert asked == {
        (peers, ports, account)
        for peers, ports in ((("192.0.2.7",), (7380,)), (EVERYBODY, (443,)))
        for account in ("sigsum-log", "root")
    }
    heads = {(flow.peers, flow.ports) for flow in found if flow.what == "tree heads"}
    assert heads == {((NORTH,), (6965,)), (EVERYBODY, (443,))}
    assert about(found, "certificates") == Flow(
        "tls_proxy", "certificates", "out", (443,), account="root"
    )
    assert about(found, "challenges").peers == (SOUTH,)
    assert about(flows("south", hosts, GROUPS), "ssh").ports == (2222,)


def test_metrics_go_to_monitoring_only(hosts: dict[str, dict[str, Any]]) -> None:
    groups = {**GROUPS, "monitors": ["watch"]}
    hosts["north"]["site_exporter_listen"] = ["127.0.0.1:6970", f"[{NORTH}]:6970"]
    hosts["south"] |= {"node_exporter_listen": [f"{SOUTH}:9100"], "tunnel_address": SOUTH}
    hosts["watch"] = {
        "ansible_host": "192.0.2.9",
        "node_exporter_listen": ["127.0.0.1:9100"],
        "monitoring_smtp": {"smarthost": "mail.example.org:587"},
        "monitoring_receivers": {"page": {"webhook": ["https://192.0.2.66/a"]}},
        "monitoring_peers": ["[2001:db8::99]:9093"],
    }
    for name, role, port, inside in (
        ("north", "site_exporter", 6970, ""),
        ("south", "node_exporter", 9100, "sigsum0"),
    ):
        found = [flow for flow in flows(name, hosts, groups) if flow.what == "Prometheus"]
        peers = ("192.0.2.9",)
        assert found == [Flow(role, "Prometheus", "in", (port,), peers=peers, interface=inside)]
    asked = [flow for flow in flows("watch", hosts, groups) if flow.account == "prometheus"]
    assert {(flow.peers, *flow.ports) for flow in asked} == {
        ((NORTH,), 6970),
        ((SOUTH,), 9100),
        (("192.0.2.66",), 443),
        (("2001:db8::99",), 9093),
        (EVERYBODY, 587),
    }
    nobody = [flow for flow in flows("north", hosts, GROUPS) if flow.what == "Prometheus"]
    assert [flow.peers for flow in nobody] == [()]


def test_while_a_policy_changes_the_witnesses_of_both_are_asked(
    hosts: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    before = tmp_path / "before"
    before.write_text(POLICY.replace("192.0.2.7:7380", "192.0.2.9:7381"))
    hosts["north"]["firewall_policy_before"] = str(before)
    asked = {flow.ports for flow in flows("north", hosts, GROUPS) if "witnesses" in flow.what}
    assert asked == {(7380,), (7381,), (443,)}


def test_a_promotion_changes_nothing(hosts: dict[str, dict[str, Any]]) -> None:
    before = flows("south", hosts, GROUPS)
    hosts["north"]["log_server_role"] = "secondary"
    hosts["south"]["log_server_role"] = "primary"
    assert flows("south", hosts, GROUPS) == before


def test_within_a_tunnel_nothing_else_is_let_through(hosts: dict[str, dict[str, Any]]) -> None:
    """Whoever calls itself the other machine outside of it reaches nothing."""
    for name, inside, outside in (("north", NORTH, "203.0.113.1"), ("south", SOUTH, "south.test")):
        hosts[name] |= {"tunnel_address": inside, "ansible_host": outside}
    hosts["south"]["tunnel_endpoint"] = "[2001:db8:1::1]:4500"
    found = flows("north", hosts, GROUPS)
    plain = [flow for flow in found if SOUTH in flow.peers and flow.role == "log_server"]
    assert len(plain) == 3
    assert {flow.interface for flow in plain} == {"sigsum0"}
    assert (
        'iifname "sigsum0" ip saddr { 192.0.2.20/32 } tcp dport { 6967 }'
        in matches(found, {})["in"]
    )
    tunnel = [flow for flow in found if flow.role == "tunnel"]
    assert [(flow.direction, flow.protocol, flow.ports, flow.peers) for flow in tunnel] == [
        ("in", "udp", (51820,), ("2001:db8:1::1",)),
        ("out", "udp", (4500,), ("2001:db8:1::1",)),
    ]
    del hosts["south"]["tunnel_endpoint"]  # and its name leads somewhere
    assert {f.peers for f in flows("north", hosts, GROUPS) if f.role == "tunnel"} == {EVERYBODY}


def test_without_a_proxy_everybody_asks_the_log(hosts: dict[str, dict[str, Any]]) -> None:
    hosts["north"] |= {"tls_proxy_url": "", "log_server_external_endpoint": "0.0.0.0:7000"}
    flow = about(flows("north", hosts, GROUPS), "the log, for its users")
    assert (flow.ports, flow.peers) == ((7000,), EVERYBODY)
    assert flow.public


def test_witnesses(hosts: dict[str, dict[str, Any]]) -> None:
    """One behind bastions answers nobody; one with a name of its own has a proxy."""
    groups = {**GROUPS, "witnesses": ["east", "west"]}
    hosts["east"] = {"witness_bastion": "192.0.2.50:443,gate.example.org:8443"}
    hosts["west"] = {
        "tls_proxy_url": "https://west.example.org/",
        "tls_proxy_serves": "witness",
        "tls_proxy_acme_email": "operator@example.org",
    }
    east = flows("east", hosts, groups)
    assert {flow.ports for flow in east if flow.direction == "in"} == {(22,)}
    asked = {(flow.peers, flow.ports, flow.account) for flow in east if flow.role == "witness"}
    assert asked == {
        (("192.0.2.50",), (443,), "litewitness"),
        (EVERYBODY, (8443,), "litewitness"),
    }
    west = flows("west", hosts, groups)
    assert about(west, "the witness, for logs").ports == (443,)
    assert about(west, "challenges").peers == (), "log machines have nothing of a witness's"


def test_others_than_log_machines(hosts: dict[str, dict[str, Any]]) -> None:
    gate = flows("gate", hosts, GROUPS)
    assert about(gate, "logs, and witnesses") == Flow(
        "bastion", "logs, and witnesses", "in", (8443,)
    )
    assert about(gate, "certificates").account == "litebastion"
    desk = about(flows("desk", hosts, GROUPS), "the log")
    assert (desk.peers, desk.ports) == (("192.0.2.20",), (6965,))


@pytest.mark.parametrize(
    ("repository", "peers", "port"),
    [
        ("sftp:backup@vault.example.org:/srv/log", EVERYBODY, 22),
        ("sftp://backup@192.0.2.9:2222//srv/log", ("192.0.2.9",), 2222),
        ("rest:https://vault.example.org:8000/log", EVERYBODY, 8000),
        ("rest:http://[2001:db8::9]/log", ("2001:db8::9",), 80),
        ("s3:https://s3.example.org/bucket", EVERYBODY, 443),
        ("s3:s3.example.org/bucket", EVERYBODY, 443),
    ],
)
def test_where_backups_go(
    hosts: dict[str, dict[str, Any]], repository: str, peers: tuple[str, ...], port: int
) -> None:
    hosts["north"]["backup_repository"] = repository
    found = [flow for flow in flows("north", hosts, GROUPS) if flow.what == "backups"]
    assert {(flow.peers, flow.ports, flow.account) for flow in found} == {
        (peers, (port,), account) for account in ("sigsum-backup", "root")
    }


def test_backups_that_go_nowhere(hosts: dict[str, dict[str, Any]]) -> None:
    hosts["north"]["backup_repository"] = "/srv/backup"
    assert not [flow for flow in flows("north", hosts, GROUPS) if flow.what == "backups"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("backup_repository", "gopher:vault.example.org"),
        ("head_archive_urls", ["log.example.org"]),
        ("log_server_external_endpoint", "192.0.2.1"),
        ("firewall_also", [{"what": "x", "direction": "up", "ports": [1]}]),
    ],
)
def test_what_cannot_be_read_names_its_setting(
    hosts: dict[str, dict[str, Any]], setting: str, value: object
) -> None:
    hosts["north"][setting] = value
    with pytest.raises(UsageError, match=f"north: {setting} "):
        flows("north", hosts, GROUPS)


ALSO = {"what": "metrics", "direction": "in", "ports": [9100], "peers": ["192.0.2.0/24"]}


def test_what_an_operator_adds(hosts: dict[str, dict[str, Any]]) -> None:
    hosts["desk"]["firewall_also"] = [ALSO]
    assert about(flows("desk", hosts, GROUPS), "metrics") == Flow(
        "firewall", "metrics", "in", (9100,), peers=("192.0.2.0/24",)
    )


GOOD = {"firewall_ssh_sources": ["0.0.0.0/0", "::/0", "192.0.2.1"], "firewall_also": [ALSO]}


def test_settings_that_can_be_right() -> None:
    assert list(ports.problems(GOOD)) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"firewall_ssh_sources": []}, "nobody could come to mend anything"),
        ({"firewall_ssh_sources": "192.0.2.1"}, "is '192.0.2.1'"),
        ({"firewall_ssh_sources": ["office.example.org"]}, "has 'office.example.org'"),
        ({"firewall_ssh_sources": ["192.0.2.1/24"]}, "has '192.0.2.1/24'"),
        ({"firewall_ssh_sources": ["fe80::1%e } ; drop"]}, "has 'fe80::1%e"),
        ({"firewall_also": ["9100"]}, "has '9100'"),
        ({"firewall_also": [{**ALSO, "port": 1}]}, "has port"),
        ({"firewall_also": [{**ALSO, "what": ""}]}, "what it is for"),
        ({"firewall_also": [{**ALSO, "what": "a\nflush ruleset"}]}, "what it is for"),
        ({"firewall_also": [{**ALSO, "protocol": "icmp"}]}, "'icmp'"),
        ({"firewall_also": [{**ALSO, "ports": [0]}]}, "[0]"),
        ({"firewall_also": [{**ALSO, "ports": ["22 accept"]}]}, "22 accept"),
        ({"firewall_also": [{**ALSO, "peers": ["monitor"]}]}, "monitor"),
        ({"firewall_also": [{**ALSO, "account": 'x" accept #'}]}, "the name of a user"),
    ],
)
def test_settings_that_cannot_be_right(changed: dict[str, object], says: str) -> None:
    (problem,) = ports.problems({**GOOD, **changed})
    assert says in f"{problem[1]}. Allowed: {problem[2]}."


def test_matches_are_of_one_family() -> None:
    found = matches(
        [
            Flow("r", "w", "in", (22,), peers=("operators",)),
            Flow("r", "w", "in", (443, 80)),
            Flow("r", "w", "in", (6967,), peers=("192.0.2.1", "2001:db8::1", "198.51.100.0/24")),
            Flow("r", "w", "out", (53,), "udp", peers=("resolvers",)),
            Flow("r", "w", "out", (443,), account="root"),
            Flow("r", "w", "out", (443,), account="not-there-yet"),
        ],
        accounts={"root": 0, "daemon": 1},
    )
    assert found == {
        "in": [
            "ip saddr @operators4 tcp dport { 22 }",
            "ip6 saddr @operators6 tcp dport { 22 }",
            "tcp dport { 443, 80 }",
            "ip saddr { 192.0.2.1/32, 198.51.100.0/24 } tcp dport { 6967 }",
            "ip6 saddr { 2001:db8::1/128 } tcp dport { 6967 }",
        ],
        "out": [
            "ip daddr @resolvers4 udp dport { 53 }",
            "ip6 daddr @resolvers6 udp dport { 53 }",
            "meta skuid 0 tcp dport { 443 }",
        ],
        "answered": ["22", "443", "80", "6967"],
        "public": ["443", "80"],
    }


def test_a_peer_without_an_address_is_not_everybody(hosts: dict[str, dict[str, Any]]) -> None:
    """An empty list of other machines must not open a port to the world."""
    alone = {**GROUPS, "log_machines": ["north"]}
    found = flows("north", hosts, alone)
    assert about(found, "challenges").peers == ()
    past = [flow.peers for flow in found if flow.what == "the log, past the proxy"]
    assert past == [("operators",), ()]
    replication = [flow for flow in found if flow.what == "replication"]
    assert matches(replication, {"sigsum-log": 990}) == {
        **{"in": [], "out": [], "public": []},
        "answered": ["6967"],
    }


def test_defaults_are_those_of_the_roles() -> None:
    """What an inventory does not say, a role does."""
    source = (ROOT / "src/sigsum_ops/edge/ports.py").read_text()
    for role, setting in (
        ("log_server", "log_server_external_endpoint"),
        ("log_server", "log_server_internal_port"),
        ("tls_proxy", "tls_proxy_acme_directory"),
        ("bastion", "bastion_listen"),
        ("tunnel", "tunnel_port"),
    ):
        default = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())[setting]
        assert str(default) in source, setting
    own = yaml.safe_load((ROOT / "roles/firewall/defaults/main.yml").read_text())
    assert f'"firewall_apt_ports", {tuple(own["firewall_apt_ports"])}' in source


def test_each_role_that_speaks_with_others_is_here() -> None:
    """A unit that may use the network, and is in no flow, would be cut off."""
    registered = {
        function.__name__.lstrip("_")
        for functions in ports.ROLES.values()
        for function in functions
    }
    speaking = {
        path.parts[-3]
        for path in ROOT.glob("roles/*/templates/*.j2")
        if "'internet' | sigsum_ops.site.sandbox" in path.read_text()
    }
    assert speaking
    assert speaking <= registered


def test_the_command_shows_the_example() -> None:
    arguments = ["ports", "-i", str(ROOT / "inventories/example")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"log-north", "log-south", "desk"} <= set(found)
    assert {"protocol": "tcp", "ports": [6967]}.items() <= next(
        flow for flow in found["log-north"] if flow["what"] == "replication"
    ).items()
    shown = CliRunner().invoke(app, ["ports", "desk", *arguments[1:]])
    assert shown.stdout.startswith("desk\n  answers tcp 22 ")
    assert "log-north" not in shown.stdout
    refused = CliRunner().invoke(app, ["ports", "nobody", *arguments[1:]])
    assert isinstance(refused.exception, UsageError)
