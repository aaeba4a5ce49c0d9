"""What a transcript says of a ceremony's steps and secrets, kept up to date as lines are added.

It says where to go on; what is the case is asked of the devices.
"""

from __future__ import annotations

from collections.abc import Iterable

from sigsum_ops.hsm.ceremony.records import Record, SecretBackedUp, Step
from sigsum_ops.hsm.ceremony.vault import Owner


class History:
    """``started`` and ``done`` are ids of steps; ``last_step`` is the last one proven."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.started: set[str] = set()
        self.done: set[str] = set()
        self.last_step: str | None = None
        self.commitments: dict[Owner, str] = {}
        for record in records:
            self.note(record)

    def note(self, record: Record) -> None:
        """Take in one more line."""
        match record:
            case Step(state="started"):
                self.started.add(record.step)
            case Step():
                self.done.add(record.step)
                self.last_step = record.step
            case SecretBackedUp():
                self.commitments[record.secret, record.serial] = record.commitment
