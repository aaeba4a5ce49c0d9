"""A lab as the place where the business continuity plan is rehearsed, command by command.

Each situation of ``runbook.commands.SITUATIONS`` is brought about on the lab's machines, and what
the pages have a person type is typed there: on the controller in a checkout, on a machine as root.
The pages are rendered from the lab's own inventory, anew when another machine has become primary.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from sigsum_ops.errors import OpsError
from sigsum_ops.lab.lab import Lab
from sigsum_ops.lab.soak import DEVICE_FAULT
from sigsum_ops.site.runbook import REPOSITORY, commands, facts, pages
from sigsum_ops.site.runbook.commands import Command

MACHINES = ("log1", "log2")
CLIENT = "client1"
PATIENCE = 900.0  # seconds for one command; a playbook converges machines in it
RECOVERY = 90.0  # seconds until the log signs again by itself
LOG, ORACLE = "sigsum-log-primary", "sigsum-oracle"

# A user's whole way, as far as the proof.
_SUBMIT = """
cd "$(mktemp -d)"; trap 'rm -rf "$PWD"' EXIT
sigsum-key generate -o key
head -c 32 /dev/urandom > message
until sigsum-submit --policy=/etc/sigsum/policy --signing-key=key --timeout=10s message; do
  test "$(date +%s)" -lt {end} || exit 1
  sleep 0.5
done
"""

# Asks the oracle for a signature over another root of the size that was signed last, as a log on
# another tree would. draft-ietf-sshm-ssh-agent, sections 4.1 (framing) and 4.6 (SSH_AGENTC_SIGN).
_CONTRADICT = """
import pathlib, re, socket
from sigsum_ops.log.keys import load_public_key
from sigsum_ops.log.treehead import TreeHead
key = load_public_key(pathlib.Path("/etc/sigsum/log.pub"))
sth = pathlib.Path("/var/lib/sigsum-log/sth").read_text()
size = int(re.search(r"^size=(\\d+)$", sth, re.M)[1])
def string(data):
    return len(data).to_bytes(4, "big") + data
blob = string(b"ssh-ed25519") + string(key.raw)
request = b"\\x0d" + string(blob) + string(TreeHead(size, bytes(32)).checkpoint(key)) + bytes(4)
with socket.socket(socket.AF_UNIX) as agent:
    agent.connect("/run/sigsum-oracle/agent.sock")
    agent.sendall(string(request))
    assert agent.recv(5) == b"\\0\\0\\0\\1\\5", "the oracle did not refuse"
"""

# All that a machine knows of the log: what is left is an installed system.
_WIPE = """
units=$(cd /etc/systemd/system; ls -d sigsum-*.service sigsum-*.timer trillian-*.service || true)
systemctl disable --now $units
mariadb --execute 'DROP DATABASE IF EXISTS trillian'
cd /etc/systemd/system; rm -rf $units sigsum-*.d trillian-*.d
systemctl daemon-reload; systemctl reset-failed
rm -rf /etc/sigsum /var/lib/sigsum-*
"""

# The package that is there, called an older one.
_OLDER = """
cd "$(mktemp -d)"; trap 'rm -rf "$PWD"' EXIT
dpkg-deb --raw-extract /var/cache/apt/archives/sigsum-ops_*.deb older
sed -i 's/^Version: .*/Version: 0.0/' older/DEBIAN/control
dpkg-deb --build older older.deb
dpkg --install older.deb
"""

_SPOIL_DATABASE = """
systemctl stop mariadb
cp -a /var/lib/mysql/ibdata1 /root/ibdata1
dd if=/dev/urandom of=/var/lib/mysql/ibdata1 bs=16k count=64 conv=notrunc status=none
systemctl start mariadb && exit 1 || true
"""


class Rehearsal:
    """Implements ``commands.Rehearsal`` on a lab.

    Args:
        lab: its machines are broken and mended; it is converged.
        checkout: an empty directory, made into a checkout in which the controller's commands may
            leave files behind.
        settings: variables of all hosts, as if the inventory had them.
        inventory: the directory of the lab's inventory, where it is not the lab's own.
        tell: told of each command before it is typed.

    Attributes:
        primary: the machine that is the primary now; ``secondary`` likewise.
        sound: nothing was done to the machines since the log was last seen to sign.
    """

    def __init__(
        self,
        lab: Lab,
        checkout: Path,
        settings: Mapping[str, object],
        *,
        inventory: Path | None = None,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.lab = lab
        self.primary, self.secondary = MACHINES
        self._checkout = checkout
        self._settings = dict(settings)
        self._tell = tell
        self._site: facts.Site | None = None
        self.sound = False
        self._undo: list[Callable[[], object]] = []
        self._seen = ""
        for path in REPOSITORY.iterdir():
            if path.name not in ("runbook", "evidence"):
                (checkout / path.name).symlink_to(path)
        self.inventory = checkout / "lab-inventory"
        self.inventory.mkdir()
        for path in (inventory or lab.inventory).iterdir():
            if not path.name.startswith("."):  # least of all another repository
                (self.inventory / path.name).symlink_to(path.resolve())
        self._write_inventory()

    # The pages.

    def scene(self, page: str, number: int) -> list[Command]:
        """One of a page's scenes, with the values of the inventory as it is now."""
        if self._site is None:
            self._site = facts.read(self.inventory)
        (source,) = (each for each in pages.load() if each.path.stem == page)
        return commands.scenes(commands.extract([source], self._site))[number]

    def rehearse(self, page: str, *numbers: int) -> None:
        """Type scenes of one print of a page.

        Raises:
            OpsError: a command ended otherwise than its page says.
        """
        # What is undone may change which machine is the primary, and with it what is printed.
        self.mend()
        typed = [command for number in numbers for command in self.scene(page, number)]
        for command in commands.rehearse(typed, self):
            self._tell(f"ok: {command.place}:{command.line}")

    # What commands.Rehearsal wants.

    def arrange(self, situation: str) -> None:
        """Bring about a situation, from whatever is."""
        self._tell(f"arrange: {situation}")
        if situation != "promoted":  # which goes on with what the page itself did
            self.mend()
        # What is typed on a healthy site leaves it so.
        self.sound = situation == "healthy"
        ARRANGE[situation](self)

    def run(self, command: Command, text: str) -> tuple[int, str]:
        """Type a command where its page says."""
        self._tell(f"{command.host or command.on}: {text}")
        if command.host is None:
            return self._controller(text)
        done = self.lab.exec(command.host, ["bash", "-lc", text], timeout=PATIENCE)
        return done.returncode, done.stdout + done.stderr

    def answer(self, command: Command, word: str, said: str) -> str:
        """What a person would put in a word's place."""
        return ANSWERS[word](self, command, said)

    # What situations are made of.

    def on(self, host: str, script: str) -> str:
        """Run a shell script as root on a machine; OpsError where it fails."""
        done = self.lab.exec(host, ["bash", "-ec", script], timeout=PATIENCE)
        if done.returncode:
            raise OpsError(f"on {host}: {script}\n{done.stdout}{done.stderr}")
        return done.stdout

    def fault(self, *kinds: str) -> None:
        """Have something go wrong in the primary's rehearsal device; without a kind, end it."""
        self.on(self.primary, shlex.join(["python3", "-c", DEVICE_FAULT, *kinds]))

    def after(self, undo: Callable[[], object]) -> None:
        """Undo something before the next situation, the latest first."""
        self._undo.append(undo)

    def forget(self) -> None:
        """Undo nothing of what was to be undone."""
        self._undo.clear()

    def until(self, host: str, script: str, seconds: float) -> None:
        """Wait until a script on a machine succeeds."""
        end = int(time.time() + seconds)
        self.on(host, f"until {script}; do test $(date +%s) -lt {end}; sleep 0.3; done")

    def playbook(self, name: str, *arguments: str) -> None:
        """Run a playbook of ours, as part of a situation; OpsError where it fails."""
        command = ["ansible-playbook", "-i", str(self.inventory), f"playbooks/{name}.yml"]
        status, said = self._controller(shlex.join([*command, *arguments]))
        if status:
            raise OpsError(f"{name}.yml: exit status {status}\n{said[-6000:]}")

    def swap(self) -> None:
        """Primary and secondary change places in the inventory, and the log's name follows."""
        self.primary, self.secondary = self.secondary, self.primary
        self._write_inventory()
        addresses = self.lab.hosts()
        old, new = addresses[self.secondary], addresses[self.primary]
        self.on(CLIENT, f"sed -i 's,http://{old}:,http://{new}:,' /etc/sigsum/policy")

    def mend(self) -> None:
        """Both machines serve and agree, whatever was before."""
        self.undo()
        if not self.sound:
            self.on(CLIENT, _SUBMIT.format(end=int(time.time() + RECOVERY)))
        self.sound = True

    def undo(self) -> None:
        """Take back what ``after`` was told of."""
        while self._undo:
            self._undo.pop()()

    def remember(self) -> None:
        """Keep what the log publishes, as somebody who has seen it."""
        address = self.lab.hosts()[self.primary]
        with urllib.request.urlopen(f"http://{address}:6965/get-tree-head", timeout=5) as answer:
            self._seen = answer.read().decode()

    def seen(self, host: str | None) -> str:
        """The name of a file with it, on a machine or (None) the controller."""
        if host is None:
            path = self._checkout / "tree-head"
            path.write_text(self._seen, encoding="utf-8")
            return str(path)
        self.on(host, f"printf %s {shlex.quote(self._seen)} > /root/tree-head")
        return "/root/tree-head"

    def _write_inventory(self) -> None:
        addresses = self.lab.hosts()
        url = f"http://{addresses[self.primary]}:6965/"
        common = {**self._settings, "log_url": url, "sigsum_tools_log_url": url}
        roles = {self.primary: "primary", self.secondary: "secondary"}
        hosts: dict[str, dict[str, Any]] = {
            name: {**common, **({"log_server_role": roles[name]} if name in roles else {})}
            for name in addresses
        }
        # Later than the lab's own file, as Ansible sorts them.
        path = self.inventory / "now.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": hosts}}), encoding="utf-8")
        self._commit()
        self._site = None

    def _commit(self) -> None:
        """As the pages say, after a change: a repository of its own, as an operator's is."""
        someone = (
            "-c",
            "commit.gpgsign=false",
            "-c",
            "user.name=rehearsal",
            "-c",
            "user.email=rehearsal@example.org",
        )
        for command in (
            ("init", "-q"),
            ("add", "-A"),
            (*someone, "commit", "-q", "--allow-empty", "-mRoles"),
        ):
            subprocess.run(["git", *command], cwd=self.inventory, check=True)

    def _controller(self, text: str) -> tuple[int, str]:
        kept = ("HOME", "LANG", "USER", "XDG_STATE_HOME", "XDG_CACHE_HOME")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self._checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.returncode, done.stdout


def _only(pattern: str, text: str) -> str:
    found = re.findall(pattern, text, re.M)
    if len(found) != 1:
        raise OpsError(f"{pattern} is there {len(found)} times, not once, in:\n{text}")
    return str(found[0])


def _signed_size(site: Rehearsal) -> str:
    return _only(r"^size=(\d+)$", site.on(site.primary, "cat /var/lib/sigsum-log/sth"))


# By the word in capitals: what stands for it, from what the command before it printed.
ANSWERS: Mapping[str, Callable[[Rehearsal, Command, str], str]] = {
    "NAME": lambda _site, _command, _said: "rehearsal",
    "WORDS": lambda _site, _command, _said: "its power was cut",
    "FILE": lambda site, command, _said: site.seen(command.host),
    "SIZE": lambda site, _command, _said: _signed_size(site),
    "SHA256": lambda _site, _command, said: _only(r"^LATCHED .* SHA-256 ([0-9a-f]{64})$", said),
    "LINE": lambda _site, _command, said: re.findall(r", line (\d+):$", said, re.M)[-1],
}


def _healthy(_site: Rehearsal) -> None:
    """As ``mend`` left it."""


def _primary_dead(site: Rehearsal) -> None:
    host = site.primary
    site.lab.kill(host)
    site.after(lambda: site.lab.start(host))


def _promoted(site: Rehearsal) -> None:
    site.undo()  # it is back
    site.swap()


def _handing_over(site: Rehearsal) -> None:
    # After the page, which has said so in a sentence.
    site.after(site.swap)


def _secondary_new(site: Rehearsal) -> None:
    site.on(site.secondary, _WIPE)


def _database_away_primary(site: Rehearsal) -> None:
    host = site.primary
    site.on(host, _SPOIL_DATABASE)
    mended = (
        "systemctl stop mariadb; mv /root/ibdata1 /var/lib/mysql/ibdata1; systemctl start mariadb;"
        f" systemctl start trillian-log-server trillian-log-signer;"
        f" systemctl enable --now {ORACLE} {LOG}"
    )
    site.after(lambda: site.on(host, mended))


def _database_back(site: Rehearsal) -> None:
    site.on(site.primary, f"systemctl disable --now {LOG} {ORACLE}")


def _database_away_secondary(site: Rehearsal) -> None:
    host = site.secondary
    site.on(host, _SPOIL_DATABASE)
    site.after(lambda: site.on(host, "rm -r /var/lib/mysql.damaged /root/ibdata1"))


def _quarantine(site: Rehearsal) -> None:
    host = site.primary
    site.on(host, "systemctl start sigsum-backup")
    site.remember()
    site.on(site.secondary, _WIPE)
    site.on(host, f"systemctl stop {LOG} {ORACLE}")
    site.after(lambda: site.playbook("reseed", "-e", f"target={site.secondary}"))
    site.after(lambda: site.on(host, f"systemctl start {ORACLE} {LOG}"))


def _restored(site: Rehearsal) -> None:
    host = site.primary
    _quarantine(site)
    site.forget()
    site.lab.kill(host)
    site.playbook("restore", "-e", f"target={site.secondary}", "-e", f"seen={site.seen(None)}")

    def replaced() -> None:
        site.lab.start(host)
        site.swap()
        site.playbook("reseed", "-e", f"target={host}")

    site.after(replaced)


def _upgradable(site: Rehearsal) -> None:
    for host in MACHINES:
        site.on(host, _OLDER)


def _refused(site: Rehearsal) -> None:
    site.on(
        site.primary,
        f"systemctl stop {LOG}; rm /var/lib/sigsum-log/tree-id; ! systemctl start {LOG}",
    )
    site.until(site.primary, "test -e /var/lib/sigsum-log/guard-refused.json", 30)


def _hsm_away(site: Rehearsal) -> None:
    site.fault("unplug")
    site.after(site.fault)


def _hsm_replaced(site: Rehearsal) -> None:
    site.on(site.secondary, "systemctl stop sigsum-rehearsal-hsm")


def _latched(site: Rehearsal) -> None:
    ask = ["runuser", "-u", "sigsum-log", "--", "python3", "-c", _CONTRADICT]
    site.on(site.primary, shlex.join(ask))
    site.until(site.primary, "test -e /var/lib/sigsum-oracle/latch", 10)


def _journal_damaged(site: Rehearsal) -> None:
    host = site.primary
    journal = "/var/lib/sigsum-oracle/journal"
    site.on(
        host,
        f"systemctl stop {LOG} {ORACLE};"
        f" printf x | dd of={journal} bs=1 seek=150 conv=notrunc status=none;"
        f" ! systemctl start {ORACLE}",
    )
    site.after(lambda: site.on(host, f"rm {journal}.damaged"))


def _audit_unknown(site: Rehearsal) -> None:
    given = "cut -d ' ' -f 3 /var/lib/sigsum-oracle/signatures"
    before = int(site.on(site.primary, f"systemctl stop sigsum-hsm-audit; {given}"))
    # What the device's log has no room for.
    site.fault("log-full")
    site.until(site.primary, f"test $({given}) -ge {before + 2}", 60)
    site.on(site.primary, "systemctl start sigsum-hsm-audit")
    site.until(site.primary, "{ sigsum-ops hsm audit --show; test $? = 3; }", 60)


def _audit_damaged(site: Rehearsal) -> None:
    host = site.primary
    spoil = "for f in *.audit; do printf x | dd of=$f bs=1 seek=400 conv=notrunc status=none; done"
    site.on(
        host,
        f"systemctl stop sigsum-hsm-audit; cd /var/lib/sigsum-hsm; {spoil};"
        " ! systemctl start sigsum-hsm-audit",
    )
    site.until(host, "systemctl show sigsum-hsm-audit | grep -qE 'NRestarts=[1-9]'", 20)
    site.after(lambda: site.on(host, "rm /var/lib/sigsum-hsm/*.damaged"))


ARRANGE: Mapping[str, Callable[[Rehearsal], None]] = {
    "healthy": _healthy,
    "practice": _healthy,
    "handing-over": _handing_over,
    "primary-dead": _primary_dead,
    "promoted": _promoted,
    "secondary-new": _secondary_new,
    "database-away-primary": _database_away_primary,
    "database-back": _database_back,
    "database-away-secondary": _database_away_secondary,
    "quarantine": _quarantine,
    "restored": _restored,
    "upgradable": _upgradable,
    "refused": _refused,
    "hsm-away": _hsm_away,
    "hsm-replaced": _hsm_replaced,
    "latched": _latched,
    "journal-damaged": _journal_damaged,
    "audit-unknown": _audit_unknown,
    "audit-damaged": _audit_damaged,
}


def plan(situations: Collection[str]) -> list[tuple[str, tuple[int, ...]]]:
    """The scenes to rehearse: page, and which of its scenes in one go.

    Args:
        situations: only scenes of these. ``promoted`` goes with its page's first,
            which promotes.
    """
    found: list[tuple[str, tuple[int, ...]]] = []
    for page in pages.load():
        whens = [block.when for block in commands.blocks(page) if block.when is not None]
        for number, when in enumerate(whens):
            if when not in situations:
                continue
            if when == "promoted":
                found[found.index((page.path.stem, (0,)))] = (page.path.stem, (0, number))
            else:
                found.append((page.path.stem, (number,)))
    return found
