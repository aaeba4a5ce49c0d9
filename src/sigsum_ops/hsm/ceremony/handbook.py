"""A plan's ceremony as people perform it: what to bring, who, where, how long, each step, the bags.

Everything comes from the plan and from the steps that the ceremony itself derives of it, so the
pages cannot say other steps or other phrases than those that will be asked for.

**Times.** ``_SECONDS`` is measured: the longest that a step of its kind took on any of ten devices
when the two plans of this repository were rehearsed on two busy cores (transcripts' times, from
``started`` to ``done``). ``_MINUTES`` is an estimate of what people need to talk, look and type;
nobody has timed them yet.
"""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from yubihsm.defs import CAPABILITY

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.ceremony import report, signatures, steps
from sigsum_ops.hsm.ceremony.records import Role
from sigsum_ops.hsm.ceremony.report import Table
from sigsum_ops.hsm.ceremony.runner import ALLOWED_SIGNERS, TRANSCRIPT
from sigsum_ops.hsm.ceremony.steps import Action, Kind, Step
from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.names import ALL_DOMAINS
from sigsum_ops.hsm.plan import DevicePlan, DeviceRole, ObjectSpec, Plan

_TEMPLATE = "handbook.html.j2"
_WIDTH = 120  # columns of Markdown
_BOX, _BLANK = "[ ]", "________"
_PREPARING, _LEAVING = 20, 30  # minutes, estimated as _MINUTES
_MINUTES = {
    Kind.PREFLIGHT: 15,
    Kind.RESET: 3,
    Kind.SECRETS: 3,
    Kind.TAKE_OVER: 2,
    Kind.WRAP: 1,
    Kind.KEYS: 3,
    Kind.ACCESS: 1,
    Kind.TEST: 1,
    Kind.FINISH: 3,
    Kind.CLOSE: 15,
}
_SECONDS = {  # the closing is people, signing
    Kind.PREFLIGHT: 0.2,
    Kind.RESET: 0.4,
    Kind.SECRETS: 1.2,
    Kind.TAKE_OVER: 0.9,
    Kind.WRAP: 0.5,
    Kind.KEYS: 1.0,
    Kind.ACCESS: 1.4,
    Kind.TEST: 0.5,
    Kind.FINISH: 1.0,
}
_USE = {
    DeviceRole.BACKUP: "keeps copies of the signing keys",
    DeviceRole.LOG_ORACLE: "signs for the log",
    DeviceRole.WITNESS_ORACLE: "signs for the witness",
}
_STOPPED = {
    Kind.PREFLIGHT: "Nothing was changed. The phrase is asked for again.",
    Kind.RESET: "The device is erased, or not: it is erased again, after the phrase.",
    Kind.SECRETS: "The media may hold secrets that nothing depends on: new ones replace them. "
    "A medium that failed is exchanged now; later it would take a new ceremony.",
    Kind.TAKE_OVER: "The device may still open with the password that everyone knows: it stays in "
    "sight until the step is done.",
    Kind.WRAP: "An oracle may hold a wrap key, which must not stay: it is in nobody's pocket until "
    "it is locked.",
    Kind.KEYS: "A key is there whole, or not at all. To clone the others, the backup that made "
    "them is asked for once more.",
    Kind.ACCESS: "The medium for credentials may hold a passphrase that opens nothing: a new one "
    "replaces it.",
    Kind.TEST: "Nothing was changed. It is signed again.",
    Kind.FINISH: "The device is locked, or not: it is asked. An oracle that is not locked yet "
    "holds keys that must not stay.",
    Kind.CLOSE: "The record is whole. Only the signatures that are missing are asked for.",
}


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Items:
    """A list; what is to be ticked begins with a box."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """What is typed, character by character."""

    code: str


Block = str | Heading | Items | Code | Table


@dataclass(frozen=True)
class Handbook:
    title: str
    blocks: tuple[Block, ...]


def build(plan: Plan, path: Path) -> Handbook:
    """The pages for a plan; ``path`` is where its file is, for the commands.

    Raises:
        UsageError: the plan cannot be carried out.
    """
    derived = steps.derive(plan)
    commands = _Commands(plan, path)
    blocks = (
        "People make this log's keys together, watching each other. Nobody needs to hurry: you can "
        "stop at any step and go on later. Print these pages, one copy for each of you, and write "
        "on them.",
        f"Made from the plan by: sigsum-ops ceremony handbook --plan {shlex.quote(str(path))}",
        *_rehearsal_note(plan),
        *_plan_hash(plan),
        *_times(derived),
        *_people(plan),
        *_where(),
        *_to_bring(plan),
        *_preparing(commands),
        *_script(plan, derived, commands),
        *_stopping(derived, commands),
        *_closing(plan, commands),
        *_bags(plan),
        *_custody(plan),
        *_objects(plan),
    )
    return Handbook(f"Key ceremony of {plan.site}: the handbook", blocks)


def markdown(handbook: Handbook) -> str:
    return "\n\n".join((f"# {handbook.title}", *map(_markdown, handbook.blocks))) + "\n"


def html(handbook: Handbook) -> str:
    return report.render(_TEMPLATE, handbook=handbook)


def pdf(handbook: Handbook) -> bytes:
    page = report.a4(handbook.title)
    for block in handbook.blocks:
        match block:
            case Heading(text, level):
                report.heading(page, text, 18 - 2 * level)
            case Items(lines):
                for line in lines:
                    report.paragraph(page, f"- {line}")
            case Code(code):
                report.paragraph(page, code, mono=True)
            case Table(title, columns, rows):
                report.heading(page, title, 12)
                report.add_table(page, columns, rows)
            case text:
                report.paragraph(page, text)
    return bytes(page.output())


def write(handbook: Handbook, out: Path) -> None:
    """As the file's ending says: .md, .html or .pdf. Raises UsageError for another one."""
    match out.suffix:
        case ".md":
            content = markdown(handbook).encode()
        case ".html":
            content = html(handbook).encode()
        case ".pdf":
            content = pdf(handbook)
        case other:
            raise UsageError(
                f"--out: {out} ends in {other or 'nothing'}", hint="Use .md, .html or .pdf."
            )
    try:
        out.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--out: cannot write {out}: {error.strerror}") from error


# --- before -------------------------------------------------------------------------------------


def _rehearsal_note(plan: Plan) -> Iterator[Block]:
    if _rehearses(plan):
        yield (
            "REHEARSAL: the devices of this plan are software, so there is nothing to bring but "
            "yourselves. Take pens for devices if you like, and perform everything else."
        )


def _plan_hash(plan: Plan) -> Iterator[Block]:
    digest = report.hash_of("Hash of the plan", plan.hash())
    yield "If the screen shows another hash than this one, these pages are of another plan: stop."
    yield Table(digest.title, ("bytes", "to read aloud"), digest.lines)


def _times(derived: Sequence[Step]) -> Iterator[Block]:
    rows = [("Unpack, start the machine, mount the media", "-", str(_PREPARING), "-")]
    total, number = _PREPARING + _LEAVING, 1
    for name, phase in _phases(derived):
        talk = sum(_MINUTES[step.kind] for step in phase)
        seconds = math.ceil(sum(_SECONDS.get(step.kind, 0) for step in phase))
        last = number + len(phase) - 1
        which = str(number) if number == last else f"{number} to {last}"
        rows.append((name, which, str(talk), str(seconds or "-")))
        total, number = total + talk, last + 1
    rows.append(("Verify, print, sign by hand, bags", "-", str(_LEAVING), "-"))
    yield Heading("When, and how long")
    yield (
        f"Reserve {math.ceil(total / 30) / 2:g} hours, in daylight, with a break after each "
        f"device. The {total} minutes are talking and looking; they are an estimate, and nobody "
        "has timed people yet. The machine's seconds were measured in rehearsals on software "
        "devices. Real devices are slower, by an amount that is not measured: a signature takes "
        "them about 0.1 s, and they restart when they are erased."
    )
    columns = ("phase", "steps", "minutes (estimate)", "machine, seconds (rehearsed)")
    yield Table("Phases", columns, tuple(rows))


def _people(plan: Plan) -> Iterator[Block]:
    yield Heading("Who")
    yield Items(
        (
            "The operator handles devices and keyboard, says what is done, and types first.",
            "The witness compares every number and hash, types second, and touches nothing else. "
            "Whoever is not sure says stop, and everyone stops.",
            "Each of you signs the record with a key of your own, and never types or signs for "
            "another.",
        )
    )
    rows = tuple(
        (_BOX, person.name, str(person.role), _fingerprint(person.public_key), _BLANK)
        for person in plan.participants
    )
    columns = ("here", "name", "confirms and signs as", "key (ssh-keygen -l -f KEY.pub)", "by hand")
    yield Table("Participants", columns, rows)


def _where() -> Iterator[Block]:
    yield Heading("Where")
    yield Items(
        (
            f"{_BOX} Room {_BLANK}, on {_BLANK} from ____:____: a door that closes, no window onto "
            "the keyboard, no camera that you did not bring.",
            f"{_BOX} One table. Everything on it is seen by everyone, all the time.",
            f"{_BOX} Phones, watches and other computers are outside.",
            f"{_BOX} Mains power, and a charged battery in the machine.",
        )
    )


def _to_bring(plan: Plan) -> Iterator[Block]:
    yield Heading("What to bring")
    yield (
        "Devices, each in the sealed bag that it came in. The number is printed on it. Write down "
        "the number of the bag that you open."
    )
    yield Table(
        "Devices",
        ("here", "device", "number on it", "role", "what for", "firmware", "bag opened"),
        tuple(
            (
                _BOX,
                device.name,
                str(device.serial),
                str(device.role),
                _USE[device.role],
                _firmware(device),
                _BLANK,
            )
            for device in steps.ordered_devices(plan)
        ),
    )
    yield "Media, new, opened at the table. No two of them are ever the same stick."
    yield Table("Media", ("here", "medium", "mounted at", "what it will hold"), _media(plan))
    sockets = plan.backup.media + 4
    yield "And:"
    yield Items(
        (
            f"{_BOX} A machine that was never on a network, without swap, started from a medium "
            "that you checked, with sigsum-ops, yubihsm-connector and ssh-keygen on it. Secrets "
            "are in its memory for the length of the ceremony.",
            f"{_BOX} {sockets} USB sockets at least: {plan.backup.media} backup media, the medium "
            "for credentials, that for the record, one device at a time, and a token with a "
            "signing key.",
            f"{_BOX} Each participant's own signing key, of which the plan names the public half.",
            f"{_BOX} The auditor's file signers, on the medium for the record: see the closing.",
            f"{_BOX} {len(plan.devices) + plan.backup.media + 1} tamper-evident bags with "
            "numbers, and a pen that writes on them.",
            f"{_BOX} A medium of their own for each participant, for a copy of the record.",
            f"{_BOX} These pages, once for each participant, and the plan.",
        )
    )


def _media(plan: Plan) -> tuple[tuple[str, ...], ...]:
    backup = plan.backup
    secrets = " and ".join(spec.name for spec in steps.backup_secrets(plan))
    holds = f"{secrets}, as hexadecimal digits"
    places = _mounts(plan)
    rows = []
    for number, place in enumerate(places[:-1], 1):
        if backup.form == "shares":
            holds = f"share {number} of {backup.shares} of {secrets}"
        rows.append((_BOX, f"backup medium {number}", place, holds))
    rows.append((_BOX, "medium for credentials", places[-1], "passphrases of who uses the devices"))
    rows.append((_BOX, "medium for the record", _RECORD, "the record; no secret"))
    return tuple(rows)


def _preparing(commands: _Commands) -> Iterator[Block]:
    yield Heading("Before it begins")
    yield Items(
        (
            f"{_BOX} Nothing of the machine's memory goes to a disk. Both commands: the second one "
            "prints nothing.",
        )
    )
    yield Code("swapoff -a\ntail -n +2 /proc/swaps")
    yield Items((f"{_BOX} The hash is the one on these pages, the steps are these steps:",))
    yield Code(commands.plan)
    yield Items(
        (
            f"{_BOX} The media are mounted where the table says, and nothing else is plugged in.",
            f"{_BOX} The first device is plugged in and the connector runs. One after the other "
            "will do: you are asked for the next. For several at once, run a connector for each, "
            "and add --connector URL for each.",
        )
    )


# --- the steps ----------------------------------------------------------------------------------


def _script(plan: Plan, derived: Sequence[Step], commands: _Commands) -> Iterator[Block]:
    yield Heading("The ceremony")
    yield "The operator types:"
    yield Code(commands.begin)
    yield (
        "Each step says first what will happen and what to hold, asks for the phrase if there is "
        "one, and then shows a line with a check mark for each thing that the device has proven. "
        'When the next step is announced, the witness says "seen", and both write the time here. '
        "Where several of you have a role, the name of who confirms is typed before the phrase."
    )
    number = 0
    for name, phase in _phases(derived):
        yield Heading(name, 3)
        for step in phase:
            number += 1
            yield Heading(f"Step {number} of {len(derived)}: {step.title}", 4)
            yield from _step(plan, step)


def _step(plan: Plan, step: Step) -> Iterator[Block]:
    yield step.what
    lines = [f"In your hand: {step.hold}"]
    if said := _aloud(plan, step):
        lines.append(f"Say aloud: {said}")
    if step.phrase:
        warning = "This cannot be undone. " if step.irreversible else ""
        who = ", then ".join(f"the {role} ({_either(plan, role)})" for role in Role)
        yield Items((*lines, f"{warning}Typed by {who}:"))
        yield Code(step.phrase)
        lines = []
    yield Items((*lines, f"{_BOX} seen, at ____:____"))


def _aloud(plan: Plan, step: Step) -> str | None:
    """What is worth saying; quoted is what the screen shows by then."""
    name = step.device.name if step.device else ""
    match step.kind:
        case Kind.PREFLIGHT:
            return (
                "one of you reads the words of the plan's hash from the screen; the others follow "
                "on these pages."
            )
        case Kind.RESET:
            return f'the operator: "{_digits(step)}". The witness, plan in hand: "{name}".'
        case Kind.SECRETS:
            return 'the operator: "new media, opened here". Nobody reads or copies what is on them.'
        case Kind.TAKE_OVER:
            return f'the witness, from the screen: "{name} refuses the factory\'s password".'
        case Kind.KEYS:
            text = "the first and last eight digits of each public key; the witness notes them."
            sources = {
                steps.source_of(plan, change.spec).name
                for change in step.changes
                if change.action == Action.CLONE and change.spec
            }
            if sources:
                text += f" Of a cloned key they are those of {' and '.join(sorted(sources))}."
            return text
        case Kind.FINISH:
            seen = f'"{name} holds what the plan says, object by object"'
            if not (step.device and steps.keeps_manager(plan, step.device)):
                seen += f', and at the end "{name} is locked; its users\' passphrases work"'
            return f"the witness, from the screen: {seen}. The device stays on the table, in sight."
        case Kind.CLOSE:
            return (
                "one of you reads the words of the closing line's hash, and each writes down the "
                "last four: ________ ________ ________ ________"
            )
    return None


def _digits(step: Step) -> str:
    return " ".join(str(step.serial))


def _phases(derived: Sequence[Step]) -> Iterator[tuple[str, list[Step]]]:
    """The steps of each device, with a name for people; what concerns none is apart."""
    for device, group in groupby(derived, lambda step: step.device):
        phase = list(group)
        if device:
            yield f"{device.name}, YubiHSM {device.serial}", phase
        else:
            yield ("Opening" if phase[0].kind == Kind.PREFLIGHT else "Closing"), phase


def _stopping(derived: Sequence[Step], commands: _Commands) -> Iterator[Block]:
    yield Heading("If something stops it")
    yield (
        "Ctrl-C, a device pulled out, a closed terminal, the power gone: nothing is lost. Say what "
        "happened and write down the time. Everyone stays, and so does everything on the table. "
        "Plug in and mount everything as before. This asks each device where it stands, and "
        "changes nothing; it exits with 1 if one holds a key that must not stay:"
    )
    yield Code(commands.check)
    yield "This goes on from the last step that is proven:"
    yield Code(commands.resume)
    yield (
        "Devices that were done before are asked for once more. A phrase that was typed wrongly "
        "three times stops it, too; nothing was done then. If the power went so early that there "
        "is no transcript yet, begin again. If it says that a device and the record do not agree, "
        "do not argue with it: keep both, and begin a new ceremony in a new directory, with media "
        "that are empty."
    )
    yield Heading("Stopped within step", 3)
    yield Items(tuple(_stopped(derived)))


def _stopped(derived: Sequence[Step]) -> Iterator[str]:
    for kind in Kind:
        numbers = [str(n) for n, step in enumerate(derived, 1) if step.kind == kind]
        if numbers:
            yield f"{', '.join(numbers)} ({kind}): {_STOPPED[kind]}"


# --- after --------------------------------------------------------------------------------------


def _closing(plan: Plan, commands: _Commands) -> Iterator[Block]:
    yield Heading("Before anyone leaves")
    if not _rehearses(plan):
        yield (
            "The auditor made a file signers before the day, from keys that each of you handed "
            "over in person. If those are the keys in the plan, it says:"
        )
        yield Code(
            "".join(
                signatures.allowed_signers_line(person.name, person.public_key or "NO KEY IN PLAN")
                for person in plan.participants
            ).rstrip()
        )
    yield Items((f"{_BOX} It verifies, and exits with 0:",))
    yield Code(commands.verify)
    yield Items((f"{_BOX} The pages to sign by hand:",))
    yield Code(commands.report)
    yield Items(
        (
            f"{_BOX} The last four words on the screen are those that each of you wrote down.",
            f"{_BOX} Each participant has a copy of the directory {commands.out} on a medium of "
            f"their own. It holds no secret; {TRANSCRIPT} and signatures/ belong together.",
            f"{_BOX} The public keys that it printed are written down for the inventory.",
            f"{_BOX} Devices and media are unplugged and in their bags, and the table below is "
            "filled in. Not earlier: until now, going on might have needed any of them.",
            f"{_BOX} The machine is switched off, without power for a minute: its memory held "
            "secrets.",
            f"{_BOX} The report is printed from a copy of the record, and everyone has signed it.",
        )
    )


def _bags(plan: Plan) -> Iterator[Block]:
    yield Heading("Bags")
    devices = [(device.name, str(device.serial)) for device in steps.ordered_devices(plan)]
    media = [(row[1], "-") for row in _media(plan)[:-1]]
    columns = ("what", "number on it", "bag number", "sealed by", "seen by")
    rows = tuple((*each, _BLANK, _BLANK, _BLANK) for each in (*devices, *media))
    yield Table("What went into which bag", columns, rows)


def _custody(plan: Plan) -> Iterator[Block]:
    backup = plan.backup
    yield Heading("Who takes what away")
    yield (
        "A backup device opens only with what is on the backup media; the media hold no signing "
        "key. So the log's key is safe as long as nobody has both, and lost when all backup "
        "devices are."
    )
    if backup.form == "shares":
        yield Items(
            (
                f"Any {backup.threshold} of the {backup.shares} media restore the secrets. No "
                f"person and no place ever has {backup.threshold} of them.",
                f"{backup.shares - backup.threshold} of them may be lost. After a loss, plan a new "
                "ceremony.",
                "Nobody who has a share has a backup device.",
            )
        )
    else:
        yield Items(
            (
                f"Each of the {backup.media} media has everything, readable by whoever finds it.",
                "No medium is ever at one place with a backup device, nor with a person who can "
                "reach one.",
                f"{backup.media - 1} of them may be lost, if it is sure that nobody found them.",
            )
        )
    yield Table(
        "Handed over",
        ("what", "goes to", "taken by (name, signature)"),
        tuple((*each, f"{_BLANK}{_BLANK}") for each in _destinations(plan)),
    )
    yield "On the medium for credentials, a file for each passphrase, in a directory of the device:"
    yield Table(
        "Passphrases",
        ("device", "passphrase of", "with it one can", "goes to"),
        tuple(
            (device.name, spec.name, *_use(plan, device, spec))
            for device in steps.ordered_devices(plan)
            for spec in steps.access_keys(plan, device)
        ),
    )


def _destinations(plan: Plan) -> Iterator[tuple[str, str]]:
    for number, device in enumerate(plan.with_role(DeviceRole.BACKUP), 1):
        yield device.name, f"safe {number}, in a town of its own: {_BLANK}"
    for device in plan.with_role(DeviceRole.LOG_ORACLE, DeviceRole.WITNESS_ORACLE):
        yield device.name, f"its machine, behind a lock: {_BLANK}"
    for number in range(1, plan.backup.media + 1):
        where = f"keeper {number}, who has nothing else of this list: {_BLANK}"
        yield f"backup medium {number}", where
    yield "medium for credentials", "the operators' safe, in its bag; each opening is written down"
    yield "the record, a copy each", "every participant, and the auditor"


def _use(plan: Plan, device: DevicePlan, spec: ObjectSpec) -> tuple[str, str]:
    """What a passphrase opens, and where it belongs."""
    if CAPABILITY.SIGN_EDDSA in spec.capabilities:
        keys = [key for key in steps.signing_keys(plan, device) if key.domains & spec.domains]
        names = " and ".join(key.name for key in keys) or "nothing"
        cloned = any(key in plan.cloned() for key in keys)
        return f"sign with {names}", (
            "the safe, and the active machine only"
            if cloned
            else "the device's machine, at all times"
        )
    if CAPABILITY.GET_LOG_ENTRIES in spec.capabilities:
        stored = device.role == DeviceRole.BACKUP
        where = "the auditor" if stored else "the device's machine, at all times"
        return "read the device's log, and clear it", where
    return "do what the plan says of it", "whoever needs it"


def _objects(plan: Plan) -> Iterator[Block]:
    yield Heading("What the devices hold in the end")
    yield "The machine compares this with each device, object by object, before it locks it."
    yield Items(tuple(_object(plan, spec) for spec in plan.objects.values()))


def _object(plan: Plan, spec: ObjectSpec) -> str:
    said = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in spec.to_json().items()
    }
    domains = "all domains" if spec.domains == ALL_DOMAINS else f"domain {said['domains']}"
    where = ", ".join(device.name for device in plan.devices if spec.name in device.objects)
    return (
        f'{spec.name}: {said["type"]} {spec.id}, "{spec.label}", {said["algorithm"]}, {domains}; '
        f"may: {said['capabilities']}; delegates: {said['delegated']}; on {where}."
    )


# --- commands -----------------------------------------------------------------------------------

_RECORD = "/media/record"


def _mounts(plan: Plan) -> tuple[str, ...]:
    """Of the backup media, and last of the medium for credentials."""
    return (*(f"/media/{n}" for n in range(1, plan.backup.media + 1)), "/media/credentials")


def _rehearses(plan: Plan) -> bool:
    return all(is_rehearsal(device.serial, None) for device in plan.devices)


@dataclass(frozen=True)
class _Commands:
    """The commands of one plan, as they are typed. Rehearsal devices come with their media."""

    of: Plan
    path: Path

    @property
    def out(self) -> str:
        return "rehearsal" if _rehearses(self.of) else f"{_RECORD}/ceremony"

    @property
    def plan(self) -> str:
        return self._command("plan", self._plan)

    @property
    def begin(self) -> str:
        if _rehearses(self.of):
            return self._command("rehearse", "--attended", *self._there)
        return self._command("run", *self._there)

    @property
    def resume(self) -> str:
        attended = ("--attended",) if _rehearses(self.of) else ()
        return self._command("resume", *attended, *self._there)

    @property
    def check(self) -> str:
        return self._command("resume", "--check", *self._there)

    @property
    def verify(self) -> str:
        return self._command("verify", *self._record)

    @property
    def report(self) -> str:
        return self._command("report", *self._record)

    @property
    def _plan(self) -> str:
        return f"--plan {shlex.quote(str(self.path))}"

    @property
    def _there(self) -> tuple[str, ...]:
        *media, credentials = _mounts(self.of)
        named = (self._plan, f"--out {self.out}")
        if _rehearses(self.of):
            return named
        return (*named, *(f"--media {place}" for place in media), f"--credentials {credentials}")

    @property
    def _record(self) -> tuple[str, ...]:
        rehearsal = _rehearses(self.of)
        signers = f"{self.out}/{ALLOWED_SIGNERS}" if rehearsal else f"{_RECORD}/signers"
        return (
            f"{self.out}/{TRANSCRIPT}",
            f"--allowed-signers {signers}",
            self._plan,
            *(("--rehearsal",) if rehearsal else ()),
        )

    def _command(self, verb: str, *arguments: str) -> str:
        """On as many lines as fit a page."""
        lines = [f"sigsum-ops ceremony {verb}"]
        for argument in arguments:
            if len(lines[-1]) + len(argument) > 80:
                lines[-1] += " \\"
                lines.append(f"  {argument}")
            else:
                lines[-1] += f" {argument}"
        return "\n".join(lines)


# --- words --------------------------------------------------------------------------------------


def _either(plan: Plan, role: Role) -> str:
    return " or ".join(person.name for person in plan.participants if person.role == role)


def _firmware(device: DevicePlan) -> str:
    return f"{'.'.join(map(str, device.firmware))} or later" if device.firmware else "any"


def _fingerprint(public_key: str | None) -> str:
    """As ssh-keygen shows it."""
    if public_key is None:
        return "none in the plan"
    digest = hashlib.sha256(signatures.wire(public_key)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Items(lines):
            return "\n".join(_wrapped(line, "- ") for line in lines)
        case Code(code):
            return f"```\n{code}\n```"
        case Table(title, columns, rows):
            cells: tuple[tuple[str, ...], ...] = (columns, ("---",) * len(columns), *rows)
            table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
            return f"### {title}\n\n{table}"
        case text:
            return _wrapped(text, "")


def _wrapped(text: str, first: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
