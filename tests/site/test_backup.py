"""Backups: what restic is called with and says, and what is restored and may never be more."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.backup import config, job, quarantine, restic
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.failover.seen import Seen
from sigsum_ops.log.archive import Archive
from sigsum_ops.log.keys import public_key_of
from sigsum_ops.log.treehead import TreeHead, parse_signed_tree_head
from sigsum_ops.log.trillian import Trillian
from tests.log import rfc9162
from tests.log.fake_trillian import FakeTree, FakeTrillian

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(SECRET)
LEAVES = [b"leaf %d" % number for number in range(20)]
GOOD: dict[str, Any] = {
    "repository": "sftp:backup@vault.example.org:/srv/log",
    "host": "log-north",
    "check_share": "100%",
    "keep": {"daily": 14, "weekly": 8, "monthly": 12},
}


def head(size: int, leaves: list[bytes] = LEAVES) -> TreeHead:
    return TreeHead(size, rfc9162.root(leaves[:size]))


def signed(tree: TreeHead) -> str:
    signature = SECRET.sign(tree.checkpoint(KEY)).hex()
    return f"size={tree.size}\nroot_hash={tree.root.hex()}\nsignature={signature}\n"


# --- Configuration ------------------------------------------------------------------------------


def test_the_configuration_is_read() -> None:
    settings = config.parse(GOOD)
    assert (settings.daily, settings.weekly, settings.monthly) == (14, 8, 12)
    other = config.parse({**GOOD, "repository": "/srv/other"})
    assert settings.pin != other.pin


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"repository": "rest:https://user:word@vault.example/"}, "repository holds a password"),
        ({"repository": ""}, "repository is ''"),
        ({"host": "log north"}, "host is 'log north'"),
        ({"check_share": "0%"}, "check_share is '0%'"),
        ({"check_share": "101%"}, "check_share is '101%'"),
        ({"keep": {"daily": 0, "weekly": 8, "monthly": 12}}, "daily in [keep] is '0'"),
        ({"keep": {"daily": 1, "weekly": 1}}, "monthly in [keep] is missing"),
        ({"kept": 1}, "kept is not a setting"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.parse({**GOOD, **change})
    assert said in caught.value.message


def test_a_service_reads_its_credential_and_root_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert config.secret("backup-password") == Path("/etc/sigsum/private/backup-password")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert config.secret("backup-password") == tmp_path / "backup-password"


# --- restic's snapshots -------------------------------------------------------------------------


def listed(*rows: tuple[str, str, int, str]) -> str:
    """Snapshots as restic lists them: id, host, hour, tags."""
    return json.dumps(
        [
            {
                "id": id_,
                "hostname": host,
                "time": f"2026-01-02T{hour:02}:00:00Z",
                "tags": tags.split(),
            }
            for id_, host, hour, tags in rows
        ]
    )


ROWS = (
    ("aa11", "log1", 3, "sigsum-ops files"),
    ("aa22", "log1", 3, "sigsum-ops database"),
    ("bb11", "log2", 3, "sigsum-ops files"),
    ("bb22", "log2", 3, "sigsum-ops database"),
    ("cc11", "log1", 5, "sigsum-ops files"),
    ("cc22", "log1", 5, "sigsum-ops database"),
    ("dd11", "log1", 7, "sigsum-ops files"),
    ("ee11", "log1", 9, "somebody else's"),
)


def test_both_parts_of_a_run_belong_together() -> None:
    whole, alone = restic.backups(restic.parse_snapshots(listed(*ROWS)))
    assert [(b.files.id, b.database.id) for b in whole] == [
        ("aa11", "aa22"),
        ("bb11", "bb22"),
        ("cc11", "cc22"),
    ]
    assert [snapshot.id for snapshot in alone] == ["dd11"]
    assert whole[0].database.time == datetime(2026, 1, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wanted", "found"), [(None, "cc22"), ("aa1", "aa22"), ("aa22", "aa22"), ("bb", "bb22")]
)
def test_a_backup_is_chosen_by_either_part_or_is_the_newest(wanted: str | None, found: str) -> None:
    snapshots = restic.parse_snapshots(listed(*ROWS))
    assert restic.choose(snapshots, wanted).database.id == found


@pytest.mark.parametrize(
    ("rows", "wanted", "said"),
    [
        (ROWS, "dd11", "was not finished"),
        (ROWS, "ff", "fits 0 backups"),
        (ROWS, "", "fits 3 backups"),
        (ROWS[6:], None, "no whole backup"),
    ],
)
def test_what_is_no_backup_is_not_chosen(
    rows: tuple[tuple[str, str, int, str], ...], wanted: str | None, said: str
) -> None:
    with pytest.raises(OpsError) as caught:
        restic.choose(restic.parse_snapshots(listed(*rows)), wanted)
    assert said in caught.value.message


# --- A run, with a restic that only says what it was called with --------------------------------

RESTIC = """#!{python}
import json, os, sys
from pathlib import Path
state = Path({state!r})
arguments = sys.argv[1:]
words = ("init", "cat", "backup", "forget", "unlock", "snapshots", "check")
verb = next(word for word in arguments if word in words)
calls = json.loads((state / "calls").read_text())
calls.append(arguments)
(state / "calls").write_text(json.dumps(calls))
fails = json.loads((state / "fails").read_text())
part = "database" if "--stdin-from-command" in arguments else "files"
code = 0
for number, (what, status) in enumerate(fails):
    if what in (verb, part if verb == "backup" else ""):
        code = status
        del fails[number]
        (state / "fails").write_text(json.dumps(fails))
        break
if verb == "backup" and code in (0, 3):
    count = sum("backup" in call for call in calls)
    print(json.dumps({{"message_type": "status"}}))
    print(json.dumps({{"message_type": "summary", "snapshot_id": f"{{part}}{{count}}",
                       "total_bytes_processed": 100, "data_added_packed": 7}}))
elif verb == "cat" and not code:
    print(json.dumps({{"id": (state / "id").read_text()}}))
elif verb == "snapshots":
    print((state / "snapshots").read_text())
if code:
    print(f"what restic says of {{code}}", file=sys.stderr)
sys.exit(code)
"""


class Machine:
    """A machine with a restic whose calls are kept and which fails as it is told."""

    def __init__(self, directory: Path) -> None:
        self.state = directory
        self.settings = config.parse(GOOD)
        (directory / "id").write_text("0123")
        (directory / "calls").write_text("[]")
        (directory / "snapshots").write_text("[]")
        self.fail()
        program = directory / "restic"
        program.write_text(RESTIC.format(python=sys.executable, state=str(directory)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def fail(self, *what: tuple[str, int]) -> None:
        """Let these verbs or parts fail, once each."""
        (self.state / "fails").write_text(json.dumps(what))

    @property
    def calls(self) -> list[list[str]]:
        found: list[list[str]] = json.loads((self.state / "calls").read_text())
        return found

    def called(self, verb: str) -> list[list[str]]:
        return [call for call in self.calls if verb in call]

    def metrics(self, name: str) -> str:
        path = self.state / f"{name}.prom"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    monkeypatch.setattr(config, "STATE", tmp_path)
    monkeypatch.setattr(restic, "STATE", tmp_path)
    monkeypatch.setattr(job, "STATE", tmp_path)
    monkeypatch.setattr(job, "PATHS", (str(tmp_path), "/nonexistent"))
    return Machine(tmp_path)


@pytest.fixture
def opened(machine: Machine) -> Machine:
    assert not job.initialise(machine.settings)
    (machine.state / "calls").write_text("[]")
    return machine


def test_a_repository_is_made_only_where_there_is_none(machine: Machine) -> None:
    machine.fail(("cat", restic.NO_REPOSITORY))
    assert job.initialise(machine.settings)
    assert len(machine.called("init")) == 1
    assert machine.settings.pin.read_text() == "0123\n"
    assert not job.initialise(machine.settings)
    assert len(machine.called("init")) == 1


def test_a_repository_that_cannot_be_opened_is_not_made_anew(machine: Machine) -> None:
    machine.fail(("cat", 12))
    with pytest.raises(OpsError) as caught:
        job.initialise(machine.settings)
    assert "the password is not this repository's" in caught.value.message
    assert machine.called("init") == []
    assert not machine.settings.pin.exists()


@pytest.mark.parametrize("act", [job.run, job.check, job.initialise])
def test_another_repository_in_its_place_is_refused(
    opened: Machine, act: Callable[[config.Settings], object]
) -> None:
    (opened.state / "id").write_text("4567")
    with pytest.raises(OpsError) as caught:
        act(opened.settings)
    assert "is repository 4567, not 0123" in caught.value.message
    assert opened.called("backup") == opened.called("check") == []


def test_a_repository_that_was_never_opened_is_not_used(machine: Machine) -> None:
    with pytest.raises(OpsError) as caught:
        job.run(machine.settings)
    assert "which repository is the right one is not known" in caught.value.message
    assert machine.calls == []


def test_files_come_first_and_both_bear_the_same_time(opened: Machine) -> None:
    result = job.run(opened.settings)
    files, database = opened.called("backup")
    assert "--stdin-from-command" not in files
    assert database[database.index("--") + 1] == "mariadb-dump"
    assert "--single-transaction" in database
    times = [[a for a in call if a.startswith("--time=")] for call in (files, database)]
    assert times[0] == times[1] != []
    assert "--exclude=/etc/sigsum/private" in files
    assert files[-1] == str(opened.state)  # not the one that is not there
    assert (result["bytes"], result["added_bytes"]) == (200, 14)
    assert "sigsum_backup_last_success_bytes 200" in opened.metrics("success")
    assert "sigsum_backup_run_failed 0" in opened.metrics("run")


def test_no_call_shows_a_secret_but_where_it_is(opened: Machine) -> None:
    job.run(opened.settings)
    for call in opened.calls:
        at = call.index("--password-file")
        assert call[at + 1] == str(opened.state / "credentials/backup-password")
        (ssh,) = [argument for argument in call if argument.startswith("sftp.args=")]
        assert f"-i {opened.state}/credentials/backup-ssh-key" in ssh
        assert "StrictHostKeyChecking=yes" in ssh


def test_files_without_their_database_are_forgotten(opened: Machine) -> None:
    opened.fail(("database", 1))
    with pytest.raises(OpsError) as caught:
        job.run(opened.settings)
    assert "what restic says of 1" in caught.value.message
    assert [call[-2:] for call in opened.called("forget")] == [["forget", "files1"]]
    assert opened.metrics("success") == ""
    assert "sigsum_backup_run_failed 1" in opened.metrics("run")


def test_files_that_changed_while_they_were_read_are_read_again(opened: Machine) -> None:
    opened.fail(("files", restic.UNREADABLE))
    assert job.run(opened.settings)["files"] == "files2"
    assert opened.called("forget")[0][-1] == "files1"


def test_files_that_cannot_be_read_are_no_backup(opened: Machine) -> None:
    opened.fail(*[("files", restic.UNREADABLE)] * 3)
    with pytest.raises(OpsError):
        job.run(opened.settings)
    assert [call[-1] for call in opened.called("forget")] == ["files1", "files2", "files3"]
    assert not [call for call in opened.calls if "--stdin-from-command" in call]


def test_a_backup_is_a_success_also_where_old_ones_stay(opened: Machine) -> None:
    opened.fail(("forget", 1))
    with pytest.raises(OpsError):
        job.run(opened.settings)
    assert "sigsum_backup_last_success_bytes 200" in opened.metrics("success")
    assert "sigsum_backup_run_failed 1" in opened.metrics("run")


def test_what_a_killed_run_has_left_is_forgotten_and_others_are_kept(opened: Machine) -> None:
    rows = [(i, "log-north" if host == "log1" else host, h, tags) for i, host, h, tags in ROWS]
    rows.append(("ff11", "log2", 7, "sigsum-ops files"))  # another machine's, perhaps still running
    (opened.state / "snapshots").write_text(listed(*rows))
    job.run(opened.settings)
    alone, old = opened.called("forget")
    assert alone[-2:] == ["forget", "dd11"]
    assert old[old.index("--host") + 1] == "log-north"
    assert old[old.index("--keep-weekly") + 1] == "8"
    assert "--keep-within=2d" in old
    assert "--prune" in old


def test_a_damaged_repository_is_reported(opened: Machine) -> None:
    job.check(opened.settings)
    assert "--read-data-subset=100%" in opened.called("check")[0]
    assert "sigsum_backup_check_failed 0" in opened.metrics("check")
    opened.fail(("check", 1))
    with pytest.raises(OpsError):
        job.check(opened.settings)
    assert "sigsum_backup_check_failed 1" in opened.metrics("check")


# --- Quarantine ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trillian() -> Iterator[FakeTrillian]:
    with FakeTrillian() as running:
        yield running


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine in quarantine on which tree 1 was restored, with units as systemctl shows them."""
    monkeypatch.setattr(quarantine, "MARK", tmp_path / "quarantined.json")
    monkeypatch.setattr(quarantine, "LOG_KEY", tmp_path / "log.pub")
    monkeypatch.setattr(quarantine, "RESTORED", tmp_path / "restored")
    (tmp_path / "restored/var/lib/sigsum-log").mkdir(parents=True)
    (tmp_path / "restored/var/lib/sigsum-log/sth").write_text(signed(head(7)))
    (tmp_path / "log.pub").write_text(f"{KEY.ssh}\n")
    mark = {"since": "now", "reason": "a test", "restored": {"tree_id": 1}}
    (tmp_path / "quarantined.json").write_text(json.dumps(mark))
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\ncat {tmp_path}/state\n")
    systemctl.chmod(0o755)
    (tmp_path / "state").write_text("inactive\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def prove(place: Path, trillian: FakeTrillian, *heads: TreeHead) -> dict[str, Any]:
    files = []
    for number, tree in enumerate(heads):
        files.append(place / f"seen{number}")
        files[-1].write_text(signed(tree))
    return quarantine.prove(files, trillian=trillian.address, wait=0, say=lambda _: None)


def kept(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "quarantined.json").read_text())
    return found


def test_a_tree_ahead_of_everything_given_is_said_to_be(
    place: Path, trillian: FakeTrillian
) -> None:
    trillian.trees = {1: FakeTree(1, type="PREORDERED_LOG", leaves=LEAVES[:12])}
    proof = prove(place, trillian, head(12), head(3))
    assert (proof["size"], proof["root_hash"]) == (12, head(12).root.hex())
    assert [item["size"] for item in proof["ahead_of"]] == [12, 3, 7]  # and the backup's own
    assert kept(place)["proof"] == proof
    assert kept(place)["reason"] == "a test"


def test_a_tree_that_is_behind_is_refused_with_how_far(place: Path, trillian: FakeTrillian) -> None:
    trillian.trees = {1: FakeTree(1, leaves=LEAVES[:12])}
    prove(place, trillian, head(12))
    with pytest.raises(quarantine.Behind) as caught:
        prove(place, trillian, head(12), head(20))
    assert "it is 8 leaves behind" in caught.value.message
    assert "seen1" in caught.value.message
    assert "seen0" not in caught.value.message
    assert kept(place)["proof"] is None  # the earlier one does not stay


def test_an_archive_of_published_tree_heads_is_compared_too(
    place: Path, trillian: FakeTrillian
) -> None:
    trillian.trees = {1: FakeTree(1, leaves=LEAVES[:12])}
    for path in (place / "heads", place / "restored/var/lib/sigsum-archive/heads"):
        path.parent.mkdir(exist_ok=True)
        with Archive.open(path, KEY) as kept_heads:
            kept_heads.append(parse_signed_tree_head(signed(head(9)).encode()), "http://log/", ())

    def compare() -> dict[str, Any]:
        heads = [place / "heads"]
        return quarantine.prove(heads, trillian=trillian.address, wait=0, say=lambda _: None)

    assert [item["size"] for item in compare()["ahead_of"]] == [9, 7, 9]
    trillian.trees = {1: FakeTree(1, leaves=LEAVES[:8])}
    with pytest.raises(quarantine.Behind) as caught:
        compare()
    assert "it is 1 leaves behind" in caught.value.message


def test_another_history_is_refused(place: Path, trillian: FakeTrillian) -> None:
    trillian.trees = {1: FakeTree(1, leaves=[b"foreign", *LEAVES[1:]])}
    with pytest.raises(quarantine.Behind) as caught:
        prove(place, trillian, head(12))
    assert "is another one" in caught.value.message
    assert "leaves behind" not in caught.value.message


def test_a_database_that_is_behind_the_backups_own_tree_head_is_refused(
    place: Path, trillian: FakeTrillian
) -> None:
    trillian.trees = {1: FakeTree(1, leaves=LEAVES[:6])}
    with pytest.raises(quarantine.Behind) as caught:
        prove(place, trillian, head(3))
    assert "sigsum-log/sth" in caught.value.message


def test_a_tree_that_is_not_there_is_refused(place: Path, trillian: FakeTrillian) -> None:
    trillian.trees = {2: FakeTree(2, leaves=LEAVES)}
    with pytest.raises(quarantine.Behind):
        prove(place, trillian, head(3))


def test_nothing_given_proves_nothing(place: Path, trillian: FakeTrillian) -> None:
    trillian.trees = {1: FakeTree(1, leaves=LEAVES)}
    with pytest.raises(UsageError):
        prove(place, trillian)
    assert "proof" not in kept(place)


@pytest.mark.parametrize("state", ["active", "activating", "deactivating"])
def test_a_machine_on_which_a_log_runs_proves_and_restores_nothing(
    place: Path, trillian: FakeTrillian, state: str
) -> None:
    (place / "state").write_text(f"{state}\n")
    with pytest.raises(OpsError) as caught:
        prove(place, trillian, head(3))
    assert f"sigsum-log-primary.service is {state}" in caught.value.message
    with pytest.raises(OpsError):
        quarantine.restore(config.parse(GOOD), None, say=lambda _: None)


def test_a_machine_without_the_mark_restores_nothing(place: Path) -> None:
    (place / "quarantined.json").unlink()
    with pytest.raises(OpsError) as caught:
        quarantine.restore(config.parse(GOOD), None, say=lambda _: None)
    assert "not in quarantine" in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"since": "now"}'])
def test_a_damaged_mark_is_still_one(place: Path, text: str) -> None:
    (place / "quarantined.json").write_text(text)
    with pytest.raises(OpsError) as caught:
        quarantine.read_mark()
    assert "docs/backups.md" in (caught.value.hint or "")


# --- How it ends --------------------------------------------------------------------------------


class Host:
    """In place of systemd and MariaDB: what was called, and how many leaves wait each time."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, *waiting: int) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.waiting = list(waiting)
        self.time = 0.0
        self.bar = place / "system/trillian-log-signer.service.d/10-quarantine.conf"
        self.bar.parent.mkdir(parents=True, exist_ok=True)
        self.bar.write_text("[Unit]\n")
        monkeypatch.setattr(quarantine, "UNITS_DIRECTORY", place / "system")
        monkeypatch.setattr(subprocess, "run", self.run)

    def run(self, argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls.append(tuple(argv[:3]))
        said = ""
        if argv[0] == "mariadb":
            assert "--execute=SELECT COUNT(*) FROM Unsequenced" in argv
            said = f"{self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]}\n"
        return subprocess.CompletedProcess(argv, 0, said, "")

    def integrate(self) -> list[Seen]:
        def sleep(seconds: float) -> None:
            self.time += seconds

        return quarantine.integrate(wait=5, clock=lambda: self.time, sleep=sleep)


def test_a_proven_tree_is_finished_and_then_released(
    place: Path, trillian: FakeTrillian, monkeypatch: pytest.MonkeyPatch
) -> None:
    trillian.trees = {1: FakeTree(1, leaves=LEAVES[:12])}
    prove(place, trillian, head(10))
    host = Host(place, monkeypatch, 3, 1, 0)
    seen = host.integrate()
    assert [(item.head, item.source) for item in seen] == [
        (head(12), str(place / "quarantined.json")),
        (head(10), str(place / "seen0")),
        (head(7), str(place / "restored/var/lib/sigsum-log/sth")),
    ]
    assert not host.bar.exists()
    assert host.calls[:2] == [
        ("systemctl", "daemon-reload"),
        ("systemctl", "start", "trillian-log-signer.service"),
    ]
    assert host.time == 1.0
    assert kept(place)["proof"]["size"] == 12  # the log and the oracle are barred still
    quarantine.lift()
    assert not (place / "quarantined.json").exists()
    record = json.loads((place / "restored/quarantined.json").read_text())
    assert record["proof"]["size"] == 12
    assert record["lifted"]
    host.calls.clear()
    assert host.integrate() == []  # run again, it finds nothing to do
    quarantine.lift()
    assert host.calls == []


def test_leaves_that_are_not_integrated_are_waited_for_and_said(
    place: Path, trillian: FakeTrillian, monkeypatch: pytest.MonkeyPatch
) -> None:
    trillian.trees = {1: FakeTree(1, leaves=LEAVES[:12])}
    prove(place, trillian, head(12))
    host = Host(place, monkeypatch, 7)
    with pytest.raises(OpsError, match="7 leaves are not in the tree after 5 s"):
        host.integrate()
    assert (place / "quarantined.json").exists()
    host.waiting = [0]
    assert len(host.integrate()) == 3


@pytest.mark.parametrize("proof", [{}, {"proof": None}])
def test_a_tree_that_is_not_proven_is_not_touched(
    place: Path, monkeypatch: pytest.MonkeyPatch, proof: dict[str, None]
) -> None:
    (place / "quarantined.json").write_text(json.dumps({**kept(place), **proof}))
    host = Host(place, monkeypatch, 0)
    with pytest.raises(OpsError, match="not proven"):
        host.integrate()
    assert host.bar.exists()
    assert host.calls == []


def test_the_playbook_bars_what_the_program_calls_barred() -> None:
    text = (Path(__file__).parents[2] / "playbooks/restore.yml").read_text()
    barred = re.findall(r"- path: /etc/systemd/system/(\S+)\.d/(\S+)$", text, re.M)
    assert barred == [(unit, quarantine.BAR) for unit in quarantine.UNITS]
    assert text.count(str(quarantine.MARK)) == 1  # and by its variable in each of them
    assert text.count("PathExists=!{{ __restore_mark }}") == 2


def test_seen_heads_are_compared_once_each(trillian: FakeTrillian) -> None:
    trillian.trees = {1: FakeTree(1, leaves=LEAVES[:12])}
    with Trillian(trillian.address) as connection:
        proof = quarantine.compare([Seen(head(4), "a"), Seen(head(4), "b")], 1, connection)
    assert [item["source"] for item in proof["ahead_of"]] == ["a", "b"]
