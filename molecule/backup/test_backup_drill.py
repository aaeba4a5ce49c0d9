"""The restore drill: a log's backups, and that none of them becomes a second history.

The tests are one story, told in their order: backups with leaves between them and after, a
secondary that is taken out of service, what a restore on it may and may not become, and in the end
a log that goes on from a backup. What an older database does that nothing keeps from starting is
in molecule/site: a second root.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from resources.support import Ansible, Run, add_leaves, eventually, exposure, http
from resources.test_converged import (  # noqa: F401 - the first, while it is as it was converged
    test_a_check_of_converged_machines_changes_nothing,
)
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.treehead import parse_cosigned_tree_head

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
RESTORED = "/var/lib/sigsum-restored"
MARK = "/etc/sigsum/quarantined.json"
PACK = "find /srv/vault/log/data -type f -size +2k | sort | head -n 1"
# By machine, what it signs with; the repository's own secrets are on both.
KEYS = {"log1": "/etc/sigsum/private/hsm-passphrase", "log2": "/etc/sigsum/private/node-key"}
SECRETS = ("/etc/sigsum/private/backup-password", "/etc/sigsum/private/backup-ssh-key")


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers to get-tree-head, as people keep them."""
    return tmp_path_factory.mktemp("heads")


def url(lab: Lab, name: str = "log1") -> str:
    return f"http://{lab.hosts()[name]}:6965"


def published(lab: Lab, host: Host, name: str = "log1") -> str:
    status, body = http(host, f"{url(lab, name)}/get-tree-head")
    assert status == 200
    return f"{body}\n"


def size(answer: str) -> int:
    return parse_cosigned_tree_head(answer.encode()).signed.head.size


def grow(lab: Lab, host: Host, number: int, name: str = "log1") -> str:
    """Add leaves; returns the answer to get-tree-head once they are published."""
    wanted = size(published(lab, host, name)) + number
    add_leaves(url(lab, name), number)
    eventually(
        lambda: size(published(lab, host, name)) >= wanted, seconds=40, what="leaves are published"
    )
    return published(lab, host, name)


def back_up(host: Host) -> None:
    host.check_output("systemctl start sigsum-backup.service")


def metric(host: Host, file: str, name: str) -> float:
    text = host.file(f"/var/lib/sigsum-backup/{file}.prom").content_string
    (value,) = re.findall(rf"^{name} (\S+)$", text, re.M)
    return float(value)


def restic(host: Host, arguments: str) -> str:
    """What restic itself says, with the machine's own keys."""
    text = host.file("/etc/sigsum/backup.toml").content_string
    (address,) = re.findall(r'^repository = "(.+)"$', text, re.M)
    ssh = f"-i {SECRETS[1]} -o UserKnownHostsFile=/etc/sigsum/backup-known-hosts"
    options = f"--no-cache --repo {address} --option 'sftp.args={ssh}'"
    said: str = host.check_output(f"RESTIC_PASSWORD_FILE={SECRETS[0]} restic {options} {arguments}")
    return said


def restore(ansible: Ansible, target: str, *seen: Path, snapshot: str | None = None) -> Run:
    options = ["-e", f"target={target}"]
    options += ["-e", f"snapshot={snapshot}"] if snapshot else []
    options += ["-e", "seen=" + ",".join(map(str, seen))] if seen else []
    return ansible.playbook(*options, path=PLAYBOOKS / "restore.yml")


def procedure(ansible: Ansible, name: str, target: str, **variables: object) -> Run:
    extra = json.dumps({"target": target, "log_server_interval": "2s", **variables})
    return ansible.playbook("--extra-vars", extra, path=PLAYBOOKS / f"{name}.yml")


def mark(host: Host) -> dict[str, object]:
    found: dict[str, object] = json.loads(host.file(MARK).content_string)
    return found


def secret_line(host: Host, path: str) -> str:
    """A line that only this file has: the fourth of a private key, the one of a password."""
    return str(host.check_output("sed -n '4p;1{/PRIVATE/!p}' %s", path))


# --- Backups ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sigsum-backup", "sigsum-backup-check"])
def test_the_timers_wait_and_the_services_are_closed(log1: Host, log2: Host, name: str) -> None:
    for host in (log1, log2):
        assert host.service(f"{name}.timer").is_running
        assert host.service(f"{name}.timer").is_enabled
        assert exposure(host, f"{name}.service") <= 2.0
        shown = host.check_output("systemctl show --property=Nice,IOSchedulingClass %s", name)
        assert set(shown.split()) == {"Nice=19", "IOSchedulingClass=3"}


def test_a_backup_is_made_and_says_when_and_how_large(lab: Lab, log1: Host, heads: Path) -> None:
    (heads / "older").write_text(grow(lab, log1, 40))
    now = float(log1.check_output("date +%s"))
    back_up(log1)
    made = json.loads(restic(log1, "snapshots --json --host log1 --tag database --latest 1"))
    (heads / "snapshot").write_text(made[0]["id"][:10])
    assert metric(log1, "success", "sigsum_backup_last_success_timestamp_seconds") >= now
    assert metric(log1, "success", "sigsum_backup_last_success_bytes") > 10_000
    assert metric(log1, "run", "sigsum_backup_run_failed") == 0
    grow(lab, log1, 30)


def test_the_other_machine_backs_up_into_the_same_repository(log2: Host) -> None:
    back_up(log2)
    listed = json.loads(restic(log2, "snapshots --json"))
    assert {item["hostname"] for item in listed} == {"log1", "log2"}
    assert {tuple(item["tags"]) for item in listed} == {
        ("sigsum-ops", "files"),
        ("sigsum-ops", "database"),
    }


def test_the_repository_shows_nothing_without_its_password(client1: Host) -> None:
    assert client1.run("grep -rlsa -e trillian -e sigsum -e ssh-ed25519 /srv/vault/log").rc == 1
    assert int(client1.check_output("find /srv/vault/log/data -type f | wc -l")) > 2


def test_no_secret_of_the_repository_is_shown(log1: Host) -> None:
    said = log1.check_output(
        "systemctl show sigsum-backup; systemctl cat sigsum-backup; cat /etc/sigsum/backup.toml;"
        " journalctl --no-pager"
    )
    assert "backup-password" in said
    for path in SECRETS:
        assert secret_line(log1, path) not in said
        assert log1.file(path).mode == 0o600
    search = "runuser --user=nobody -- grep -rlsIF -e %s /etc /var /run /tmp"
    assert "/etc/sigsum/backup.toml" in log1.run(search, "sftp:vault").stdout
    for path in SECRETS:
        assert log1.run(search, secret_line(log1, path)).stdout == ""


def test_its_command_lines_show_no_secret_while_it_runs(log1: Host) -> None:
    log1.check_output("systemctl start --no-block sigsum-backup.service")
    seen = ""
    while log1.check_output("systemctl show -P ActiveState sigsum-backup") == "activating":
        seen += log1.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "restic --repo" in seen
    for path in SECRETS:
        assert secret_line(log1, path) not in seen


# --- Refusals -----------------------------------------------------------------------------------


def untouched(host: Host) -> bool:
    return not host.file(MARK).exists and not host.file(RESTORED).exists


def test_a_restore_onto_the_primary_is_refused(ansible: Ansible, log1: Host) -> None:
    before = log1.check_output("systemctl show -P MainPID sigsum-log-primary")
    run = restore(ansible, "log1")
    assert not run.ok
    assert "log1 is the primary in the inventory" in run.text
    assert run.changed["log1"] == 0
    assert untouched(log1)
    # Also where the inventory says something else: the machine itself tells.
    other = {"log1": {"log_server_role": "secondary"}, "log2": {"log_server_role": "primary"}}
    run = ansible.playbook("-e", "target=log1", path=PLAYBOOKS / "restore.yml", hosts=other)
    assert not run.ok
    assert "log1 has signed for the log" in run.text
    assert run.changed["log1"] == 0
    assert log1.check_output("systemctl show -P MainPID sigsum-log-primary") == before
    refused = log1.run("sigsum-ops backup restore")
    assert refused.rc == 1
    assert "not in quarantine" in refused.stderr


def test_a_restore_onto_a_machine_that_runs_a_log_is_refused(ansible: Ansible, log2: Host) -> None:
    run = restore(ansible, "log2")
    assert not run.ok
    assert "log2 runs sigsum-log-secondary" in run.text
    assert run.changed["log2"] == 0
    assert untouched(log2)


def test_a_restore_onto_a_witness_is_refused(ansible: Ansible, log2: Host) -> None:
    unit = "/run/systemd/system/litewitness.service"
    log2.check_output("printf '[Service]\\nExecStart=/bin/true\\n' > %s", unit)
    try:
        run = restore(ansible, "log2")
    finally:
        log2.check_output("rm %s && systemctl daemon-reload", unit)
    assert not run.ok
    assert "log2 is a witness" in run.text
    assert untouched(log2)


def test_a_restore_without_a_target_is_refused(ansible: Ansible) -> None:
    for target in ("", "log_machines"):
        run = restore(ansible, target)
        assert not run.ok
        assert "say which machine of the inventory" in run.text


# --- The restore --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _out_of_service(machines: dict[str, Host]) -> None:
    """The secondary is taken out of service; its data is left where it is."""
    machines["log2"].check_output("systemctl disable --now sigsum-log-secondary")


@pytest.mark.usefixtures("_out_of_service")
def test_a_database_that_holds_a_tree_is_not_written_over(ansible: Ansible, log2: Host) -> None:
    query = "mariadb --batch --skip-column-names --execute 'SELECT TreeId FROM Trees' trillian"
    before = log2.check_output(query)
    run = restore(ansible, "log2")
    assert not run.ok
    assert "the database holds 1 tree that no restore has put there" in run.text
    assert log2.check_output(query) == before
    assert log2.file(MARK).exists


@pytest.mark.usefixtures("_out_of_service")
def test_a_restored_tree_that_is_behind_is_said_to_be(
    ansible: Ansible, lab: Lab, log1: Host, log2: Host, heads: Path
) -> None:
    log2.check_output(
        "mariadb --execute 'DROP DATABASE trillian' && rm /var/lib/sigsum-log/tree-id"
    )
    (heads / "now").write_text(published(lab, log1))
    snapshot = (heads / "snapshot").read_text()
    run = restore(ansible, "log2", heads / "older", heads / "now", snapshot=snapshot)
    assert not run.ok
    behind = size((heads / "now").read_text()) - size((heads / "older").read_text())
    assert "must not be used" in run.text
    assert f"it is {behind} leaves behind" in run.text
    assert mark(log2)["proof"] is None


@pytest.mark.usefixtures("_out_of_service")
def test_what_is_not_proven_is_neither_emptied_nor_adopted(ansible: Ansible, log2: Host) -> None:
    before = mark(log2)
    run = procedure(ansible, "reseed", "log2")
    assert not run.ok
    assert "quarantined: log2 is in quarantine since" in run.text, run.output
    assert run.changed["log2"] == 0
    # Where nothing has judged before, the step that makes a tree a primary's looks itself.
    key = log2.file("/etc/sigsum/log.pub").content_string
    step = ansible.module("log2", "sigsum_ops.site.failover", step="adopt", log_key=key)
    assert step["failed"]
    assert "not proven ahead of what was published" in step["msg"]
    assert mark(log2) == before


@pytest.mark.usefixtures("_out_of_service")
def test_it_is_ahead_of_what_was_published_when_it_was_made(log2: Host, heads: Path) -> None:
    answer = (heads / "older").read_text()
    log2.check_output("printf %%s %s > /root/older", answer)
    proof = json.loads(log2.check_output("sigsum-ops backup prove --json --seen /root/older"))
    assert proof["size"] == size(answer)
    # What was given and its own; its archive may have followed the log for a while already.
    sizes = [item["size"] for item in proof["ahead_of"]]
    assert sizes[:2] == [size(answer)] * 2
    assert max(sizes) == size(answer)
    assert mark(log2)["proof"] == proof


@pytest.mark.usefixtures("_out_of_service")
def test_without_anything_to_compare_with_nothing_is_proven(log2: Host) -> None:
    refused = log2.run("sigsum-ops backup prove")
    assert refused.rc == 2
    assert "an empty list would prove nothing" in refused.stderr


@pytest.mark.usefixtures("_out_of_service")
def test_a_tree_head_that_the_log_has_not_signed_proves_nothing(log2: Host) -> None:
    forged = f"size=1\\nroot_hash={'00' * 32}\\nsignature={'00' * 64}\\n"
    log2.check_output(f"printf '{forged}' > /root/forged")
    refused = log2.run("sigsum-ops backup prove --seen /root/forged")
    assert refused.rc == 2
    assert "not signed by the log" in refused.stderr


@pytest.mark.usefixtures("_out_of_service")
@pytest.mark.parametrize(
    "unit", ["sigsum-log-primary", "sigsum-log-secondary", "sigsum-oracle", "trillian-log-signer"]
)
def test_nothing_that_signs_starts_in_quarantine(log2: Host, unit: str) -> None:
    # The units as the roles write them, also those that this machine never had.
    if not log2.file(f"/etc/systemd/system/{unit}.service").exists:
        text = "[Service]\\nExecStart=/bin/sleep 1000\\n"
        log2.check_output(f"printf '{text}' > /run/systemd/system/{unit}.service")
        log2.check_output("systemctl daemon-reload")
    started = log2.run("systemctl start %s", unit)
    assert not log2.service(unit).is_running
    assert log2.check_output("systemctl show -P ActiveState %s", unit) == "inactive"
    assert (started.rc == 0) == (unit == "trillian-log-signer")
    assert MARK in log2.run("systemctl status --no-pager %s", unit).stdout


@pytest.mark.usefixtures("_out_of_service")
def test_the_quarantine_outlives_a_restart_and_a_converge_does_not_lift_it(
    ansible: Ansible, log2: Host
) -> None:
    reason = mark(log2)["reason"]
    assert "restore.yml" in str(reason)
    run = ansible.playbook("--limit", "log2")
    assert not run.ok
    assert "log2 is in quarantine" in run.text
    assert run.changed["log2"] == 0
    assert not log2.service("sigsum-log-secondary").is_running
    assert not log2.service("trillian-log-signer").is_running
    assert mark(log2)["reason"] == reason


@pytest.mark.usefixtures("_out_of_service")
def test_no_secret_was_backed_up(log1: Host, log2: Host) -> None:
    files = log2.check_output("cd %s && find . -type f", RESTORED).split()
    assert {"./etc/sigsum/config.toml", "./var/lib/sigsum-log/sth"} <= set(files)
    assert not [path for path in files if "private" in path or path.endswith(".startup")]
    assert log2.run("grep -rl 'PRIVATE KEY' %s", RESTORED).rc == 1
    # The same of all that is in the repository, of both machines and both parts.
    for host in (log1, log2):
        name = "log1" if host is log1 else "log2"
        for part in ("files", "database"):
            options = f"--host {name} --tag {part} latest / > /run/part.tar"
            restic(host, f"dump --archive tar {options}")
            assert host.run("grep -aq -e trillian /run/part.tar").rc == 0
            for path in (KEYS[name], *SECRETS):
                line = secret_line(host, path)
                assert len(line) >= 20
                assert host.run("grep -aqF -e %s /run/part.tar", line).rc == 1, path
        host.check_output("rm /run/part.tar")


@pytest.mark.usefixtures("_out_of_service")
def test_a_quarantined_machine_is_not_backed_up(log2: Host) -> None:
    before = metric(log2, "run", "sigsum_backup_run_timestamp_seconds")
    back_up(log2)
    assert metric(log2, "run", "sigsum_backup_run_timestamp_seconds") == before


# --- The repository -----------------------------------------------------------------------------


def test_a_repository_in_the_place_of_another_is_noticed(log1: Host, client1: Host) -> None:
    client1.check_output("mv /srv/vault/log /srv/vault/kept")
    try:
        assert log1.run("systemctl start sigsum-backup").rc != 0
        assert metric(log1, "run", "sigsum_backup_run_failed") == 1
        restic(log1, "init")
        refused = log1.run("sigsum-ops backup check")
    finally:
        client1.check_output("rm -rf /srv/vault/log && mv /srv/vault/kept /srv/vault/log")
    assert refused.rc == 1
    assert "is repository" in refused.stderr


def test_a_tampered_repository_is_noticed(log1: Host, client1: Host) -> None:
    log1.check_output("systemctl start sigsum-backup-check")
    assert metric(log1, "check", "sigsum_backup_check_failed") == 0
    pack = client1.check_output(PACK)
    client1.check_output("cp --archive %s /root/pack && chmod u+w %s", pack, pack)
    client1.check_output("printf x | dd of=%s bs=1 seek=900 conv=notrunc status=none", pack)
    try:
        assert log1.run("systemctl start sigsum-backup-check").rc != 0
    finally:
        client1.check_output("cp --archive /root/pack %s", pack)
    assert metric(log1, "check", "sigsum_backup_check_failed") == 1
    # One that lacks a file is no better.
    client1.check_output("mv %s /root/pack", pack)
    try:
        assert log1.run("systemctl start sigsum-backup-check").rc != 0
    finally:
        client1.check_output("mv /root/pack %s", pack)
    log1.check_output("systemctl start sigsum-backup-check")
    assert metric(log1, "check", "sigsum_backup_check_failed") == 0


def test_a_password_in_the_address_is_refused(ansible: Ansible) -> None:
    run = ansible.playbook(
        "--check", "--limit", "log1", backup_repository="rest:https://user:word@vault.example/log"
    )
    assert not run.ok
    assert "must not hold a password" in run.text


# --- The way out --------------------------------------------------------------------------------


@pytest.mark.usefixtures("_out_of_service")
def test_a_log_that_both_machines_have_lost_goes_on_from_its_backup(
    ansible: Ansible, lab: Lab, log1: Host, log2: Host, heads: Path
) -> None:
    log2.check_output("rm -f /run/systemd/system/*.service && systemctl daemon-reload")
    # Leaves wait in the backup, for which nothing was promised: they come in after the proof.
    log1.check_output("systemctl kill --signal=STOP trillian-log-signer")
    add_leaves(url(lab), 5)
    back_up(log1)
    (heads / "last").write_text(published(lab, log1))
    last = size((heads / "last").read_text())
    lab.kill("log1")

    run = restore(ansible, "log2")
    assert run.ok, run.output
    assert "Not proven" in run.text
    attested = {"fenced_by": "a test", "fenced_how": "its power was cut"}
    given = {**attested, "seen": [str(heads / "last")]}
    run = procedure(ansible, "promote", "log2", **given)
    assert not run.ok
    assert "quarantined: log2 is in quarantine since" in run.text, run.output
    assert run.changed["log2"] == 0
    answer = (heads / "last").read_text()
    log2.check_output("printf %%s %s > /root/last", answer)
    proof = json.loads(log2.check_output("sigsum-ops backup prove --json --seen /root/last"))
    assert proof["size"] >= last
    assert not log2.service("trillian-log-signer").is_running

    run = procedure(ansible, "promote", "log2", **given)
    assert run.ok, run.output
    assert not log2.file(MARK).exists
    record = json.loads(log2.file(f"{RESTORED}/quarantined.json").content_string)
    assert record["proof"] == proof
    assert size(published(lab, log2, "log2")) == proof["size"] + 5

    # What comes back was the primary, and has not heard of it. It is let in as a secondary only
    # since the log extends what it has signed.
    lab.start("log1")
    run = procedure(ansible, "reseed", "log1")
    assert run.ok, run.output
    assert size(grow(lab, log2, 1, "log2")) > proof["size"] + 5
    back_up(log2)
    assert metric(log2, "run", "sigsum_backup_run_failed") == 0
