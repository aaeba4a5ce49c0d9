"""What a ceremony does, step by step, derived from the plan alone.

A step has one purpose and, where it changes a device, a list of changes: single commands, each with
the objects that the device holds before and after it. So wherever an interrupt hits, what the
device answers when asked tells which changes were made. Options do not show in the objects; setting
one again does no harm.

Devices come in the order backups, log oracles, witness oracle. The first backup that holds a
signing key generates it, all others get it from there under wrap. On every device the backup's
authentication key takes the place of the default one as early as possible; on an oracle it and the
wrap key are removed at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from yubihsm.defs import CAPABILITY, OBJECT

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.names import ALL_CAPABILITIES, ALL_DOMAINS
from sigsum_ops.hsm.plan import DEFAULT_KEY_ID, DevicePlan, DeviceRole, ObjectSpec, Plan

Ref = tuple[OBJECT, int]

DEFAULT_KEY: Ref = (OBJECT.AUTHENTICATION_KEY, DEFAULT_KEY_ID)
FACTORY_FRESH = frozenset({DEFAULT_KEY})


class Kind(StrEnum):
    """Which purpose a step has; the beginning of its id."""

    PREFLIGHT = "preflight"
    RESET = "reset"
    SECRETS = "secrets"
    TAKE_OVER = "take-over"
    WRAP = "wrap"
    KEYS = "keys"
    ACCESS = "access"
    TEST = "test"
    FINISH = "finish"
    CLOSE = "close"


class Action(StrEnum):
    """One command that changes a device."""

    SET_COMMAND_AUDIT = "set-command-audit"
    PUT_MANAGER = "put-manager"
    DELETE_DEFAULT = "delete-default"
    PUT_WRAP = "put-wrap"
    GENERATE = "generate"
    CLONE = "clone"
    PUT_ACCESS = "put-access"
    SET_FORCE_AUDIT = "set-force-audit"
    DELETE_WRAP = "delete-wrap"
    DELETE_MANAGER = "delete-manager"


@dataclass(frozen=True)
class Change:
    """An action, what it is about, and what the device holds before and after it."""

    action: Action
    spec: ObjectSpec | None
    before: frozenset[Ref]
    after: frozenset[Ref]


@dataclass(frozen=True)
class Step:
    """``what`` will happen and what to ``hold`` in the hand are for people; ``phrase``, where there
    is one, must be typed by operator and witness first."""

    kind: Kind
    device: DevicePlan | None
    title: str
    what: str
    hold: str
    phrase: str | None = None
    changes: tuple[Change, ...] = ()

    @property
    def id(self) -> str:
        return self.kind if self.device is None else f"{self.kind}-{self.device.name}"

    @property
    def irreversible(self) -> bool:
        return self.phrase is not None and self.device is not None

    @property
    def serial(self) -> int | None:
        return self.device.serial if self.device else None


def manager(plan: Plan) -> ObjectSpec:
    """The authentication key that may do everything everywhere; the backups keep it.

    Raises:
        UsageError: no key on all backups is such, so nobody could provision the devices.
    """
    first, *others = plan.with_role(DeviceRole.BACKUP)
    for spec in plan.specs(first):
        if (
            spec.type == OBJECT.AUTHENTICATION_KEY
            and spec.domains == ALL_DOMAINS
            and spec.capabilities == spec.delegated == ALL_CAPABILITIES
            and all(spec.name in other.objects for other in others)
        ):
            return spec
    raise UsageError(
        "the plan has no authentication key on all backups that is in all domains and has all "
        "capabilities, also delegated",
        hint="Keep backup-authentication among the objects of each backup.",
    )


def ordered_devices(plan: Plan) -> tuple[DevicePlan, ...]:
    """In the order in which the ceremony takes them."""
    return tuple(device for role in DeviceRole for device in plan.with_role(role))


def source_of(plan: Plan, spec: ObjectSpec) -> DevicePlan:
    """The device that generates a cloned key."""
    return next(d for d in plan.with_role(DeviceRole.BACKUP) if spec.name in d.objects)


def wrap_for(plan: Plan, spec: ObjectSpec) -> ObjectSpec:
    """The wrap key under which a key is cloned; ``plan.load`` made sure of one on each backup."""
    needed = CAPABILITY.EXPORT_WRAPPED | CAPABILITY.IMPORT_WRAPPED
    return next(
        wrap
        for wrap in plan.specs(source_of(plan, spec))
        if wrap.type == OBJECT.WRAP_KEY
        and wrap.domains & spec.domains
        and needed in wrap.capabilities
        and spec.capabilities in wrap.delegated
    )


def wrap_keys(plan: Plan, device: DevicePlan) -> tuple[ObjectSpec, ...]:
    """What the device holds for cloning: a backup its own for good, others while they need it."""
    if device.role == DeviceRole.BACKUP:
        return tuple(spec for spec in plan.specs(device) if spec.type == OBJECT.WRAP_KEY)
    needed = {wrap_for(plan, spec).name for spec in plan.cloned() if spec.name in device.objects}
    return tuple(spec for spec in plan.objects.values() if spec.name in needed)


def backup_secrets(plan: Plan) -> tuple[ObjectSpec, ...]:
    """The objects whose secrets leave on the backup media."""
    wraps = {
        spec.name: spec
        for device in plan.with_role(DeviceRole.BACKUP)
        for spec in wrap_keys(plan, device)
    }
    return (manager(plan), *wraps.values())


def access_keys(plan: Plan, device: DevicePlan) -> tuple[ObjectSpec, ...]:
    """The authentication keys that are this device's alone: who uses it has their passphrases."""
    everyone = manager(plan).name
    return tuple(
        spec
        for spec in plan.specs(device)
        if spec.type == OBJECT.AUTHENTICATION_KEY and spec.name != everyone
    )


def signing_keys(plan: Plan, device: DevicePlan) -> tuple[ObjectSpec, ...]:
    return tuple(spec for spec in plan.specs(device) if spec.type == OBJECT.ASYMMETRIC_KEY)


def keeps_manager(plan: Plan, device: DevicePlan) -> bool:
    return manager(plan).name in device.objects


def derive(plan: Plan) -> tuple[Step, ...]:
    """All steps in order. Raises UsageError where the plan cannot be carried out (``manager``)."""
    steps = [
        Step(
            Kind.PREFLIGHT,
            None,
            "Check this machine, the media and the devices that are plugged in",
            "Nothing is changed. Each device that answers is asked who it is, and the plan's hash "
            "is shown.",
            "The plan's hash on paper, to compare.",
            "the plan is the one we agreed on",
        )
    ]
    secrets_made = False
    for device in ordered_devices(plan):
        for step in _device_steps(plan, device):
            steps.append(step)
            if step.kind == Kind.RESET and not secrets_made:
                steps.append(_secrets(plan, device))
                secrets_made = True
    steps.append(
        Step(
            Kind.CLOSE,
            None,
            "Close the transcript and sign it",
            "The last line is written; then everyone signs it with a key of their own.",
            "Your own signing keys.",
        )
    )
    return tuple(steps)


def changes_of(steps: tuple[Step, ...], device: DevicePlan) -> tuple[Change, ...]:
    """Everything that changes one device after its reset, in order."""
    return tuple(c for step in steps if step.device == device for c in step.changes)


def _secrets(plan: Plan, device: DevicePlan) -> Step:
    backup = plan.backup
    form = "as hexadecimal digits on each medium"
    if backup.form == "shares":
        form = (
            f"as {backup.shares} shares, each on a medium of its own;"
            f" any {backup.threshold} restore them"
        )
    secrets = ", ".join(spec.name for spec in backup_secrets(plan))
    return Step(
        Kind.SECRETS,
        device,
        f"Make {secrets} and write them to {backup.media} media",
        f"Randomness of {device.name} and of this machine is mixed. The secrets are written"
        f" {form}. They are read back, and never shown.",
        f"The {backup.media} backup media, plugged in and mounted.",
    )


def _device_steps(plan: Plan, device: DevicePlan) -> Iterator[Step]:
    keeper = manager(plan)
    wraps = wrap_keys(plan, device)
    state = FACTORY_FRESH
    hold = f"{device.name}, which is YubiHSM {device.serial}."

    def change(action: Action, spec: ObjectSpec | None = None, ref: Ref | None = None) -> Change:
        nonlocal state
        before = state
        ref = ref or (_ref(spec) if spec else None)
        if ref:
            state = before - {ref} if ref in before else before | {ref}
        return Change(action, spec, before, state)

    yield Step(
        Kind.RESET,
        device,
        f"Erase {device.name}",
        f"Everything on YubiHSM {device.serial} is destroyed. It restarts, and must then be as it "
        "left the factory.",
        f"{hold} Read the number on it aloud; the other compares it with the plan.",
        _phrase("erase", device),
    )
    audit = (change(Action.SET_COMMAND_AUDIT),) if device.command_audit else ()
    yield Step(
        Kind.TAKE_OVER,
        device,
        f"Replace the default authentication key of {device.name}",
        f"{keeper.name} is put on the device and tried. The default key, whose password everyone "
        "knows, is deleted; then the device must refuse it.",
        hold,
        _phrase("take over", device),
        (
            *audit,
            change(Action.PUT_MANAGER, keeper),
            change(Action.DELETE_DEFAULT, ref=DEFAULT_KEY),
        ),
    )
    if wraps:
        yield Step(
            Kind.WRAP,
            device,
            f"Put {_names(wraps)} on {device.name}",
            "It lets the device read what a backup exports. "
            + (
                "A backup keeps it."
                if device.role == DeviceRole.BACKUP
                else "It is removed from this device at the end."
            ),
            hold,
            changes=tuple(change(Action.PUT_WRAP, spec) for spec in wraps),
        )
    keys = tuple(
        change(
            Action.CLONE
            if spec in plan.cloned() and source_of(plan, spec) != device
            else Action.GENERATE,
            spec,
        )
        for spec in signing_keys(plan, device)
    )
    if keys:
        cloned = [c.spec.name for c in keys if c.action == Action.CLONE and c.spec]
        made = [c.spec.name for c in keys if c.action == Action.GENERATE and c.spec]
        doing = [f"{', '.join(made)}: generated in the device."] if made else []
        doing += [f"{', '.join(cloned)}: cloned from a backup."] if cloned else []
        yield Step(
            Kind.KEYS,
            device,
            f"Give {device.name} its signing keys",
            f"{' '.join(doing)} "
            "Private keys travel between devices encrypted, and in this machine's memory only. A "
            "clone must show the same public key as its source.",
            hold,
            changes=keys,
        )
    access = access_keys(plan, device)
    if access:
        yield Step(
            Kind.ACCESS,
            device,
            f"Give {device.name} the keys of its users",
            f"{_names(access)}: each passphrase is made, written to the medium for credentials, "
            "read back, and tried.",
            f"{hold} The medium for credentials, plugged in and mounted.",
            changes=tuple(change(Action.PUT_ACCESS, spec) for spec in access),
        )
    if keys:
        yield Step(
            Kind.TEST,
            device,
            f"Sign a test message with each key on {device.name}",
            "The signatures must verify. The message cannot be taken for a tree head.",
            hold,
        )
    yield _finish(
        device,
        hold,
        (
            *((change(Action.SET_FORCE_AUDIT),) if device.forced_audit else ()),
            *(
                change(Action.DELETE_WRAP, spec)
                for spec in wraps
                if device.role != DeviceRole.BACKUP
            ),
            *(() if keeps_manager(plan, device) else (change(Action.DELETE_MANAGER, keeper),)),
        ),
    )


def _finish(device: DevicePlan, hold: str, changes: tuple[Change, ...]) -> Step:
    removed = [c.spec.name for c in changes if c.spec]
    looks = "Everything on the device is read and compared with the plan; its log is read."
    if not removed:
        title = f"Compare {device.name} with the plan"
        return Step(Kind.FINISH, device, title, looks, hold, changes=changes)
    return Step(
        Kind.FINISH,
        device,
        f"Compare {device.name} with the plan, and lock it",
        f"{looks} {' and '.join(removed)} are removed: after this nobody can change the device "
        "without erasing it.",
        hold,
        _phrase("lock", device),
        changes,
    )


def _phrase(verb: str, device: DevicePlan) -> str:
    return f"{verb} {device.name} {device.serial}"


def _names(specs: tuple[ObjectSpec, ...]) -> str:
    return ", ".join(spec.name for spec in specs)


def _ref(spec: ObjectSpec) -> Ref:
    return spec.type, spec.id
