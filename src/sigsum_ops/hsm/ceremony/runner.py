"""Performs a ceremony: each step in order, written down before and after, and proven by its device.

``Step started`` is on the disk before the first command, ``done`` only after the device has shown
the result. An interrupt can hit anywhere, by any means: ``perform`` on the same directory goes on.
It takes the transcript's word for which steps were begun, asks every device that was touched what
it holds, refuses where the two cannot both be true, and does what is missing.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from yubihsm.defs import OBJECT

from sigsum_ops import __version__
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony import recording, records, signatures, steps
from sigsum_ops.hsm.ceremony.bench import Bench
from sigsum_ops.hsm.ceremony.canonical import Json
from sigsum_ops.hsm.ceremony.history import History
from sigsum_ops.hsm.ceremony.media import Medium, check_media
from sigsum_ops.hsm.ceremony.presentation import People, Signers
from sigsum_ops.hsm.ceremony.records import Mode, Role
from sigsum_ops.hsm.ceremony.replay import Replay
from sigsum_ops.hsm.ceremony.secrets import swap_areas
from sigsum_ops.hsm.ceremony.state import RecordError
from sigsum_ops.hsm.ceremony.steps import DEFAULT_KEY, Change, Kind, Ref, Step
from sigsum_ops.hsm.ceremony.transcript import (
    Line,
    Transcript,
    WrongLineError,
    decode,
    signature_file,
)
from sigsum_ops.hsm.ceremony.vault import Places, Vault
from sigsum_ops.hsm.ceremony.work import NotProven, Work
from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.plan import DevicePlan, Plan

TRANSCRIPT = "transcript.jsonl"
ALLOWED_SIGNERS = "allowed_signers"
_TRIES = 3  # at typing a confirmation phrase


class Interrupted(OpsError):  # noqa: N818 - what happened
    """Someone pressed Ctrl-C."""

    exit_code = 130


@dataclass(frozen=True)
class Setup:
    """What a ceremony is about and works with. ``out`` is the transcript's directory."""

    plan: Plan
    mode: Mode
    out: Path
    connectors: Sequence[str]
    media: Sequence[Path]
    credentials: Path

    @property
    def transcript(self) -> Path:
        return self.out / TRANSCRIPT


@dataclass(frozen=True)
class Standing:
    """What a device holds, as it answered, and what of that must not stay there."""

    device: DevicePlan
    held: frozenset[Ref]
    left: tuple[Ref, ...]

    def to_json(self) -> dict[str, Json]:
        return {
            "name": self.device.name,
            "serial": self.device.serial,
            "held": [_named(ref) for ref in sorted(self.held)],
            "must_not_stay": [_named(ref) for ref in self.left],
        }

    def __str__(self) -> str:
        held = ", ".join(_named(ref) for ref in sorted(self.held))
        left = ", ".join(_named(ref) for ref in self.left)
        return f"{self.device.name} ({self.device.serial}) holds {held}" + (
            f"; MUST NOT STAY: {left}" if left else ""
        )


def perform(setup: Setup, people: People, signers: Signers, *, resume: bool) -> Transcript:
    """Carry a ceremony out, or go on with one; returns the closed, signed transcript.

    Raises:
        OpsError: it stopped. The transcript says so, and ``resume`` goes on.
    """
    places = _check_setup(setup, signers)
    begun = setup.transcript.exists() and setup.transcript.stat().st_size > 0
    if resume != begun:
        found = "has no transcript" if resume else "holds a transcript already"
        raise UsageError(
            f"{setup.out} {found}",
            hint="“run” and “rehearse” begin a ceremony in an empty directory, “resume” goes on.",
        )
    setup.out.mkdir(parents=True, exist_ok=True)
    with Transcript(setup.transcript) as transcript:
        ceremony = _Ceremony(setup, places, transcript, people, signers)
        if not transcript.lines:  # also where the power went while the first was written
            ceremony.open()
        ceremony.run()
    return transcript


def ask(setup: Setup, people: People) -> list[Standing]:
    """Where each device of an unfinished ceremony stands, by its own answer; changes nothing."""
    places = _places(setup)
    with Transcript(setup.transcript) as transcript:
        return _Ceremony(setup, places, transcript, people, None).ask()


class _Ceremony:
    def __init__(
        self,
        setup: Setup,
        places: Places,
        transcript: Transcript,
        people: People,
        signers: Signers | None,
    ) -> None:
        self._setup = setup
        self._plan = setup.plan
        self._transcript = transcript
        self._people = people
        self._signers = signers
        self._steps = steps.derive(setup.plan)
        self._history = History(line.record for line in transcript.lines)
        self._replay = Replay()
        for line in transcript.lines:
            self._replayed(line)
        self._recording = True
        self._places = places
        # How many changes of a device were made before this process began, where that is known.
        self._made: dict[int, int] = {}

    # --- the whole ------------------------------------------------------------------------------

    def open(self) -> None:
        self._record(
            records.Opened(
                ceremony=secrets.token_hex(16),
                plan=self._plan.to_json(),
                plan_hash=self._plan.hash(),
                mode=self._setup.mode,
                software=_software(),
                host=_host(),
            )
        )
        self._people.welcome(self._plan, self._setup.mode, self._steps)

    def run(self) -> None:
        self._check_transcript()
        if not self._transcript.closed:
            self._begin()
            try:
                self._go_on()
            except KeyboardInterrupt:
                self._interrupted("stopped by Ctrl-C")
                raise Interrupted(
                    "stopped", hint="Go on with: sigsum-ops ceremony resume"
                ) from None
            except OpsError as error:
                self._interrupted(error.message)
                raise
            except BaseException as error:
                self._interrupted(f"a bug: {type(error).__name__}")
                raise
            finally:
                self._let_go()
        self._sign()

    def ask(self) -> list[Standing]:
        """Asks without writing anything down, for it is not part of the ceremony."""
        self._check_transcript()
        self._recording = False
        self._begin()
        try:
            return self._ask_all()
        finally:
            self._let_go()

    def _go_on(self) -> None:
        if self._history.started:
            self._record(
                records.Resumed(
                    reason="resumed by a person",
                    last_step=self._history.last_step,
                    discarded_bytes=self._transcript.discarded_bytes,
                    software=_software(),
                    host=_host(),
                )
            )
            for standing in self._ask_all():
                self._warn_of(standing.device, standing.left)
        for number, step in enumerate(self._steps, 1):
            if step.id not in self._history.done:
                self._people.begin(step, number, self._steps[number:])
                self._perform(step)

    def _begin(self) -> None:
        opened = self._transcript.opened
        self._vault = Vault(
            self._plan, opened.ceremony, self._transcript.lines[0].hash, self._places
        )
        self._bench = Bench(
            self._plan,
            self._setup.mode,
            self._setup.connectors,
            self._people,
            self._record,
            self._vault.commitment,
        )
        self._work = Work(
            self._plan, self._bench, self._vault, self._people, self._record, self._replay
        )

    def _let_go(self) -> None:
        self._vault.wipe()
        self._work.forget_blobs()
        self._bench.close()

    def _record(self, record: records.Record) -> None:
        if self._recording:
            line = self._transcript.append(record)
            self._history.note(record)
            self._replayed(line)

    def _replayed(self, line: Line) -> None:
        """Have what is on record judged as an auditor will judge it, as soon as it is there."""
        try:
            self._replay.apply(line.n, line.record)
        except RecordError as error:
            raise NotProven(
                f"{self._setup.transcript}, line {line.n}: {error}",
                hint="The devices and the record do not agree. Keep both, and begin anew.",
            ) from error

    def _check_transcript(self) -> None:
        opened = self._transcript.opened
        if opened.plan_hash != self._plan.hash():
            raise UsageError(
                f"{self._setup.transcript} is of another plan ({opened.plan_hash})",
                hint="Give the plan that the ceremony began with.",
            )
        if opened.mode != self._setup.mode:
            raise UsageError(f"{self._setup.transcript} is of a {opened.mode} ceremony")

    # --- one step -------------------------------------------------------------------------------

    def _perform(self, step: Step) -> None:
        if step.kind == Kind.CLOSE:
            self._close()
            return
        self._record(records.Step(step.id, step.serial, "started"))
        if step.kind == Kind.PREFLIGHT:
            self._preflight(step)
        else:
            changes = self._left_of(step)
            if step.phrase and (changes or not step.changes):
                self._confirm(step)
            self._work.perform(step, changes)
        self._record(records.Step(step.id, step.serial, "done"))

    def _left_of(self, step: Step) -> tuple[Change, ...]:
        """The step's changes that its device does not show yet."""
        if step.device is None or step.device.serial not in self._made:
            return step.changes
        made = self._made.pop(step.device.serial)
        return step.changes[made - self._made_before(step.device, step) :]

    def _made_before(self, device: DevicePlan, step: Step) -> int:
        """How many changes of the device the steps before this one make."""
        earlier = self._steps[: self._steps.index(step)]
        return len(steps.changes_of(earlier, device))

    def _preflight(self, step: Step) -> None:
        areas = swap_areas()
        if areas:
            self._people.warn(
                f"Memory of this machine may be written to {', '.join(areas)}: swapoff -a first."
            )
        present = self._bench.present()
        for planned, device in present:
            identity = device.identity
            firmware = ".".join(map(str, identity.firmware))
            self._people.happened(
                f"{planned.name} is YubiHSM {identity.serial}, firmware {firmware}, at {device.url}"
            )
        here = {planned.serial for planned, _ in present}
        for planned in self._plan.devices:
            if planned.serial not in here:
                self._people.happened(f"{planned.name} is not plugged in yet")
        self._people.read_aloud("Hash of the plan", self._plan.hash())
        self._confirm(step)

    def _confirm(self, step: Step) -> None:
        """Both roles type the phrase; nobody confirms for another."""
        for role in Role:
            people = [person.name for person in self._plan.participants if person.role == role]
            for _ in range(_TRIES):
                person, typed = self._people.confirm(step, role, people)
                if typed == step.phrase and person in people:
                    break
                self._people.warn("That was not the phrase, or not a name of this role.")
            else:
                raise OpsError(
                    f"{step.title}: the {role} did not confirm", hint="Nothing was done. Resume."
                )
            self._record(
                records.Confirmed(step.id, step.serial, person, role, records.phrase_hash(typed))
            )

    def _close(self) -> None:
        self._transcript.close(
            [records.Participant(person.name, person.role) for person in self._plan.participants]
        )

    def _sign(self) -> None:
        """Each participant signs the closing line. What was signed before an interrupt stays."""
        if self._signers is None:
            raise ValueError("nobody signs")
        line = self._transcript.lines[-1]
        self._people.read_aloud("Hash of the closing line", line.hash)
        people = self._plan.participants
        keys = {person.name: self._signers.public_key(person) for person in people}
        allowed = self._setup.out / ALLOWED_SIGNERS
        allowed.write_text(
            "".join(signatures.allowed_signers_line(name, key) for name, key in keys.items())
        )
        for person in people:
            file = signature_file(self._setup.transcript, person.name)
            file.parent.mkdir(exist_ok=True)
            if signatures.problem(line.raw, file, person.name, allowed):
                file.write_text(self._signers.sign(person, line.raw))
                if problem := signatures.problem(line.raw, file, person.name, allowed):
                    file.unlink()
                    raise OpsError(
                        f"the signature of {person.name} does not count: {problem}",
                        hint="Sign with the key that the plan names, and resume.",
                    )
            self._people.happened(f"{person.name} has signed")

    # --- after an interrupt ---------------------------------------------------------------------

    def _ask_all(self) -> list[Standing]:
        """Ask every device that was touched what it holds, and compare with the transcript.

        Raises:
            OpsError: the media are not those of this ceremony, or a device is in a state that the
                transcript does not lead to.
        """
        if any(step.id in self._history.done for step in self._of_kind(Kind.SECRETS)):
            self._vault.load_shared(self._history.commitments)
        standings = []
        for step in self._of_kind(Kind.RESET):
            if step.device is None:
                continue
            if step.id in self._history.done:
                asking = f"ask-{step.device.name}"
                self._record(records.Step(asking, step.device.serial, "started"))
                standings.append(self._ask_device(step.device))
                self._record(records.Step(asking, step.device.serial, "done"))
            elif step.id in self._history.started:
                # Erased or not, and by which key it would open, is not known: it is erased again.
                default = steps.FACTORY_FRESH
                standings.append(Standing(step.device, default, tuple(default)))
        return standings

    def _of_kind(self, kind: Kind) -> list[Step]:
        return [step for step in self._steps if step.kind == kind]

    def _ask_device(self, device: DevicePlan) -> Standing:
        mine = [step for step in self._steps if step.device == device]
        put = any(step.kind == Kind.ACCESS and step.id in self._history.done for step in mine)
        for spec in steps.access_keys(self._plan, device):
            if (spec.name, device.serial) in self._history.commitments:
                # An interrupt may have left a newer passphrase there, of a key that was not put.
                with nullcontext() if put else suppress(OpsError):
                    self._vault.load_own(spec, device, self._history.commitments)
        held = self._work.look(device)
        made = sum(len(step.changes) for step in mine if step.id in self._history.done)
        begun = [
            step
            for step in mine
            if step.id in self._history.started and step.id not in self._history.done
        ]
        most = made + sum(len(step.changes) for step in begun)
        changes = steps.changes_of(self._steps, device)
        states = [steps.FACTORY_FRESH, *(change.after for change in changes)]
        for place in range(made, most + 1):
            if self._work.visible(device, states[place]) == held:
                self._made[device.serial] = place
                break
        else:
            raise NotProven(
                f"{device.name} does not hold what the transcript leads to",
                hint="Someone changed it outside of this ceremony. Do not use it; begin anew.",
            )
        if any(step.kind == Kind.KEYS and step.id in self._history.done for step in mine):
            self._work.remember_public_keys(device)
        # What cannot be seen any more is still there.
        actual = states[self._made[device.serial]]
        return Standing(device, actual, self._left(device, actual))

    def _left(self, device: DevicePlan, held: frozenset[Ref]) -> tuple[Ref, ...]:
        """The keys that the device holds and must not keep: default, wrap, manager's."""
        final = {(spec.type, spec.id) for spec in self._plan.specs(device)}
        kinds = (OBJECT.AUTHENTICATION_KEY, OBJECT.WRAP_KEY)
        return tuple(sorted(ref for ref in held - final if ref[0] in kinds))

    def _interrupted(self, reason: str) -> None:
        """Say what is left where, to the people and in the transcript."""
        left = self._replay.left()
        for device in self._plan.devices:
            refs = tuple(
                (names.TYPES[item.object.type], item.object.id)
                for item in left
                if item.serial == device.serial
            )
            self._warn_of(device, refs)
        with suppress(OpsError):  # the disk may be what failed
            self._record(records.Interrupted(reason, self._history.last_step, left))

    def _warn_of(self, device: DevicePlan, left: tuple[Ref, ...]) -> None:
        if not left:
            return
        what = [
            "the default authentication key, whose password everyone knows"
            if ref == DEFAULT_KEY
            else _named(ref)
            for ref in left
        ]
        self._people.warn(
            f"{device.name} (YubiHSM {device.serial}) still holds {' and '.join(what)}. Until the "
            "ceremony has gone on to its end, keep it under lock, or erase it."
        )


def is_of_rehearsal(out: Path) -> bool:
    """What the transcript in this directory is of. Raises UsageError where there is none."""
    path = out / TRANSCRIPT
    try:
        with path.open("rb") as stream:
            opened = decode(stream.readline().rstrip(b"\n"), 1).record
    except (OSError, WrongLineError) as error:
        raise UsageError(
            f"{path} is not the transcript of a ceremony: {error}",
            hint="Give the directory that “run” or “rehearse” was given.",
        ) from error
    return isinstance(opened, records.Opened) and opened.mode == Mode.REHEARSAL


def _check_setup(setup: Setup, signers: Signers) -> Places:
    """Refuse what can be known to be wrong before anything is begun; returns where secrets go."""
    if shutil.which("ssh-keygen") is None:
        raise OpsError("there is no ssh-keygen", hint="Install openssh-client.")
    if setup.mode == Mode.PRODUCTION:
        for person in setup.plan.participants:
            signers.public_key(person)
        for device in setup.plan.devices:
            if is_rehearsal(device.serial, None):
                raise UsageError(
                    f"the plan's {device.name} has the serial number of a rehearsal device",
                    hint="Put the number printed on the real device into the plan.",
                )
        if areas := swap_areas():
            raise OpsError(
                f"memory of this machine may be written to {', '.join(areas)}",
                hint="Switch swap off for the ceremony: swapoff -a",
            )
    return _places(setup)


def _places(setup: Setup) -> Places:
    if not (setup.credentials.is_dir() and os.access(setup.credentials, os.W_OK | os.X_OK)):
        raise UsageError(
            f"{setup.credentials} is not a directory that can be written to",
            hint="Mount the medium for credentials, and name the directory with --credentials.",
        )
    apart = setup.mode == Mode.PRODUCTION
    media = check_media(setup.media, setup.plan.backup.media, apart=apart)
    return Places(media, Medium("medium for credentials", setup.credentials))


def _named(ref: Ref) -> str:
    reference = recording.reference(*ref)
    return f"{reference.type} {reference.id}"


def _software() -> str:
    return f"sigsum-ops {__version__}"


def _host() -> dict[str, str]:
    facts = {
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    with suppress(OSError):
        facts["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return facts
