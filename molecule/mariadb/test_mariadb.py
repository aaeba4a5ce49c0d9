"""The role mariadb, alone on one machine."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from resources.support import SSH, Ansible, eventually, exposure, listening, main_pid
from testinfra.host import Host

CONFIG = "/etc/mysql/mariadb.conf.d/60-sigsum-ops.cnf"
ROLE = Path(__file__).parents[2] / "roles/mariadb"


def ask(host: Host, statement: str) -> str:
    """A statement's answer, as root over the socket."""
    answer: str = host.check_output("mariadb --batch --skip-column-names --execute=%s", statement)
    return answer


def test_nothing_listens_on_the_network(log1: Host) -> None:
    assert ask(log1, "SELECT @@skip_networking") == "1"
    assert listening(log1) == SSH


def test_what_was_committed_is_on_disk(log1: Host) -> None:
    settings = "@@innodb_flush_log_at_trx_commit, @@innodb_doublewrite, @@innodb_flush_method"
    assert ask(log1, f"SELECT {settings}").split() == ["1", "ON", "O_DIRECT"]


def test_the_sizes_are_the_inventorys(log1: Host) -> None:
    sizes = "@@max_connections, @@innodb_buffer_pool_size >> 20, @@innodb_log_file_size >> 20"
    assert ask(log1, f"SELECT {sizes}").split() == ["150", "512", "512"]


def test_no_account_has_a_password(log1: Host) -> None:
    accounts = {}
    for row in ask(log1, "SELECT user, priv FROM mysql.global_priv").splitlines():
        user, _, privileges = row.partition("\t")
        accounts[user] = json.loads(privileges)
    assert "root" in accounts
    for user, account in accounts.items():
        if account.get("account_locked"):
            continue
        ways = [{**account, **way} for way in account.get("auth_or", [{}])]
        # No password has the hash "invalid"; an empty one would let anybody in.
        closed = [w for w in ways if w.get("authentication_string") == "invalid"]
        assert all(w["plugin"] == "unix_socket" for w in ways if w not in closed), user


def test_only_the_system_user_root_is_root_in_the_database(log1: Host) -> None:
    assert ask(log1, "SELECT current_user()") == "root@localhost"
    for password in ("", "--password=invalid"):
        refused = log1.run(f"runuser --user=nobody -- mariadb --user=root {password} -e 'SELECT 1'")
        assert refused.rc != 0
        assert "Access denied" in refused.stderr


def test_its_exposure_is_at_most_2(log1: Host) -> None:
    assert exposure(log1, "mariadb.service") <= 2.0


def test_killed_it_is_back_within_15_s_with_what_was_committed(log1: Host) -> None:
    ask(log1, "CREATE OR REPLACE DATABASE kept; CREATE TABLE kept.t (n INT)")
    ask(log1, "INSERT INTO kept.t VALUES (7)")
    killed = main_pid(log1, "mariadb")
    log1.check_output("kill -9 %s", killed)
    eventually(
        lambda: log1.run("mariadb --execute 'SELECT 1'").rc == 0, seconds=15, what="an answer"
    )
    assert main_pid(log1, "mariadb") not in ("0", killed)
    assert ask(log1, "SELECT n FROM kept.t") == "7"
    ask(log1, "DROP DATABASE kept")


def test_a_configuration_that_mariadb_cannot_read_replaces_nothing(
    log1: Host, ansible: Ansible
) -> None:
    (task,) = yaml.safe_load((ROLE / "tasks/configure.yml").read_text())
    validators = {
        file["path"]: file.get("validate")
        for file in task["sigsum_ops.site.managed_files"]["files"]
    }
    before = log1.file(CONFIG).content_string
    bad = {"path": CONFIG, "content": f"{before}no-such-setting = 1\n"}
    refused = ansible.module(
        "log1",
        "sigsum_ops.site.managed_files",
        files=[{**bad, "validate": validators[CONFIG]}],
    )
    assert refused["failed"]
    assert "no-such-setting" in refused["msg"]
    assert log1.file(CONFIG).content_string == before


def test_a_buffer_pool_beyond_the_machines_memory_is_refused(ansible: Ansible) -> None:
    run = ansible.playbook(mariadb_buffer_pool_mb=10_000_000)
    assert not run.ok
    assert "mariadb_buffer_pool_mb (10000000) may be at most 80 %" in run.text
    assert run.changed == {"log1": 0}


def test_a_changed_setting_is_in_force_after_one_converge(log1: Host, ansible: Ansible) -> None:
    before = main_pid(log1, "mariadb")
    assert ansible.playbook(mariadb_max_connections=151).ok
    assert ask(log1, "SELECT @@max_connections") == "151"
    assert main_pid(log1, "mariadb") != before
    assert ansible.playbook().ok
    assert ask(log1, "SELECT @@max_connections") == "150"
