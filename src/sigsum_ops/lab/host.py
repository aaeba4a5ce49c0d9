"""What a lab does to the host it runs on, and how it takes all of that back. Needs root.

A lab lives in a mount namespace of its own, kept by one sleeping process (the keeper). There the
cgroup v2 hierarchy is mounted where podman looks for it, also on hosts with v1 or hybrid ones, and
/run and /dev/shm are private, so that nothing is shared with the host's own podman. All processes
of a lab are in one cgroup, so that it can be ended as a whole, whatever state it is in.
"""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.lab.progress import step
from sigsum_ops.lab.spec import Network

_PACKAGES = (
    *("podman", "crun", "netavark", "aardvark-dns", "iptables", "dbus", "mmdebstrap", "uidmap"),
    *("openssh-client", "iproute2", "util-linux"),
)
_CGROUP2 = """\
mount --make-rprivate /
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
"""
_KEEPER = (
    _CGROUP2
    + """\
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p "/sys/fs/cgroup/$1/keeper"
echo $$ > "/sys/fs/cgroup/$1/keeper/cgroup.procs"
echo ready
exec sleep infinity >/dev/null 2>&1
"""
)
_END = (
    _CGROUP2
    + """\
cd "/sys/fs/cgroup/$1" 2>/dev/null || exit 0
echo 1 > cgroup.kill
for _ in $(seq 200); do grep -q "populated 0" cgroup.events && break; sleep 0.05; done
cd /
find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
"""
)
_FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


def install_missing() -> None:
    """Install the Debian packages that a lab needs and that are not there."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *_PACKAGES]
    try:
        listed = subprocess.run(query, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise OpsError(
            "this machine has no dpkg", hint="the lab runs on Debian and its derivatives"
        ) from None
    installed = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    if not (missing := [name for name in _PACKAGES if name not in installed]):
        return
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    # Another lab may be doing the same.
    wait = ["--option", "DPkg::Lock::Timeout=300"]
    install = [*environment, "apt-get", *wait, "install", "--yes", "--no-install-recommends"]
    install += missing
    with step(f"Installing {' '.join(missing)}", expected="up to a minute, once"):
        subprocess.run(["apt-get", "update"], capture_output=True)
        done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0:
        raise OpsError(
            f"apt could not install what the lab needs:\n{done.stderr.strip()}",
            hint=f"try it yourself: {shlex.join(install[2:])}",
        )


@contextmanager
def directory_lock(path: Path) -> Iterator[None]:
    """Hold a lock on a directory: that needs no lock file which would then be left behind."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def routes() -> list[str]:
    """The destinations of the host's routes."""
    listing = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in listing.stdout.splitlines() if line.strip()]


def start_keeper(network: Network) -> int:
    """Make the mount namespace and cgroup of a lab; return the process that keeps them."""
    keeper = subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", _KEEPER, "sh", network.device],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        text=True,
    )
    assert keeper.stdout is not None  # noqa: S101 - for the type checker
    assert keeper.stderr is not None  # noqa: S101
    if keeper.stdout.readline() != "ready\n":
        raise OpsError(
            f"no mount namespace could be made for the lab: {keeper.stderr.read().strip()}",
            hint="inside a container, that one must be privileged",
        )
    return keeper.pid


def inside(network: Network, keeper: int, command: Sequence[str]) -> list[str]:
    """``command``, to be run in a lab's mount namespace and cgroup.

    What podman leaves running (conmon, and what conmon starts to restart a container) inherits the
    cgroup, so that it ends with the lab.
    """
    join = f'echo $$ > /sys/fs/cgroup/{network.device}/keeper/cgroup.procs; exec "$@"'
    return ["nsenter", f"--target={keeper}", "--mount", "sh", "-ec", join, "sh", *command]


def delete(path: Path) -> None:
    """Remove a tree, but nothing that is mounted in it."""
    command = ["rm", "-rf", "--one-file-system", "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OpsError(f"{path} could not be removed: {done.stderr.strip()}")


def read_forwarding() -> dict[str, str]:
    """The kernel's IP forwarding settings, which netavark turns on."""
    paths = ((name, Path("/proc/sys", name)) for name in _FORWARDING)
    return {name: path.read_text().strip() for name, path in paths if path.exists()}


def restore_forwarding(before: dict[str, str]) -> None:
    """Put IP forwarding back, unless another bridge on this host may by now rely on it."""
    listing = ["ip", "-o", "link", "show", "type", "bridge"]
    if subprocess.run(listing, capture_output=True, text=True, check=True).stdout.strip():
        return
    for name, value in before.items():
        path = Path("/proc/sys", name)
        if name in _FORWARDING and value == "0" and path.read_text().strip() != "0":
            path.write_text(value)


def label(network: Network, owner: str) -> None:
    """Write on the bridge whose it is."""
    subprocess.run(["ip", "link", "set", "dev", network.device, "alias", owner], check=True)


def labelled(owner: str) -> list[int]:
    """The numbers of the networks whose bridge carries this label, also when nothing else does."""
    aliases = Path("/sys/class/net").glob("sigsum-lab*/ifalias")
    mine = [path.parent.name for path in aliases if path.read_text().strip() == owner]
    return [int(device.removeprefix("sigsum-lab")) for device in mine]


def resolv_conf() -> str:
    """The host's resolv.conf, as it can be used from another machine."""
    upstream = Path("/run/systemd/resolve/resolv.conf")
    text = Path("/etc/resolv.conf").read_text()
    if re.search(r"^nameserver\s+127\.", text, re.M) and upstream.exists():
        text = upstream.read_text()
    return text


def remove_traces(network: Network) -> None:
    """End every process of a lab, then remove its bridge and firewall rules.

    Works in any state of the lab: running, half made, half gone, or gone with the last boot.
    """
    command = ["unshare", "--mount", "sh", "-ec", _END, "sh", network.device]
    ended = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if ended.returncode != 0:
        raise OpsError(f"the lab's processes could not be ended: {ended.stderr.strip()}")
    if Path("/sys/class/net", network.device).exists():
        subprocess.run(["ip", "link", "delete", network.device], check=True)
    close_connections(str(network.v4))
    for program, subnet in (("iptables", network.v4), ("ip6tables", network.v6)):
        for table in ("filter", "nat"):
            base = [program, "--wait", "--table", table]
            listing = subprocess.run([*base, "-S"], capture_output=True, text=True).stdout
            for arguments in firewall_removals(listing.splitlines(), str(subnet)):
                subprocess.run([*base, *arguments], capture_output=True, check=True)


def close_connections(destination: str) -> None:
    """Drop this host's TCP connections to a machine (or network) that is gone.

    A power cut closes nothing, so that a kept ssh connection (ControlPersist) would hang. Best
    effort: kernels without this feature leave it to ssh's own time-outs.
    """
    subprocess.run(["ss", "--kill", "--tcp", "dst", destination], capture_output=True)


def firewall_removals(rules: Iterable[str], subnet: str) -> list[list[str]]:
    """The iptables arguments that remove what netavark made for ``subnet``.

    ``rules`` is one table as ``iptables -S`` prints it. netavark's common chains go too once
    nothing but they is left; it makes them anew when it needs them.
    """
    appended = [words for line in rules if (words := shlex.split(line))[:1] == ["-A"]]
    chains = [words[1] for line in rules if (words := line.split())[:1] == ["-N"]]
    ours = [words for words in appended if subnet in words and "NETAVARK" in " ".join(words)]
    own_chains = {words[words.index("-j") + 1] for words in ours if "-j" in words}
    own_chains = {name for name in own_chains if re.fullmatch(r"NETAVARK-[0-9A-F]{13}", name)}
    removals = [["-D", *words[1:]] for words in ours if words[1] not in own_chains]

    others = [words for words in appended if words not in ours and words[1] not in own_chains]
    common = [name for name in chains if name.startswith("NETAVARK") and name not in own_chains]
    in_use = any(re.fullmatch(r"NETAVARK-[0-9A-F]{13}", name) for name in common) or any(
        words[1] in common and {"-s", "-d"} & set(words) for words in others
    )
    if not in_use:
        jumps = [w for w in others if w[1] not in common and w[-2] == "-j" and w[-1] in common]
        removals += [["-D", *words[1:]] for words in jumps]
    gone = sorted(own_chains) + ([] if in_use else common)
    return removals + [["-F", name] for name in gone] + [["-X", name] for name in gone]
