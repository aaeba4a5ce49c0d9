"""What a transcript's lines amount to: the ceremony played again, without any device.

``Replay`` takes the records one after the other and keeps what must then be on each device. A
record that cannot follow from those before it raises ``RecordError``: a command in a session that
was never opened, an irreversible one that nobody confirmed, a read-back that shows other objects
than the commands made, a test signature that does not verify. ``verify.py`` judges with it.

An interrupt can fall between a command and its line. So after one, a device that was in use is
*uncertain*: nothing may change it until a read-back in a session that sees all domains has shown
what is there, and that may differ from the record by the one command that was under way (and by
those whose reply never came). Such a difference is accepted, and noted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from yubihsm.defs import CAPABILITY, OBJECT

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import devicelog, names, plan
from sigsum_ops.hsm.ceremony import canonical, records
from sigsum_ops.hsm.ceremony.logmatch import Recorded
from sigsum_ops.hsm.ceremony.records import (
    Attestation,
    AuditLog,
    Closed,
    Command,
    Confirmed,
    Create,
    DefaultKeyRefused,
    Interrupted,
    Left,
    Mode,
    NewObject,
    ObjectRef,
    Opened,
    Participant,
    PublicKey,
    ReadBack,
    Record,
    Resumed,
    Role,
    SecretBackedUp,
    Step,
    TestSignature,
)
from sigsum_ops.hsm.ceremony.state import (
    ALL_DOMAINS,
    ASYMMETRIC_KEY,
    AUTHENTICATION_KEY,
    DEFAULT_KEY,
    WRAP_KEY,
    DeviceState,
    Exported,
    Held,
    RecordError,
)
from sigsum_ops.hsm.identity import REHEARSAL_SUBJECT, is_rehearsal
from sigsum_ops.hsm.plan import DEFAULT_KEY_ID, DevicePlan, ObjectSpec, Plan

_CREATES = frozenset(name for name, (given, _) in records.COMMANDS.items() if given is Create)
_CHANGES = _CREATES | {"import-wrapped", "delete-object", "change-authentication-key"}
# Commands that leave a trace, on the device or in the world: only ever within a step.
_ACTS = _CHANGES | {"reset-device", "set-option", "sign-eddsa", "export-wrapped"}
# What a key may be allowed that changes nothing on its device.
_HARMLESS = CAPABILITY.SIGN_EDDSA | CAPABILITY.GET_LOG_ENTRIES
# Commands that need no session.
_OPEN = {"echo", "device-info", "get-device-public-key", "create-session", "blink-device"}


@dataclass
class _OpenStep:
    confirmed: set[Role] = field(default_factory=set)


class Replay:
    """The state of a ceremony after the records so far. ``notes`` are for an auditor to weigh."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.closed: Closed | None = None
        self.secrets: list[SecretBackedUp] = []
        self.signatures = 0
        self._n = 0
        self._opened: Opened | None = None
        self._plan: Plan | None = None
        self._devices: dict[int, DeviceState] = {}
        self._open: dict[tuple[str, int | None], _OpenStep] = {}
        self._undone: set[tuple[str, int | None]] = set()
        self._touched: set[int] = set()
        self._blobs: dict[str, Exported] = {}
        self._imported: set[Exported] = set()
        self._signed: set[TestSignature] = set()
        self._stopped = False

    # --- what it knows ----------------------------------------------------------------------

    @property
    def opened(self) -> Opened:
        if self._opened is None:
            raise RecordError("the first line is not the opening record")
        return self._opened

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            raise RecordError("the first line is not the opening record")
        return self._plan

    @property
    def devices(self) -> Mapping[int, DeviceState]:
        """By serial number, each device of the plan."""
        return self._devices

    @property
    def open_steps(self) -> tuple[tuple[str, int | None], ...]:
        """Steps that were started and are not done, also those that an interrupt cut off."""
        return (*self._open, *self._undone)

    def left(self) -> tuple[Left, ...]:
        """What is on devices now, as far as it is known, and must not stay there."""
        found = []
        for serial, state in self._devices.items():
            planned = _planned(self.plan, state.plan)
            found += [Left(serial, ref) for ref in state.objects or () if ref not in planned]
        return tuple(found)

    def backed_up(self, state: DeviceState, ref: ObjectRef) -> str | None:
        """Why the secret of an authentication or wrap key is not safely on media yet, or None.

        Secrets that can change devices or copy keys must be there in the plan's form; one that
        merely uses a single device must have been written to a medium and read back.
        """
        held = cast(dict[ObjectRef, Held], state.objects)[ref]
        spec = _spec(self.plan, ref)
        found = [
            secret
            for secret in self.secrets
            if secret.secret == spec.name and held.commitment in (None, secret.commitment)
        ]
        shared = [secret for secret in found if secret.serial is None]
        own = [secret for secret in found if secret.serial == state.plan.serial]
        if not spec.capabilities & ~_HARMLESS and own:
            return None
        if not shared:
            return f"the secret of {spec.name} was not written to a medium and read back"
        backup = self.plan.backup
        media = {secret.medium for secret in shared}
        if len(media) < backup.media:
            return f"the secret of {spec.name} is not yet on {backup.media} media"
        if backup.form == "hex":
            return None
        if {secret.share for secret in shared} != set(range(1, backup.shares + 1)):
            return f"not all {backup.shares} shares of {spec.name} were read back"
        if len({(secret.medium, secret.share) for secret in shared}) > len(media):
            return f"two shares of {spec.name} are on one medium"
        return None

    # --- records ----------------------------------------------------------------------------

    def apply(self, n: int, record: Record) -> None:
        """Take in the record of line ``n``.

        Raises:
            RecordError: it cannot be what happened next.
        """
        self._n = n
        if self.closed:
            raise RecordError("comes after the closing record")
        if not isinstance(record, Opened):
            _ = self.opened
        if self._stopped and not isinstance(record, Resumed):
            raise RecordError("comes after an interrupt, before the ceremony was resumed")
        match record:
            case Opened():
                self._apply_opened(record)
            case records.Device():
                self._apply_device(record)
            case Step():
                self._apply_step(record)
            case Confirmed():
                self._apply_confirmed(record)
            case Command():
                self._apply_command(record)
            case AuditLog():
                self._apply_audit_log(record)
            case ReadBack():
                self._apply_read_back(record)
            case PublicKey():
                self._apply_public_key(record)
            case Attestation():
                self._apply_attestation(record)
            case TestSignature():
                self._apply_test_signature(record)
            case DefaultKeyRefused():
                self._apply_default_key_refused(record)
            case SecretBackedUp():
                self._apply_secret(record)
            case Interrupted():
                self._apply_interrupted(record)
            case Resumed():
                self._apply_resumed(record)
            case Closed():
                self._apply_closed(record)

    def _apply_opened(self, record: Opened) -> None:
        if self._opened:
            raise RecordError("a second opening record")
        text = canonical.dumps(record.plan).decode()
        try:
            self._plan = plan.loads(text, "the plan in the transcript")
        except UsageError as error:
            raise RecordError(f"the plan is not valid: {error}") from error
        if self._plan.hash() != record.plan_hash:
            raise RecordError(f"plan_hash is not the plan's, which is {self._plan.hash()}")
        self._opened = record
        self._devices = {device.serial: DeviceState(device) for device in self._plan.devices}

    def _apply_device(self, record: records.Device) -> None:
        state = self._state(record.serial)
        if record.name != state.plan.name:
            raise RecordError(f"the plan calls device {record.serial} {state.plan.name}")
        wanted = state.plan.firmware
        if wanted and record.firmware < wanted:
            least = ".".join(map(str, wanted))
            raise RecordError(f"{record.name} has a firmware older than the plan's {least}")
        mode = self.opened.mode
        if is_rehearsal(record.serial, record.part_number) != (mode == Mode.REHEARSAL):
            kind = "not a rehearsal device" if mode == Mode.REHEARSAL else "a rehearsal device"
            raise RecordError(f"{record.name} is {kind}, in a {mode}")
        before = state.identity
        if before and (before.firmware, before.part_number) != (
            record.firmware,
            record.part_number,
        ):
            raise RecordError(f"{record.name} had another firmware or part number before")
        state.identity = record
        state.connected = True
        state.sessions.clear()

    def _apply_step(self, record: Step) -> None:
        key = (record.step, record.serial)
        if record.serial is not None:
            self._state(record.serial)
        if record.state == "started":
            if key in self._open:
                raise RecordError(f"step {record.step} is already under way")
            self._open[key] = _OpenStep()
            return
        if key not in self._open:
            raise RecordError(f"step {record.step} was not started")
        del self._open[key]
        self._undone.discard(key)
        if not self._open:
            self._touched.clear()

    def _apply_confirmed(self, record: Confirmed) -> None:
        step = self._open.get((record.step, record.serial))
        if step is None:
            raise RecordError(f"confirms step {record.step}, which is not under way")
        if (record.participant, record.role) not in _people(self.plan):
            raise RecordError(f"{record.participant} is no {record.role} of the plan")
        step.confirmed.add(record.role)

    def _apply_audit_log(self, record: AuditLog) -> None:
        state = self._connected(record.serial)
        if state.log_read_with != record.session_key:
            raise RecordError(f"no session with key {record.session_key} read the log before")
        entries = devicelog.parse(bytes.fromhex(entry) for entry in record.entries)
        last = state.entries[-1][1] if state.entries else None
        try:
            more = devicelog.continued(last, entries)
        except devicelog.BrokenLogError as error:
            raise RecordError(f"the log of {state.plan.name}: {error}") from error
        if any(entry.is_reset for entry in more.new[1 if last is None else 0 :]):
            raise RecordError(f"{state.plan.name} was reset outside of this record")
        if more.gap:
            if state.plan.command_audit:
                raise RecordError(f"the log of {state.plan.name} lacks {more.gap}")
            self.notes.append(f"unknown: in the log of {state.plan.name}, {more.gap}")
        if record.unlogged_boots or record.unlogged_authentications:
            self.notes.append(
                f"{state.plan.name} counts {record.unlogged_boots} boots and "
                f"{record.unlogged_authentications} authentications that its log does not hold"
            )
        if record.consumed_to is not None and record.consumed_to != (
            entries[-1].number if entries else None
        ):
            raise RecordError("consumes the log to another entry than the last one fetched")
        state.entries += [(self._n, entry) for entry in more.new]
        state.fetched = state.log_read

    def _apply_read_back(self, record: ReadBack) -> None:
        state = self._connected(record.serial)
        state.check_answers(record)
        looked_with = self._held(state, ObjectRef(AUTHENTICATION_KEY, record.session_key))
        if looked_with.domains != record.session_domains:
            raise RecordError(f"key {record.session_key} is in other domains than the session")
        objects = cast(dict[ObjectRef, Held], state.objects)
        for item in record.objects:
            if item.domains != objects[item.ref].domains:
                raise RecordError(f"{item.type} {item.id} is in domains {item.domains}")
        if record.session_domains == ALL_DOMAINS:
            state.read_back = record
            state.changed_since.clear()

    def _see(self, state: DeviceState, key: int, shown: set[ObjectRef]) -> None:
        """A session listed what it sees: that is what the commands made, or an interrupt did."""
        if state.objects is None:
            return
        domains = self._held(state, ObjectRef(AUTHENTICATION_KEY, key)).domains
        if state.uncertain and domains == ALL_DOMAINS:
            self._adopt(state, shown)
        visible = {ref for ref, held in state.objects.items() if set(held.domains) & set(domains)}
        if visible != shown:
            raise RecordError(
                f"{state.plan.name} shows other objects than the commands made: "
                + ", ".join(sorted(f"{ref.type} {ref.id}" for ref in visible ^ shown))
            )

    def _adopt(self, state: DeviceState, shown: set[ObjectRef]) -> None:
        """After an interrupt: take what the device shows, if the interrupt explains it."""
        objects = cast(dict[ObjectRef, Held], state.objects)
        if shown == {DEFAULT_KEY} != objects.keys():
            state.factory_fresh()
            state.sessions.add(DEFAULT_KEY_ID)
            self.notes.append(f"{state.plan.name} was reset when the ceremony was interrupted")
            return
        different = objects.keys() ^ shown
        if len(different) > state.uncertain:
            listed = ", ".join(sorted(f"{ref.type} {ref.id}" for ref in different))
            raise RecordError(f"no interrupt explains what changed on {state.plan.name}: {listed}")
        for ref in different:
            if ref in objects:
                del objects[ref]
                self.notes.append(
                    f"that {ref.type} {ref.id} is gone from {state.plan.name} was seen after an "
                    "interrupt; the reply to the command that removed it is not on record"
                )
            else:
                self._adopt_new(state, ref)
        state.uncertain = 0

    def _adopt_new(self, state: DeviceState, ref: ObjectRef) -> None:
        """An object whose own command an interrupt kept from being known to have worked."""
        objects = cast(dict[ObjectRef, Held], state.objects)
        commitment = next(
            (
                command.parameters.commitment
                for command in state.changed_since
                if command.command in _CREATES
                and command.error == records.NO_REPLY
                and ObjectRef(command.parameters.object.type, command.parameters.object.id) == ref
            ),
            None,
        )
        domains = names.domain_numbers(_spec(self.plan, ref).domains)
        objects[ref] = Held(domains, commitment)
        state.uncertain -= 1
        self.notes.append(
            f"that {ref.type} {ref.id} is on {state.plan.name} was seen after an interrupt; the "
            "reply to the command that put it there is not on record"
        )

    def _apply_public_key(self, record: PublicKey) -> None:
        state = self._connected(record.serial)
        ref = ObjectRef(ASYMMETRIC_KEY, record.id)
        held = self._held(state, ref)
        if _spec(self.plan, ref).name != record.object or record.algorithm != "ed25519":
            raise RecordError(f"key {record.id} is not the plan's {record.object}")
        if state.public_keys.get(record.id) != record.key:
            raise RecordError(f"{state.plan.name} did not give this public key when asked")
        self._is_key(state, ref, held, record.key)

    def _is_key(self, state: DeviceState, ref: ObjectRef, held: Held, key: str) -> None:
        if held.key not in (None, key):
            raise RecordError(f"key {ref.id} on {state.plan.name} had another public key before")
        cast(dict[ObjectRef, Held], state.objects)[ref] = dataclasses.replace(held, key=key)

    def _apply_attestation(self, record: Attestation) -> None:
        state = self._connected(record.serial)
        held = self._held(state, ObjectRef(ASYMMETRIC_KEY, record.id))
        tried = (record.id, record.attesting)
        if tried not in state.attest_tried or state.attest_tried[tried] != record.error:
            raise RecordError("no command to attest this key was answered so")
        if record.pem is None:
            state.attested[record.id] = f"refused ({record.error})"
            return
        try:
            certificate = x509.load_pem_x509_certificate(record.pem.encode())
            names_in_it = f"{certificate.subject.rfc4514_string()} {certificate.issuer}"
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            # Not ours to refuse: nobody promises in which form devices attest Ed25519 keys.
            state.attested[record.id] = f"answered with what is not read here ({error})"
            return
        if not isinstance(key, Ed25519PublicKey) or held.key != _hex(key):
            raise RecordError("the attestation is of another key than the device's public key")
        rehearsed = REHEARSAL_SUBJECT in names_in_it
        if rehearsed != (self.opened.mode == Mode.REHEARSAL):
            raise RecordError(f"the attestation of a {'rehearsal' if rehearsed else 'real'} device")
        state.attested[record.id] = "attested"

    def _apply_test_signature(self, record: TestSignature) -> None:
        state = self._connected(record.serial)
        ref = ObjectRef(ASYMMETRIC_KEY, record.id)
        held = self._held(state, ref)
        self._is_test_message(record.serial, record.id, record.message)
        if record not in self._signed:
            raise RecordError("no sign-eddsa command returned this signature")
        if held.key is None:
            raise RecordError(f"the public key of key {record.id} is not on record before this")
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(held.key)).verify(
                bytes.fromhex(record.signature), bytes.fromhex(record.message)
            )
        except (InvalidSignature, ValueError):
            raise RecordError(f"the signature does not verify with key {record.id}") from None
        cast(dict[ObjectRef, Held], state.objects)[ref] = dataclasses.replace(held, tested=True)
        self.signatures += 1

    def _apply_default_key_refused(self, record: DefaultKeyRefused) -> None:
        state = self._connected(record.serial)
        if state.objects is None or DEFAULT_KEY in state.objects:
            raise RecordError(f"the default key of {state.plan.name} was not deleted")
        if state.default_tried != record.error:
            raise RecordError("no session with the default key was tried since, and refused so")
        state.default_refused = True

    def _apply_secret(self, record: SecretBackedUp) -> None:
        spec = self.plan.objects.get(record.secret)
        if spec is None or spec.type == OBJECT.ASYMMETRIC_KEY:
            raise RecordError(f"{record.secret} is no authentication or wrap key of the plan")
        if record.serial is not None:
            self._state(record.serial)
        elif record.form != self.plan.backup.form:
            raise RecordError(f"the plan wants backups as {self.plan.backup.form}")
        if (record.share != 0) != (record.form == "shares"):
            raise RecordError("the share's number does not go with the form")
        self.secrets.append(record)

    def _apply_interrupted(self, record: Interrupted) -> None:
        if hidden := [item for item in self.left() if item not in record.left]:
            first = hidden[0]
            raise RecordError(
                f"does not say that {first.object.type} {first.object.id} is left on "
                f"{self._devices[first.serial].plan.name}"
            )
        self._stopped = True

    def _apply_resumed(self, record: Resumed) -> None:
        self._stopped = False
        in_use = self._touched | {serial for _, serial in self._open}
        for serial, state in self._devices.items():
            state.connected = False
            state.sessions.clear()
            if serial in in_use and self._changeable(state):
                state.uncertain += 1
                state.recorded.append(Recorded(self._n, None))
        self._undone |= set(self._open)
        self._open.clear()
        self._touched.clear()
        self.notes.append(f"line {self._n}: interrupted and resumed ({record.reason})")

    def _apply_closed(self, record: Closed) -> None:
        opened = self.opened
        if (record.ceremony, record.plan_hash, record.mode) != (
            opened.ceremony,
            opened.plan_hash,
            opened.mode,
        ):
            raise RecordError("ceremony, plan hash or mode are not those of the opening record")
        if record.lines != self._n:
            raise RecordError(f"counts {record.lines} lines; there are {self._n}")
        people = tuple(Participant(person.name, person.role) for person in self.plan.participants)
        if record.participants != people:
            raise RecordError("the participants are not those of the plan")
        if unfinished := self.open_steps:
            raise RecordError(f"step {unfinished[0][0]} was started, and is not done")
        for blob in self._blobs.values():
            if blob not in self._imported:
                name = self._devices[blob.serial].plan.name
                self.notes.append(
                    f"line {blob.n}: {blob.object.type} {blob.object.id} was exported from {name}, "
                    "and imported nowhere"
                )
        self.closed = record

    # --- commands ---------------------------------------------------------------------------

    def _apply_command(self, record: Command) -> None:
        name = record.command
        if name in _ACTS:
            if not self._open:
                raise RecordError(f"{name} outside of any step")
            self._touched.add(record.serial)
        if record.session_key is None:
            state = self._connected(record.serial)
            if name not in _OPEN:
                raise RecordError(f"{name} outside of a session")
        else:
            state = self._in_session(record.serial, record.session_key)
        if records.irreversible(name, record.parameters):
            self._must_be_confirmed(record)
        if name in _CHANGES and state.uncertain:
            raise RecordError(
                f"{name} on {state.plan.name} before it was read back after an interrupt"
            )
        state.recorded.append(Recorded(self._n, record))
        if record.error is None:
            self._carry_out(state, record)
        elif record.error == records.NO_REPLY:
            if name in _CHANGES or name == "reset-device":
                state.uncertain += 1
                state.changed_since.append(record)
        elif name == "create-session":
            self._session_refused(state, record)
        elif name == "sign-attestation-certificate":
            given = record.parameters
            state.attest_tried[given.id, given.attesting] = record.error

    def _must_be_confirmed(self, record: Command) -> None:
        for (step, serial), state in self._open.items():
            if serial == record.serial and state.confirmed == set(Role):
                return
            if serial == record.serial and state.confirmed:
                missing = next(role for role in Role if role not in state.confirmed)
                raise RecordError(f"{record.command}, but no {missing} confirmed step {step}")
        raise RecordError(f"{record.command}, which nobody confirmed")

    def _session_refused(self, state: DeviceState, record: Command) -> None:
        ref = ObjectRef(AUTHENTICATION_KEY, record.parameters.id)
        if state.objects is None:
            return
        if ref not in state.objects or record.error != "object-not-found":
            if ref == DEFAULT_KEY and ref not in state.objects:
                state.default_tried = record.error
            return
        if not state.uncertain:
            raise RecordError(f"{state.plan.name} has no key {ref.id}, which was not deleted")
        del state.objects[ref]
        state.uncertain = 0  # its deletion was the command under way
        if ref == DEFAULT_KEY:
            state.default_tried = record.error
        self.notes.append(
            f"that key {ref.id} is gone from {state.plan.name} rests on its refusal after an "
            "interrupt: the command's own line is missing"
        )

    def _carry_out(self, state: DeviceState, record: Command) -> None:
        """A command that changes something, or says something that can be checked."""
        name, given, reply = record.command, record.parameters, record.reply
        if name == "create-session":
            ref = ObjectRef(AUTHENTICATION_KEY, given.id)
            if state.objects is not None and ref not in state.objects:
                if not state.uncertain:
                    raise RecordError(f"{state.plan.name} has no key {given.id} to open it with")
                self._adopt_new(state, ref)
            state.sessions.add(given.id)
        elif name == "close-session":
            state.sessions.discard(cast(int, record.session_key))
        elif name == "reset-device":
            state.factory_fresh()
        elif name == "sign-eddsa":
            self._held(state, ObjectRef(ASYMMETRIC_KEY, given.id))
            self._is_test_message(record.serial, given.id, given.message)
            key = cast(int, record.session_key)
            self._signed.add(
                TestSignature(record.serial, key, given.id, given.message, reply.signature)
            )
        elif name == "get-public-key":
            ref = ObjectRef(ASYMMETRIC_KEY, given.id)
            if reply.algorithm != "ed25519":
                raise RecordError(f"key {given.id} is not an Ed25519 key")
            self._is_key(state, ref, self._held(state, ref), reply.key)
            state.public_keys[given.id] = reply.key
        elif name == "list-objects":
            key = cast(int, record.session_key)
            self._see(state, key, set(reply.objects))
            state.listed, state.listed_with = set(reply.objects), key
        elif name == "get-object-info":
            state.described[given] = reply
            if given == DEFAULT_KEY:
                state.everything = names.flags(names.CAPABILITIES, reply.capabilities)
        elif name == "get-log-entries":
            state.log_read = len(state.recorded)
            state.log_read_with = record.session_key
        elif name == "set-log-index":
            if given.number not in {entry.number for _, entry in state.entries}:
                raise RecordError(f"{state.plan.name} forgets log entries that are not on record")
        elif name == "sign-attestation-certificate":
            state.attest_tried[given.id, given.attesting] = None
        elif name == "get-option":
            if reply.option != given.option:
                raise RecordError(f"asks for {given.option}, and is told {reply.option}")
            state.options[given.option] = reply.value
        elif name == "export-wrapped":
            self._export(state, record)
        elif name in _CHANGES:
            self._change(state, record)
            state.changed_since.append(record)
            state.forget_answers()
        elif name == "set-option":
            state.check_option(given)
            state.changed_since.append(record)
            state.forget_answers()

    def _change(self, state: DeviceState, record: Command) -> None:
        if state.objects is None:
            raise RecordError(f"{state.plan.name} is used before it was reset")
        name, given, reply = record.command, record.parameters, record.reply
        if name in _CREATES:
            ref = ObjectRef(given.object.type, given.object.id)
            if reply.id != ref.id:
                raise RecordError(f"the device made object {reply.id}, not {ref.id}")
            self._check_new(state, given.object)
            if (given.commitment is None) != name.startswith("generate"):
                raise RecordError("a secret that is put has a commitment, a generated one none")
            self._add(state, ref, Held(given.object.domains, given.commitment))
        elif name == "import-wrapped":
            self._import(state, record)
        elif name == "change-authentication-key":
            ref = ObjectRef(AUTHENTICATION_KEY, given.id)
            held = self._held(state, ref)
            state.objects[ref] = dataclasses.replace(held, commitment=given.commitment)
        else:  # delete-object
            self._held(state, given)
            del state.objects[given]
            if given.type == AUTHENTICATION_KEY:
                self._check_not_locked_out(state)

    def _check_not_locked_out(self, state: DeviceState) -> None:
        for ref in state.objects or ():
            if ref.type in (AUTHENTICATION_KEY, WRAP_KEY) and ref != DEFAULT_KEY:
                reason = self.backed_up(state, ref)
                if reason:
                    raise RecordError(f"an authentication key is deleted, but {reason}")

    def _check_new(self, state: DeviceState, new: NewObject) -> None:
        """It is an object of the plan; one that must go again may be in fewer domains."""
        ref = ObjectRef(new.type, new.id)
        spec = _spec(self.plan, ref)
        wanted = spec.new_object()
        if ref not in _planned(self.plan, state.plan) and set(new.domains) < set(wanted.domains):
            wanted = dataclasses.replace(wanted, domains=new.domains)
        if new != wanted:
            raise RecordError(f"{spec.name} is put on {state.plan.name} otherwise than planned")

    def _add(self, state: DeviceState, ref: ObjectRef, held: Held) -> None:
        objects = cast(dict[ObjectRef, Held], state.objects)
        if ref in objects:
            raise RecordError(f"{ref.type} {ref.id} is on {state.plan.name} already")
        objects[ref] = held
        if ref.type == ASYMMETRIC_KEY:
            state.public_keys.pop(ref.id, None)
            state.attested.pop(ref.id, None)

    def _export(self, state: DeviceState, record: Command) -> None:
        given = record.parameters
        wrap_ref = ObjectRef(WRAP_KEY, given.wrap_key)
        wrap = self._held(state, wrap_ref)
        reason = self.backed_up(state, wrap_ref)
        if reason:
            raise RecordError(f"exports under a wrap key, but {reason}")
        self._blobs[record.reply.blob_sha256] = Exported(
            self._n, record.serial, given.object, wrap, self._held(state, given.object)
        )

    def _import(self, state: DeviceState, record: Command) -> None:
        given, reply = record.parameters, record.reply
        blob = self._blobs.get(given.blob_sha256)
        if blob is None:
            raise RecordError("imports a blob that no device of this record exported")
        if blob.serial == record.serial:
            raise RecordError(f"imports into {state.plan.name} what it exported itself")
        wrap = self._held(state, ObjectRef(WRAP_KEY, given.wrap_key))
        if None not in (wrap.commitment, blob.wrap.commitment) and (
            wrap.commitment != blob.wrap.commitment
        ):
            raise RecordError("imports under another wrap key than the blob was exported under")
        if reply != blob.object:
            raise RecordError("the device imported another object than the blob holds")
        self._add(state, reply, dataclasses.replace(blob.held, tested=False))
        self._imported.add(blob)

    def _changeable(self, state: DeviceState) -> bool:
        """Whether a key on the device could have changed it: once locked, nobody can."""
        for ref in state.objects or (DEFAULT_KEY,):
            if ref.type == AUTHENTICATION_KEY and (
                ref == DEFAULT_KEY or _spec(self.plan, ref).capabilities & ~_HARMLESS
            ):
                return True
        return False

    # --- helpers ----------------------------------------------------------------------------

    def _state(self, serial: int) -> DeviceState:
        try:
            return self._devices[serial]
        except KeyError:
            raise RecordError(f"device {serial} is not in the plan") from None

    def _connected(self, serial: int) -> DeviceState:
        state = self._state(serial)
        if not state.connected:
            raise RecordError(f"{state.plan.name} did not say who it is before this")
        return state

    def _in_session(self, serial: int, key: int) -> DeviceState:
        state = self._connected(serial)
        if key not in state.sessions:
            raise RecordError(f"no session with key {key} is open on {state.plan.name}")
        return state

    def _held(self, state: DeviceState, ref: ObjectRef) -> Held:
        if state.objects is None:
            raise RecordError(f"{state.plan.name} is used before it was reset")
        if ref not in state.objects:
            raise RecordError(f"{ref.type} {ref.id} is not on {state.plan.name}")
        return state.objects[ref]

    def _is_test_message(self, serial: int, number: int, message: str) -> None:
        if message != records.test_message(self.opened.ceremony, serial, number).hex():
            raise RecordError("the message signed is not this ceremony's test message")


def _spec(site: Plan, ref: ObjectRef) -> ObjectSpec:
    spec = site.spec_of(ref)
    if spec is None:
        raise RecordError(f"{ref.type} {ref.id} is not in the plan")
    return spec


def _planned(site: Plan, device: DevicePlan) -> set[ObjectRef]:
    return {spec.ref for spec in site.specs(device)}


def _people(site: Plan) -> Iterator[tuple[str, Role]]:
    return ((person.name, person.role) for person in site.participants)


def _hex(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
