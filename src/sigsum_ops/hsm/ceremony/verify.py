"""Whether a transcript is what its participants signed, and whether it says what it must.

Everything is computed from the file, its signatures, the auditor's list of signers and the
auditor's plan: no device, no network, no state of the machine where the ceremony was.

**What verification proves**, given an ``allowed_signers`` file that the auditor trusts:

- Not a byte of the file has changed since each participant signed its last line; nothing is
  missing, doubled or out of order. (SHA-256 chain, one signature per participant, keys all
  different and none of them a key that the ceremony made.)
- The plan carried out is the auditor's, by its hash.
- The record is whole and agrees with itself: each device was factory-fresh, every command to it
  leads from there to the objects that it then showed, and these are the plan's, in a session that
  sees all domains, with nothing changed afterwards but that session's own key removed; each
  irreversible command was confirmed by both roles; each clone came from a device of the record
  and has the same public key; every signature made was over a test message and verifies; the
  default key was refused; secrets were backed up before a key that could replace them was deleted;
  the device's own log is unbroken and, where the plan audits, holds the commands of the record and
  no others.

**What it cannot prove.** The transcript is written by the ceremony's software, not by the devices:
YubiHSM sessions are authenticated between device and software with symmetric keys, so no reply can
be shown to a third person, and the log's digests are no signatures. Software that lies from end to
end, on a machine that the participants did not check, can write a record that verifies. So can
participants who all agree to lie, with devices or without. What stands against that: the people
(a witness who reads serial numbers off the devices, and whose key signs only what they watched),
the software's provenance, and attestation certificates, if the device gave any and the auditor
checks their chain to the manufacturer. Later checks do, too: the health and log keys answer only on
real devices, and the log's public key is the one on record. Whoever holds a complete set of the
participants' signing keys can rewrite everything; whoever lacks one can rewrite nothing.

Times are the machine's clock. Confirmations show that a phrase was typed, not by whom. Before the
closing line is signed, only paper and memory (the line hashes read aloud) hold the record in place.
Each claim of the verdict says whether it rests on the device's answers or on the people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

from yubihsm.defs import ALGORITHM, AUDIT, OBJECT

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony import signatures
from sigsum_ops.hsm.ceremony.canonical import Json
from sigsum_ops.hsm.ceremony.logmatch import MismatchError, compare
from sigsum_ops.hsm.ceremony.records import Closed, Mode, ObjectRef, Opened
from sigsum_ops.hsm.ceremony.replay import Replay
from sigsum_ops.hsm.ceremony.state import (
    ASYMMETRIC_KEY,
    AUTHENTICATION_KEY,
    WRAP_KEY,
    DeviceState,
    Held,
    RecordError,
)
from sigsum_ops.hsm.ceremony.transcript import (
    Line,
    WrongLineError,
    check_chain,
    decode,
    signature_file,
)
from sigsum_ops.hsm.plan import ObjectSpec, Plan, differences
from sigsum_ops.log.keys import PublicKey

_ED25519_WIRE = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"


@dataclass(frozen=True)
class Claim:
    """Something that the transcript says, and whose word it is."""

    claim: str
    rests_on: Literal["device", "people"]


@dataclass(frozen=True)
class Verdict:
    """The result. ``ok`` only if everything holds and every participant's signature counts.

    ``line`` is the first wrong line, None where no single line is to blame; ``head`` the SHA-256
    of the closing line, ``mode`` and ``plan_hash`` what the file says of itself (None where it
    does not get that far). ``public_keys`` are those of the cloned signing keys as OpenSSH lines,
    by their names in the plan: what goes into an inventory. ``device_keys`` are likewise those that
    one device has for itself, such as its health key, by the device's name. They, ``claims`` and
    ``notes`` are given only with ``ok``.
    """

    ok: bool
    line: int | None = None
    reason: str | None = None
    lines: int = 0
    head: str | None = None
    mode: str | None = None
    plan_hash: str | None = None
    signers: tuple[str, ...] = ()
    public_keys: Mapping[str, str] = field(default_factory=dict)
    device_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return cast(dict[str, Json], asdict(self))


def verify(
    transcript: Path,
    *,
    allowed_signers: Path | None,
    plan: Plan | None,
    rehearsal: bool,
) -> Verdict:
    """Recompute everything; see the module's docstring for what that means.

    Args:
        transcript: the file; the signatures are in ``signatures/`` beside it.
        allowed_signers: whose key is whose. Without it a transcript can at best be
            self-consistent, which anyone can make: not ok.
        plan: what should have been done. Without it the transcript's own plan is taken, and a
            note says so.
        rehearsal: accept a rehearsal, and nothing else.

    Raises:
        UsageError: a file that cannot be read.
    """
    data = _read(transcript)
    if allowed_signers is not None:
        _read(allowed_signers)
    audit = _Audit(transcript, allowed_signers, plan, rehearsal)
    try:
        return audit.judge(data)
    except WrongLineError as error:
        return replace(audit.verdict, line=error.n, reason=error.reason)


class _Audit:
    """One verification; ``verdict`` is what is known so far, not ok until ``judge`` says so."""

    def __init__(
        self, transcript: Path, allowed_signers: Path | None, plan: Plan | None, rehearsal: bool
    ) -> None:
        self.verdict = Verdict(False)
        self._transcript = transcript
        self._allowed_signers = allowed_signers
        self._plan = plan
        self._rehearsal = rehearsal

    def judge(self, data: bytes) -> Verdict:
        """Raises WrongLineError for the first line that is wrong."""
        lines, rest = _split(data)
        first, last = lines[0].record, lines[-1]
        self.verdict = replace(self.verdict, lines=len(lines))
        if isinstance(first, Opened):
            self.verdict = replace(self.verdict, mode=str(first.mode), plan_hash=first.plan_hash)
        unsigned = None if rest else self._unsigned(last)
        check_chain(lines, last_is_intact=unsigned is None)
        if rest:
            raise WrongLineError(len(lines) + 1, "is cut off: it has no newline")
        replay = _replay(lines)
        if replay.closed is None:
            raise WrongLineError(last.n, "is not a closing record: the rest is missing")
        self._check_purpose(replay)
        notes = [*_check_devices(replay, last.n), *_clock_notes(lines)]
        self.verdict = replace(self.verdict, head=last.hash)
        if self._allowed_signers is None:
            return replace(
                self.verdict,
                reason="self-consistent only: anyone can write such a file. Whether the "
                "participants signed it takes their allowed_signers file",
            )
        if unsigned:
            raise WrongLineError(last.n, unsigned)
        self._check_keys(replay, replay.closed, last.n)
        if self._plan is None:
            notes.append("compared with the plan in the transcript itself, not with one of yours")
        return replace(
            self.verdict,
            ok=True,
            signers=tuple(person.name for person in replay.closed.participants),
            public_keys={
                spec.name: PublicKey.from_hex(key).ssh for spec, key, _ in _cloned(replay)
            },
            device_keys={
                state.plan.name: own
                for state in replay.devices.values()
                if (own := _own_keys(replay, state))
            },
            claims=tuple(_claims(replay)),
            notes=tuple(dict.fromkeys((*replay.notes, *notes))),
        )

    def _check_purpose(self, replay: Replay) -> None:
        mode, theirs = replay.opened.mode, replay.opened.plan_hash
        if mode == Mode.REHEARSAL and not self._rehearsal:
            raise WrongLineError(1, "is of a rehearsal, which proves nothing about real devices")
        if mode == Mode.PRODUCTION and self._rehearsal:
            raise WrongLineError(1, "is of a ceremony in production, not of a rehearsal")
        if self._plan is not None and self._plan.hash() != theirs:
            wanted = self._plan.hash()
            raise WrongLineError(1, f"has the plan {theirs}; the one to compare with is {wanted}")

    def _unsigned(self, last: Line) -> str | None:
        """Why the closing line does not count as signed by everyone it names, or None."""
        if self._allowed_signers is None or not isinstance(last.record, Closed):
            return None
        for person in last.record.participants:
            file = signature_file(self._transcript, person.name)
            reason = signatures.problem(last.raw, file, person.name, self._allowed_signers)
            if reason:
                return f"is not signed by {person.name}: {reason}"
        return None

    def _check_keys(self, replay: Replay, closed: Closed, n: int) -> None:
        """Each participant has a key of their own: not another's, not one that the ceremony made,
        and in production the one that the plan names."""
        made = {
            _ED25519_WIRE + bytes.fromhex(held.key)
            for state in replay.devices.values()
            for held in (state.objects or {}).values()
            if held.key
        }
        used: dict[bytes, str] = {}
        for person in replay.plan.participants:
            try:
                key = signatures.public_key(signature_file(self._transcript, person.name))
            except (ValueError, OSError) as error:
                raise WrongLineError(n, f"the signature of {person.name}: {error}") from error
            if key in used:
                raise WrongLineError(n, f"{person.name} and {used[key]} signed with the same key")
            if key in made:
                raise WrongLineError(n, f"{person.name} signed with a key that this ceremony made")
            used[key] = person.name
            wanted = person.public_key
            if wanted and closed.mode == Mode.PRODUCTION and signatures.wire(wanted) != key:
                raise WrongLineError(n, f"{person.name} signed with another key than the plan's")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _split(data: bytes) -> tuple[list[Line], bytes]:
    *whole, rest = data.split(b"\n")
    if not whole:
        raise WrongLineError(1, "is cut off: it has no newline" if rest else "is missing")
    return [decode(raw, n) for n, raw in enumerate(whole, 1)], rest


def _replay(lines: list[Line]) -> Replay:
    replay = Replay()
    for line in lines:
        try:
            replay.apply(line.n, line.record)
        except RecordError as error:
            raise WrongLineError(line.n, str(error)) from error
    return replay


# --- the devices at the end ---------------------------------------------------------------------


def _check_devices(replay: Replay, n: int) -> list[str]:
    """Each device is in the state that the plan wants, and that state was seen. Returns notes."""
    notes: list[str] = []
    for state in replay.devices.values():
        try:
            notes += _check_device(replay, state)
        except RecordError as error:
            raise WrongLineError(n, f"closes, but {error}") from error
        except MismatchError as error:
            raise WrongLineError(error.n, f"{state.plan.name}: {error}") from error
    for spec in replay.plan.cloned():
        ref = ObjectRef(ASYMMETRIC_KEY, spec.id)
        keys = {
            cast(dict[ObjectRef, Held], state.objects)[ref].key
            for state in replay.devices.values()
            if spec.name in state.plan.objects
        }
        if len(keys) != 1:
            raise WrongLineError(n, f"closes, but {spec.name} is not the same key everywhere")
    return notes


def _check_device(replay: Replay, state: DeviceState) -> Iterator[str]:
    name = state.plan.name
    if state.objects is None:
        raise RecordError(f"{name} was never reset")
    if state.uncertain:
        raise RecordError(f"what an interrupt left on {name} was not read back")
    for left in replay.left():
        if left.serial == state.plan.serial:
            raise RecordError(f"{left.object.type} {left.object.id} is left on {name}")
    if state.read_back is None:
        raise RecordError(f"{name} was not read back in a session that sees all domains")
    looked_with = ObjectRef(AUTHENTICATION_KEY, state.read_back.session_key)
    for change in state.changed_since:
        if change.command != "delete-object" or change.parameters != looked_with:
            raise RecordError(f"{name} was changed after it was read back ({change.command})")
    leaving = looked_with.id if looked_with not in state.objects else None
    found = differences(
        replay.plan, state.plan, state.read_back, leaving=leaving, everything=state.everything
    )
    if found:
        raise RecordError(f"{name} is not as planned: {'; '.join(found)}")
    if not state.default_refused:
        raise RecordError(f"{name} was not seen to refuse the default authentication key")
    _check_keys_on(replay, state)
    yield from _check_log(state)


def _check_keys_on(replay: Replay, state: DeviceState) -> None:
    name = state.plan.name
    for ref, held in (state.objects or {}).items():
        if ref.type in (AUTHENTICATION_KEY, WRAP_KEY):
            reason = replay.backed_up(state, ref)
            if reason:
                raise RecordError(f"{reason} ({name})")
        elif held.key is None or ref.id not in state.public_keys:
            raise RecordError(f"{name} did not give the public key of key {ref.id}")
        elif not held.tested:
            raise RecordError(f"key {ref.id} on {name} was not tested")


def _check_log(state: DeviceState) -> Iterator[str]:
    audited = {
        names.name_of(names.COMMANDS, command)
        for command, value in state.plan.command_audit.items()
        if value != AUDIT.OFF
    }
    if not state.entries:
        raise RecordError(f"the log of {state.plan.name} was not read after its reset")
    covered, after = state.recorded[: state.fetched], state.recorded[state.fetched :]
    yield from compare(state.entries, covered, audited)
    for item in after:
        if item.command and item.command.command in audited:
            yield (
                f"{item.command.command} on {state.plan.name} (line {item.n}) is not in its log as "
                "far as it was read"
            )


def _clock_notes(lines: list[Line]) -> Iterator[str]:
    for before, after in pairwise(lines):
        if after.time < before.time:
            yield f"the clock went back between lines {before.n} and {after.n}"


# --- claims -------------------------------------------------------------------------------------


def _claims(replay: Replay) -> Iterator[Claim]:
    for state in replay.devices.values():
        yield from _device_claims(replay, state)
    for spec, key, holders in _cloned(replay):
        where = ", ".join(state.plan.name for state in holders)
        yield Claim(f"{spec.name} has the public key {key} on {where}", "device")
    yield Claim(f"all {replay.signatures} test signatures verify", "device")
    for person in replay.plan.participants:
        yield Claim(f"{person.name} took part as {person.role}, and signed what they saw", "people")
    yield Claim("each irreversible step was confirmed by an operator and a witness", "people")
    yield Claim(
        "the secrets are on their media, were read back, and were shown to nobody", "people"
    )
    yield Claim(
        f"the software ({replay.opened.software}) and the machine were genuine, and wrote down "
        "what the devices answered",
        "people",
    )
    yield Claim("the devices were the ones with these numbers printed on them", "people")
    yield Claim("the times are those of the machine's clock", "people")


def _cloned(replay: Replay) -> Iterator[tuple[ObjectSpec, str, list[DeviceState]]]:
    """Each cloned key, its public half in hex, and the devices that have it; equal on all."""
    for spec in replay.plan.cloned():
        holders = [s for s in replay.devices.values() if spec.name in s.plan.objects]
        held = (holders[0].objects or {})[ObjectRef(ASYMMETRIC_KEY, spec.id)]
        assert held.key is not None  # noqa: S101 - it was read back
        yield spec, held.key, holders


def _own_keys(replay: Replay, state: DeviceState) -> dict[str, str]:
    """The public halves of the Ed25519 keys that this device alone has, as OpenSSH lines."""
    return {
        spec.name: PublicKey.from_hex(state.public_keys[spec.id]).ssh
        for spec in replay.plan.specs(state.plan)
        if spec.algorithm == ALGORITHM.EC_ED25519 and spec not in replay.plan.cloned()
    }


def _device_claims(replay: Replay, state: DeviceState) -> Iterator[Claim]:
    identity = state.identity
    assert identity is not None  # noqa: S101 - it was read back
    name, firmware = state.plan.name, ".".join(map(str, identity.firmware))
    yield Claim(f"{name} is YubiHSM {state.plan.serial} with firmware {firmware}", "device")
    yield Claim(f"{name} held exactly the plan's objects when it was last read back", "device")
    yield Claim(f"{name} refuses the default authentication key", "device")
    specs = replay.plan.specs(state.plan)
    made = [spec.name for spec in specs if spec.type == OBJECT.ASYMMETRIC_KEY]
    if made:
        yield Claim(f"{', '.join(made)} on {name}: generated in a device, never outside", "device")
    if state.plan.command_audit:
        yield Claim(f"{name} logged the audited commands of this record and no others", "device")
    else:
        yield Claim(f"the log of {name}, which audits no commands, is unbroken", "device")
    for number, answer in state.attested.items():
        checked = " (check the certificate's chain to the manufacturer)"
        more = checked if answer == "attested" else ""
        yield Claim(f"asked to attest key {number}, {name}: {answer}{more}", "device")
