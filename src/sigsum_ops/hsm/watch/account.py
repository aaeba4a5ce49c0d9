"""The account of a device's signing key: what its log shows against what the oracle asked for.

An account is made from the archive's lines, one after the other, and by nothing else: whoever has
the archive comes to the same. Lines are, without time and checksum,

* ``at <Unix time>``: when the lines after it were written;
* ``entry <64 hex digits>``: an entry of the device's log;
* ``broken <text>``: the entries that follow were fetched at one time, and cannot all be true;
* ``base <surplus> <lost> <given> <id>``: a moment in which device and oracle were quiet (``Base``);
* ``<kind> <text>``: a finding of the comparison with the oracle's count;
* ``acknowledged <number> <who>``: a person has looked into the findings up to this line.

Three outcomes, of which a person must look into two: *ok*; *alarm*, something was done with keys
that nobody accounts for; *unknown*, part of the log is not known, so that it might have been.

Pure: nothing here talks to a device or reads a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from yubihsm.defs import COMMAND

from sigsum_ops.hsm import devicelog
from sigsum_ops.hsm.devicelog import BrokenLogError, Entry
from sigsum_ops.hsm.oracle.signatures import Count
from sigsum_ops.hsm.plan import AUDITED

# A command without an answer may be carried out as long as its session lives: 30 s.
SETTLES = 60.0  # seconds after which it was, or never will be

_NOBODY = "-"  # the id of the count where no oracle ever ran
_MANAGEMENT = frozenset(AUDITED) - {COMMAND.SIGN_EDDSA}


class Outcome(StrEnum):
    """What is to be thought of the device."""

    OK = "ok"
    ALARM = "alarm"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What a finding is about."""

    TOO_MANY = "too-many"  # more signatures made than given
    OTHER_USER = "other-user"  # the signing key used through another authentication key
    MANAGEMENT = "management"  # keys or settings changed, exported or attested
    BROKEN = "broken"  # a log that no device can have written
    GAP = "gap"  # entries were lost
    RESET = "reset"  # the device was erased
    TOO_FEW = "too-few"  # fewer signatures in the log than were given
    RECOUNT = "recount"  # the oracle's count began anew

    @property
    def outcome(self) -> Outcome:
        return Outcome.ALARM if self in _ALARMS else Outcome.UNKNOWN


_ALARMS = {Kind.TOO_MANY, Kind.OTHER_USER, Kind.MANAGEMENT, Kind.BROKEN}
_BESIDE = {Kind.OTHER_USER, Kind.MANAGEMENT}  # what leaves the count as it is
_COMPARED = {Kind.TOO_MANY, Kind.TOO_FEW, Kind.RECOUNT}


@dataclass(frozen=True)
class Finding:
    """``line`` of the archive, ``time`` in Unix seconds."""

    kind: Kind
    line: int
    time: int
    text: str

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "outcome": str(self.kind.outcome)}


@dataclass(frozen=True)
class Base:
    """A moment in which nothing was under way.

    The device had then made ``surplus`` more signatures than the oracle was given, of those that
    this archive knows; ``lost`` and ``given`` are the oracle's count with this ``id``.
    """

    surplus: int
    lost: int
    given: int
    id: str

    def __str__(self) -> str:
        return f"{self.surplus} {self.lost} {self.given} {self.id}"


@dataclass
class Account:
    """``key`` is the signing key, which only authentication key ``user`` uses."""

    key: int
    user: int
    lines: int = 0
    entries: int = 0
    made: int = 0  # signatures by the key, for its user
    first: Entry | None = None
    last: Entry | None = None
    base: Base | None = None
    findings: list[Finding] = field(default_factory=list)  # that nobody acknowledged
    found: int = 0  # findings, also acknowledged ones
    _time: int = 0
    _breaks_told: bool = False

    def apply(self, line: str) -> None:
        """Take the archive's next line. Raises ValueError where it is none."""
        self.lines += 1
        word, _, rest = line.partition(" ")
        match word:
            case "entry":
                self._entry(Entry.parse(bytes.fromhex(rest)))
            case "at":
                self._time, self._breaks_told = int(rest), False
            case "broken":
                self._breaks_told = True
                self._find(Kind.BROKEN, rest)
            case "base":
                surplus, lost, given, name = rest.split(" ")
                self.base = Base(int(surplus), int(lost), int(given), name)
            case "acknowledged":
                until = int(rest.partition(" ")[0])
                self.findings = [item for item in self.findings if item.line > until]
            case _ if word in _COMPARED:
                self._find(Kind(word), rest)
            case _:
                raise ValueError(f"{word!r} begins no line")

    @property
    def outcome(self) -> Outcome:
        """By the findings that are open."""
        outcomes = {finding.kind.outcome for finding in self.findings}
        return next((o for o in (Outcome.ALARM, Outcome.UNKNOWN) if o in outcomes), Outcome.OK)

    def _entry(self, entry: Entry) -> None:
        if self.last and not self._breaks_told and not entry.follows(self.last):
            self._break(self.last, entry)
        self.first = self.first or entry
        self.last = entry
        self.entries += 1
        if not entry.succeeded:
            return
        if entry.command in _MANAGEMENT:
            self._find(Kind.MANAGEMENT, _by(entry))
        elif entry.command == COMMAND.SIGN_EDDSA and entry.target_key == self.key:
            if entry.session_key == self.user:
                self.made += 1
            else:
                self._find(Kind.OTHER_USER, _by(entry))

    def _break(self, last: Entry, entry: Entry) -> None:
        if entry.is_reset:
            self._find(Kind.RESET, f"what came after {last}, before the device was reset")
            return
        lost = (entry.number - last.number - 1) & 0xFFFF
        if lost:
            self._find(Kind.GAP, f"{lost} entries (or 65536 more) between {last} and {entry}")
        else:
            self._find(Kind.BROKEN, f"{entry} does not follow {last}: its digest")

    def _find(self, kind: Kind, text: str) -> None:
        self.findings.append(Finding(kind, self.lines, self._time, text))
        self.found += 1
        if kind not in _BESIDE:  # the count goes on from the next moment in which all is quiet
            self.base = None


def _by(entry: Entry) -> str:
    return f"through authentication key {entry.session_key}: {entry}"


def additions(account: Account, fetched: Sequence[bytes]) -> Iterator[str]:
    """The archive's lines for what a fetch of the device's log adds to it. Raises ValueError."""
    entries = devicelog.parse(fetched)
    if not entries or entries[-1] == account.last:
        return
    try:
        new = devicelog.continued(account.last, entries).new
    except BrokenLogError as error:
        new = entries
        yield f"broken {error}"
    yield from (f"entry {entry.encode().hex()}" for entry in new)


@dataclass(frozen=True)
class Comparison:
    """``line`` for the archive, if any; ``waiting`` says why there is nothing to compare with."""

    line: str | None = None
    waiting: str | None = None


def compare(account: Account, before: Count | None, after: Count | None, now: float) -> Comparison:
    """Compare the signatures that were made with those that were given.

    Args:
        account: up to a fetch of the device's log.
        before, after: the oracle's count, read before that fetch and after it; None where no oracle
            ever counted, so that none was given.
        now: Unix seconds.
    """
    first, then = (count or Count(_NOBODY) for count in (before, after))
    quiet = first == then and not then.pending and not 0 <= now - then.lost_at < SETTLES
    current = Base(account.made - then.given, then.lost, then.given, then.id)
    base = account.base
    if base is None:
        if quiet:
            return Comparison(f"base {current}")
        return Comparison(waiting="a quiet moment, in which the oracle signs nothing")
    # After a power cut an answer that came may count as one that did not: given less, lost more.
    older = then.lost < base.lost or then.given + then.lost < base.given + base.lost
    if base.id not in (_NOBODY, then.id) or older:
        return Comparison(
            f"recount the oracle's count was {base.given} given, {base.lost} lost ({base.id}), and"
            f" is {then.given} given, {then.lost} lost ({then.id})"
        )
    allowed = base.surplus + then.lost - base.lost + then.pending
    if current.surplus > allowed:
        return Comparison(
            f"too-many {current.surplus - allowed} more made than given: the device made"
            f" {account.made - base.surplus}, the oracle was given {then.given}, and"
            f" {then.lost - base.lost + then.pending} of its commands got no answer"
        )
    if account.made - first.given < base.surplus:
        return Comparison(
            f"too-few {base.surplus - account.made + first.given} signatures given are not in the"
            " log: another device made them, or the audit of signing is off"
        )
    if quiet and (current.surplus, current.lost, current.id) != (base.surplus, base.lost, base.id):
        return Comparison(f"base {current}")
    return Comparison()
