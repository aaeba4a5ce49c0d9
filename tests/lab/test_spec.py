"""The lab's description: addresses, inventory, and what ssh is given."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest
import yaml

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.lab import spec
from sigsum_ops.lab.spec import Network
from sigsum_ops.site.inventory import Problem, problems

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_committed_inventory_is_the_generated_one() -> None:
    committed = (REPOSITORY / "inventories/lab/hosts.yml").read_text()
    assert committed == spec.default_inventory()


def test_the_committed_inventory_finds_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ansible itself resolves it, for both ways in which a user's state directory is set."""
    playbook = tmp_path / "show.yml"
    task = {"ansible.builtin.debug": {"msg": "is {{ lab_state }}"}}
    plays = [{"hosts": "log1", "gather_facts": False, "connection": "local", "tasks": [task]}]
    playbook.write_text(yaml.safe_dump(plays))
    inventory = str(REPOSITORY / "inventories/lab/hosts.yml")
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", inventory, str(playbook)]
    for environ in ({"HOME": "/h"}, {"HOME": "/h", "XDG_STATE_HOME": "/x"}):
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        for key, value in environ.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("ANSIBLE_LOCAL_TEMP", str(tmp_path / "local"))
        out = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert f"is {spec.state_root(environ) / 'lab'}" in out.stdout, out.stderr


def test_every_log_machine_says_its_part_and_address() -> None:
    content = spec.inventory(spec.select(None), Network(7), "/state")
    machines = content["all"]["children"]["log_machines"]["hosts"]
    assert machines["log1"] == {
        "ansible_host": "10.33.7.11",
        "log_server_role": "primary",
        "rehearsal_hsm_serial": 90000003,
        "log_server_internal_address": "10.33.7.11",
    }
    assert machines["log2"]["log_server_role"] == "secondary"
    assert (
        "log_server_internal_address"
        not in (content["all"]["children"]["clients"]["hosts"]["client1"])
    )


def test_a_third_log_machine_is_there_only_when_it_is_asked_for() -> None:
    assert "log3" not in [machine.name for machine in spec.select(None)]
    machines = spec.select(["log1", "log2", "log3"])
    content = spec.inventory(machines, Network(7), "/state")
    hosts = content["all"]["children"]["log_machines"]["hosts"]
    assert {its["log_server_gating_secondary"] for its in hosts.values()} == {"log2"}
    assert problems(hosts, {"log_machines": list(hosts)}, {}) == [
        Problem(name, "log_server_public_key", "is not set", ANY) for name in hosts
    ]


def test_addresses_are_unique_and_alike_in_all_families() -> None:
    network = Network(255)
    assert network.address(21) == "10.33.255.21"
    assert network.address6(21) == "fd33:0:0:ff::21"
    assert network.mac(21) == "02:00:0a:21:ff:15"  # 02: locally administered, unicast
    assert len({machine.index for machine in spec.MACHINES}) == len(spec.MACHINES)
    assert len(network.device) <= 15  # IFNAMSIZ


@pytest.mark.parametrize(
    ("name", "taken", "routes", "number"),
    [
        ("lab", [], ["default"], 0),
        ("other", [], ["default"], 1),
        ("other", [0, 1, 2], [], 3),
        ("other", [], ["10.33.1.0/24", "10.33.2.7", "unreachable"], 3),
        ("other", [1], ["10.33.2.0/23"], 4),
        ("other", [], ["10.0.0.0/8", "0.0.0.0/1"], 1),
    ],
)
def test_the_first_free_network_is_chosen(
    name: str, taken: list[int], routes: list[str], number: int
) -> None:
    assert spec.choose_network(name, taken, routes).number == number


@pytest.mark.parametrize(
    ("name", "routes"), [("lab", ["10.33.0.0/24"]), ("other", ["10.33.0.0/16"])]
)
def test_no_free_network_is_said(name: str, routes: list[str]) -> None:
    with pytest.raises(OpsError, match="no network is free"):
        spec.choose_network(name, [], routes)


@pytest.mark.parametrize("name", ["", "A", "-x", "a/b", "..", "a" * 32, "a b"])
def test_a_name_that_is_no_directory_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        spec.check_name(name)


@pytest.mark.parametrize("names", [[], ["log9"], ["log1", ""]])
def test_unknown_hosts_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError):
        spec.select(names)


def test_ansible_gives_ssh_the_same_options_as_we_do() -> None:
    """Also for a directory with a space in it: the words survive the splitting."""
    arguments = spec.inventory([], Network(0), "/s")["all"]["vars"]["ansible_ssh_common_args"]
    words = shlex.split(arguments.replace("{{ lab_state }}", "/a b"))
    assert words[0::2] == ["-o"] * (len(words) // 2)
    assert words[1::2] == spec.ssh_options("/a b")
    shown = subprocess.run(["ssh", "-G", *words, "h"], capture_output=True, text=True).stdout
    assert "userknownhostsfile /a b/ssh/known_hosts\n" in shown
    assert "stricthostkeychecking true\n" in shown


def test_only_the_logs_machines_have_devices() -> None:
    assert spec.more_devices({"log1", "log3", "infra1"}) == {"log3": 90000006}
    assert spec.more_devices({"log1", "log2", "infra1"}) == {}
