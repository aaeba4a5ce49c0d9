"""The role sigsum_tools on one client: upstream's own programs read what it wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from resources.support import SSH, Ansible, listening
from testinfra.host import Host

from sigsum_ops.edge import policies
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.policy import build, parse

TOOLS = ("key", "monitor", "policy", "submit", "token", "verify", "witness")
# As converge.yml has them: nobody answers there.
LOG = "http://127.0.0.1:6965/"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
DESCRIBED = {
    "witnesses": {
        "w1.example.org": {"key": "1f" * 32, "url": "https://w1.example.org/"},
        "w2": {"key": "2f" * 32},
        "w3": {"key": "3f" * 32},
    },
    "groups": {
        "outer": {"threshold": 2, "members": ["w1.example.org", "inner"]},
        "inner": {"threshold": "any", "members": ["w2", "w3"]},
    },
    "quorum": "outer",
}
SUBMIT = (
    'cd "$(mktemp -d)" && sigsum-key generate -o key && echo hello > message &&'
    " sigsum-submit --policy={policy} --signing-key=key --timeout=1s message"
)


def test_the_tools_are_upstreams_1_0_0_from_backports(client1: Host) -> None:
    assert client1.package("sigsum-go").version.startswith("1.0.0-")
    assert "bpo13" in client1.package("sigsum-go").version
    assert [tool for tool in TOOLS if not client1.exists(f"sigsum-{tool}")] == []


def test_the_key_is_the_logs_and_any_user_can_read_it(client1: Host) -> None:
    said = client1.check_output("runuser -u nobody -- sigsum-key to-hex -k /etc/sigsum/log.pub")
    assert said == PublicKey.parse(KEY).hex


def test_a_tool_takes_the_log_from_the_policy(client1: Host) -> None:
    said = client1.run("sh -c %s", SUBMIT.format(policy="/etc/sigsum/policy"))
    assert said.rc != 0
    assert LOG in said.stderr


def test_it_starts_no_daemon(client1: Host) -> None:
    assert client1.run("systemctl list-unit-files --no-legend '*sigsum*'").stdout == ""
    assert listening(client1) == SSH


def test_we_read_the_policies_that_upstream_comes_with(client1: Host) -> None:
    names = client1.check_output("sigsum-policy list").split()
    assert names
    for name in names:
        text = client1.check_output("sigsum-policy show %s", name)
        policy = parse(text.encode(), name)
        assert policies.needed(policy) >= 1
        assert policies.apart(policy) is None, "two histories could both have its quorum"


def test_a_policy_file_is_put_in_place_as_it_is(
    client1: Host, ansible: Ansible, tmp_path: Path
) -> None:
    """One that `sigsum-ops policy build` made; upstream reads it, and comes as far as the log."""
    ours = client1.file("/etc/sigsum/policy").content_string
    policy = tmp_path / "policy"
    policy.write_text(build(DESCRIBED, (PublicKey.parse(KEY), LOG)))
    assert ansible.playbook(sigsum_tools_policy_file=str(policy)).ok
    assert client1.file("/etc/sigsum/policy").content_string == policy.read_text()
    assert LOG in client1.run("sh -c %s", SUBMIT.format(policy="/etc/sigsum/policy")).stderr
    assert ansible.playbook().ok
    assert client1.file("/etc/sigsum/policy").content_string == ours


@pytest.mark.parametrize(
    "key", ["ssh-rsa AAAAB3NzaC1yc2E=", "0" * 63, ""], ids=["rsa", "short", "empty"]
)
def test_a_key_that_is_not_ed25519_is_refused(client1: Host, ansible: Ansible, key: str) -> None:
    before = client1.file("/etc/sigsum/log.pub").content_string
    run = ansible.playbook(sigsum_tools_log_key=key)
    assert not run.ok
    assert "Ed25519" in run.text
    assert run.changed == {"client1": 0}
    assert client1.file("/etc/sigsum/log.pub").content_string == before
