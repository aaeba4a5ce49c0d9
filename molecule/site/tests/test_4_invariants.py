"""What holds on every machine of the site at any time."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from harness import CLIENT, DEVICE, LOG, ORACLE, PRIMARY, SECONDARY, TRILLIAN, Site
from resources.support import SSH, exposure, listening

from sigsum_ops.hsm.rehearsal.state import State

MACHINES = [PRIMARY, SECONDARY, CLIENT]
LOG_SIGNING_KEY = 500
AUDIT = "sigsum-hsm-audit"
ARCHIVE = "sigsum-head-archive"
EXPORTER = "sigsum-exporter"
# The device's connector, the exporter, and Trillian.
INSIDE = {f"tcp 127.0.0.1:{port}" for port in (12345, 6970, 8090, 8091, 8092, 8093)}
OUR_UNITS = {
    PRIMARY: {*TRILLIAN.split(), DEVICE, ORACLE, AUDIT, ARCHIVE, EXPORTER, LOG},
    SECONDARY: {*TRILLIAN.split(), DEVICE, AUDIT, ARCHIVE, EXPORTER, "sigsum-log-secondary"},
}
COMPILERS = "cc gcc cc1 clang tcc c++ g++ as ld go gccgo rustc cargo ghc"

# Prints the files in which whoever runs it can read a private key, and how many it could read.
# Standard input: the secrets, each in hexadecimal.
SCAN = r"""
import json, os, stat, sys
wanted = [bytes.fromhex(secret) for secret in json.load(sys.stdin)]
wanted.append(b"PRIVATE KEY" + b"-----")  # in two, since it also reads its own arguments

def files():
    for top in ("/etc", "/var", "/run", "/tmp", "/home", "/root"):
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                try:
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        yield path
                except OSError:
                    pass
    for pid in filter(str.isdigit, os.listdir("/proc")):
        yield f"/proc/{pid}/cmdline"
        yield f"/proc/{pid}/environ"

def holds(path):
    end = b""
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            if any(secret in end + block for secret in wanted):
                return True
            end = block[-200:]
    return False

found, readable = [], 0
for path in files():
    try:
        if holds(path):
            found.append(path)
        readable += 1
    except OSError:
        pass
print(json.dumps([found, readable]))
"""


@pytest.fixture(scope="module")
def secrets(site: Site) -> list[str]:
    """Every secret of the site as it could be written somewhere, in hexadecimal."""
    keys = [
        site.ask(PRIMARY, "cat /etc/ssh/ssh_host_*_key"),
        site.ask(SECONDARY, "cat /etc/ssh/ssh_host_*_key /etc/sigsum/private/node-key"),
        site.ask(CLIENT, "cat /etc/ssh/ssh_host_*_key"),
    ]
    # The log's key is in the device only: the exponent that signs, as its memory has it.
    device = site.ask(PRIMARY, "cat /var/lib/sigsum-rehearsal-hsm/*.json")
    (body,) = {item.body for item in State.from_json(device).store if item.id == LOG_SIGNING_KEY}
    exponent = body[:32]
    found = {
        passphrase.encode()
        for name in (PRIMARY, SECONDARY)
        for passphrase in site.ask(name, "cat /etc/sigsum/private/*-passphrase").split()
    }
    assert len(found) == 5  # the log's own, and for each machine those of health and audit
    found |= {exponent, exponent.hex().encode(), base64.b64encode(exponent)[:-2]}
    for text in "\n".join(keys).split("-----BEGIN OPENSSH PRIVATE KEY-----")[1:]:
        inner, end, _ = text.partition("-----END OPENSSH PRIVATE KEY-----")
        pem = f"-----BEGIN OPENSSH PRIVATE KEY-----{inner}{end}\n"
        seed = load_ssh_private_key(pem.encode(), None).private_bytes_raw()  # type: ignore[union-attr]
        # The seed at the end of a longer text in base64 has one of three forms; a key file is found
        # by its lines. The first line of a key file is the same in all.
        found |= {seed, seed.hex().encode(), base64.b64encode(seed)[:-2]}
        found |= {line.encode() for line in inner.split()[1:] if len(line) > 30}
    assert len(found) >= 5 + 3 + 4 * 4  # the three hosts' keys and the secondary's node key
    return [secret.hex() for secret in found]


def readable_by_nobody(site: Site, name: str, secrets: list[str]) -> set[str]:
    """The files of a machine, and its processes' arguments, that give a key to everybody."""
    command = ["runuser", "-u", "nobody", "--", "python3", "-c", SCAN]
    done = site.lab.exec(name, command, stdin=json.dumps(secrets))
    found, readable = json.loads(done.stdout)
    assert readable > 500
    return set(found)


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_listens_that_is_not_declared(site: Site, name: str) -> None:
    address = site.lab.hosts()[name]
    log = {
        PRIMARY: {"tcp *:6965", f"tcp {address}:6967", *INSIDE},
        SECONDARY: {"tcp 127.0.0.1:6965", f"tcp {address}:6967", *INSIDE},
    }
    assert listening(site.machines[name]) == SSH | log.get(name, set())


@pytest.mark.parametrize("name", OUR_UNITS)
def test_every_unit_is_in_a_sandbox(site: Site, name: str) -> None:
    said = site.ask(name, "cd /etc/systemd/system; find -maxdepth 1 -type f -name '*.service'")
    ours = {path.removeprefix("./").removesuffix(".service") for path in said.split()}
    assert ours >= OUR_UNITS[name]
    exposures = {unit: exposure(site.machines[name], unit) for unit in {*ours, "mariadb"}}
    site.report.append(f"  exposure of units on {name}: {exposures}")
    assert max(exposures.values()) <= 2.0


@pytest.mark.parametrize("name", MACHINES)
def test_no_secret_can_be_read_by_another_user(site: Site, secrets: list[str], name: str) -> None:
    assert readable_by_nobody(site, name, secrets) == set()


def test_the_scan_finds_what_everybody_can_read(site: Site, secrets: list[str]) -> None:
    seed = bytes.fromhex(next(secret for secret in secrets if len(secret) == 128)).decode()
    site.ask(
        CLIENT,
        f"umask 022; echo key={seed} > /etc/seed; cp /etc/ssh/*_key /run; chmod 644 /run/*_key",
    )
    sleep = f"python3 -c 'import time; time.sleep(600)' --key={seed}"
    site.ask(CLIENT, f"systemd-run --collect --unit=canary {sleep}")
    found = readable_by_nobody(site, CLIENT, secrets)
    assert found == {
        "/etc/seed",
        "/run/ssh_host_ed25519_key",
        "/run/systemd/transient/canary.service",
        f"/proc/{site.unit(CLIENT, 'canary')['MainPID']}/cmdline",
    }
    site.ask(CLIENT, "systemctl stop canary; rm /etc/seed /run/ssh_host_*_key")


@pytest.mark.parametrize("name", MACHINES)
def test_no_compiler_is_installed(site: Site, name: str) -> None:
    names = " -o ".join(
        f"-name '{compiler}' -o -name '*-{compiler}'" for compiler in COMPILERS.split()
    )
    assert site.ask(name, f"find / -xdev -type f -executable '(' {names} ')'") == ""
