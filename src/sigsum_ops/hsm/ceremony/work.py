"""What each step does with its device, and how the device itself proves that it is done.

Every change is followed by a question to the device, and nothing is taken as done that the device
does not show. Sessions are short: one for each question or change, none while people are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from yubihsm.defs import AUDIT, CAPABILITY, ERROR, OPTION

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm import devicelog, names
from sigsum_ops.hsm.ceremony import recording, records, steps
from sigsum_ops.hsm.ceremony.bench import Bench
from sigsum_ops.hsm.ceremony.presentation import People
from sigsum_ops.hsm.ceremony.replay import Replay
from sigsum_ops.hsm.ceremony.state import DeviceState
from sigsum_ops.hsm.ceremony.steps import (
    DEFAULT_KEY,
    Action,
    Change,
    Kind,
    Ref,
    Step,
)
from sigsum_ops.hsm.ceremony.vault import Vault
from sigsum_ops.hsm.device import (
    DEFAULT_PASSWORD,
    Device,
    Refused,
    Session,
    WrongSecret,
    command_audit,
    command_audit_value,
)
from sigsum_ops.hsm.plan import DEFAULT_KEY_ID, DevicePlan, ObjectSpec, Plan, differences

Record = Callable[[records.Record], None]


class NotProven(OpsError):  # noqa: N818 - an answer
    """The device does not show what it should after what was done."""


class Work:
    """Carries out steps. ``replay`` is what the record so far amounts to."""

    def __init__(
        self,
        plan: Plan,
        bench: Bench,
        vault: Vault,
        people: People,
        record: Record,
        replay: Replay,
    ) -> None:
        self._plan = plan
        self._bench = bench
        self._vault = vault
        self._people = people
        self._record = record
        self._replay = replay
        self._manager = steps.manager(plan)
        self._blobs: dict[str, bytes] = {}  # wrapped keys, in memory only
        self._public_keys: dict[str, bytes] = {}  # of cloned keys, from their source

    # --- steps ----------------------------------------------------------------------------------

    def perform(self, step: Step, changes: tuple[Change, ...]) -> None:
        """Do what is left of a step: ``changes`` are those that the device does not show yet."""
        planned = step.device
        if planned is None:
            raise ValueError(f"{step.id} concerns no device")
        if step.kind == Kind.RESET:
            self._reset(planned)
        elif step.kind == Kind.SECRETS:
            self._make_secrets(planned)
        elif step.kind == Kind.FINISH:
            self._finish(planned, changes)
        else:
            self._fetch_blobs(planned, changes)
            for change in changes:
                self._apply(planned, change)
            self._prove(step, planned)

    def look(self, planned: DevicePlan) -> frozenset[Ref]:
        """What the device holds, as far as anyone can still see it, asked of the device.

        Raises:
            OpsError: it opens to none of the keys that this ceremony has put on it.
        """
        device = self._bench.device(planned)
        openers = [self._managing, self._with_default]
        # What is on record is tried first; a refusal shows what an interrupt kept out of it.
        if recording.reference(*DEFAULT_KEY) in (self._state(planned).objects or ()):
            openers.reverse()
        for opener in openers:
            if opener == self._managing and not self._vault.has(self._manager, planned):
                continue
            try:
                with opener(device, planned) as session:
                    found = self._read_back(planned, session)
                    return frozenset((names.TYPES[item.type], item.id) for item in found.objects)
            except Refused as refusal:
                if refusal.code != ERROR.OBJECT_NOT_FOUND:
                    raise
        return self._seen_with_access(device, planned)

    def remember_public_keys(self, planned: DevicePlan) -> None:
        """Ask a source that was provisioned earlier for the public keys of its clones."""
        sources = [
            spec
            for spec in steps.signing_keys(self._plan, planned)
            if spec in self._plan.cloned() and steps.source_of(self._plan, spec) == planned
        ]
        if sources:
            device = self._bench.device(planned)
            with self._managing(device, planned) as session:
                for spec in sources:
                    self._public_keys[spec.name] = session.public_key(spec.id)

    def forget_blobs(self) -> None:
        self._blobs.clear()

    # --- single steps ---------------------------------------------------------------------------

    def _reset(self, planned: DevicePlan) -> None:
        try:
            self._send_reset(planned)
        except (Refused, WrongSecret):
            self._bench.forget(planned)
            self._people.reset_by_touch(planned)
            self._send_reset(planned)
        device = self._bench.restarted(planned)
        with self._with_default(device, planned) as session:
            found = self._read_back(planned, session)
            sole = found.objects[0] if len(found.objects) == 1 else None
            if not (sole and sole.ref == recording.reference(*DEFAULT_KEY) and not sole.sequence):
                raise NotProven(
                    f"{planned.name} is not as from the factory",
                    hint="Reset it by hand: hold its rim for 10 seconds while plugging it in.",
                )
            storage = session.storage()
            self._drain(planned, session)
        self._people.happened(
            f"{planned.name} holds the default key and nothing else "
            f"({storage.free_records} places are free)"
        )

    def _send_reset(self, planned: DevicePlan) -> None:
        device = self._bench.device(planned)
        with self._with_default(device, planned) as session:
            session.reset()

    def _make_secrets(self, planned: DevicePlan) -> None:
        device = self._bench.device(planned)
        with self._with_default(device, planned) as session:
            for backed_up in self._vault.make_shared(session.random):
                self._record(backed_up)
                self._people.happened(f"{backed_up.medium} holds {backed_up.secret}, read back")

    def _fetch_blobs(self, planned: DevicePlan, changes: tuple[Change, ...]) -> None:
        """Export from their source what the device shall receive, before it is the one at hand."""
        for change in changes:
            if change.action == Action.CLONE and change.spec:
                source = steps.source_of(self._plan, change.spec)
                if source.serial == planned.serial:
                    raise OpsError(f"{planned.name} cannot be a clone of itself")
                if change.spec.name not in self._blobs:
                    self._export(source)

    def _export(self, source: DevicePlan) -> None:
        device = self._bench.device(source)
        with self._managing(device, source) as session:
            for spec in steps.signing_keys(self._plan, source):
                if spec in self._plan.cloned() and steps.source_of(self._plan, spec) == source:
                    wrap = steps.wrap_for(self._plan, spec)
                    self._blobs[spec.name] = session.export_wrapped(wrap.id, spec.type, spec.id)
                    self._public_keys[spec.name] = session.public_key(spec.id)

    def _apply(self, planned: DevicePlan, change: Change) -> None:
        """Make one change, and have the device show it."""
        device = self._bench.device(planned)
        spec = change.spec
        own = None
        if change.action == Action.PUT_ACCESS and spec:
            with self._managing(device, planned) as session:
                own = self._vault.make_own(spec, planned, session.random)
            self._record(own)
        with self._session(device, planned, change.before) as session:
            self._change(planned, session, change)
        with self._session(device, planned, change.after) as session:
            self._expect(planned, session, change.after)
            if spec and change.after > change.before:
                self._compare_one(planned, session, spec)
            # Where a device logs every command, its log would not hold those of a whole step.
            if device.identity.log_used * 2 > device.identity.log_size:
                self._drain(planned, session)
        if own and spec:
            with self._vault.passphrase(spec, planned) as passphrase:
                if not device.opens(spec.id, passphrase):
                    raise NotProven(f"{planned.name} does not open with {spec.name}")
        self._people.happened(f"{planned.name}: {_said(change)}")

    def _change(self, planned: DevicePlan, session: Session, change: Change) -> None:
        spec = change.spec
        match change.action, spec:
            case Action.SET_COMMAND_AUDIT, _:
                self._set_command_audit(planned, session)
            case Action.SET_FORCE_AUDIT, _:
                session.set_option(OPTION.FORCE_AUDIT, bytes([AUDIT.ON]))
            case Action.DELETE_DEFAULT, _:
                session.delete(*DEFAULT_KEY)
            case Action.PUT_MANAGER | Action.PUT_ACCESS, ObjectSpec():
                with self._vault.passphrase(spec, planned) as passphrase:
                    session.put_authentication_key(spec, passphrase)
            case Action.PUT_WRAP, ObjectSpec():
                session.put_wrap_key(spec, self._vault.key(spec, planned))
            case Action.GENERATE, ObjectSpec():
                session.generate(spec)
            case Action.CLONE, ObjectSpec():
                self._import(planned, session, spec)
            case Action.DELETE_WRAP | Action.DELETE_MANAGER, ObjectSpec():
                session.delete(spec.type, spec.id)

    def _import(self, planned: DevicePlan, session: Session, spec: ObjectSpec) -> None:
        wrap = steps.wrap_for(self._plan, spec)
        blob = self._blobs[spec.name]
        try:
            found = session.import_wrapped(wrap.id, blob)
        except Refused as refusal:
            del self._blobs[spec.name]
            raise NotProven(
                f"{planned.name} does not accept the wrapped {spec.name}: {refusal.code.name}",
                hint="The blob or the wrap key is damaged; nothing was imported. Resume: it is "
                "exported again.",
            ) from refusal
        if found != (spec.type, spec.id):
            raise NotProven(f"{planned.name} took another object than {spec.name}: {found}")

    def _set_command_audit(self, planned: DevicePlan, session: Session) -> None:
        """Only what differs: a device may refuse to set again what is fixed."""
        now = command_audit(session.option(OPTION.COMMAND_AUDIT))
        wanted = {
            command: audit
            for command, audit in planned.command_audit.items()
            if now.get(command) != audit
        }
        if wanted:
            session.set_option(OPTION.COMMAND_AUDIT, command_audit_value(wanted))

    def _prove(self, step: Step, planned: DevicePlan) -> None:
        """What the device has to show at the end of a step, however much of it was done now."""
        device = self._bench.device(planned)
        if step.kind == Kind.TAKE_OVER:
            self._prove_default_refused(device, planned)
        if step.kind == Kind.KEYS:
            self._prove_keys(device, planned)
        if step.kind == Kind.ACCESS:
            self._prove_access(device, planned)
        if step.kind == Kind.TEST:
            self._test(device, planned)
        with self._managing(device, planned) as session:
            self._drain(planned, session)

    def _prove_default_refused(self, device: Device, planned: DevicePlan) -> None:
        error: str | None = None
        try:
            with self._with_default(device, planned):
                pass
        except WrongSecret:
            error = names.name_of(names.ERRORS, ERROR.AUTHENTICATION_FAILED)
        except Refused as refusal:
            error = names.name_of(names.ERRORS, refusal.code)
        if error not in ("object-not-found", "authentication-failed"):
            raise NotProven(
                f"{planned.name} still lets everyone in with the factory's password",
                hint="Resume: the default authentication key is deleted again.",
            )
        # mypy does not see that `error` is one of the two words by now.
        self._record(records.DefaultKeyRefused(planned.serial, error))  # type: ignore[arg-type]
        self._people.happened(f"{planned.name} refuses the factory's password ({error})")

    def _prove_keys(self, device: Device, planned: DevicePlan) -> None:
        own = [
            spec
            for spec in steps.signing_keys(self._plan, planned)
            if spec in self._plan.cloned() and steps.source_of(self._plan, spec) == planned
        ]
        if own:
            self._export(planned)
        with self._managing(device, planned) as session:
            for spec in steps.signing_keys(self._plan, planned):
                key = session.public_key(spec.id)
                self._record(
                    records.PublicKey(planned.serial, spec.name, spec.id, "ed25519", key.hex())
                )
                if spec in self._plan.cloned() and key != self._public_keys[spec.name]:
                    raise NotProven(
                        f"{planned.name} shows another {spec.name} than "
                        f"{steps.source_of(self._plan, spec).name}: {key.hex()}",
                        hint="Do not use this device. Begin a new ceremony.",
                    )
                self._attest(planned, session, spec)
                self._people.happened(f"{planned.name}: {spec.name} is {key.hex()}")

    def _attest(self, planned: DevicePlan, session: Session, spec: ObjectSpec) -> None:
        """Keep what the device says, a certificate or an error; nothing depends on it."""
        pem: str | None = None
        error: str | None = None
        try:
            pem = session.attest(spec.id)
        except Refused as refusal:
            error = names.name_of(names.ERRORS, refusal.code)
        self._record(records.Attestation(planned.serial, spec.id, 0, pem, error))

    def _prove_access(self, device: Device, planned: DevicePlan) -> None:
        for spec in steps.access_keys(self._plan, planned):
            with self._vault.passphrase(spec, planned) as passphrase:
                if not device.opens(spec.id, passphrase):
                    raise NotProven(
                        f"{planned.name} does not open with the passphrase of {spec.name}",
                        hint="The medium for credentials is another one than before.",
                    )

    def _test(self, device: Device, planned: DevicePlan) -> None:
        """Sign with each key, as whoever will use it: with their passphrase, not the manager's."""
        for spec in steps.signing_keys(self._plan, planned):
            opener = self._opener(planned, spec)
            message = records.test_message(self._replay.opened.ceremony, planned.serial, spec.id)
            with (
                self._vault.passphrase(opener, planned) as passphrase,
                device.session(opener.id, passphrase) as session,
            ):
                signature = session.sign(spec.id, message)
                key = session.public_key(spec.id)
                if spec in self._plan.cloned() and key != self._public_keys[spec.name]:
                    raise NotProven(f"{planned.name} shows another {spec.name} than before")
                try:
                    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
                except InvalidSignature:
                    raise NotProven(
                        f"{planned.name} signs wrongly with {spec.name}",
                        hint="Do not use this device.",
                    ) from None
                self._record(
                    records.TestSignature(
                        planned.serial, opener.id, spec.id, message.hex(), signature.hex()
                    )
                )
            self._people.happened(f"{planned.name} signs with {spec.name}, as {opener.name}")

    def _opener(self, planned: DevicePlan, key: ObjectSpec) -> ObjectSpec:
        for spec in steps.access_keys(self._plan, planned):
            if CAPABILITY.SIGN_EDDSA in spec.capabilities and spec.domains & key.domains:
                return spec
        return self._manager

    def _finish(self, planned: DevicePlan, changes: tuple[Change, ...]) -> None:
        last = changes[-1] if changes and changes[-1].action == Action.DELETE_MANAGER else None
        for change in changes:
            if change is not last:
                self._apply(planned, change)
        device = self._bench.device(planned)
        locked = not steps.keeps_manager(self._plan, planned)
        if last or not locked:
            with self._managing(device, planned) as session:
                self._compare(planned, session)
                self._drain(planned, session)
                if last:
                    session.delete(self._manager.type, self._manager.id)
        else:
            self._check_compared(planned)
        self._prove_default_refused(device, planned)
        if locked:
            self._prove_locked(device, planned)

    def _prove_locked(self, device: Device, planned: DevicePlan) -> None:
        with self._vault.passphrase(self._manager, planned) as passphrase:
            if device.opens(self._manager.id, passphrase):
                raise NotProven(f"{planned.name} still opens with {self._manager.name}")
        seen = self._seen_with_access(device, planned)
        expected = self.visible(planned, self._final(planned))
        if seen != expected:
            raise NotProven(
                f"{planned.name} shows {_listed(seen)} to those who will use it, "
                f"not {_listed(expected)}",
                hint="Do not use this device.",
            )
        for spec in steps.access_keys(self._plan, planned):
            if CAPABILITY.GET_LOG_ENTRIES in spec.capabilities:
                with (
                    self._vault.passphrase(spec, planned) as passphrase,
                    device.session(spec.id, passphrase) as session,
                ):
                    self._drain(planned, session)
        self._people.happened(f"{planned.name} is locked; its users' passphrases work")

    # --- questions to the device ----------------------------------------------------------------

    def _check_compared(self, planned: DevicePlan) -> None:
        """A device that an interrupt left locked was compared just before, the transcript says."""
        found = self._state(planned).read_back
        if found is None or self._problems(planned, found):
            raise NotProven(
                f"{planned.name} is locked, but was not found to be as planned before",
                hint="Someone else locked it. Begin a new ceremony.",
            )

    def _problems(self, planned: DevicePlan, found: records.ReadBack) -> list[str]:
        """How it differs from the plan, apart from the manager's key where that is yet to go."""
        leaving = None if steps.keeps_manager(self._plan, planned) else self._manager.id
        everything = self._state(planned).everything
        return differences(self._plan, planned, found, leaving=leaving, everything=everything)

    def _compare(self, planned: DevicePlan, session: Session) -> None:
        """Read everything back and compare it with the plan, by machine."""
        found = self._read_back(planned, session)
        problems = self._problems(planned, found)
        if problems:
            raise NotProven(
                f"{planned.name} is not as planned: {'; '.join(problems)}",
                hint="Nothing was locked. Correct the plan and begin a new ceremony.",
            )
        self._people.happened(f"{planned.name} holds what the plan says, object by object")

    def _read_back(self, planned: DevicePlan, session: Session) -> records.ReadBack:
        """Ask for every object and option, in a session that sees all domains."""
        stored = tuple(
            records.StoredObject.of(session.info(kind, number))
            for kind, number in session.objects()
        )
        audits = command_audit(session.option(OPTION.COMMAND_AUDIT))
        found = records.ReadBack(
            serial=planned.serial,
            session_key=session.key,
            session_domains=tuple(names.DOMAINS),
            objects=stored,
            force_audit=session.option(OPTION.FORCE_AUDIT)[0],
            command_audit={
                names.name_of(names.COMMANDS, command): int(audit)
                for command, audit in audits.items()
                if audit != AUDIT.OFF
            },
        )
        self._record(found)
        return found

    def _compare_one(self, planned: DevicePlan, session: Session, spec: ObjectSpec) -> None:
        """The object that was just made, without the rest of the device."""
        stored = records.StoredObject.of(session.info(spec.type, spec.id))
        alone = replace(planned, objects=(spec.name,), forced_audit=False, command_audit={})
        found = records.ReadBack(planned.serial, session.key, stored.domains, (stored,), 0, {})
        everything = self._state(planned).everything
        problems = differences(self._plan, alone, found, everything=everything)
        if problems:
            raise NotProven(
                f"{planned.name}: {'; '.join(problems)}",
                hint="The device made something else of the command. Do not use it.",
            )

    def _expect(self, planned: DevicePlan, session: Session, expected: frozenset[Ref]) -> None:
        held = frozenset(session.objects())
        if held != expected:
            raise NotProven(
                f"{planned.name} holds {_listed(held)}, not {_listed(expected)}",
                hint="Something else changed it. Begin a new ceremony with this device erased.",
            )

    def _drain(self, planned: DevicePlan, session: Session) -> None:
        """Fetch the device's log, check that it continues what was fetched before, consume it.

        It is on record before the device may forget it, and once more when it has forgotten it.
        """
        log = session.log()
        known = self._state(planned).entries
        try:
            entries = devicelog.parse(log.entries)
            devicelog.continued(known[-1][1] if known else None, entries)
        except ValueError as error:
            raise NotProven(
                f"{planned.name}: its log is not continuous: {error}",
                hint="Do not use this device.",
            ) from error
        fetched = records.AuditLog(
            serial=planned.serial,
            session_key=session.key,
            entries=tuple(entry.hex() for entry in log.entries),
            unlogged_boots=log.unlogged_boots,
            unlogged_authentications=log.unlogged_authentications,
            consumed_to=None,
        )
        self._record(fetched)
        if entries:
            session.consume_log(entries[-1].number)
            self._record(replace(fetched, consumed_to=entries[-1].number))

    def _seen_with_access(self, device: Device, planned: DevicePlan) -> frozenset[Ref]:
        seen: set[Ref] = set()
        for spec in steps.access_keys(self._plan, planned):
            if not self._vault.has(spec, planned):
                raise NotProven(
                    f"{planned.name} opens to none of the keys that this ceremony has put on it",
                    hint="Someone else changed it. Begin a new ceremony.",
                )
            with (
                self._vault.passphrase(spec, planned) as passphrase,
                device.session(spec.id, passphrase) as session,
            ):
                seen |= set(session.objects())
        return frozenset(seen)

    def visible(self, planned: DevicePlan, held: frozenset[Ref]) -> frozenset[Ref]:
        """What of ``held`` can still be seen: everything, until the last key to it all is gone."""
        if {DEFAULT_KEY, (self._manager.type, self._manager.id)} & held:
            return held
        domains = 0
        for key in steps.access_keys(self._plan, planned):
            domains |= key.domains
        return frozenset(
            (spec.type, spec.id)
            for spec in self._plan.specs(planned)
            if spec.domains & domains and (spec.type, spec.id) in held
        )

    def _final(self, planned: DevicePlan) -> frozenset[Ref]:
        return frozenset((spec.type, spec.id) for spec in self._plan.specs(planned))

    # --- sessions -------------------------------------------------------------------------------

    @contextmanager
    def _managing(self, device: Device, planned: DevicePlan) -> Iterator[Session]:
        with (
            self._vault.passphrase(self._manager, planned) as passphrase,
            device.session(self._manager.id, passphrase) as session,
        ):
            yield session

    def _with_default(
        self, device: Device, _planned: DevicePlan
    ) -> AbstractContextManager[Session]:
        return device.session(DEFAULT_KEY_ID, DEFAULT_PASSWORD)

    def _session(
        self, device: Device, planned: DevicePlan, held: frozenset[Ref]
    ) -> AbstractContextManager[Session]:
        """The manager's where the device holds it already, else the default key's."""
        if (self._manager.type, self._manager.id) in held:
            return self._managing(device, planned)
        return self._with_default(device, planned)

    def _state(self, planned: DevicePlan) -> DeviceState:
        return self._replay.devices[planned.serial]


def _listed(refs: frozenset[Ref]) -> str:
    said = (recording.reference(*ref) for ref in sorted(refs))
    return ", ".join(f"{each.type} {each.id}" for each in said) or "nothing"


def _said(change: Change) -> str:
    what = change.spec.name if change.spec else "the default authentication key"
    match change.action:
        case Action.SET_COMMAND_AUDIT:
            return "its log keeps the commands that the plan names"
        case Action.SET_FORCE_AUDIT:
            return "it stops when its log is full"
        case Action.GENERATE:
            return f"{what} is generated"
        case Action.CLONE:
            return f"{what} is cloned"
        case Action.DELETE_DEFAULT | Action.DELETE_WRAP | Action.DELETE_MANAGER:
            return f"{what} is deleted"
    return f"{what} is there, and read back"
