"""Whom a monitoring machine asks."""

from __future__ import annotations

from sigsum_ops.monitoring.targets import problems, targets

HOSTS = {
    "log1": {
        "site_exporter_listen": ["127.0.0.1:6970", "10.0.0.1:6970"],
        "node_exporter_listen": ["10.0.0.1:9100"],
    },
    "log2": {"site_exporter_listen": ["[fd00::2]:6970"]},
    "watch": {"site_exporter_listen": ["127.0.0.1:6970", "10.0.0.9:6970"]},
    "client": {},
}


def test_each_machine_where_it_can_be_reached() -> None:
    assert targets("watch", HOSTS) == {
        "sigsum": {"log1": "10.0.0.1:6970", "log2": "[fd00::2]:6970", "watch": "127.0.0.1:6970"},
        "node": {"log1": "10.0.0.1:9100"},
    }
    assert targets("log1", HOSTS)["sigsum"]["log1"] == "127.0.0.1:6970"
    assert problems("watch", HOSTS) == []


def test_what_answers_its_own_machine_only_is_named() -> None:
    hosts = {**HOSTS, "log2": {"node_exporter_listen": ["127.0.0.1:9100", "[::1]:9100"]}}
    (found,) = problems("watch", hosts)
    assert found.startswith(
        "log2: node_exporter_listen is 127.0.0.1:9100, [::1]:9100: watch cannot"
    )
    assert "log2" not in targets("watch", hosts)["node"]
    assert problems("log2", hosts) == []
