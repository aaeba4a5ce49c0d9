"""Fencing: a machine is kept from ever signing again, and says so.

A unit is masked (systemctl(1)): its file is put aside and a link to /dev/null is in its place, so
that neither a person, nor a reboot, nor another unit starts it. The mark says who did it and why.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError
from sigsum_ops.log.statefiles import read_if_there, sync_directory, write_durably

DIRECTORY = Path("/etc/systemd/system")
ASIDE = ".fenced"  # appended to the file of a unit that is masked
MARK = Path("/etc/sigsum/fenced.json")
NULL = Path("/dev/null")
RUN = Path("/run")

# In the order in which they are stopped: who asks for signatures before who gives them. What
# watches over the device is among them, since nothing may open a session with it.
PRIMARY = (
    "sigsum-log-primary.service",
    "sigsum-oracle.service",
    "trillian-log-signer.service",
    "sigsum-hsm-check.timer",
    "sigsum-hsm-check.service",
    "sigsum-hsm-audit.service",
    "sigsum-rehearsal-hsm.service",
    "yubihsm-connector.service",
)
SLOW = "trillian-log-signer.service"
SECONDARY = ("sigsum-log-secondary.service",)


def show(units: Iterable[str]) -> dict[str, dict[str, str]]:
    """LoadState, ActiveState and UnitFileState of each unit that systemd knows or has masked."""
    units = tuple(units)
    if not units:
        return {}
    properties = "Id,LoadState,ActiveState,UnitFileState"
    shown = _systemctl("show", f"--property={properties}", *units)
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in shown.split("\n\n")
    ]
    return {block.pop("Id"): block for block in blocks if block.get("LoadState") != "not-found"}


def stopped(shown: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What of these units contradicts that they are masked and do not run."""
    return [
        f"{name} is {unit['LoadState']} and {unit['ActiveState']}"
        for name, unit in shown.items()
        if unit["LoadState"] != "masked" or unit["ActiveState"] not in ("inactive", "failed")
    ]


def mask(units: Iterable[str], directory: Path = DIRECTORY, run: Path = RUN) -> bool:
    """Mask those that there are, then stop them; whether anything was changed.

    Raises:
        OpsError: one of them runs, or could be started, all the same.
    """
    units = tuple(units)
    shown = show(units)
    # One that was put aside by a run that ended there is not known to systemd any more.
    aside = {name for name in units if (directory / (name + ASIDE)).exists()}
    wanted = [name for name in units if name in shown or name in aside]
    changed = False
    for name in wanted:
        path = directory / name
        if path.is_symlink() and path.readlink() == NULL:
            continue
        if path.exists():
            path.rename(path.with_name(name + ASIDE))
        path.symlink_to(NULL)
        changed = True
    sync_directory(directory)
    _systemctl("daemon-reload")
    if any(unit["ActiveState"] not in ("inactive", "failed") for unit in show(wanted).values()):
        # All at once: systemd stops what asks before what answers, by the units' own order.
        _systemctl("stop", "--no-block", *wanted)
        # Asked to end, it waits for 5 s; its work is transactions.
        if SLOW in wanted:
            with suppress(OpsError):  # it may have ended by now
                _systemctl("kill", "--signal=KILL", SLOW)
        _systemctl("stop", *wanted)
        changed = True
    if wrong := stopped(show(wanted)):
        raise OpsError(f"cannot be stopped for good: {'; '.join(wrong)}")
    # systemd does not know any more what it made for a unit whose file is a link to nothing. By the
    # primary's directory the proxy before it tells that it runs.
    for name in wanted:
        with suppress(FileNotFoundError):
            shutil.rmtree(run / name.removesuffix(".service"))
    return changed


def unmask(units: Iterable[str], directory: Path = DIRECTORY) -> bool:
    """Undo ``mask``, and start nothing."""
    changed = False
    for name in units:
        path = directory / name
        aside = path.with_name(name + ASIDE)
        masked = path.is_symlink() and path.readlink() == NULL
        if aside.exists() and (masked or not path.exists()):
            aside.replace(path)  # at once, over the link
            changed = True
        elif masked:
            path.unlink()
            changed = True
        # A role has put a new one in its place.
        aside.unlink(missing_ok=True)
    sync_directory(directory)
    # Always: an earlier run may have died before it.
    _systemctl("daemon-reload")
    return changed


def mark(details: Mapping[str, Any], path: Path = MARK) -> bool:
    """Write down, once, that this machine is fenced and why."""
    if path.exists():
        return False
    write_durably(path, (json.dumps(dict(details), indent=2, sort_keys=True) + "\n").encode())
    return True


def read_mark(path: Path = MARK) -> dict[str, Any] | None:
    """What ``mark`` wrote; a mark that cannot be read is one all the same."""
    data = read_if_there(path)
    if data is None:
        return None
    with suppress(ValueError):
        found = json.loads(data)
        if isinstance(found, dict):
            return found
    return {"unreadable": str(path)}


def listening(address: str, ports: Iterable[int], timeout: float = 1.0) -> list[int]:
    """Those of the ports at which somebody answers."""
    found = []
    for port in ports:
        with suppress(OSError), socket.create_connection((address, port), timeout):
            found.append(port)
    return found


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OpsError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
