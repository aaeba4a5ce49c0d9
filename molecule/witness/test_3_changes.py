"""Logs, witnesses and policies come and go on a site that serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cosigners import DOMAIN, TOKEN_KEY, Log, probed, shown
from resources.asking import asking
from resources.procedures import PLAYBOOKS
from resources.support import EPHEMERAL, Ansible, Run, main_pid
from testinfra.host import Host
from third import Third

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log import policy
from sigsum_ops.log.keys import PublicKey, load_public_key

ROLE = Path(__file__).with_name("role.yml")
OTHER = {"name": "another", "key": PublicKey(bytes(range(32))).hex}


def logs_of(lab: Lab, *more: dict[str, str]) -> list[dict[str, str]]:
    """The lab's log, and others."""
    return [{"name": "the lab's", "key": (lab.state / "log-key.pub").read_text()}, *more]


def test_a_log_comes_and_goes_without_a_restart(
    log: Log, lab: Lab, witness1: Host, witness2: Host, ansible: Ansible
) -> None:
    other = f"sigsum.org/v1/tree/{PublicKey.from_hex(OTHER['key']).hash}"
    pids = [main_pid(host, "litewitness") for host in (witness1, witness2)]
    oracle = main_pid(witness2, "sigsum-oracle")
    alone: dict[str, Any] = {"path": PLAYBOOKS / "site.yml"}
    more = {"witness2": {"witness_logs": logs_of(lab, OTHER)}}
    run = ansible.playbook("--limit=witness2", hosts=more, **alone)
    assert run.ok, run.output
    assert shown(witness2)["logs"][other]["keys"]
    # The oracle takes its list in by a restart, and litewitness opens its connection anew.
    assert main_pid(witness2, "sigsum-oracle") != oracle
    assert main_pid(witness1, "litewitness") == pids[0]
    assert log.quorum(wait=60)["ok"]

    assert ansible.playbook("--limit=witness2", **alone).ok
    after = shown(witness2)["logs"]
    assert after[other]["keys"] == [], "it is served no more, and remembered"
    assert log.quorum(wait=60)["ok"]
    assert not any(ansible.playbook("--limit=witness2", **alone).changed.values())


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("witness_logs", [], "witness_logs is empty"),
        ("witness_logs", [OTHER, OTHER], "has a log twice"),
        ("witness_logs", [{**OTHER, "origin": "has a space"}], "an origin with a space"),
        ("witness_bastion", "https://bastion.example.org/", "witness_bastion"),
        ("witness_listen", "0.0.0.0:7380", "witness_listen"),
        ("witness_public_key", OTHER["key"], "is the witness of"),
        ("witness_public_key", "rubbish", "not an Ed25519 public key"),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(
    ansible: Ansible, setting: str, value: object, says: str
) -> None:
    run = ansible.playbook("--limit=witness1", path=ROLE, hosts={"witness1": {setting: value}})
    assert not run.ok
    assert not any(run.changed.values()), run.output
    assert says in run.text, run.output


def test_a_software_key_is_for_labs(ansible: Ansible) -> None:
    hosts = {"witness2": {"signing_oracle_allow_software_key": False}}
    run = ansible.playbook("--limit=witness2", path=ROLE, hosts=hosts)
    assert not run.ok
    assert "Such a key belongs in an HSM" in run.text


# --- Another implementation of a witness, behind the bastion --------------------------------------


@pytest.fixture(scope="module")
def third(lab: Lab, machines: dict[str, Host]) -> Iterator[Third]:
    """transparency-dev's witness on somebody's machine; it may not connect yet."""
    third = Third(machines["client1"])
    third.install(lab)
    yield third
    third.client.run("systemctl stop omniwitness")


def backends(*more: Third) -> list[dict[str, str]]:
    """Who may connect to the bastion."""
    first = {"name": "example.org/witness1", "key": "{{ hostvars.witness1.witness_public_key }}"}
    return [first, *({"name": each.name, "key": each.bastion_key.ssh} for each in more)]


def described(*more: Third, threshold: int) -> dict[str, Any]:
    """What the inventory says of the witnesses: the two that are there, and others."""
    known = policy.load(EPHEMERAL / "policy.txt").witnesses
    witnesses = {name: {"key": each.key.hex, "url": each.url} for name, each in known.items()}
    witnesses |= {each.name: {"key": each.key.hex, "url": each.url} for each in more}
    group = {"threshold": threshold, "members": sorted(witnesses)}
    return {"witnesses": witnesses, "groups": {"some": group}, "quorum": "some"}


def change(ansible: Ansible, lab: Lab, wanted: dict[str, Any] | None) -> Run:
    """Have the inventory describe this, with the file that goes with it, and run policy.yml."""
    settings: dict[str, Any] = {}
    if wanted:
        file = EPHEMERAL / "policy.new"
        log_key = load_public_key(lab.state / "log-key.pub")
        file.write_text(policy.build(wanted, (log_key, "https://log.example.org/")))
        files = dict.fromkeys(("log_server_policy_file", "sigsum_tools_policy_file"), str(file))
        settings = {"sigsum_policy": wanted, **files}
    return ansible.playbook("--extra-vars=wait=20", path=PLAYBOOKS / "policy.yml", **settings)


def add_witness(ansible: Ansible, *more: Third, name: str, wait: int = 5) -> Run:
    """Have the inventory list these backends, and run bastion_add_witness.yml for one of them."""
    return ansible.playbook(
        "--extra-vars", json.dumps({"witness": name, "wait": wait}),
        path=PLAYBOOKS / "bastion_add_witness.yml",
        hosts={"bastion1": {"bastion_backends": backends(*more)}},
    )  # fmt: skip


def test_a_witness_that_is_not_listed_is_refused(ansible: Ansible) -> None:
    run = add_witness(ansible, name="nobody.example.org")
    assert not run.ok
    assert "bastion_backends example.org/witness1" in run.text
    assert not any(run.changed.values())


def test_another_implementation_comes_through_the_bastion(
    log: Log, ansible: Ansible, bastion1: Host, third: Third
) -> None:
    """One that does not connect yet is said to be missing; the other is never disturbed."""
    bastion = main_pid(bastion1, "litebastion")
    run = add_witness(ansible, third, name=third.name)
    assert not run.ok
    assert f"Not reached through bastion1: {third.name}" in run.text
    assert not probed(bastion1)[third.name]["reached"]
    third.start()
    run = add_witness(ansible, third, name=third.name, wait=60)
    assert run.ok, run.output
    assert f"Its URL in sigsum_policy is {third.url}" in run.text
    assert all(each["reached"] for each in probed(bastion1).values())
    assert main_pid(bastion1, "litebastion") == bastion
    assert log.quorum(wait=30)["ok"]


def test_a_policy_that_the_log_could_not_fulfil_is_refused(
    log: Log, lab: Lab, ansible: Ansible, third: Third
) -> None:
    wanted = described(third, threshold=3)
    wanted["witnesses"][third.name]["url"] = "https://bastion.example.org/" + 64 * "0" + "/"
    pid = main_pid(log.machines["log1"], "sigsum-log-primary")
    run = change(ansible, lab, wanted)
    assert not run.ok
    assert f"{third.name} answers with status 502" in run.text, run.output
    assert "no quorum answers, which takes 3" in run.text
    assert main_pid(log.machines["log1"], "sigsum-log-primary") == pid


def test_site_yml_leaves_the_policy_of_a_running_log_alone(ansible: Ansible) -> None:
    file = EPHEMERAL / "policy.other"
    file.write_text((EPHEMERAL / "policy.txt").read_text() + "# another\n")
    run = ansible.playbook(path=PLAYBOOKS / "site.yml", log_server_policy_file=str(file))
    assert not run.ok
    assert "Change it by playbooks/policy.yml" in run.text
    assert not any(run.changed.values())


def test_a_policy_comes_and_goes_with_its_quorum_counted(
    log: Log, lab: Lab, ansible: Ansible, third: Third
) -> None:
    """Three witnesses of two implementations cosign what log-go signs."""
    with asking(log.status) as seen:
        run = change(ansible, lab, described(third, threshold=3))
    assert run.ok, run.output
    assert f"+ witness {third.name}" in run.text
    print(f"measured: the log did not answer for {seen.gap:.1f} s while its policy changed")
    assert seen.gap < 15
    client = log.machines["client1"]
    new = (EPHEMERAL / "policy.new").read_text()
    client.check_output("printf %%s %s > /root/policy.new", new)
    said = client.check_output("sigsum-ops policy check /root/policy.new --wait 30")
    assert f"{third.name} cosigned it" in said
    # Upstream's own tools, with all three wanted.
    client.check_output(
        "cd /root/leaves && rm -f three* && head -c 32 /dev/urandom > three && sigsum-submit"
        " --timeout=60s --policy=/root/policy.new --signing-key=key --token-domain=%s"
        " --token-signing-key=%s three"
        " && sigsum-verify --policy=/root/policy.new --key=key.pub three.proof < three",
        DOMAIN, TOKEN_KEY,
    )  # fmt: skip
    assert not any(change(ansible, lab, described(third, threshold=3)).changed.values())

    run = change(ansible, lab, None)
    assert run.ok, run.output
    assert f"- witness {third.name}" in run.text
    assert log.quorum(wait=30)["ok"]


def test_a_policy_under_which_no_quorum_comes_is_taken_back(
    log: Log, lab: Lab, ansible: Ansible, third: Third
) -> None:
    """It answers when it is asked, and what it cosigns is not by the key that the policy has."""
    before = log.machines["log1"].file("/etc/sigsum/policy").content_string
    wanted = described(third, threshold=3)
    wanted["witnesses"][third.name]["key"] = OTHER["key"]
    run = change(ansible, lab, wanted)
    assert not run.ok, run.output
    assert "The log has the policy before again" in run.text
    for host in (log.machines["log1"], log.machines["log2"]):
        assert host.file("/etc/sigsum/policy").content_string == before
    assert log.quorum(wait=60)["ok"]
