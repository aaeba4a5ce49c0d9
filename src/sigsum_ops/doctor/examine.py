"""What one machine tells the doctor of itself, read without changing anything.

Nothing here decides whether it is good or bad, and nothing that cannot be read ends the rest.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509

from sigsum_ops.exporter.table import TEXTFILES
from sigsum_ops.failover.adopt import Places
from sigsum_ops.failover.look import look
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.trillian import Trillian

CERTIFICATES = ("/etc/sigsum-proxy/certificate.pem", "/etc/litebastion/certificate.pem")
DISKS = ("/", "/var/lib/mysql", "/var/lib/sigsum-log", "/var/lib/sigsum-oracle", "/var/log")
REBOOT = Path("/run/reboot-required")
RATE_LIMIT = Path("/etc/sigsum/rate-limit")
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*(?:\{.*\})?) ([-+.\deEinfNaI]+)$", re.M)
_UNIT = (
    "Id,LoadState,ActiveState,UnitFileState,NRestarts,Result,"
    "ExecMainStartTimestampMonotonic,NeedDaemonReload"
)


def examine(log_key: PublicKey | None, trillian: str) -> dict[str, Any]:
    """Everything, as one object for JSON.

    Args:
        log_key: the log's, where the machine is one of its own.
        trillian: host and port of the machine's Trillian log server.
    """
    found = {
        "time": time.time(),
        "up_seconds": time.clock_gettime(time.CLOCK_MONOTONIC),
        "units": units(),
        "metrics": metrics(Path("/")),
        "certificates": certificates(map(Path, CERTIFICATES)),
        "disks": disks(map(Path, DISKS)),
        "reboot_required": REBOOT.exists(),
        "rate_limited": RATE_LIMIT.exists() and RATE_LIMIT.stat().st_size > 0,
        "log": None,
    }
    if log_key is not None:
        with Trillian(trillian) as opened:
            found["log"] = look(opened, log_key, [], Places())
    return found


def units() -> dict[str, dict[str, str]]:
    """The properties of each unit that is enabled, masked, running or failed."""
    names = set()
    for listing in (("list-units", "--all"), ("list-unit-files",)):
        lines = _systemctl(*listing, "--type=service,timer,socket", "--plain", "--no-legend")
        names |= {line.split()[0] for line in lines.splitlines() if line.split()}
    # A template is no unit, before it has an instance.
    names = {name for name in names if not name.rpartition(".")[0].endswith("@")}
    shown = _systemctl("show", f"--property={_UNIT}", *sorted(names))
    found = {}
    for block in shown.split("\n\n"):
        properties = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if properties.get("Id"):
            found[properties.pop("Id")] = properties
    return {name: unit for name, unit in found.items() if _matters(name, unit)}


def _matters(name: str, unit: dict[str, str]) -> bool:
    ours = name.startswith(("sigsum-", "trillian-", "mariadb", "lite", "nginx", "unbound"))
    return unit["ActiveState"] == "failed" or (
        (ours or unit["UnitFileState"] == "enabled") and unit["LoadState"] != "not-found"
    )


def metrics(root: Path) -> dict[str, float]:
    """The samples of all our services, by name and labels."""
    found: dict[str, float] = {}
    for pattern in TEXTFILES:
        for path in sorted(root.glob(pattern.removeprefix("/"))):
            with suppress(OSError, ValueError):
                text = path.read_text(encoding="utf-8")
                found |= {match[1]: float(match[2]) for match in _SAMPLE.finditer(text)}
    return found


def certificates(paths: Iterable[Path]) -> dict[str, float]:
    """When each ends (Unix time), by its file; 0 for one that cannot be read."""
    found = {}
    for path in paths:
        if not path.exists():
            continue
        found[str(path)] = 0.0
        with suppress(OSError, ValueError):
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            found[str(path)] = certificate.not_valid_after_utc.timestamp()
    return found


def disks(paths: Iterable[Path]) -> dict[str, dict[str, int]]:
    """``free`` and ``size`` in bytes of each file system, by the first of the paths on it."""
    found: dict[int, tuple[str, dict[str, int]]] = {}
    for path in paths:
        with suppress(OSError):
            usage = shutil.disk_usage(path)
            there = {"free": usage.free, "size": usage.total}
            found.setdefault(path.stat().st_dev, (str(path), there))
    return dict(found.values())


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    return done.stdout
