"""The root file system that every machine of a lab starts from, built from Debian's packages.

Needs root. It is used as the lower layer of overlays and never changed once it has its final name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.lab import apt, host
from sigsum_ops.lab.progress import step

SUITE = "trixie"
# Raise this when the way of building changes in a manner that the inputs below do not show.
_VERSION = 2
# What makes a machine reachable by ssh and usable by Ansible (python3-apt is for its apt module).
# Nothing that roles are to install.
_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "python3",
    "python3-apt",
    "sudo",
    "dbus",
    "iproute2",
    "procps",
    "ca-certificates",
    "openssh-server",
)

INIT = "/usr/local/sbin/lab-init"
_INIT_SCRIPT = """\
#!/bin/sh
# Makes a privileged container behave like a machine of its own, then becomes systemd.
set -e
# LoadCredential= needs mounts that propagate.
mount --make-rshared /
# podman hides the journal's directory; a machine's journal outlives its boots.
umount /var/log/journal
# Kernel settings other than the network's are the host's: a lab must not change them.
mount --bind /proc/sys /proc/sys
mount --bind /proc/sys/net /proc/sys/net
# Each start is a boot with an id of its own: the journal and Ansible's reboot module look at it.
cat /proc/sys/kernel/random/uuid > /run/lab-boot-id
chmod 444 /run/lab-boot-id
mount --bind /run/lab-boot-id /proc/sys/kernel/random/boot_id
mount -o remount,bind,ro /proc/sys
exec /lib/systemd/systemd
"""

_PYTHON = "usr/lib/python3/dist-packages"


def _here(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


_FILES = {
    INIT.lstrip("/"): _INIT_SCRIPT,
    "etc/ssh/sshd_config.d/10-lab.conf": (
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\n"
    ),
    # Package lists are fetched often and by two cores.
    "etc/apt/apt.conf.d/90lab": 'Acquire::Languages "none";\nAcquire::PDiffs "false";\n',
    # Faster installs. Never on a real machine: a power cut there may leave half a package.
    "etc/dpkg/dpkg.cfg.d/lab": "force-unsafe-io\n",
    "etc/machine-id": "",
    # Each task of Ansible costs a third less there.
    f"{_PYTHON}/lab_bytecode.py": _here("lab_bytecode.py"),
    f"{_PYTHON}/lab_bytecode.pth": "import lab_bytecode\n",
}
_LINKS = {
    # A privileged container sees the host's kernel and consoles: leave both alone.
    "etc/systemd/system/systemd-modules-load.service": "/dev/null",
    "etc/systemd/system/getty.target": "/dev/null",
}
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
)


def fingerprint(sources: str, proxies: str) -> str:
    """Names an image by everything that it is made of, except the packages' versions."""
    architecture = os.uname().machine
    inputs = [_VERSION, SUITE, architecture, _PACKAGES, _DPKG_OPTIONS, _FILES, _LINKS]
    text = json.dumps([*inputs, sources, proxies])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ensure(cache: Path) -> Path:
    """Return the root file system under ``cache``, after building it if it is not there."""
    sources = apt.machine_mirror().sources(SUITE)
    proxies = apt.machine_proxies()
    rootfs = cache / f"rootfs-{fingerprint(sources, proxies)}"
    with host.directory_lock(cache):
        if not rootfs.is_dir():
            for leftover in cache.glob("building-*"):
                host.delete(leftover)
            _build(rootfs, sources, proxies)
    return rootfs


def purge(cache: Path, used: set[str]) -> None:
    """Remove the root file systems that no lab stands on."""
    for path in cache.glob("*"):
        if str(path) not in used:
            host.delete(path)


def _build(rootfs: Path, sources: str, proxies: str) -> None:
    building = Path(tempfile.mkdtemp(prefix="building-", dir=rootfs.parent))
    target = building / "rootfs"
    command = [
        # A mount namespace of its own: an interrupted build leaves no mounts.
        *("unshare", "--mount", "mmdebstrap", "--variant=minbase", "--format=directory"),
        f"--include={','.join(_PACKAGES)}",
        *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
        *(f"--aptopt={line}" for line in proxies.splitlines()),
        # As an installed Debian has them: each machine asks for what is newer.
        "--skip=cleanup/apt/lists",
        *(SUITE, str(target), "-"),
    ]
    try:
        with step("Building the machines' root file system", expected="about 40 s, once"):
            done = subprocess.run(command, input=sources, capture_output=True, text=True)
        if done.returncode != 0:
            raise OpsError(
                f"mmdebstrap could not build the root file system:\n{done.stderr[-2000:].strip()}",
                hint="the mirror is taken from this machine's apt sources: does "
                f"`apt-get update` work, and does the mirror have {SUITE}?",
            )
        customise(target, sources)
        target.rename(rootfs)
    finally:
        host.delete(building)


def customise(target: Path, sources: str) -> None:
    """Turn a minimal Debian in ``target`` into a machine of the lab."""
    for key in (target / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (target / "etc/apt/sources.list").unlink(missing_ok=True)
    shutil.rmtree(target / "etc/apt/sources.list.d")
    for name, text in {**_FILES, "etc/apt/sources.list.d/debian.sources": sources}.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name == INIT.lstrip("/") else 0o644)
    for name, destination in _LINKS.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(destination)
