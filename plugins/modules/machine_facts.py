#!/usr/bin/python
"""Read in one go what the roles need to know of a machine before they decide anything."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: machine_facts
short_description: What the roles of this collection need to know of a machine
version_added: 0.1.0
description:
  - Reads installed package versions, unit states, the machine's own Debian mirror, memory and a few
    files in one round trip, so that a converge that has nothing to do is quick.
  - Needs nothing but Python's standard library, so it works on a machine before the first converge.
author:
  - The Sigsum Ops project
extends_documentation_fragment: []
attributes:
  check_mode:
    support: full
    description: Reads only.
options: {}
"""

EXAMPLES = r"""
- name: Know the machine
  sigsum_ops.site.machine_facts:
"""

RETURN = r"""
ansible_facts:
  description: One fact, C(sigsum_machine).
  returned: always
  type: dict
  contains:
    sigsum_machine:
      description: The machine.
      returned: always
      type: dict
      contains:
        distribution:
          description: ID and VERSION_CODENAME of os-release, such as C(debian-trixie).
          type: str
          returned: always
        architecture:
          description: Debian's name of the architecture.
          type: str
          returned: always
        memory_mb:
          description: Physical memory in MiB.
          type: int
          returned: always
        mirror:
          description: URI and keyring of the first Debian archive in the machine's own apt sources.
          type: dict
          returned: always
        suites:
          description: Suites whose index apt has.
          type: list
          elements: str
          returned: always
        packages:
          description: Versions of the installed packages that the collection's roles install.
          type: dict
          returned: always
        units:
          description: >-
            For each unit of the collection that exists, its ActiveState and UnitFileState.
          type: dict
          returned: always
        files:
          description: >-
            Contents of the public files in /etc/sigsum and of the tree-id file, None where
            absent.
          type: dict
          returned: always
        running:
          description: >-
            Units of the collection that are active and enabled, need no reload, and were started
            after their configuration was written.
          type: list
          elements: str
          returned: always
        accounts:
          description: Which of the collection's service accounts exist.
          type: list
          elements: str
          returned: always
        has_signed:
          description: >-
            Whether a signed tree head or other evidence of an earlier life as primary exists.
          type: bool
          returned: always
        has_journal:
          description: Whether the signing oracle has a journal of what was signed.
          type: bool
          returned: always
        has_passphrase:
          description: Whether the signing oracle has the passphrase of its device.
          type: bool
          returned: always
        witness_key:
          description: >-
            The key of the witness on this machine, empty where none has begun.
          type: str
          returned: always
        ungated_until:
          description: Until when the oracle lets the log go on alone, empty where it does not.
          type: str
          returned: always
        resolv_conf_link:
          description: Where /etc/resolv.conf leads, empty where it is a file.
          type: str
          returned: always
"""

import grp
import pathlib
import pwd
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

PACKAGES = (
    "certbot",
    "dns-root-data",
    "galera-4",
    "ldnsutils",
    "logrotate",
    "mariadb-client",
    "mariadb-server",
    "nftables",
    "nginx",
    "nsd",
    "openssh-client",
    "openssl",
    "pebble",
    "prometheus",
    "prometheus-alertmanager",
    "prometheus-node-exporter",
    "promtool",
    "python3-pymysql",
    "restic",
    "sigsum-go",
    "sigsum-log-go",
    "sigsum-ops",
    "sudo",
    "systemd-timesyncd",
    "torchwood",
    "trillian",
    "unattended-upgrades",
    "unbound",
    "wireguard-go",
    "wireguard-tools",
    "yubihsm-connector",
)
UNITS = (
    "firewalld.service",
    "litebastion.service",
    "litewitness.service",
    "mariadb.service",
    "nftables.service",
    "nginx.service",
    "nsd.service",
    "pebble.service",
    "prometheus.service",
    "prometheus-alertmanager.service",
    "prometheus-node-exporter.service",
    "trillian-log-server.service",
    "trillian-log-signer.service",
    "sigsum-log-primary.service",
    "sigsum-log-secondary.service",
    "sigsum-oracle.service",
    "sigsum-backup.timer",
    "sigsum-bastion-probe.timer",
    "sigsum-exporter.service",
    "sigsum-backup-check.timer",
    "sigsum-firewall.service",
    "sigsum-head-archive.service",
    "sigsum-hsm-audit.service",
    "sigsum-hsm-check.timer",
    "sigsum-rehearsal-hsm.service",
    "sigsum-ssh-access.service",
    "ssh.socket",
    "sigsum-tunnel.service",
    "systemd-timesyncd.service",
    "ufw.service",
    "unbound.service",
    "yubihsm-connector.service",
)
# Written by dpkg when our own package is installed; the files in it bear the time of its sources.
PACKAGE_INSTALLED = "/var/lib/dpkg/info/sigsum-ops.list"
# What a service reads at its start only, beside its unit.
CONFIGURATION = {
    "litebastion": (
        "/etc/litebastion/backends",
        "/etc/litebastion/certificate.pem",
        "/etc/litebastion/key.pem",
        "/var/lib/dpkg/info/torchwood.list",
    ),
    "litewitness": ("/etc/sigsum/bastion-root.pem", "/var/lib/dpkg/info/torchwood.list"),
    "mariadb": ("/etc/mysql/mariadb.conf.d/60-sigsum-ops.cnf",),
    "sigsum-log-primary": (
        "/etc/sigsum/config.toml",
        "/etc/sigsum/policy",
        "/etc/sigsum/rate-limit",
        "/etc/sigsum/secondary.pub",
        "/etc/sigsum/private/log-key",
    ),
    "sigsum-log-secondary": ("/etc/sigsum/config.toml", "/etc/sigsum/private/node-key"),
    "sigsum-oracle": (
        "/etc/sigsum/oracle.toml",
        "/etc/sigsum/private/hsm-passphrase",
        "/etc/sigsum/private/software-key",
        PACKAGE_INSTALLED,
    ),
    "sigsum-exporter": ("/etc/sigsum/exporter.toml", PACKAGE_INSTALLED),
    "sigsum-head-archive": ("/etc/sigsum/archive.toml", PACKAGE_INSTALLED),
    "sigsum-hsm-audit": (
        "/etc/sigsum/hsm-watch.toml",
        "/etc/sigsum/private/hsm-audit-passphrase",
        PACKAGE_INSTALLED,
    ),
    "sigsum-rehearsal-hsm": (PACKAGE_INSTALLED,),
    "nginx": ("/etc/sigsum-proxy/nginx.conf", "/etc/sigsum-proxy/certificate.pem"),
    "nsd": ("/etc/nsd/nsd.conf.d/60-sigsum-ops.conf",),
    "pebble": ("/etc/pebble.json", "/var/lib/pebble/cert.pem"),
    "prometheus": (
        "/etc/default/prometheus",
        "/etc/prometheus/prometheus.yml",
        "/etc/prometheus/rules/sigsum.rules.yml",
    ),
    "prometheus-alertmanager": (
        "/etc/default/prometheus-alertmanager",
        "/etc/prometheus/alertmanager.yml",
    ),
    "prometheus-node-exporter": ("/etc/default/prometheus-node-exporter",),
    "sigsum-tunnel": (
        "/etc/sigsum/tunnel/peers.conf",
        "/etc/sigsum/tunnel/public.key",
        "/etc/sigsum/tunnel/up",
    ),
    "unbound": ("/etc/unbound/unbound.conf.d/sigsum-ops.conf",),
    "yubihsm-connector": ("/etc/yubihsm-connector.yaml",),
}
# What takes its configuration in when it is told to, without a restart.
RELOADS = ("litebastion", "nginx", "sigsum-tunnel")
FILES = (
    "/etc/resolv.conf",
    "/etc/sigsum-proxy/asked",
    "/etc/sigsum/fenced.json",
    "/etc/sigsum/log.pub",
    "/etc/sigsum/node-key.pub",
    "/etc/sigsum/policy",
    "/etc/sigsum/quarantined.json",
    "/etc/sigsum/tunnel/public.key",
    "/etc/ssh/ssh_host_ed25519_key.pub",
    "/var/lib/sigsum-log/tree-id",
)
# Each of these is left behind only by a machine that has signed for the log, or was about to.
EVIDENCE = (
    "/var/lib/sigsum-log/sth",
    "/var/lib/sigsum-log/guard-evidence.json",
    "/var/lib/sigsum-log/promotion.json",
    "/var/lib/sigsum-oracle/journal",
)


def parse_sources(text: str) -> dict[str, str] | None:
    """Return ``{"uri", "signed_by"}`` of the first enabled binary archive in an apt sources file.

    Understands both formats of sources.list(5): deb822 stanzas and one line an archive. Archives
    for security updates are passed over, since they do not carry other suites.
    """
    stanzas: list[dict[str, str]] = []
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            if line.lstrip().startswith("#") or not line.strip():
                continue
            if line.startswith("deb "):
                words = line.split()[1:]
                options = ""
                if words and words[0].startswith("["):
                    end = next(i for i, word in enumerate(words) if word.endswith("]"))
                    options = " ".join(words[: end + 1]).strip("[] ")
                    words = words[end + 1 :]
                signed = [o[10:] for o in options.split() if o.startswith("signed-by=")]
                stanzas.append(
                    {
                        "types": "deb",
                        "uris": words[0] if words else "",
                        "suites": words[1] if len(words) > 1 else "",
                        "signed-by": signed[0] if signed else "",
                    }
                )
            elif ":" in line and not line.startswith((" ", "\t")):
                key, _, value = line.partition(":")
                fields[key.strip().lower()] = value.strip()
        if fields:
            stanzas.append(fields)
    for stanza in stanzas:
        if (
            "deb" in stanza.get("types", "").split()
            and stanza.get("enabled", "yes").lower() not in ("no", "false", "0")
            and stanza.get("uris")
            and not stanza.get("suites", "").split(" ")[0].endswith("-security")
        ):
            return {"uri": stanza["uris"].split()[0], "signed_by": stanza.get("signed-by", "")}
    return None


def parse_units(text: str) -> dict[str, dict[str, str]]:
    """Parse the blocks of ``systemctl show`` into unit name -> property -> value."""
    units = {}
    for block in text.strip().split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if properties.get("LoadState") not in (None, "not-found"):
            units[properties.pop("Id").removesuffix(".service")] = properties
    return units


def running(units: dict[str, dict[str, str]], files: Mapping[str, float]) -> list[str]:
    """Names of the units about which nothing needs to be done.

    ``files`` is when the newest file that the unit reads was written, in seconds of the clock
    that systemd counts in microseconds: a run that ended before it came to its restarts leaves a
    service with an older configuration. A service reads when its process starts, a timer when it
    is made active, and one of RELOADS when it is told to: systemd counts that as a change of state.
    """
    wanted = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
    started = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    told = ("StateChangeTimestampMonotonic",)
    return [
        name
        for name, unit in units.items()
        if wanted.items() <= unit.items()
        and next(int(unit[key]) for key in (told if name in RELOADS else started) if key in unit)
        / 1e6
        > files.get(name, 0)
    ]


def written(units: dict[str, dict[str, str]]) -> dict[str, float]:
    """For each unit, when the newest of its files was written; see ``running``.

    A time in the future is passed over: the clock was put back since, and until it comes there
    again each run would restart the service.
    """
    now = time.time()
    offset = now - time.clock_gettime(time.CLOCK_MONOTONIC)
    newest = {}
    for name, unit in units.items():
        own = [unit.get("FragmentPath", ""), *unit.get("DropInPaths", "").split()]
        paths = [pathlib.Path(path) for path in (*own, *CONFIGURATION.get(name, ())) if path]
        times = [path.stat().st_mtime for path in paths if path.exists()]
        newest[name] = max((at for at in times if at <= now), default=offset) - offset
    return newest


def ungated_until(oracle: str) -> str:
    """The end of the permit in the oracle's configuration, as it is written there."""
    found = re.search(r"^\s*ungated_until\s*=\s*(\S+)", oracle, re.M)
    return found[1] if found else ""


def witness_key(oracle: str, cosigned: pathlib.Path) -> str:
    """The key in the configuration of a witness's oracle, where that has begun."""
    found = re.search(r'^public_key = "([^"]+)"', oracle, re.M)
    return found[1] if found and "\n[witness]\n" in oracle and cosigned.is_dir() else ""


def _read(path: str) -> str | None:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _members(group: str) -> list[str]:
    """The accounts in a group; none where there is no such group."""
    try:
        return sorted(grp.getgrnam(group).gr_mem)
    except KeyError:
        return []


def _link(path: str) -> str:
    found = pathlib.Path(path)
    return str(found.readlink()) if found.is_symlink() else ""


def _output(*argv: str) -> str:
    # dpkg-query exits 1 where one of the names is unknown to it, and still answers for the others.
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def _mirror() -> dict[str, str] | None:
    paths = [pathlib.Path("/etc/apt/sources.list")]
    directory = pathlib.Path("/etc/apt/sources.list.d")
    paths += sorted([*directory.glob("*.list"), *directory.glob("*.sources")])
    for path in paths:
        if path.name.startswith("sigsum-"):
            continue  # ours are made from what is found here
        found = parse_sources(_read(str(path)) or "")
        if found:
            return found
    return None


def _suites() -> list[str]:
    """Suites whose index was read: lists are named by address, ``_dists_``, suite, file."""
    lists = pathlib.Path("/var/lib/apt/lists").glob("*_dists_*_InRelease")
    return sorted({path.name.split("_dists_")[1].removesuffix("_InRelease") for path in lists})


def _os_release() -> dict[str, str]:
    lines = (_read("/etc/os-release") or "").splitlines()
    return {k: v.strip('"') for k, _, v in (line.partition("=") for line in lines)}


def facts() -> dict[str, Any]:
    """Collect the fact."""
    os_release = _os_release()
    meminfo = dict(line.split(":", 1) for line in (_read("/proc/meminfo") or "").splitlines())
    installed = _output(
        "dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\n", *PACKAGES
    )
    rows = [row.split() for row in installed.splitlines()]
    shown = (
        "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,FragmentPath,DropInPaths,"
        "ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic,"
        "StateChangeTimestampMonotonic"
    )
    units = parse_units(_output("systemctl", "show", f"--property={shown}", *UNITS))
    return {
        "distribution": f"{os_release.get('ID', '?')}-{os_release.get('VERSION_CODENAME', '?')}",
        "architecture": _output("dpkg", "--print-architecture").strip(),
        "memory_mb": int(meminfo["MemTotal"].split()[0]) // 1024,
        "mirror": _mirror(),
        "suites": _suites(),
        "packages": {r[0]: r[2] for r in rows if len(r) == 3 and r[1] == "installed"},
        "units": units,
        "running": running(units, written(units)),
        "accounts": {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()},
        "operators": _members("sigsum-operators"),
        "files": {path: _read(path) for path in FILES},
        "has_signed": any(pathlib.Path(path).exists() for path in EVIDENCE),
        "has_journal": pathlib.Path("/var/lib/sigsum-oracle/journal").exists(),
        "has_passphrase": pathlib.Path("/etc/sigsum/private/hsm-passphrase").exists(),
        "witness_key": witness_key(
            _read("/etc/sigsum/oracle.toml") or "", pathlib.Path("/var/lib/sigsum-oracle/cosigned")
        ),
        "ungated_until": ungated_until(_read("/etc/sigsum/oracle.toml") or ""),
        "resolv_conf_link": _link("/etc/resolv.conf"),
    }


def main() -> None:
    """Module entry point."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.exit_json(changed=False, ansible_facts={"sigsum_machine": facts()})


if __name__ == "__main__":
    main()
