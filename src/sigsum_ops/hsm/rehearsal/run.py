"""What ``sigsum-ops hsm rehearse-device`` does."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from yubihsm.defs import COMMAND

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.names import CAPABILITIES, COMMANDS, name_of
from sigsum_ops.hsm.rehearsal import commands
from sigsum_ops.hsm.rehearsal.connector import serve

if TYPE_CHECKING:
    from rich.table import Table

    from sigsum_ops.hsm.rehearsal.state import Firmware

# Older firmware logs everything by default, which is not rehearsed here.
_OLDEST_FIRMWARE = (2, 3, 1)


class CommandRow(TypedDict):
    """One command of the device."""

    code: str
    name: str
    implemented: bool
    session: bool  # whether it needs one
    capability: str | None  # that the session needs; delete-TYPE stands for each type's own


def command_table() -> list[CommandRow]:
    """Which of the device's commands the rehearsal device implements, by their codes."""
    rows: list[CommandRow] = []
    for command in sorted(set(COMMAND) - {COMMAND.ERROR}):
        _, capability = commands.IN_SESSION.get(command, (None, None))
        needed = None if capability is None else name_of(CAPABILITIES, capability)
        rows.append(
            {
                "code": f"0x{command:02x}",
                "name": name_of(COMMANDS, command),
                "implemented": commands.implemented(command),
                "session": command not in commands.PLAIN and command not in commands.SESSIONS,
                "capability": "delete-TYPE" if command == COMMAND.DELETE_OBJECT else needed,
            }
        )
    return rows


def command_view(rows: Sequence[CommandRow]) -> Table:
    """The same for people."""
    from rich.table import Column, Table

    command, needs = (Column(name, overflow="fold") for name in ("command", "needs"))
    table = Table("code", command, "implemented", needs)
    for row in rows:
        known = row["implemented"]
        need = row["capability"] or "a session" if known and row["session"] else ""
        table.add_row(row["code"], row["name"], "yes" if known else "no", need)
    return table


@contextmanager
def devices(
    serials: Sequence[int],
    ports: Sequence[int],
    state: Path | None,
    firmware: str | None,
    faults: Sequence[str],
    first_port: int,
) -> Iterator[dict[int, str]]:
    """Serve the devices that the arguments name; yields the connectors' URLs by serial number.

    Raises:
        UsageError: the arguments do not fit together.
    """
    if not serials or state is None:
        raise UsageError("a rehearsal device needs --serial and --state")
    if len(set(serials)) != len(serials):
        raise UsageError("a serial number is given twice")
    if ports and len(ports) != len(serials):
        raise UsageError(f"{len(serials)} --serial and {len(ports)} --port: give one for each")
    places = ports or range(first_port, first_port + len(serials))
    where = dict.fromkeys(serials, state)
    with serve(where, ports=places, firmware=_firmware(firmware), struck=faults) as urls:
        yield urls


def wait() -> None:
    """Until somebody interrupts or ends this process."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _firmware(text: str | None) -> Firmware | None:
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{1,2})", text)
    if match is None:
        raise UsageError(f"firmware {text!r} is not of the form 2.4.0")
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < _OLDEST_FIRMWARE:
        raise UsageError(
            f"firmware {text} is older than {'.'.join(map(str, _OLDEST_FIRMWARE))}",
            hint="It logs other commands by default, which rehearsal devices do not do.",
        )
    return version
