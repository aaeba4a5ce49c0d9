"""A lab: machines in containers, from the first ``up`` to the last trace removed.

Everything is kept in one directory per lab (``state_root``)::

    lab.json              network, keeper process, image, hosts
    ssh/                  id_ed25519 (root's key to every machine) and known_hosts
    ceremony/             a rehearsed key ceremony: its record, what verifying it said, the devices
    log-key.pub           the log's public key, from that record
    passphrases/          those that the ceremony made, by machine
    inventory/            an Ansible inventory (the default lab's is committed in the repository)
    hosts/HOST/           the machine's disk (upper) over the shared image

The verbs that change something need root, and ask for it with sudo; ``exec`` and ``status`` only
use ssh. Every change holds a lock on the lab's directory.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError
from sigsum_ops.lab import host, image, keys, spec
from sigsum_ops.lab.progress import step
from sigsum_ops.lab.spec import Machine, Network

_READY_SECONDS = 60.0
_REPOSITORY = Path(__file__).resolve().parents[3]
_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "netavark"
"""


@dataclass
class Record:
    """``lab.json``: what is needed to use a lab, to tell whether it lives, and to remove it."""

    number: int
    boot: str
    image: str = ""
    keeper_pid: int = 0
    keeper_started: int = 0
    forwarding_before: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)  # name: podman's id of the container

    @property
    def network(self) -> Network:
        return Network(self.number)

    def alive(self, proc: Path = Path("/proc")) -> bool:
        """Whether the keeper is the process that was started, in this boot of the host."""
        if self.keeper_pid <= 0 or self.boot != boot_id(proc):
            return False
        return process_started(self.keeper_pid, proc) == self.keeper_started


@dataclass(frozen=True)
class HostStatus:
    """One machine as ``status`` shows it. ``uptime_s`` is seconds, None when it does not answer."""

    name: str
    address: str
    address6: str
    running: bool
    systemd: str
    uptime_s: int | None


def boot_id(proc: Path = Path("/proc")) -> str:
    """Identifies the host's current boot."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def process_started(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When a process started, in clock ticks since boot (proc_pid_stat(5), field 22)."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may contain anything
    return None if fields[0] in "ZX" else int(fields[19])


class Lab:
    """The lab called ``name`` of the user who runs this."""

    def __init__(self, name: str = spec.DEFAULT_NAME, environ: Mapping[str, str] = os.environ):
        self.name = spec.check_name(name)
        self._root = spec.state_root(environ)
        self._cache = spec.cache_root(environ)
        self.state = self._root / name

    # What the lab is.

    def record(self) -> Record | None:
        """What ``lab.json`` says; None if there is no such lab."""
        return _read_record(self.state)

    @property
    def inventory(self) -> Path:
        """The directory to give to ``ansible-playbook -i``."""
        committed = _REPOSITORY / "inventories/lab"
        if self.name == spec.DEFAULT_NAME and committed.is_dir():
            return committed
        return self.state / "inventory"

    @property
    def hsm_plan(self) -> Path:
        """What the lab's rehearsal devices hold."""
        return _REPOSITORY / "inventories/lab/hsm-plan.yml"

    def hosts(self) -> dict[str, str]:
        """The lab's machines and their IPv4 addresses."""
        record = self._living()
        return {m.name: record.network.address(m.index) for m in spec.select(list(record.hosts))}

    def describe(self) -> dict[str, Any]:
        """The lab as ``lab up --json`` prints it."""
        record = self._living()
        return {
            "name": self.name,
            "state": str(self.state),
            "inventory": str(self.inventory),
            "network": [str(record.network.v4), str(record.network.v6)],
            "hosts": {
                m.name: {
                    "group": m.group,
                    "address": record.network.address(m.index),
                    "address6": record.network.address6(m.index),
                }
                for m in spec.select(list(record.hosts))
            },
        }

    def status(self) -> list[HostStatus]:
        """How each machine is, asked over ssh."""
        record = self._living()
        machines = spec.select(list(record.hosts))
        with ThreadPoolExecutor(len(machines)) as pool:
            return list(pool.map(lambda machine: self._host_status(record, machine), machines))

    def _host_status(self, record: Record, machine: Machine) -> HostStatus:
        network = record.network
        running, systemd, uptime = self._runs(record, machine.name), "stopped", None
        if running:
            systemd = "no answer"
            question = ["sh", "-c", "systemctl is-system-running; ps -o etimes= -p 1"]
            asked = self._ssh(network.address(machine.index), question, timeout=10)
            words = asked.stdout.split() if asked else []
            if len(words) == 2:
                systemd, uptime = words[0], int(words[1])
        return HostStatus(
            machine.name,
            network.address(machine.index),
            network.address6(machine.index),
            running,
            systemd,
            uptime,
        )

    def _runs(self, record: Record, name: str) -> bool:
        """Whether the machine has processes, told without root by the cgroup they are in."""
        if name not in record.hosts:
            return False
        cgroup = f"/{record.network.device}/libpod-{record.hosts[name]}/"
        for path in Path("/proc").glob("[0-9]*/cgroup"):
            try:
                if cgroup in path.read_text():
                    return True
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended meanwhile, or the host hides other users' processes
        return False

    def _living(self) -> Record:
        record = self.record()
        command = "sigsum-ops lab up"
        if self.name != spec.DEFAULT_NAME:
            command += f" --name {self.name}"
        if record is None:
            raise OpsError(f"there is no lab called {self.name!r}", hint=f"make it: {command}")
        if not record.alive():
            raise OpsError(
                f"the lab {self.name!r} is gone: its processes ended, or this host was rebooted",
                hint=f"make it anew: {command}",
            )
        return record

    # Commands on a machine.

    def ssh_command(self, name: str, argv: Sequence[str] = (), *, tty: bool = False) -> list[str]:
        """The ssh command that runs ``argv`` on a machine exactly as given, or a shell."""
        addresses = self.hosts()
        if name not in addresses:
            raise OpsError(
                f"the lab {self.name!r} has no host {name!r}", hint=f"hosts: {', '.join(addresses)}"
            )
        return self._ssh_command(addresses[name], argv, tty=tty)

    def _ssh_command(self, address: str, argv: Sequence[str], *, tty: bool = False) -> list[str]:
        options = [*spec.ssh_options(str(self.state)), "LogLevel=ERROR", "BatchMode=yes"]
        command = ["ssh", "-F", "none", "-t" if tty else "-T"]
        command += [word for option in options for word in ("-o", option)]
        command += ["-i", str(self.state / "ssh/id_ed25519"), f"root@{address}"]
        # ssh joins its arguments with spaces and gives them to the shell there.
        return [*command, "--", shlex.join(argv)] if argv else command

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` on a machine as root. ``timeout`` is seconds; 255 is ssh's own failure."""
        return subprocess.run(
            self.ssh_command(name, argv),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
        )

    def _ssh(
        self, address: str, argv: Sequence[str], *, timeout: float
    ) -> subprocess.CompletedProcess[str] | None:
        """Run ``argv`` at an address; None if that did not end within ``timeout`` seconds."""
        try:
            return subprocess.run(
                self._ssh_command(address, argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return None

    # Changes: these need root.

    def up(self, hosts: Sequence[str] | None = None) -> None:
        """Start the machines called ``hosts`` (all, if None) unless they run.

        A lab of which the processes are gone is made anew, with new disks and keys.
        """
        machines = spec.select(hosts)
        record = self.record()
        if record and record.alive() and all(self._runs(record, m.name) for m in machines):
            return
        if self._with_sudo("up", *(["--hosts", ",".join(hosts)] if hosts else [])):
            return
        host.install_missing()
        with self._locked():
            record = self.record()
            if record is None or not record.alive():
                record = self._make(record)
            missing = [m for m in machines if not self._runs(record, m.name)]
            with ThreadPoolExecutor(1) as pool:
                # It takes about as long as the machines do.
                names = {*record.hosts, *(machine.name for machine in missing)}
                log_key = pool.submit(self._make_log_key, names)
                with step(f"Starting {', '.join(m.name for m in missing)}"):
                    for machine in missing:
                        self._boot(record, machine)
                    self._wait_ready(record, missing)
                with step("Rehearsing the key ceremony"):
                    log_key.result()

    def _make_log_key(self, hosts: Set[str]) -> None:
        """Have the log's key made, if the lab has both machines of a site."""
        if {m.name for m in spec.select(None) if m.group == "log_machines"} <= hosts:
            keys.ensure(self.state, self.hsm_plan, spec.more_devices(hosts))

    def down(self, *, purge: bool = False) -> None:
        """Remove the lab and every trace of it; with ``purge``, also images that no lab uses."""
        if not purge and not self.state.exists():
            return
        if self._with_sudo("down", *(["--purge"] if purge else [])):
            return
        if self.state.exists():
            with self._locked(), step(f"Removing the lab {self.name!r}"):
                self._remove(self.record())
        if purge:
            others = [record for path in self._root.glob("*") if (record := _read_record(path))]
            image.purge(self._cache, {record.image for record in others})

    def kill(self, name: str) -> None:
        """Cut a machine's power: it stops at once, without a chance to write anything."""
        if self._with_sudo("kill", name):
            return
        with self._locked():
            record = self._require(name)
            self._podman(record, "kill", "--signal=KILL", self._container(name))
            self._podman(record, "wait", self._container(name))
            host.close_connections(self.hosts()[name])

    def start(self, name: str) -> None:
        """Start a stopped machine: same disk, addresses and host key."""
        if self._with_sudo("start", name):
            return
        with self._locked():
            record = self._require(name)
            self._boot(record, spec.select([name])[0])
            self._wait_ready(record, spec.select([name]))

    def restart(self, name: str) -> None:
        """Shut a machine down in good order, and start it again."""
        if self._with_sudo("restart", name):
            return
        with self._locked(), step(f"Restarting {name}"):
            record = self._require(name)
            self._podman(record, "stop", "--time=90", self._container(name))
            host.close_connections(self.hosts()[name])
            self._boot(record, spec.select([name])[0])
            self._wait_ready(record, spec.select([name]))

    def _with_sudo(self, verb: str, *arguments: str) -> bool:
        """If this is not root, do the verb as root instead and return True."""
        if os.geteuid() == 0:
            return False
        for directory in (self._root, self._cache):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.which("sudo") is None:
            raise OpsError(f"`lab {verb}` needs root, and there is no sudo", hint="run it as root")
        state_home, cache_home = self._root.parents[1], self._cache.parents[1]
        environment = [f"XDG_STATE_HOME={state_home}", f"XDG_CACHE_HOME={cache_home}"]
        command = [sys.executable, "-m", "sigsum_ops.cli", "lab", verb, "--name", self.name]
        whole = ["sudo", "--", "env", *environment, *command, *arguments]
        # What there is to print on stdout is printed by the caller.
        done = subprocess.run(whole, stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            raise OpsError(f"`lab {verb}` did not succeed as root", hint="the reason is above")
        return True

    def _require(self, name: str) -> Record:
        record = self._living()
        if name not in record.hosts:
            raise OpsError(
                f"the lab {self.name!r} has no host {name!r}",
                hint=f"hosts: {', '.join(record.hosts)}",
            )
        return record

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lab's directory (made if need be) against other processes."""
        while True:
            self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.state, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Whoever held it before may have removed the directory and another made it anew.
                if self.state.exists() and os.path.samestat(os.fstat(lock), self.state.stat()):
                    try:
                        yield
                    finally:
                        self._give_to_user()
                    return
            finally:
                os.close(lock)

    def _make(self, stale: Record | None) -> Record:
        """Make everything that the machines share. ``stale`` is a lab of this name that died."""
        with step("Removing what is left of an earlier lab"):
            self._remove(stale, keep_directory=True)
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        rootfs = image.ensure(self._cache)
        with host.directory_lock(self._root):
            others = [r for path in self._root.glob("*") if (r := _read_record(path))]
            network = spec.choose_network(self.name, [r.number for r in others], host.routes())
            living = [r.forwarding_before for r in others if r.alive()]
            record = Record(
                number=network.number,
                boot=boot_id(),
                image=str(rootfs),
                forwarding_before=living[0] if living else host.read_forwarding(),
            )
            self._write_record(record)

        (self.state / "ssh").mkdir(mode=0o700)
        (self.state / "ssh/known_hosts").touch(mode=0o644)
        self._keygen("ssh/id_ed25519", f"lab {self.name}")
        (self.state / "containers.conf").write_text(_CONTAINERS_CONF)
        (self.state / "networks").mkdir()
        configuration = self.state / "networks" / f"{network.device}.json"
        configuration.write_text(json.dumps(_podman_network(network)))
        (self.state / "hosts").mkdir(mode=0o755)
        (self.state / "inventory").mkdir()
        (self.state / "inventory/group_vars").symlink_to(_REPOSITORY / "inventories/lab/group_vars")

        record.keeper_pid = host.start_keeper(network)
        record.keeper_started = process_started(record.keeper_pid) or 0
        self._write_record(record)
        return record

    def _remove(self, record: Record | None, *, keep_directory: bool = False) -> None:
        if record is not None:
            host.remove_traces(record.network)
            host.restore_forwarding(record.forwarding_before)
        for number in host.labelled(str(self.state)):
            host.remove_traces(Network(number))
        for path in self.state.iterdir():
            host.delete(path)
        if not keep_directory:
            self.state.rmdir()

    def _boot(self, record: Record, machine: Machine) -> None:
        """Start a machine: anew, or from the disk that it already has."""
        directory = self.state / "hosts" / machine.name
        network, container = record.network, self._container(machine.name)
        if machine.name in record.hosts:
            self._podman(record, "start", container)
        else:
            self._prepare_disk(record, machine)
            printed = self._podman(
                record,
                *("run", "--detach", f"--name={container}", f"--hostname={machine.name}"),
                f"--network={network.device}",
                f"--ip={network.address(machine.index)}",
                f"--ip6={network.address6(machine.index)}",
                f"--mac-address={network.mac(machine.index)}",
                # /etc/hosts and resolv.conf are ordinary files of the machine, as on a real one.
                *("--no-hosts", "--dns=none", "--privileged", "--pids-limit=-1"),
                # systemd's reboot ends the container with a failure status, and so comes back.
                *("--systemd=always", "--restart=on-failure"),
                f"--cgroup-parent=/{network.device}",
                *("--rootfs", str(directory / "rootfs"), image.INIT),
            )
            record.hosts[machine.name] = printed.split()[-1]
            self._write_record(record)
            content = spec.inventory(spec.select(list(record.hosts)), network, str(self.state))
            (self.state / "inventory/hosts.yml").write_text(spec.inventory_text(content))
        host.label(network, str(self.state))

    def _prepare_disk(self, record: Record, machine: Machine) -> None:
        """Mount the machine's disk: its own layer, with what makes it this machine, on the image.

        What an interrupted ``up`` left is replaced.
        """
        directory = self.state / "hosts" / machine.name
        network = record.network
        self._podman(record, "rm", "--force", "--ignore", self._container(machine.name))
        self._inside(record, "umount", "--quiet", "--lazy", str(directory / "rootfs"), check=False)
        host.delete(directory)

        # These directories hide those of the image, except for what is in them.
        for name, mode in (
            *(("", 0o755), ("upper", 0o755), ("work", 0o755), ("rootfs", 0o755)),
            *(("upper/etc", 0o755), ("upper/etc/ssh", 0o755)),
            *(("upper/root", 0o700), ("upper/root/.ssh", 0o700)),
        ):
            (directory / name).mkdir()
            (directory / name).chmod(mode)
        etc = directory / "upper/etc"
        for path, text in (
            (etc / "hostname", f"{machine.name}\n"),
            (etc / "hosts", spec.hosts_file(machine, network)),
            (etc / "resolv.conf", host.resolv_conf()),
            (etc / "machine-id", f"{secrets.token_hex(16)}\n"),
            (
                directory / "upper/root/.ssh/authorized_keys",
                (self.state / "ssh/id_ed25519.pub").read_text(),
            ),
        ):
            path.write_text(text)
            path.chmod(0o644)
        key = etc / "ssh/ssh_host_ed25519_key"
        self._keygen(str(key.relative_to(self.state)), machine.name)
        self._know(network, machine, key.with_suffix(".pub").read_text())
        layers = f"upperdir={directory / 'upper'},workdir={directory / 'work'}"
        self._inside(
            record,
            *("mount", "-t", "overlay", "overlay", str(directory / "rootfs")),
            *("-o", f"lowerdir={record.image},{layers}"),
        )

    def _know(self, network: Network, machine: Machine, public_key: str) -> None:
        """Record a machine's host key as the one that its addresses must show."""
        path = self.state / "ssh/known_hosts"
        names = ",".join([network.address(machine.index), network.address6(machine.index)])
        kept = [line for line in path.read_text().splitlines() if line.split()[0] != names]
        kind, key = public_key.split()[:2]
        path.write_text("\n".join([*kept, f"{names} {kind} {key}"]) + "\n")

    def _wait_ready(self, record: Record, machines: Sequence[Machine]) -> None:
        """Wait until each machine answers over ssh and systemd has started everything."""
        deadline = time.monotonic() + _READY_SECONDS
        with ThreadPoolExecutor(max(len(machines), 1)) as pool:
            waits = [pool.submit(self._wait_for, record, m, deadline) for m in machines]
            for wait in waits:
                wait.result()

    def _wait_for(self, record: Record, machine: Machine, deadline: float) -> None:
        address = record.network.address(machine.index)
        state = "no answer over ssh"
        while time.monotonic() < deadline:
            if _listens(address):
                left = max(deadline - time.monotonic(), 1)
                asked = self._ssh(
                    address, ["systemctl", "is-system-running", "--wait"], timeout=left
                )
                if asked and asked.stdout:
                    state = asked.stdout.strip()
                    # A unit of the person's that fails is theirs to see, not a reason to stop.
                    if state in {"running", "degraded"}:
                        return
                elif asked:
                    state = asked.stderr.strip() or state
            time.sleep(0.1)
        raise OpsError(
            f"{machine.name} ({address}) did not get ready in {_READY_SECONDS:.0f} s: {state}",
            hint="`sigsum-ops lab logs` may say why; `lab down` and `lab up` make the lab anew",
        )

    def _container(self, name: str) -> str:
        return f"sigsum-{self.name}-{name}"

    def _podman(self, record: Record, *arguments: str) -> str:
        return self._inside(
            record,
            *("podman", f"--root={self.state / 'podman'}"),
            f"--network-config-dir={self.state / 'networks'}",
            *arguments,
        )

    def _inside(self, record: Record, *command: str, check: bool = True) -> str:
        """Run a command in the lab's mount namespace; return what it printed."""
        environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self.state / "containers.conf"),
            # Newer netavark would take nftables; what removes its rules knows iptables.
            "NETAVARK_FW": "iptables",
        }
        done = subprocess.run(
            host.inside(record.network, record.keeper_pid, command),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if check and done.returncode != 0:
            raise OpsError(
                f"in the lab {self.name!r}, `{shlex.join(command)}` failed: {done.stderr.strip()}",
                hint="`sigsum-ops lab down` and `lab up` make the lab anew",
            )
        return done.stdout

    def _keygen(self, path: str, comment: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment]
        subprocess.run([*command, "-f", self.state / path], check=True)

    def _write_record(self, record: Record) -> None:
        temporary = self.state / "lab.json.new"
        temporary.write_text(json.dumps(asdict(record), indent=2) + "\n")
        temporary.rename(self.state / "lab.json")

    def _give_to_user(self) -> None:
        """Give the lab's files, not its machines' disks, to whoever the directory above is of."""
        with suppress(OSError):
            self.state.rmdir()  # an attempt that failed at once leaves no empty directory
        if not self.state.exists():
            return
        owner = self._root.stat()
        paths = [self.state, *self.state.glob("*")]
        for directory in ("ssh", "inventory", keys.CEREMONY):
            paths += self.state.glob(f"{directory}/**/*")
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _read_record(state: Path) -> Record | None:
    try:
        return Record(**json.loads((state / "lab.json").read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError) as error:
        raise OpsError(
            f"{state / 'lab.json'} is not readable: {error}",
            hint=f"reboot this host or end the lab's processes, then remove {state}",
        ) from error


def _podman_network(network: Network) -> dict[str, Any]:
    """A network as podman stores it: written here because it cannot be told the bridge's name."""
    subnets = [{"subnet": str(net), "gateway": str(net[1])} for net in (network.v4, network.v6)]
    return {
        "name": network.device,
        "id": f"{network.number:064x}",
        "driver": "bridge",
        "network_interface": network.device,
        "created": "2025-01-01T00:00:00Z",
        "subnets": subnets,
        "ipv6_enabled": True,
        "internal": False,
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
    }


def _listens(address: str) -> bool:
    try:
        socket.create_connection((address, 22), timeout=1).close()
    except OSError:
        return False
    return True
