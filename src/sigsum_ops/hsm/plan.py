"""The object plan: which keys are on which YubiHSM of a site, who takes part, what is backed up.

One YAML file a site. ``generation`` brings a standard set of objects, so that a plan is mostly its
devices and people; ``objects`` changes a standard object or adds one, and a device may name its
objects itself. ``load`` refuses what is not of the form, naming setting, line and what is allowed.

- ``established`` is what Sigsum operators already have, id for id.
- ``new`` adds to it: AES-256 wrap keys; an authentication key that can read the device's log and
  nothing else; a health key with its own authentication key, in a domain where nothing else is, so
  that a standby device can be tested without the log's passphrase; and command audit for key
  management and signing, so that the device's own log tells what was done with keys.

Oracles keep neither a wrap key nor the default authentication key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, OBJECT

from sigsum_ops.hsm import names, settings
from sigsum_ops.hsm.ceremony.canonical import Json, dumps
from sigsum_ops.hsm.ceremony.records import NewObject, ObjectRef, ReadBack, Role, StoredObject
from sigsum_ops.hsm.settings import Value, nearest

DEFAULT_KEY_ID = 1
LABEL_SIZE = 40  # bytes
_IDS = range(1, 0xFFFF)  # 0 and 0xffff mean something else to the device
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.ASCII)
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_KEY_TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ssh-rsa")

_ALL = names.ALL_CAPABILITIES
_EXPORTABLE_SIGNING = CAPABILITY.EXPORTABLE_UNDER_WRAP | CAPABILITY.SIGN_EDDSA
_NONE = CAPABILITY(0)

# A session's key needs the first to make an object of the type with the second's capabilities.
_MAKERS = {
    OBJECT.AUTHENTICATION_KEY: CAPABILITY.PUT_AUTHENTICATION_KEY,
    OBJECT.ASYMMETRIC_KEY: CAPABILITY.PUT_ASYMMETRIC
    | CAPABILITY.GENERATE_ASYMMETRIC_KEY
    | CAPABILITY.IMPORT_WRAPPED,
    OBJECT.WRAP_KEY: CAPABILITY.PUT_WRAP_KEY | CAPABILITY.GENERATE_WRAP_KEY,
}
_ALGORITHMS = {
    OBJECT.AUTHENTICATION_KEY: (ALGORITHM.AES128_YUBICO_AUTHENTICATION,),
    OBJECT.ASYMMETRIC_KEY: (ALGORITHM.EC_ED25519,),
    OBJECT.WRAP_KEY: (
        ALGORITHM.AES128_CCM_WRAP,
        ALGORITHM.AES192_CCM_WRAP,
        ALGORITHM.AES256_CCM_WRAP,
    ),
}

# Key management and every way in which one of the plan's keys could be used.
AUDITED = (
    COMMAND.PUT_AUTHENTICATION_KEY,
    COMMAND.CHANGE_AUTHENTICATION_KEY,
    COMMAND.PUT_ASYMMETRIC_KEY,
    COMMAND.GENERATE_ASYMMETRIC_KEY,
    COMMAND.PUT_WRAP_KEY,
    COMMAND.GENERATE_WRAP_KEY,
    COMMAND.EXPORT_WRAPPED,
    COMMAND.IMPORT_WRAPPED,
    COMMAND.WRAP_DATA,
    COMMAND.UNWRAP_DATA,
    COMMAND.DELETE_OBJECT,
    COMMAND.SET_OPTION,
    COMMAND.SIGN_EDDSA,
    COMMAND.SIGN_ATTESTATION_CERTIFICATE,
)


class Generation(StrEnum):
    """Which standard set of objects a plan starts from."""

    ESTABLISHED = "established"
    NEW = "new"


class DeviceRole(StrEnum):
    """What a device is for."""

    BACKUP = "backup"
    LOG_ORACLE = "log-oracle"
    WITNESS_ORACLE = "witness-oracle"


@dataclass(frozen=True)
class ObjectSpec:
    """One object as it shall be on a device. ``domains`` is the device's bit mask."""

    id: int
    type: OBJECT
    label: str
    algorithm: ALGORITHM
    domains: int
    capabilities: CAPABILITY
    delegated: CAPABILITY
    name: str

    @property
    def ref(self) -> ObjectRef:
        """The object in the words of a transcript."""
        return ObjectRef(names.name_of(names.TYPES, self.type), self.id)

    def new_object(self) -> NewObject:
        """A command that puts or generates the object, in the words of a transcript."""
        return NewObject(
            type=self.ref.type,
            id=self.id,
            label=self.label,
            algorithm=names.name_of(names.ALGORITHMS, self.algorithm),
            domains=names.domain_numbers(self.domains),
            capabilities=names.flag_names(names.CAPABILITIES, self.capabilities),
            delegated=names.flag_names(names.CAPABILITIES, self.delegated),
        )

    def to_json(self) -> dict[str, Json]:
        return {
            "id": self.id,
            "type": self.ref.type,
            "label": self.label,
            "algorithm": names.name_of(names.ALGORITHMS, self.algorithm),
            "domains": list(names.domain_numbers(self.domains)),
            "capabilities": _capabilities_json(self.capabilities),
            "delegated": _capabilities_json(self.delegated),
        }


@dataclass(frozen=True)
class DevicePlan:
    """One device: its identity, and its final state. ``firmware`` is the least that will do."""

    name: str
    role: DeviceRole
    serial: int
    firmware: tuple[int, int, int] | None
    objects: tuple[str, ...]
    forced_audit: bool
    command_audit: Mapping[COMMAND, AUDIT]

    def to_json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "role": str(self.role),
            "serial": self.serial,
            "firmware": None if self.firmware is None else ".".join(map(str, self.firmware)),
            "objects": list(self.objects),
            "forced_audit": self.forced_audit,
            "command_audit": {
                names.name_of(names.COMMANDS, command): names.name_of(names.AUDITS, value)
                for command, value in self.command_audit.items()
            },
        }


@dataclass(frozen=True)
class Backup:
    """In which form the secrets leave: a hex file on each of ``media`` media, or ``shares`` shares
    of which ``threshold`` restore them, each on a medium of its own (then ``media`` = ``shares``).
    """

    form: Literal["hex", "shares"]
    media: int
    threshold: int
    shares: int

    def to_json(self) -> dict[str, Json]:
        if self.form == "hex":
            return {"form": self.form, "media": self.media}
        return {"form": self.form, "threshold": self.threshold, "shares": self.shares}


@dataclass(frozen=True)
class Participant:
    """Someone who takes part; ``public_key`` is the line of the ssh key that they sign with."""

    name: str
    role: Role
    public_key: str | None

    def to_json(self) -> dict[str, Json]:
        return {"name": self.name, "role": str(self.role), "public_key": self.public_key}


@dataclass(frozen=True)
class Plan:
    """A site's plan, checked. ``objects`` holds what some device holds, by the plan's names."""

    site: str
    generation: Generation
    devices: tuple[DevicePlan, ...]
    objects: Mapping[str, ObjectSpec]
    backup: Backup
    participants: tuple[Participant, ...]

    def to_json(self) -> dict[str, Json]:
        """The plan with everything explicit; ``loads`` reads it back to an equal plan."""
        return {
            "site": self.site,
            "generation": str(self.generation),
            "participants": [participant.to_json() for participant in self.participants],
            "backup": self.backup.to_json(),
            "objects": {name: spec.to_json() for name, spec in self.objects.items()},
            "devices": [device.to_json() for device in self.devices],
        }

    def hash(self) -> str:
        """SHA-256 of the canonical JSON of the plan's meaning: comments and order of keys in the
        file play no part, and neither does whether a standard value was written out."""
        return hashlib.sha256(dumps(self.to_json())).hexdigest()

    def device(self, serial: int) -> DevicePlan | None:
        return next((device for device in self.devices if device.serial == serial), None)

    def with_role(self, *roles: DeviceRole) -> tuple[DevicePlan, ...]:
        return tuple(device for device in self.devices if device.role in roles)

    def specs(self, device: DevicePlan) -> tuple[ObjectSpec, ...]:
        """What shall be on the device in the end, in the plan's order."""
        return tuple(self.objects[name] for name in device.objects)

    def spec_of(self, ref: ObjectRef) -> ObjectSpec | None:
        return next((spec for spec in self.objects.values() if spec.ref == ref), None)

    def cloned(self) -> tuple[ObjectSpec, ...]:
        """The signing keys that must be the same on each device that holds them."""
        return tuple(spec for spec in self.objects.values() if _is_cloned(spec))


def load(path: Path) -> Plan:
    """Read and check a plan.

    Raises:
        UsageError: naming the setting, its place in the file and what is allowed.
    """
    return _plan(settings.load(path))


def loads(text: str, source: str) -> Plan:
    """``load`` of a text; ``source`` is what errors call it."""
    return _plan(settings.loads(text, source))


def differences(
    plan: Plan,
    device: DevicePlan,
    found: ReadBack,
    *,
    leaving: int | None = None,
    everything: int = _ALL,
) -> list[str]:
    """What a read-back in a session that sees all domains shows otherwise than the plan says.

    Args:
        leaving: the id of an authentication key to overlook: that of the session which looked, if
            the next command deletes it.
        everything: the capabilities of the device's own default authentication key, read after its
            reset. A plan that says ``all`` means all that this firmware knows, and devices differ
            in how they answer for bits that they do not know.

    Returns:
        One sentence per difference, none if device and plan agree.
    """
    problems = []
    left = {item.ref: item for item in found.objects}
    if leaving is not None:
        left.pop(ObjectRef("authentication-key", leaving), None)
    for spec in plan.specs(device):
        item = left.pop(spec.ref, None)
        if item is None:
            problems.append(f"{spec.name} (id {spec.id}) is missing")
        else:
            problems += _object_differences(spec, item, everything)
    problems += [f"{_described(item)} is not in the plan" for item in left.values()]
    if (found.force_audit != AUDIT.OFF) != device.forced_audit:
        problems.append(f"forced audit is {names.name_of(names.AUDITS, found.force_audit)}")
    for command, wanted in device.command_audit.items():
        name = names.name_of(names.COMMANDS, command)
        value = found.command_audit.get(name, AUDIT.OFF)
        if value != wanted:
            is_, shall = (names.name_of(names.AUDITS, each) for each in (value, wanted))
            problems.append(f"audit of {name} is {is_}, not {shall}")
    return problems


def _object_differences(spec: ObjectSpec, item: StoredObject, everything: int) -> Iterator[str]:
    pairs: tuple[tuple[str, object, object], ...] = (
        ("label", item.label, spec.label),
        ("algorithm", item.algorithm, names.name_of(names.ALGORITHMS, spec.algorithm)),
        ("domains", item.domains, names.domain_numbers(spec.domains)),
    )
    for what, is_, shall in pairs:
        if is_ != shall:
            yield f"{spec.name}: {what} {is_!r}, not {shall!r}"
    for what, has, wanted in (
        ("capabilities", item.capabilities, spec.capabilities),
        ("delegated capabilities", item.delegated, spec.delegated),
    ):
        value = names.flags(names.CAPABILITIES, has)
        if value != wanted and not (wanted == _ALL and value in (everything, 2**64 - 1)):
            shown = ", ".join(has) or "none"
            yield f"{spec.name}: {what} {shown}, not {_capabilities_text(wanted)}"
    # A private key that was ever outside of a device has other copies than this ceremony's.
    if spec.type == OBJECT.ASYMMETRIC_KEY and (
        "generated" not in item.origin or "imported" in item.origin
    ):
        yield f"{spec.name}: origin {', '.join(item.origin)}, not generated in a device"


def _described(item: StoredObject) -> str:
    if item.type == "authentication-key" and item.id == DEFAULT_KEY_ID:
        return "the default authentication key"
    return f"{item.type} {item.id} ({item.label!r})"


# --- the standard sets --------------------------------------------------------------------------


def _authentication(
    name: str, number: int, label: str, domains: int, allowed: int, delegated: int = 0
) -> ObjectSpec:
    return ObjectSpec(
        number,
        OBJECT.AUTHENTICATION_KEY,
        label,
        ALGORITHM.AES128_YUBICO_AUTHENTICATION,
        domains,
        CAPABILITY(allowed),
        CAPABILITY(delegated),
        name,
    )


def _signing(name: str, number: int, label: str, domains: int, allowed: CAPABILITY) -> ObjectSpec:
    return ObjectSpec(
        number, OBJECT.ASYMMETRIC_KEY, label, ALGORITHM.EC_ED25519, domains, allowed, _NONE, name
    )


_LOG_DOMAIN = names.domain_mask({10})
_WITNESS_DOMAIN = names.domain_mask({11})
# Domain 12 is taken at some sites, by a test witness.
_HEALTH_DOMAIN = names.domain_mask({13})
_AUDIT_DOMAIN = names.domain_mask({14})

_WRAP_KEY = ObjectSpec(
    400,
    OBJECT.WRAP_KEY,
    "Common wrap key",
    ALGORITHM.AES128_CCM_WRAP,
    names.ALL_DOMAINS,
    CAPABILITY.IMPORT_WRAPPED | CAPABILITY.EXPORT_WRAPPED,
    _EXPORTABLE_SIGNING,
    "wrap-key",
)
_ESTABLISHED = (
    _authentication(
        "backup-authentication", 100, "Backup authentication", names.ALL_DOMAINS, _ALL, _ALL
    ),
    _authentication(
        "log-authentication", 200, "Logsrv authentication", _LOG_DOMAIN, CAPABILITY.SIGN_EDDSA
    ),
    _authentication(
        "witness-authentication",
        300,
        "Witness authentication",
        _WITNESS_DOMAIN,
        CAPABILITY.SIGN_EDDSA,
    ),
    _WRAP_KEY,
    _signing("log-signing-key", 500, "Log server signing key", _LOG_DOMAIN, _EXPORTABLE_SIGNING),
    _signing(
        "witness-signing-key", 600, "Witness signing key", _WITNESS_DOMAIN, _EXPORTABLE_SIGNING
    ),
)
_ADDED = (
    replace(_WRAP_KEY, algorithm=ALGORITHM.AES256_CCM_WRAP),
    _authentication(
        "audit-authentication",
        700,
        "Audit authentication",
        _AUDIT_DOMAIN,
        CAPABILITY.GET_LOG_ENTRIES,
    ),
    _authentication(
        "health-authentication",
        800,
        "Health authentication",
        _HEALTH_DOMAIN,
        CAPABILITY.SIGN_EDDSA,
    ),
    # Not exportable: each device makes its own, so that an answer shows which device gave it.
    _signing("health-key", 900, "Health key", _HEALTH_DOMAIN, CAPABILITY.SIGN_EDDSA),
)
_STANDARD: Mapping[Generation, Mapping[str, ObjectSpec]] = {
    Generation.ESTABLISHED: {spec.name: spec for spec in _ESTABLISHED},
    Generation.NEW: {spec.name: spec for spec in (*_ESTABLISHED, *_ADDED)},
}
_ON_DEVICE: Mapping[DeviceRole, tuple[str, ...]] = {
    DeviceRole.BACKUP: (
        "backup-authentication",
        "wrap-key",
        "log-signing-key",
        "witness-signing-key",
    ),
    DeviceRole.LOG_ORACLE: ("log-authentication", "log-signing-key"),
    DeviceRole.WITNESS_ORACLE: ("witness-authentication", "witness-signing-key"),
}


def _standard_objects(generation: Generation, role: DeviceRole) -> tuple[str, ...]:
    if generation == Generation.ESTABLISHED:
        return _ON_DEVICE[role]
    health = () if role == DeviceRole.BACKUP else ("health-authentication", "health-key")
    return (*_ON_DEVICE[role], "audit-authentication", *health)


# --- reading ------------------------------------------------------------------------------------


def _plan(root: Value) -> Plan:
    fields = root.fields(("site", "participants", "devices"), ("generation", "backup", "objects"))
    site = fields["site"].text(_SLUG, "lower-case letters, digits and hyphens")
    generation = Generation.NEW
    if "generation" in fields:
        generation = Generation(fields["generation"].choice(list(Generation)))
    specs = dict(_STANDARD[generation])
    if "objects" in fields:
        specs |= _objects(fields["objects"], specs)
    devices = tuple(
        _device(item, generation, specs)
        for item in fields["devices"].items("a list of devices, each with name, role and serial")
    )
    used = {name for device in devices for name in device.objects}
    plan = Plan(
        site,
        generation,
        devices,
        {name: spec for name, spec in specs.items() if name in used},
        _backup(fields["backup"]) if "backup" in fields else Backup("hex", 2, 1, 1),
        _participants(fields["participants"]),
    )
    if "objects" in fields:
        for name, value in fields["objects"].entries("objects").items():
            if name not in used:
                raise value.refuse("is on no device", "objects that some device's objects name")
    _check(plan, root, fields)
    return plan


def _objects(value: Value, standard: Mapping[str, ObjectSpec]) -> dict[str, ObjectSpec]:
    """The objects that the file changes or adds."""
    every = ("id", "type", "label", "algorithm", "domains", "capabilities", "delegated")
    changed = {}
    for name, entry in value.entries("a mapping from an object's name to its settings").items():
        if not _SLUG.fullmatch(name):
            raise entry.refuse("is no name", "lower-case letters, digits and hyphens")
        base = standard.get(name)
        fields = entry.fields(() if base else every[:-1], every if base else every[-1:])
        changed[name] = _object(name, fields, base)
        _check_object(changed[name], entry)
    return changed


def _object(name: str, fields: Mapping[str, Value], base: ObjectSpec | None) -> ObjectSpec:
    changes: dict[str, object] = {}
    types = [names.name_of(names.TYPES, kind) for kind in _ALGORITHMS]
    if "id" in fields:
        changes["id"] = fields["id"].number(_IDS)
    if "type" in fields:
        changes["type"] = names.TYPES[fields["type"].choice(types)]
    if "label" in fields:
        changes["label"] = _label(fields["label"])
    if "algorithm" in fields:
        known = (names.name_of(names.ALGORITHMS, a) for each in _ALGORITHMS.values() for a in each)
        changes["algorithm"] = names.ALGORITHMS[fields["algorithm"].choice(list(known))]
    if "domains" in fields:
        changes["domains"] = _domains(fields["domains"])
    for which in ("capabilities", "delegated"):
        if which in fields:
            changes[which] = _capabilities(fields[which])
    if base is not None:
        return replace(base, **changes)  # type: ignore[arg-type]
    return ObjectSpec(**{"delegated": _NONE, **changes, "name": name})  # type: ignore[arg-type]


def _check_object(spec: ObjectSpec, value: Value) -> None:
    if spec.algorithm not in _ALGORITHMS[spec.type]:
        allowed = ", ".join(names.name_of(names.ALGORITHMS, a) for a in _ALGORITHMS[spec.type])
        found = names.name_of(names.ALGORITHMS, spec.algorithm)
        raise value.refuse(f"has the algorithm {found}, which does not go with its type", allowed)
    if spec.delegated and spec.type == OBJECT.ASYMMETRIC_KEY:
        raise value.refuse("has delegated capabilities", "none for an asymmetric-key")


def _label(value: Value) -> str:
    allowed = f"1 to {LABEL_SIZE} bytes of UTF-8 without control characters"
    text = value.word(allowed)
    size = len(text.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= LABEL_SIZE or not text.isprintable():
        raise value.refuse(f"is {text!r} ({size} bytes)", allowed)
    return text


def _domains(value: Value) -> int:
    allowed = "all, or a list of domains 1 to 16"
    if value.is_scalar:
        if value.word(allowed) != "all":
            raise value.refuse(f"is {value.word(allowed)!r}", allowed)
        return names.ALL_DOMAINS
    domains = [item.number(names.DOMAINS) for item in value.items(allowed)]
    if not domains or len(set(domains)) != len(domains):
        raise value.refuse("is empty" if not domains else "names a domain twice", allowed)
    return names.domain_mask(domains)


def _capabilities(value: Value) -> CAPABILITY:
    allowed = "all, none, or a list of capabilities as yubihsm-shell names them"
    if value.is_scalar:
        whole = {"all": _ALL, "none": _NONE}
        if value.word(allowed) not in whole:
            raise value.refuse(f"is {value.word(allowed)!r}", allowed)
        return whole[value.word(allowed)]
    total = _NONE
    for item in value.items(allowed):
        one = names.CAPABILITIES[item.choice(names.CAPABILITIES)]
        if one & total:
            raise item.refuse("is there twice", "each capability once")
        total |= one
    return total


def _capabilities_json(value: CAPABILITY) -> Json:
    if value in (_ALL, _NONE):
        return _capabilities_text(value)
    return list(names.flag_names(names.CAPABILITIES, value))


def _capabilities_text(value: CAPABILITY) -> str:
    if value == _ALL:
        return "all"
    return ", ".join(names.flag_names(names.CAPABILITIES, value)) or "none"


def _device(value: Value, generation: Generation, specs: Mapping[str, ObjectSpec]) -> DevicePlan:
    fields = value.fields(
        ("name", "role", "serial"), ("firmware", "objects", "forced_audit", "command_audit")
    )
    role = DeviceRole(fields["role"].choice(list(DeviceRole)))
    objects = _standard_objects(generation, role)
    if "objects" in fields:
        items = fields["objects"].items("a list of the names of objects")
        objects = tuple(item.choice(specs) for item in items)
        if len(set(objects)) != len(objects):
            raise fields["objects"].refuse("names an object twice", "each object once")
    audit = {command: AUDIT.ON for command in AUDITED if generation == Generation.NEW}
    if "command_audit" in fields:
        audit = _command_audit(fields["command_audit"])
    return DevicePlan(
        name=fields["name"].text(_SLUG, "lower-case letters, digits and hyphens"),
        role=role,
        serial=fields["serial"].number(range(1, 2**32), "the number printed on the device"),
        firmware=_firmware(fields["firmware"]) if "firmware" in fields else None,
        objects=objects,
        forced_audit="forced_audit" in fields and fields["forced_audit"].boolean(),
        command_audit=audit,
    )


def _command_audit(value: Value) -> dict[COMMAND, AUDIT]:
    entries = value.entries("a mapping from commands to off, on or fixed")
    for name, entry in entries.items():
        if name not in names.COMMANDS:
            near = nearest(name, names.COMMANDS)
            raise entry.refuse(f"is no command{near}", "commands as the library names them")
    return {
        names.COMMANDS[name]: names.AUDITS[entry.choice(names.AUDITS)]
        for name, entry in entries.items()
    }


def _firmware(value: Value) -> tuple[int, int, int]:
    text = value.text(re.compile(r"\d{1,2}\.\d{1,2}\.\d{1,2}", re.ASCII), "three numbers, as 2.4.0")
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch


def _backup(value: Value) -> Backup:
    form = value.fields(("form",), ("media", "threshold", "shares"))["form"]
    if form.choice(("hex", "shares")) == "hex":
        fields = value.fields(("form",), ("media",))
        media = fields["media"].number(range(2, 17)) if "media" in fields else 2
        return Backup("hex", media, 1, 1)
    fields = value.fields(("form", "threshold", "shares"), ())
    shares = fields["shares"].number(range(2, 17))
    threshold = fields["threshold"].number(range(2, shares + 1), f"2 to the {shares} shares")
    return Backup("shares", shares, threshold, shares)


def _participants(value: Value) -> tuple[Participant, ...]:
    people = []
    items = value.items("a list of people, each with name, role and public_key")
    for item in items:
        fields = item.fields(("name", "role"), ("public_key",))
        people.append(
            Participant(
                fields["name"].text(_PERSON, "a name of letters, digits and ._@-, 64 at most"),
                Role(fields["role"].choice(list(Role))),
                _public_key(fields["public_key"]) if "public_key" in fields else None,
            )
        )
    for role in Role:
        if not any(person.role == role for person in people):
            raise value.refuse(f"has no {role}", "at least one operator and one witness")
    both = list(zip(people, items, strict=True))
    _once("name", ((person.name, item) for person, item in both))
    _once("key", ((person.public_key, item) for person, item in both if person.public_key))
    return tuple(people)


def _public_key(value: Value) -> str:
    """The key's type and data: a comment plays no part in what the plan means."""
    allowed = f"a line of a public ssh key file of type {', '.join(_KEY_TYPES)}"
    kind, _, rest = value.word(allowed).strip().partition(" ")
    data = rest.partition(" ")[0]
    try:
        blob = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if kind not in _KEY_TYPES or not blob.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
        raise value.refuse("is not a public key", allowed)
    return f"{kind} {data}"


# --- what only the whole shows ------------------------------------------------------------------


def _once(what: str, items: Iterable[tuple[object, Value]]) -> None:
    seen = set()
    for item, value in items:
        if item in seen:
            raise value.refuse(f"has the {what} {item}, as another before it", f"each {what} once")
        seen.add(item)


def _check(plan: Plan, root: Value, fields: Mapping[str, Value]) -> None:
    devices = fields["devices"]
    items = devices.items("a list")
    _once("name", zip((device.name for device in plan.devices), items, strict=True))
    _once("serial", zip((device.serial for device in plan.devices), items, strict=True))
    backups = len(plan.with_role(DeviceRole.BACKUP))
    if backups < 2:
        raise devices.refuse(f"has {backups} of role backup", "two backups or more")
    if not plan.with_role(DeviceRole.LOG_ORACLE):
        raise devices.refuse("has no log-oracle", "a log-oracle for each log machine")
    objects = fields.get("objects", root)
    seen = {(OBJECT.AUTHENTICATION_KEY, DEFAULT_KEY_ID): "the default authentication key"}
    for spec in plan.objects.values():
        other = seen.setdefault((spec.type, spec.id), spec.name)
        if other != spec.name:
            found = f"has {spec.name} with the id {spec.id} of {other}"
            raise objects.refuse(found, "ids that differ within a type")
    for device, value in zip(plan.devices, items, strict=True):
        _check_device(plan, device, value)
    _check_clones(plan, objects)


def _check_device(plan: Plan, device: DevicePlan, value: Value) -> None:
    specs = plan.specs(device)
    if not any(spec.type == OBJECT.AUTHENTICATION_KEY for spec in specs):
        raise value.refuse("holds no authentication key", "one at least: no key, no way in")
    wraps = [spec for spec in specs if spec.type == OBJECT.WRAP_KEY]
    if device.role != DeviceRole.BACKUP and wraps:
        raise value.refuse(f"keeps {wraps[0].name}", "wrap keys on backups only")
    for maker in specs:
        for spec in specs:
            if maker is spec or maker.type != OBJECT.AUTHENTICATION_KEY:
                continue
            lacking = (spec.capabilities | spec.delegated) & ~maker.delegated
            creates = maker.capabilities & _MAKERS[spec.type] and maker.domains & spec.domains
            if creates and lacking:
                raise value.refuse(
                    f"has {maker.name}, which may create {spec.name} but cannot delegate "
                    f"{_capabilities_text(lacking)} to it",
                    f"delegated capabilities that cover those of {spec.name}",
                )


def _is_cloned(spec: ObjectSpec) -> bool:
    exportable = CAPABILITY.EXPORTABLE_UNDER_WRAP in spec.capabilities
    return spec.type == OBJECT.ASYMMETRIC_KEY and exportable


def _check_clones(plan: Plan, value: Value) -> None:
    """Each key that more than one device shall hold can travel under a wrap key of the backups."""
    for spec in plan.objects.values():
        if spec.type != OBJECT.ASYMMETRIC_KEY:
            continue
        holders = [device for device in plan.devices if spec.name in device.objects]
        backups = [device for device in holders if device.role == DeviceRole.BACKUP]
        if backups and len(holders) > 1 and not _is_cloned(spec):
            raise value.refuse(
                f"has {spec.name} on several devices, but it is not exportable-under-wrap",
                "exportable-under-wrap among its capabilities",
            )
        if not _is_cloned(spec):
            continue
        if not backups:
            raise value.refuse(f"has {spec.name} on no backup", "the key on every backup")
        for device in backups:
            _check_wrap(plan, device, spec, value)


def _check_wrap(plan: Plan, device: DevicePlan, spec: ObjectSpec, value: Value) -> None:
    needed = CAPABILITY.EXPORT_WRAPPED | CAPABILITY.IMPORT_WRAPPED
    wraps = [
        wrap
        for wrap in plan.specs(device)
        if wrap.type == OBJECT.WRAP_KEY
        and wrap.domains & spec.domains
        and needed in wrap.capabilities
    ]
    if not wraps:
        raise value.refuse(
            f"has no wrap key on {device.name} to clone {spec.name} with",
            "a wrap key with export-wrapped and import-wrapped in a domain of the key",
        )
    if not any(spec.capabilities in wrap.delegated for wrap in wraps):
        lacking = spec.capabilities & ~wraps[0].delegated
        raise value.refuse(
            f"has {wraps[0].name}, whose delegated capabilities lack "
            f"{_capabilities_text(lacking)} of {spec.name}",
            f"delegated capabilities that cover those of {spec.name}",
        )
