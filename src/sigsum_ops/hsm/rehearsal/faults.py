"""What can go wrong on request.

A fault is written KIND, KIND@COMMAND, KIND=SECONDS or KIND@COMMAND=SECONDS, with yubihsm-shell's
names of commands:

    unplug          the device is gone, and comes back powered up anew: with a boot in its log and
                    without sessions. SECONDS: after how long (for good, until cleared).
                    With COMMAND: just before it would carry out the next such command.
    unplug-after    with COMMAND: the command is carried out, and its reply is lost.
    hang            the next command, or the next COMMAND, waits SECONDS for its answer (for good),
                    and so does everything after it: a connector serves one request at a time.
    lose-sessions   all sessions are gone; with COMMAND: just before the next such command.
    log-full        the device's log is full, of boots.
    slow            each signature, or each COMMAND, takes SECONDS longer (0.1, about what a real
                    device takes for Ed25519).

All but ``slow`` strike once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from yubihsm.defs import COMMAND

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.names import COMMANDS, name_of

SIGNING = frozenset({COMMAND.SIGN_EDDSA, COMMAND.SIGN_ECDSA})
SLOW_SECONDS = 0.1


class Kind(StrEnum):
    """What goes wrong."""

    UNPLUG = "unplug"
    UNPLUG_AFTER = "unplug-after"
    HANG = "hang"
    LOSE_SESSIONS = "lose-sessions"
    LOG_FULL = "log-full"
    SLOW = "slow"


_TIMED = {Kind.UNPLUG, Kind.UNPLUG_AFTER, Kind.HANG, Kind.SLOW}
_NEVER_AT_A_COMMAND = {Kind.LOG_FULL}
_ONLY_AT_A_COMMAND = {Kind.UNPLUG_AFTER}


@dataclass(frozen=True)
class Fault:
    """One fault; ``command`` is None where it waits for none, ``seconds`` may be infinite."""

    kind: Kind
    command: COMMAND | None = None
    seconds: float = math.inf

    def __str__(self) -> str:
        at = "" if self.command is None else f"@{name_of(COMMANDS, self.command)}"
        timed = "" if math.isinf(self.seconds) else f"={self.seconds:g}"
        return f"{self.kind}{at}{timed}"


def parse(text: str) -> Fault:
    """Read a fault as it is written above.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"([a-z-]+)(?:@([a-z0-9-]+))?(?:=([0-9]+(?:\.[0-9]+)?))?", text.strip())
    if match is None or match[1] not in set(Kind):
        raise UsageError(
            f"{text!r} is no fault",
            hint=f"Allowed is KIND[@COMMAND][=SECONDS]; kinds are {', '.join(Kind)}.",
        )
    kind = Kind(match[1])
    command = None
    if match[2] is not None:
        if match[2] not in COMMANDS:
            raise UsageError(
                f"{match[2]!r} in the fault {text!r} is no command",
                hint="The names are listed by: sigsum-ops hsm rehearse-device --commands",
            )
        command = COMMANDS[match[2]]
    if kind in _NEVER_AT_A_COMMAND and command is not None:
        raise UsageError(f"{kind} in the fault {text!r} takes no command")
    if kind in _ONLY_AT_A_COMMAND and command is None:
        raise UsageError(f"{kind} in the fault {text!r} needs a command: {kind}@COMMAND")
    if match[3] is not None and kind not in _TIMED:
        raise UsageError(f"{kind} in the fault {text!r} takes no seconds")
    seconds = SLOW_SECONDS if kind is Kind.SLOW else math.inf
    return Fault(kind, command, seconds if match[3] is None else float(match[3]))


class Armed:
    """The faults that wait for their command."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def __str__(self) -> str:
        return "".join(f"{fault}\n" for fault in self._waiting)

    def add(self, fault: Fault) -> None:
        """Let it strike when its time comes."""
        self._waiting.append(fault)

    def clear(self) -> None:
        """Let none strike."""
        self._waiting.clear()

    def take(self, kind: Kind, command: int) -> Fault | None:
        """The first fault of this kind that strikes at this command, which it does not again."""
        for fault in self._waiting:
            if fault.kind is kind and fault.command in (None, command):
                self._waiting.remove(fault)
                return fault
        return None

    def delay(self, command: int) -> float:
        """How many seconds longer this command takes."""
        return sum(
            fault.seconds
            for fault in self._waiting
            if fault.kind is Kind.SLOW
            and (command in SIGNING if fault.command is None else command == fault.command)
        )
