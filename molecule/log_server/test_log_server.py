"""The role log_server on a primary and its secondary: what they are, and what survives."""

from __future__ import annotations

import re
import tomllib

import pytest
from resources.support import SSH, eventually, exposure, http, listening, main_pid
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

# By machine, the unit of its part and an endpoint that only this part has.
PARTS = {
    "log1": ("sigsum-log-primary", ":6965/get-tree-head"),
    "log2": ("sigsum-log-secondary", ":6967/get-secondary-tree-head"),
}
each_machine = pytest.mark.parametrize("name", PARTS)
LOOPBACK = {f"tcp 127.0.0.1:{port}" for port in (6970, 8090, 8091, 8092, 8093)}
COMPILERS = ("cc", "c99", "gcc", "g++", "clang", "tcc", "go", "gccgo", "rustc", "cargo", "pip3")
SECRETS = "grep -rlsIF -e {secret} /etc /home /opt /root /run /srv /tmp /usr/local /var | sort"


def serves(lab: Lab, machines: dict[str, Host], name: str) -> bool:
    """Whether a machine's part in the log answers, seen from that machine."""
    return http(machines[name], f"http://{lab.hosts()[name]}{PARTS[name][1]}")[0] == 200


def secret_line(host: Host, path: str) -> str:
    """A line that only this private key has."""
    return str(host.check_output("sed -n 4p %s", path))


@each_machine
def test_debians_build_answers_200_and_not_404(
    lab: Lab, machines: dict[str, Host], name: str
) -> None:
    assert serves(lab, machines, name)
    internal = f"http://{lab.hosts()[name]}:6967"
    assert http(machines[name], f"{internal}/metrics")[0] == 200
    assert "GODEBUG=httpmuxgo121=0" in machines[name].check_output(
        "systemctl show --property=Environment %s", PARTS[name][0]
    )


@each_machine
def test_the_machine_runs_its_part_only(machines: dict[str, Host], name: str) -> None:
    host, (unit, _) = machines[name], PARTS[name]
    assert host.service(unit).is_enabled
    enabled = host.check_output("systemctl list-unit-files --state=enabled --no-legend")
    assert re.findall(r"^(sigsum-log-\w+)\.service", enabled, re.M) == [unit]


@each_machine
def test_the_tree_id_file_is_as_log_go_reads_it(machines: dict[str, Host], name: str) -> None:
    content = machines[name].file("/var/lib/sigsum-log/tree-id").content_string
    assert re.fullmatch(r"tree-id=[1-9][0-9]*\n", content)
    kind = machines[name].check_output(
        "mariadb --batch --skip-column-names --execute=%s trillian",
        "SELECT CONCAT('tree-id=', TreeId), TreeType FROM Trees",
    )
    assert kind.split() == [content.strip(), "LOG" if name == "log1" else "PREORDERED_LOG"]


@each_machine
def test_log_go_knows_every_key_of_its_configuration(machines: dict[str, Host], name: str) -> None:
    host, (unit, _) = machines[name], PARTS[name]
    text = host.file("/etc/sigsum/config.toml").content_string
    assert tomllib.loads(text)["trillian-tree-id-file"] == "/var/lib/sigsum-log/tree-id"
    # An unknown key ends it, so that what runs has read each of them.
    trial = (
        "(echo no-such-key = true; cat /etc/sigsum/config.toml) > /run/trial.toml &&"
        f" SIGSUM_LOGSERVER_CONFIG=/run/trial.toml timeout 10 {unit}; rm /run/trial.toml"
    )
    said = host.run("sh -c %s", trial)
    assert "no-such-key" in said.stdout + said.stderr
    assert main_pid(host, unit) != "0"


def test_the_primary_has_both_settings_of_its_replication(lab: Lab, log1: Host, log2: Host) -> None:
    primary = tomllib.loads(log1.file("/etc/sigsum/config.toml").content_string)["primary"]
    assert primary["secondary-url"] == f"http://{lab.hosts()['log2']}:6967/"
    assert primary["secondary-pubkey-file"] == "/etc/sigsum/secondary.pub"
    assert primary["max-range"] == 512  # upstream's example, 10, throttles replication too
    made = log2.file("/etc/sigsum/node-key.pub").content_string.split()[:2]
    assert log1.file("/etc/sigsum/secondary.pub").content_string.split()[:2] == made
    assert made != log1.file("/etc/sigsum/log.pub").content_string.split()[:2]


def test_no_startup_file_is_left_anywhere(log1: Host, log2: Host) -> None:
    assert log1.file("/var/lib/sigsum-log/sth").exists  # the first start has consumed it
    for host in (log1, log2):
        assert not host.file("/var/lib/sigsum-log/sth.startup").exists


def test_the_node_key_is_roots_and_on_its_own_machine_only(log1: Host, log2: Host) -> None:
    key = log2.file("/etc/sigsum/private/node-key")
    assert (key.user, key.group, key.mode) == ("root", "root", 0o600)
    assert log2.file("/etc/sigsum/private").mode == 0o700
    search = SECRETS.format(secret=f"'{secret_line(log2, '/etc/sigsum/private/node-key')}'")
    assert log2.check_output(search).split() == [
        "/etc/sigsum/private/node-key",
        "/run/credentials/sigsum-log-secondary.service/node-key",
    ]
    assert log1.check_output(search) == ""


@each_machine
@pytest.mark.parametrize("reader", ["nobody", "trillian", "mysql", "sigsum-log"])
def test_no_other_user_can_read_a_secret(machines: dict[str, Host], name: str, reader: str) -> None:
    host = machines[name]
    search = SECRETS.format(secret="'PRIVATE KEY-----'")  # noqa: S106 - what is looked for
    found = set(host.check_output(search).split())
    assert found >= {f"/etc/sigsum/private/{'log-key' if name == 'log1' else 'node-key'}"}
    readable = set(host.run("runuser --user=%s -- sh -c %s", reader, search).stdout.split())
    # What systemd hands to the service itself, by systemd.exec(5) LoadCredential=.
    own = {path for path in found if path.startswith("/run/credentials/sigsum-log-")}
    assert readable == (own if reader == "sigsum-log" else set())


@each_machine
def test_no_secret_is_in_the_list_of_processes(machines: dict[str, Host], name: str) -> None:
    shown = machines[name].check_output("ps -eo args")
    assert "trillian_log_server" in shown
    assert not re.search(r"PRIVATE KEY|passw|://[^/\s:]*:[^/\s@]+@|=\w+:[^/\s@]+@", shown, re.I)


@each_machine
def test_no_compiler_is_on_the_machine(machines: dict[str, Host], name: str) -> None:
    assert [program for program in COMPILERS if machines[name].exists(program)] == []
    packages = machines[name].check_output("dpkg-query --show --showformat='${Package}\\n'")
    # gcc-14-base holds no program: it is what the C library's licence is in.
    pattern = r"(gcc|g\+\+|cpp|clang|golang|rustc|cargo|build-essential)(-(?!\d+-base).*)?|.*-dev"
    assert [name for name in packages.split() if re.fullmatch(pattern, name)] == []


def test_nothing_listens_but_what_is_declared(lab: Lab, log1: Host, log2: Host) -> None:
    address = lab.hosts()
    assert listening(log1) == SSH | LOOPBACK | {"tcp *:6965", f"tcp {address['log1']}:6967"}
    # The secondary has nothing to tell the world.
    assert listening(log2) == SSH | LOOPBACK | {"tcp 127.0.0.1:6965", f"tcp {address['log2']}:6967"}


@each_machine
def test_the_exposure_of_each_unit_is_at_most_2(machines: dict[str, Host], name: str) -> None:
    units = ("mariadb", "trillian-log-server", "trillian-log-signer", PARTS[name][0])
    exposures = {unit: exposure(machines[name], f"{unit}.service") for unit in units}
    assert max(exposures.values()) <= 2.0, exposures


@each_machine
def test_no_unit_gives_up_after_a_number_of_restarts(machines: dict[str, Host], name: str) -> None:
    for unit in ("mariadb", "trillian-log-server", "trillian-log-signer", PARTS[name][0]):
        shown = machines[name].check_output("systemctl show -P StartLimitIntervalUSec %s", unit)
        assert shown == "0", unit


@each_machine
def test_a_killed_trillian_signer_does_not_restart_the_log(
    machines: dict[str, Host], name: str
) -> None:
    host, (unit, _) = machines[name], PARTS[name]
    log, signer = main_pid(host, unit), main_pid(host, "trillian-log-signer")
    host.check_output("kill -9 %s", signer)
    eventually(
        lambda: http(host, "http://127.0.0.1:8093/healthz")[0] == 200,
        seconds=20,
        what="the signer is back",
    )
    assert main_pid(host, "trillian-log-signer") not in ("0", signer)
    assert main_pid(host, unit) == log


@each_machine
@pytest.mark.parametrize("signal", ["TERM", "INT", "HUP", "KILL"])
def test_whatever_signal_ends_the_log_it_comes_back(
    lab: Lab, machines: dict[str, Host], name: str, signal: str
) -> None:
    host, (unit, _) = machines[name], PARTS[name]
    ended = main_pid(host, unit)
    host.check_output("kill -%s %s", signal, ended)
    eventually(
        lambda: main_pid(host, unit) not in ("0", ended) and serves(lab, machines, name),
        seconds=30,
        what=f"{unit} serves again",
    )


@each_machine
def test_a_log_that_cannot_listen_exits_0_and_is_brought_back(
    lab: Lab, machines: dict[str, Host], name: str
) -> None:
    host, (unit, _) = machines[name], PARTS[name]
    # Whoever is first has the port: the log is away while it is taken.
    taker = (
        "import socket, time\n"
        f"taken = socket.create_server(('{lab.hosts()[name]}', 6967))\n"
        "time.sleep(60)"
    )
    host.check_output("systemctl stop %s", unit)
    host.check_output("systemd-run --unit=taker python3 -c %s", taker)
    eventually(
        lambda: any(":6967" in socket for socket in listening(host)), seconds=10, what="port taken"
    )
    host.check_output("systemctl start --no-block %s", unit)

    def ended() -> dict[str, str]:
        names = "ExecMainStatus,ExecMainCode,NRestarts"
        shown = host.check_output(f"systemctl show --property={names} %s", unit)
        return dict(line.split("=", 1) for line in shown.splitlines())

    eventually(lambda: int(ended()["NRestarts"]) >= 2, seconds=40, what="it is tried again")
    journal = host.check_output("journalctl --unit=%s --lines=40 --output=cat", unit)
    assert "address already in use" in journal
    assert "code=exited, status=" not in journal  # systemd mentions only statuses that are not 0
    host.check_output("systemctl stop taker")
    eventually(lambda: serves(lab, machines, name), seconds=40, what=f"{unit} serves")
