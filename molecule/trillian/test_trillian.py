"""The role trillian on one machine, with its database."""

from __future__ import annotations

import time
from typing import Any

import pytest
from resources.support import SSH, Ansible, eventually, exposure, http, listening, main_pid
from testinfra.host import Host

# By unit, its RPC and its HTTP endpoint.
ENDPOINTS = {
    "trillian-log-server": ("127.0.0.1:8090", "127.0.0.1:8091"),
    "trillian-log-signer": ("127.0.0.1:8092", "127.0.0.1:8093"),
}
each_unit = pytest.mark.parametrize("unit", ENDPOINTS)


def healthy(host: Host, unit: str) -> bool:
    """What monitoring would ask."""
    return http(host, f"http://{ENDPOINTS[unit][1]}/healthz")[0] == 200


def ask(host: Host, statement: str, user: str = "root", program_user: str = "root") -> str:
    """A statement's answer from Trillian's database, or why it was refused."""
    done = host.run(
        "runuser --user=%s -- mariadb --user=%s --batch --skip-column-names --execute=%s trillian",
        *(program_user, user, statement),
    )
    return str(done.stdout + done.stderr).strip()


@each_unit
def test_it_is_healthy_and_has_metrics(log1: Host, unit: str) -> None:
    assert healthy(log1, unit)
    status, metrics = http(log1, f"http://{ENDPOINTS[unit][1]}/metrics")
    assert status == 200
    assert "process_cpu_seconds_total" in metrics


@each_unit
def test_it_starts_with_the_machine(log1: Host, unit: str) -> None:
    assert log1.service(unit).is_enabled


def test_nothing_listens_but_the_declared_endpoints(log1: Host) -> None:
    declared = {f"tcp {address}" for pair in ENDPOINTS.values() for address in pair}
    assert listening(log1) == SSH | declared


@each_unit
def test_its_exposure_is_at_most_2(log1: Host, unit: str) -> None:
    assert exposure(log1, f"{unit}.service") <= 2.0


def test_the_account_has_exactly_what_trillian_needs(log1: Host) -> None:
    assert ask(log1, "SHOW GRANTS FOR trillian@localhost").splitlines() == [
        "GRANT USAGE ON *.* TO `trillian`@`localhost` IDENTIFIED VIA unix_socket",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON `trillian`.* TO `trillian`@`localhost`",
    ]
    assert ask(log1, "SELECT host FROM mysql.global_priv WHERE user = 'trillian'") == "localhost"


def test_no_other_system_user_can_use_the_account(log1: Host) -> None:
    assert ask(log1, "SELECT current_user()", "trillian", "trillian") == "trillian@localhost"
    for other in ("nobody", "root"):
        assert "Access denied for user 'trillian'" in ask(log1, "SELECT 1", "trillian", other)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE Unsequenced",
        "CREATE TABLE mine (n INT)",
        "ALTER TABLE Trees ADD COLUMN mine INT",
        "TRUNCATE TABLE TreeHead",
        "GRANT SELECT ON trillian.* TO root@localhost",
    ],
)
def test_the_account_cannot_change_the_schema(log1: Host, statement: str) -> None:
    assert "denied" in ask(log1, statement, "trillian", "trillian")


def test_the_database_is_reached_by_its_socket_without_a_password_and_in_one_round_trip(
    log1: Host,
) -> None:
    shown = log1.check_output("ps -eo args; systemctl cat %s", "trillian-log-*")
    uri = "trillian@unix(/run/mysqld/mysqld.sock)/trillian?interpolateParams=true"
    assert shown.count("--mysql_uri=") == shown.count(f"--mysql_uri={uri}") == 4


def test_debians_grpc_reads_our_stubs(log1: Host) -> None:
    assert log1.package("python3-grpcio").version.startswith("1.51.")
    assert log1.package("python3-protobuf").version.startswith("3.21.")
    said = log1.check_output(
        "python3 -c %s", "from sigsum_ops.log import trillian_pb2; print(trillian_pb2.LOG)"
    )
    assert said == "1"


@each_unit
def test_it_stops_in_good_order_without_the_sleep_at_its_end(log1: Host, unit: str) -> None:
    start = time.monotonic()
    log1.check_output(f"systemctl stop {unit}")
    assert time.monotonic() - start < 3
    assert log1.run(f"systemctl is-failed {unit}").stdout.strip() == "inactive"
    log1.check_output(f"systemctl start {unit}")
    eventually(lambda: healthy(log1, unit), seconds=10, what=f"{unit} healthy")


@each_unit
def test_killed_it_comes_back(log1: Host, unit: str) -> None:
    killed = main_pid(log1, unit)
    log1.check_output("kill -9 %s", killed)
    eventually(lambda: healthy(log1, unit), seconds=20, what=f"{unit} healthy")
    assert main_pid(log1, unit) not in ("0", killed)


def test_both_are_back_by_themselves_after_the_database_was_down_for_20_s(log1: Host) -> None:
    # Masked, or Trillian's own restart would start it: that is what its Wants= is for.
    log1.check_output("systemctl mask --runtime --now mariadb")
    # As it is after a boot that the database did not survive: started without it.
    log1.check_output("systemctl kill --signal=KILL trillian-log-server trillian-log-signer")
    time.sleep(20)
    assert not any(healthy(log1, unit) for unit in ENDPOINTS)
    log1.check_output("systemctl unmask --runtime mariadb && systemctl start mariadb")
    eventually(
        lambda: all(healthy(log1, unit) for unit in ENDPOINTS), seconds=20, what="both healthy"
    )


def test_a_schema_that_was_loaded_half_is_finished_and_nothing_is_dropped(
    log1: Host, ansible: Ansible
) -> None:
    dump = "mariadb-dump --no-data --skip-dump-date trillian"
    schema = log1.check_output(dump)
    made = log1.check_output("trillian_createtree --admin_server=127.0.0.1:8090")
    ask(log1, "DROP TABLE Unsequenced; DROP TABLE SequencedLeafData")
    run = ansible.playbook()
    assert run.ok, run.output
    assert log1.check_output(dump) == schema
    assert ask(log1, "SELECT TreeId FROM Trees") == made
    ask(log1, "DELETE FROM TreeHead; DELETE FROM TreeControl; DELETE FROM Trees")


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("trillian_server_max_connections", 130, "must fit in mariadb_max_connections (150)"),
        ("trillian_rpc_endpoint", "0.0.0.0:8090", "must be loopback addresses"),
    ],
)
def test_settings_that_fail_under_load_or_open_a_port_are_refused(
    ansible: Ansible, setting: str, value: Any, why: str
) -> None:
    run = ansible.playbook("--check", **{setting: value})
    assert not run.ok
    assert why in run.text
    assert run.changed == {"log1": 0}


def test_a_changed_setting_is_in_force_after_one_converge(log1: Host, ansible: Ansible) -> None:
    assert ansible.playbook(trillian_sequencer_interval="90ms").ok
    assert "--sequencer_interval=90ms" in log1.check_output("ps -eo args")
    assert ansible.playbook().ok
    assert "--sequencer_interval=100ms" in log1.check_output("ps -eo args")
