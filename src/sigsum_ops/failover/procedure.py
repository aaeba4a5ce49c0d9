"""The controller's journal: which procedure changed which machine, when, and who attested what.

One JSON object a line, in the state directory (XDG Base Directory Specification), a file for each
log. Each step is noted before it is taken and when it is done, so that it also tells what a
controller that died was about to do. A machine that was replaced as primary stays so until it is
re-seeded, whatever it says of itself when it comes back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError
from sigsum_ops.site.state import state_home


def journal(log_key_hash: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the journal of a log is."""
    return state_home(environ) / "procedures" / f"{log_key_hash}.jsonl"


def note(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line that survives a power cut.

    Raises:
        OpsError: it cannot be written; the step must not be taken then.
    """
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **entry})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            # Begins anew after a line that a power cut has left unended.
            ended = file.tell() == 0 or path.read_bytes().endswith(b"\n")
            file.write(f"{'' if ended else chr(10)}{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OpsError(f"{path}: cannot be written: {error.strerror}") from error


def read(path: Path) -> list[dict[str, Any]]:
    """All lines; one that was cut short by a power cut says nothing.

    Raises:
        OpsError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise OpsError(f"{path}: cannot be read: {error}") from error
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def replaced(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """The machines of which another one has taken the place, and that were not re-seeded since."""
    found: set[str] = set()
    for entry in entries:
        step, host = entry.get("step"), str(entry.get("host"))
        if step == "adopt":
            # Noted before it is done: from then on the others are not the primary any more.
            found |= {str(name) for name in entry.get("reason", {}).get("replaced", [])}
            found.discard(host)
        elif step in ("retire", "follow", "unfence") and entry.get("done"):
            found.discard(host)
        elif step == "abandon" and entry.get("done"):
            found -= {str(name) for name in entry.get("reason", {}).get("replaced", [])}
    return found


def adopted(entries: Iterable[Mapping[str, Any]], target: str) -> str:
    """The machine, beside ``target``, whose tree may have been made a primary's last; or none."""
    found: list[str] = []
    for entry in entries:
        step, host = entry.get("step"), str(entry.get("host"))
        if step == "adopt" and host != target:
            found.append(host)
        elif step == "abandon" and entry.get("done"):
            while found and found[-1] == host:
                found.pop()
    return found[-1] if found else ""


def given_up(entries: Iterable[Mapping[str, Any]], target: str) -> set[str]:
    """The machines that were unfenced since the promotion of ``target`` was given up.

    None where anything else was done since, to any machine.
    """
    done, found = False, set[str]()
    for entry in entries:
        step, host = entry.get("step"), str(entry.get("host"))
        if step == "abandon" and host == target:
            done = done or bool(entry.get("done"))
        elif step == "unfence":  # which belongs to it
            found.add(host)
        else:
            done, found = False, set()
    return found if done else set()


def unfinished(entries: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Step and machine of what was begun, and neither done nor said to have failed since.

    A machine that has followed is a good secondary, whatever else was begun on it before.
    """
    found: set[tuple[str, str]] = set()
    for entry in entries:
        step, host = str(entry.get("step")), str(entry.get("host"))
        found.discard((step, host))
        if step == "follow" and entry.get("done"):
            found = {other for other in found if other[1] != host}
        elif not entry.get("done") and "failed" not in entry:
            found.add((step, host))
    return found


def permits(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The machines that may go on alone, and until when; over or not.

    One that was allowed again, for a shorter time, counts until the longest: nobody knows from here
    when its oracle has taken that in. It ends once the machine was seen to wait for a secondary, or
    to be one.
    """
    found: dict[str, str] = {}
    for entry in entries:
        step, host = entry.get("step"), str(entry.get("host"))
        if step == "allow":
            until = str(entry.get("reason", {}).get("until", ""))
            found[host] = max(found.get(host, ""), until)
        elif step in ("gate", "abandon", "retire", "follow") and entry.get("done"):
            found.pop(host, None)
    return found
