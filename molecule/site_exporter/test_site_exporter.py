"""The exporter on a machine that has nothing to tell yet; molecule/site has it beside a log."""

from __future__ import annotations

import json

import pytest
from resources.support import SSH, Ansible, exposure, listening, scrape
from testinfra.host import Host


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_it_answers_at_each_address(log1: Host, address: str) -> None:
    told = scrape(log1, address)
    assert 'sigsum_machine_role{role="primary"} 0.0' in told
    assert 'sigsum_exporter_source_failed{source="machine"} 0.0' in told
    assert "sigsum_log_" not in told
    assert log1.check_output("sigsum-ops exporter show | grep role") in told


def test_it_answers_nowhere_else(log1: Host) -> None:
    assert listening(log1) == SSH | {"tcp 127.0.0.1:6970", "tcp [::1]:6970"}


def test_its_unit_is_confined(log1: Host) -> None:
    assert exposure(log1, "sigsum-exporter.service") <= 2.0
    assert log1.user("sigsum-exporter").shell == "/usr/sbin/nologin"
    owned = "find / -xdev -user sigsum-exporter -not -path '/proc/*' -print -quit"
    assert log1.check_output(owned) == ""


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"site_exporter_listen": []}, "site_exporter_listen is empty"),
        ({"site_exporter_listen": ["192.0.2.1"]}, "listen is '192.0.2.1'"),
        ({"site_exporter_log_public_key": "nokey"}, "not an Ed25519 public key"),
    ],
)
def test_a_bad_setting_is_refused_and_nothing_is_changed(
    ansible: Ansible, log1: Host, settings: dict[str, object], named: str
) -> None:
    before = log1.file("/etc/sigsum/exporter.toml").content
    run = ansible.playbook("--extra-vars", json.dumps(settings))
    assert not run.ok
    assert named in run.text
    assert log1.file("/etc/sigsum/exporter.toml").content == before
