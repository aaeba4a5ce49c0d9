"""The permit to go on alone: a promoted primary signs without a secondary, until a time.

What it acknowledges meanwhile is on one machine only, so a person allows it and says why, and not
for long. That it ends is enforced in the oracle (hsm/oracle/permit.py), by that machine's clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sigsum_ops.errors import UsageError

LONGEST = timedelta(days=7)
# A clock that has lost its time source is late by a few seconds more each day.
LATE = timedelta(minutes=1)
WORDS = 3  # of a reason, at least

_FORM = "%Y-%m-%dT%H:%M:%SZ"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


@dataclass(frozen=True)
class Permit:
    """What is asked for: until when, by whose word and for what reason; all empty for none."""

    until: str = ""
    by: str = ""
    why: str = ""

    def check(self, now: datetime) -> None:
        """Refuse one that nobody answers for, or that is over, or too long.

        Args:
            now: with its offset.

        Raises:
            UsageError: naming what is wrong and what is allowed.
        """
        if not self.until:
            if self.by or self.why:
                raise UsageError("who lets the log go on alone, and why, but not until when")
            return
        until = parse(self.until)
        if until <= now:
            raise UsageError(f"{self.until} is not in the future; it is {text(now)}")
        if until > now + LONGEST:
            raise UsageError(
                f"{self.until} is more than {LONGEST.days} days ahead",
                hint="Bring in a secondary before that (playbooks/reseed.yml). Until then the"
                " permit can be given again.",
            )
        if not self.by.strip() or len(self.why.split()) < WORDS:
            raise UsageError(
                "nobody says who lets the log go on alone, or why",
                hint=f"A name, and {WORDS} words or more: --ungated-by NAME --ungated-why WORDS"
                " (of the playbook: failover_ungated_by, failover_ungated_why)",
            )


def parse(text: str) -> datetime:
    """A time as the inventory, the command line and the oracle's configuration have it.

    Raises:
        UsageError: it has another form.
    """
    try:
        if not _TIME.fullmatch(text):
            raise ValueError
        return datetime.strptime(text, _FORM).replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no UTC time in whole seconds, such as 2026-11-23T12:00:00Z"
        ) from error


def text(moment: datetime) -> str:
    """The form that ``parse`` takes."""
    return moment.astimezone(UTC).strftime(_FORM)


def over(until: datetime, now: float) -> bool:
    """Whether a permit has ended on a machine whose clock nobody sees; ``now`` in Unix seconds."""
    return now - LATE.total_seconds() >= until.timestamp()
