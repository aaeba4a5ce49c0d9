"""The role base on one machine, after a reboot: what holds now holds for good."""

from __future__ import annotations

import json
import re

import pytest
from resources.support import SSH, Ansible, listening
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

PINS = {"sigsum-log-go": "0.15.2-2+b1", "torchwood": "0.9.0-6"}
HELD = {
    *("sigsum-log-go", "torchwood", "trillian", "sigsum-ops"),
    *("galera-4", "mariadb-server", "mariadb-server-core"),
}
# The candidate of every package that any of the machine's archives has, with the suites it is from.
CANDIDATES = """
import apt_pkg, json
apt_pkg.init()
cache = apt_pkg.Cache(None)
choice = apt_pkg.DepCache(cache)
found = {}
for package in cache.packages:
    version = choice.get_candidate_ver(package)
    if version:
        suites = {file.codename for file, _ in version.file_list if file.site}
        if suites == {"forky"} or package.name == "sigsum-go":
            found[package.name] = [version.ver_str, sorted(suites)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module", autouse=True)
def rebooted(lab: Lab, machines: dict[str, Host]) -> None:
    """What the tests see is what a machine has after its next boot."""
    machines["log1"].check_output("logger --tag before-the-reboot found && journalctl --sync")
    lab.restart("log1")


def test_only_the_pinned_versions_come_from_forky(log1: Host) -> None:
    found = json.loads(log1.check_output("python3 -c %s", CANDIDATES))
    tools = found.pop("sigsum-go")
    assert found == {name: [version, ["forky"]] for name, version in PINS.items()}
    assert tools[1] == ["trixie-backports"]
    assert tools[0].startswith("1.0.0-")


def test_a_pinned_version_that_no_archive_has_is_not_replaced_by_another(log1: Host) -> None:
    pinned = log1.file("/etc/apt/preferences.d/sigsum-ops").content_string
    assert PINS["sigsum-log-go"] in pinned
    directory = log1.check_output("mktemp -d")
    log1.check_output(
        "printf %%s %s > %s/pins", pinned.replace(PINS["sigsum-log-go"], "0.0.1-1"), directory
    )
    policy = log1.check_output(
        "apt-cache --option Dir::Etc::PreferencesParts=%s policy sigsum-log-go", directory
    )
    assert "Candidate: (none)" in policy
    log1.check_output("rm -r %s", directory)


def test_the_suites_come_from_the_machines_own_mirror(log1: Host) -> None:
    def archives(name: str) -> list[str]:
        text = log1.file(f"/etc/apt/sources.list.d/{name}.sources").content_string
        return re.findall(r"^URIs: (\S+)$", text, re.M)

    assert archives("sigsum-ops") == 2 * [archives("debian")[0]]


def test_only_an_inventory_that_says_so_takes_an_outdated_archive(
    log1: Host, ansible: Ansible
) -> None:
    trusting = "Check-Valid-Until: no"
    assert trusting in log1.file("/etc/apt/sources.list.d/sigsum-ops.sources").content_string
    run = ansible.playbook("--check", "--diff", base_check_valid_until=True)
    assert run.ok, run.output
    assert f"-{trusting}" in run.output.splitlines()


def test_unattended_upgrades_leave_alone_what_a_procedure_upgrades(log1: Host) -> None:
    said = log1.run("unattended-upgrade --dry-run --verbose")
    assert said.rc == 0
    (line,) = re.findall(r"Initial blacklist: (.*)", said.stdout + said.stderr)
    # unattended-upgrades(8): regular expressions, matched at the beginning of the name.
    names = {*HELD, "bash", "openssh-server", "trillian-tools"}
    assert {n for n in names if any(re.match(word, n) for word in line.split())} == HELD


def test_unattended_upgrades_take_nothing_but_trixie(log1: Host) -> None:
    said = log1.run("unattended-upgrade --dry-run --verbose")
    (line,) = re.findall(r"Allowed origins are: (.*)", said.stdout + said.stderr)
    assert set(re.findall(r"codename=([\w-]+)", line)) == {"trixie", "trixie-security"}
    assert log1.service("apt-daily-upgrade.timer").is_enabled


def test_no_machine_reboots_by_itself(log1: Host) -> None:
    dump = log1.check_output("apt-config dump")
    assert re.findall(r"^Unattended-Upgrade::Automatic-Reboot (.*);$", dump, re.M) == ['"false"']


def test_the_journal_survives_a_reboot(log1: Host) -> None:
    assert "found" in log1.check_output("journalctl --boot=-1 --identifier=before-the-reboot")


def test_the_network_settings_are_in_force(log1: Host) -> None:
    text = log1.file("/etc/sysctl.d/60-sigsum-ops.conf").content_string
    wanted = dict(re.findall(r"^(\S+) = (\S+)$", text, re.M))
    assert wanted["net.ipv4.conf.all.accept_redirects"] == "0"
    assert {name: log1.check_output("sysctl --values %s", name) for name in wanted} == wanted
    assert (
        not log1.service("systemd-sysctl").is_running
        or log1.check_output("systemctl show --value --property=Result systemd-sysctl") == "success"
    )


def test_time_servers_are_configured_and_the_daemon_enabled(log1: Host) -> None:
    merged = log1.check_output("systemd-analyze cat-config systemd/timesyncd.conf")
    assert "/etc/systemd/timesyncd.conf.d/60-sigsum-ops.conf" in merged
    assert log1.service("systemd-timesyncd").is_enabled


def test_nothing_listens_but_ssh(log1: Host) -> None:
    assert listening(log1) == SSH


def test_a_machine_without_a_known_archive_is_refused_and_not_touched(
    log1: Host, ansible: Ansible
) -> None:
    log1.check_output("mv /etc/apt/sources.list.d/debian.sources /root")
    try:
        run = ansible.playbook()
    finally:
        log1.check_output("mv /root/debian.sources /etc/apt/sources.list.d")
    assert not run.ok
    assert "an archive named in /etc/apt/sources.list" in run.text
    assert run.changed == {"log1": 0}
