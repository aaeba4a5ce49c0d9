"""What a transcript's lines say: one frozen dataclass per kind, with strict JSON both ways.

A transcript is ``{"n","prev","time","kind","body"}`` per line; ``body`` is one of these records.
``parse`` accepts exactly the fields declared here, of exactly these types, and nothing else: a
passphrase or a key has no field that it could slip into. What a record proves is said by each
class; ``verify.py`` draws the conclusions and says on what each rests.

Conventions: devices are named by their serial number, objects by (type, id); names of types,
algorithms, capabilities, commands and errors are those of ``hsm.names``; domains are numbers 1-16;
bytes are lower-case hex.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import cache
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from yubihsm.objects import ObjectInfo

from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony.canonical import Json

Hex = Annotated[str, re.compile(r"(?:[0-9a-f]{2})*")]
Hash = Annotated[str, re.compile(r"[0-9a-f]{64}")]
Bytes32 = Hash
Nonce = Annotated[str, re.compile(r"[0-9a-f]{32}")]
Signature64 = Annotated[str, re.compile(r"[0-9a-f]{128}")]
# A step's or a participant's name, which also names a signature file.
Name = Annotated[str, re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")]
Slug = Annotated[str, re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")]
Word = Annotated[str, re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*|0x[0-9a-f]+")]
Capability = Annotated[str, re.compile("|".join((*names.CAPABILITIES, r"0x[0-9a-f]{2,16}")))]
Count = Annotated[int, range(0, 2**32)]
Id = Annotated[int, range(0, 2**16)]
Serial = Annotated[int, range(1, 2**32)]
Byte = Annotated[int, range(0, 256)]
Domain = Annotated[int, range(1, 17)]


class Mode(StrEnum):
    """Production runs on real devices and nothing else; a rehearsal on rehearsal devices."""

    PRODUCTION = "production"
    REHEARSAL = "rehearsal"


class Role(StrEnum):
    """Dual control: the operator acts, the witness watches; each confirms and signs."""

    OPERATOR = "operator"
    WITNESS = "witness"


# --- parts of records ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ObjectRef:
    """Which object on a device: ids are unique within a type only."""

    type: Word
    id: Id


@dataclasses.dataclass(frozen=True)
class NewObject:
    """The meaning of a put or generate command: what it asks the device to store."""

    type: Word
    id: Id
    label: str
    algorithm: Word
    domains: tuple[Domain, ...]
    capabilities: tuple[Capability, ...]
    delegated: tuple[Capability, ...]


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """One object as GET_OBJECT_INFO describes it.

    ``origin`` is the device's own word on where the key comes from: ``generated`` in a device, or
    ``imported`` from outside; with ``imported-wrapped`` if it came to this device under wrap.
    """

    type: Word
    id: Id
    label: str
    algorithm: Word
    domains: tuple[Domain, ...]
    capabilities: tuple[Capability, ...]
    delegated: tuple[Capability, ...]
    size: Id
    sequence: Byte
    origin: tuple[Word, ...]

    @classmethod
    def of(cls, info: ObjectInfo) -> StoredObject:
        """The library's answer, in the words of this file."""
        label = info.label
        return cls(
            type=names.name_of(names.TYPES, info.object_type),
            id=info.id,
            label=label if isinstance(label, str) else label.decode("utf-8", "backslashreplace"),
            algorithm=names.name_of(names.ALGORITHMS, info.algorithm),
            domains=names.domain_numbers(info.domains),
            capabilities=names.flag_names(names.CAPABILITIES, info.capabilities),
            delegated=names.flag_names(names.CAPABILITIES, info.delegated_capabilities),
            size=info.size,
            sequence=info.sequence,
            origin=names.flag_names(names.ORIGINS, info.origin),
        )

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef(self.type, self.id)


@dataclasses.dataclass(frozen=True)
class Participant:
    """Who took part, in which role. The names are the principals of the allowed_signers file."""

    name: Name
    role: Role


@dataclasses.dataclass(frozen=True)
class Left:
    """A key that an interrupt left on a device though it must not stay there."""

    serial: Serial
    object: ObjectRef


# --- commands: parameters and replies -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No parameters, or a reply whose content is of no interest or secret."""


@dataclasses.dataclass(frozen=True)
class KeyId:
    """The one object that a command is about, where its type goes without saying."""

    id: Id


@dataclasses.dataclass(frozen=True)
class Create:
    """A put or generate command. ``commitment`` (see ``Secret.commitment``) stands for a secret
    that was put; it is None where the device makes the key."""

    object: NewObject
    commitment: Hash | None


@dataclasses.dataclass(frozen=True)
class ChangeSecret:
    """CHANGE_AUTHENTICATION_KEY: the new secret's commitment."""

    id: Id
    commitment: Hash


@dataclasses.dataclass(frozen=True)
class Export:
    """EXPORT_WRAPPED: which object under which wrap key."""

    wrap_key: Id
    object: ObjectRef


@dataclasses.dataclass(frozen=True)
class Import:
    """IMPORT_WRAPPED: the blob by its SHA-256, which is that of the export it comes from."""

    wrap_key: Id
    blob_sha256: Hash


@dataclasses.dataclass(frozen=True)
class Blob:
    """The reply to an export: the blob's SHA-256. The blob itself is kept nowhere."""

    blob_sha256: Hash


@dataclasses.dataclass(frozen=True)
class Option:
    """GET_OPTION; with ``value``, in hex as on the wire, SET_OPTION or GET_OPTION's reply."""

    option: Word
    value: Hex | None


@dataclasses.dataclass(frozen=True)
class LogIndex:
    """SET_LOG_INDEX: entries up to this number have been consumed."""

    number: Id


@dataclasses.dataclass(frozen=True)
class Sign:
    """SIGN_EDDSA over a test message (see ``test_message``), never over anything else."""

    id: Id
    message: Hex


@dataclasses.dataclass(frozen=True)
class Signed:
    """The signature made; the ``test-signature`` record repeats it for the auditor."""

    signature: Signature64


@dataclasses.dataclass(frozen=True)
class Key:
    """A public key as the device gives it."""

    algorithm: Word
    key: Hex


@dataclasses.dataclass(frozen=True)
class Attest:
    """SIGN_ATTESTATION_CERTIFICATE: the key attested and the key that signs (0: the factory's)."""

    id: Id
    attesting: Id


@dataclasses.dataclass(frozen=True)
class Length:
    """GET_PSEUDO_RANDOM: how many bytes; which ones is recorded nowhere."""

    length: Id


@dataclasses.dataclass(frozen=True)
class Listed:
    """LIST_OBJECTS: what this session sees; the ``read-back`` record holds the details."""

    objects: tuple[ObjectRef, ...]


@dataclasses.dataclass(frozen=True)
class Storage:
    """GET_STORAGE_INFO: places for objects, total and free."""

    total_records: Count
    free_records: Count


# Every command that a ceremony may send, with the class of its parameters and of its reply.
COMMANDS: Mapping[str, tuple[type, type]] = {
    "echo": (Nothing, Nothing),
    "device-info": (Nothing, Nothing),  # the reply is the ``device`` record
    "get-device-public-key": (Nothing, Key),
    "create-session": (KeyId, Nothing),  # both halves, CREATE and AUTHENTICATE, as one
    "close-session": (Nothing, Nothing),
    "reset-device": (Nothing, Nothing),
    "blink-device": (Nothing, Nothing),
    "get-storage-info": (Nothing, Storage),
    "get-pseudo-random": (Length, Nothing),
    "list-objects": (Nothing, Listed),
    "get-object-info": (ObjectRef, StoredObject),
    "get-option": (Option, Option),
    "set-option": (Option, Nothing),
    "get-log-entries": (Nothing, Nothing),  # the reply is the ``audit-log`` record
    "set-log-index": (LogIndex, Nothing),
    "put-authentication-key": (Create, KeyId),
    "change-authentication-key": (ChangeSecret, KeyId),
    "put-wrap-key": (Create, KeyId),
    "generate-wrap-key": (Create, KeyId),
    "generate-asymmetric-key": (Create, KeyId),
    "get-public-key": (KeyId, Key),
    "sign-eddsa": (Sign, Signed),
    "sign-attestation-certificate": (Attest, Nothing),  # the reply is the ``attestation`` record
    "export-wrapped": (Export, Blob),
    "import-wrapped": (Import, ObjectRef),
    "delete-object": (ObjectRef, Nothing),
}

# Error of a command whose reply never came: whether the device did it is not known.
NO_REPLY = "no-reply"


def irreversible(command: str, parameters: Any) -> bool:
    """Whether operator and witness must have confirmed the step (see ``Confirmed``) before this
    command: it destroys something, or makes a setting permanent."""
    if command in ("reset-device", "delete-object"):
        return True
    # An option's value ends in, or for command audit pairs command with, 2: fixed until reset.
    if command == "set-option" and isinstance(parameters, Option) and parameters.value:
        value = bytes.fromhex(parameters.value)
        return 2 in (value[1::2] if parameters.option == "command-audit" else value)
    return False


# --- records ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Opened:
    """The first line: what is to be done, by which software, where.

    ``ceremony`` (16 random bytes) makes every ceremony's test messages and commitments its own:
    commitments are salted with this line's hash.
    ``plan`` is ``Plan.to_json()`` and ``plan_hash`` its hash, so that the transcript says what it
    was meant to be; an auditor compares with the plan they approved. ``host`` is what the software
    saw of its machine (kernel, boot id, where memory-only files are): information, no proof.
    """

    kind: ClassVar[str] = "opened"
    ceremony: Nonce
    plan: Mapping[str, Any]
    plan_hash: Hash
    mode: Mode
    software: str
    host: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Device:
    """A device introduced itself; again after each reconnection or resume.

    Proves that whatever answered at ``connector`` claimed this serial number and firmware:
    DEVICE_INFO is not authenticated. ``part_number`` is None before firmware 2.4.0.
    """

    kind: ClassVar[str] = "device"
    name: Slug
    serial: Serial
    firmware: tuple[Byte, ...]
    part_number: str | None
    connector: str
    algorithms: tuple[Word, ...]
    log_size: Byte
    log_used: Byte


@dataclasses.dataclass(frozen=True)
class Step:
    """A step begins or is proven done. ``serial`` is None for steps that concern no device.

    ``started`` is written before the first command of the step: what an interrupt left undone is
    a step that was started and is not done. A resumed step is started again.
    """

    kind: ClassVar[str] = "step"
    step: Slug
    serial: Serial | None
    state: Literal["started", "done"]


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """A participant typed the phrase for this step on this device. Rests on the people: the
    software cannot see who is at the keyboard. ``phrase_hash``: see ``phrase_hash``."""

    kind: ClassVar[str] = "confirmed"
    step: Slug
    serial: Serial | None
    participant: Name
    role: Role
    phrase_hash: Hash


@dataclasses.dataclass(frozen=True)
class Command:
    """One command to a device and its outcome.

    ``session_key`` is the id of the session's authentication key, None outside a session.
    Exactly one of ``reply`` and ``error`` is given; ``error`` is the device's, or ``no-reply``.
    Replaying these gives the contents of each device, which its read-backs must confirm.
    """

    kind: ClassVar[str] = "command"
    serial: Serial
    session_key: Id | None
    command: Slug
    parameters: Any
    reply: Any
    error: Word | None

    def __post_init__(self) -> None:
        if self.command not in COMMANDS:
            raise ValueError(f"command {self.command!r} has no place in a ceremony")
        if (self.reply is None) == (self.error is None):
            raise ValueError("a command has either a reply or an error")
        expected, reply = COMMANDS[self.command]
        if not isinstance(self.parameters, expected):
            raise ValueError(f"parameters of {self.command} are not {expected.__name__}")
        if self.reply is not None and not isinstance(self.reply, reply):
            raise ValueError(f"the reply of {self.command} is not {reply.__name__}")


@dataclasses.dataclass(frozen=True)
class AuditLog:
    """The device's log as fetched: every entry of the answer, 32 bytes each, oldest first.

    The digest chain shows that entries were neither changed nor left out between fetches. Where
    the plan audits a command, the entries must match the commands recorded above. ``consumed_to``
    is the number that the SET_LOG_INDEX to come will name, None if the entries stay in place: the
    record is written first, so that no entry is ever in neither.
    """

    kind: ClassVar[str] = "audit-log"
    serial: Serial
    session_key: Id
    entries: tuple[Bytes32, ...]
    unlogged_boots: Id
    unlogged_authentications: Id
    consumed_to: Id | None


@dataclasses.dataclass(frozen=True)
class ReadBack:
    """Everything that a session could see, asked object by object, and the device's options.

    Says what is on the device as far as ``session_domains`` reach. ``force_audit`` is 0-2;
    ``command_audit`` gives the value of each command that is not off.
    """

    kind: ClassVar[str] = "read-back"
    serial: Serial
    session_key: Id
    session_domains: tuple[Domain, ...]
    objects: tuple[StoredObject, ...]
    force_audit: Byte
    command_audit: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """A signing key's public half as this device gives it. ``object`` is the plan's name for it.
    Equal keys on several devices are what makes them clones."""

    kind: ClassVar[str] = "public-key"
    serial: Serial
    object: Slug
    id: Id
    algorithm: Word
    key: Bytes32


@dataclasses.dataclass(frozen=True)
class Attestation:
    """What the device said when asked to attest a key: a certificate, or an error.

    The certificate is signed by a key in the device; only if it chains to the manufacturer's root
    (which the auditor holds) does it prove anything to someone who was not there.
    """

    kind: ClassVar[str] = "attestation"
    serial: Serial
    id: Id
    attesting: Id
    pem: str | None
    error: Word | None

    def __post_init__(self) -> None:
        if (self.pem is None) == (self.error is None):
            raise ValueError("an attestation is either a certificate or an error")


@dataclasses.dataclass(frozen=True)
class TestSignature:
    """A signature by the key on this device over ``test_message``: the private key is there and
    works. The message is fresh (it names the ceremony) and cannot be a tree head."""

    __test__: ClassVar[bool] = False  # not a test case, whatever pytest makes of its name
    kind: ClassVar[str] = "test-signature"
    serial: Serial
    session_key: Id
    id: Id
    message: Hex
    signature: Signature64


@dataclasses.dataclass(frozen=True)
class DefaultKeyRefused:
    """A session with the factory's authentication key and password was tried, and refused."""

    kind: ClassVar[str] = "default-key-refused"
    serial: Serial
    error: Literal["object-not-found", "authentication-failed"]


@dataclasses.dataclass(frozen=True)
class SecretBackedUp:
    """A secret was written to a medium and read back from it, equal.

    ``secret`` is the plan's name of the authentication or wrap key; ``serial`` the one device that
    it opens, None for a secret that several share. ``medium`` is the label that a person put on it;
    ``share`` is 1-n for shares, 0 for a hex file. ``commitment`` is the one of the command that put
    the secret: what was backed up is what was put. Rests on the software and the people.
    """

    kind: ClassVar[str] = "secret-backed-up"
    secret: Slug
    serial: Serial | None
    medium: str
    form: Literal["hex", "shares"]
    share: Byte
    commitment: Hash


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """The ceremony stopped and could still say so. ``left`` lists the default keys and wrap keys
    on devices where the plan does not allow them to stay."""

    kind: ClassVar[str] = "interrupted"
    reason: str
    last_step: Slug | None
    left: tuple[Left, ...]


@dataclasses.dataclass(frozen=True)
class Resumed:
    """The ceremony goes on from the last proven step. Commands between the last line and the
    interrupt may be missing from the record; a device that was in use must show what it holds, in
    a session that sees all domains, before it is changed again.

    ``discarded_bytes`` counts those of a line that was never written to its end, and was cut.
    """

    kind: ClassVar[str] = "resumed"
    reason: str
    last_step: Slug | None
    discarded_bytes: Count
    software: str
    host: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Closed:
    """The last line, which each participant signs. ``lines`` counts this one too."""

    kind: ClassVar[str] = "closed"
    ceremony: Nonce
    lines: Count
    plan_hash: Hash
    mode: Mode
    participants: tuple[Participant, ...]


Record = (
    Opened
    | Device
    | Step
    | Confirmed
    | Command
    | AuditLog
    | ReadBack
    | PublicKey
    | Attestation
    | TestSignature
    | DefaultKeyRefused
    | SecretBackedUp
    | Interrupted
    | Resumed
    | Closed
)
KINDS: Mapping[str, type[Record]] = {record.kind: record for record in get_args(Record)}


# --- hashes and messages ------------------------------------------------------------------------

_PHRASE = b"sigsum-ops ceremony phrase v1\0"


def phrase_hash(phrase: str) -> str:
    """The hash of a confirmation phrase as it was typed."""
    return hashlib.sha256(_PHRASE + phrase.encode()).hexdigest()


def test_message(ceremony: str, serial: int, object_id: int) -> bytes:
    """What a device signs to show that a key works.

    It starts neither like a tree head or cosignature (``sigsum.org/v1/tree/…``,
    ``cosignature/v1``) nor like an SSH signature (``SSHSIG``), and names the ceremony, the device
    and the key.
    """
    return (
        "sigsum-ops ceremony test signature v1, not a tree head\n"
        f"ceremony {ceremony}\ndevice {serial}\nobject {object_id}\n"
    ).encode()


test_message.__test__ = False  # type: ignore[attr-defined]  # nor this


# --- JSON ---------------------------------------------------------------------------------------

_T = TypeVar("_T")


def to_json(record: Any) -> dict[str, Json]:
    """The body of a line, or a part of it."""
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def parse(kind: str, body: Json) -> Record:
    """The record in a line.

    Raises:
        ValueError: an unknown kind, a missing, unknown or mistyped field; says which.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
    if kind == Command.kind:
        return _command(body)
    return from_json(KINDS[kind], body, kind)


def from_json(cls: type[_T], value: Json, where: str) -> _T:
    """The inverse of ``to_json``, strict: every field, no other, each of its declared type.

    Raises:
        ValueError: naming the place below ``where``.
    """
    try:
        return cast(_T, _decoder(cast(Any, cls))(value))
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None


def _command(body: Json) -> Command:
    """A command's parameters and reply are of the classes that go with its name."""
    try:
        fields = _fields(Command)(body)
    except ValueError as error:
        raise ValueError(f"{Command.kind}{error}") from None
    name = fields["command"]
    if name not in COMMANDS:
        raise ValueError(f"command.command: {name!r} has no place in a ceremony")
    for field, cls in zip(("parameters", "reply"), COMMANDS[name], strict=True):
        if field == "parameters" or fields[field] is not None:
            fields[field] = from_json(cls, fields[field], f"{name}.{field}")
    return Command(**fields)


# A decoder raises ValueError(": what is wrong"), to which each level above prefixes the place.
_Decoder = Callable[[Json], Any]


@cache
def _fields(cls: type) -> Callable[[Json], dict[str, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    decoders = {field.name: _decoder(hints[field.name]) for field in dataclasses.fields(cls)}

    def decode(value: Json) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(": an object is expected")
        if wrong := sorted(value.keys() ^ decoders.keys()):
            raise ValueError(f": missing or unknown: {', '.join(wrong)}")
        return {name: _below(f".{name}", decoders[name], value[name]) for name in decoders}

    return decode


@cache
def _decoder(hint: Any) -> _Decoder:
    """What turns a JSON value into one of the type, or raises ValueError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (Union, UnionType):  # only ever X | None
        inner = _decoder(arguments[0])
        return lambda value: None if value is None else inner(value)
    if origin is Annotated:
        return _restricted(*arguments)
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, StrEnum)):
        return _chosen(arguments or tuple(hint))
    if origin is tuple:
        return _listed(_decoder(arguments[0]))
    if origin is Mapping:
        return _mapped(_decoder(arguments[1]))
    if dataclasses.is_dataclass(hint):
        cls = cast(type, hint)
        fields = _fields(cls)
        return lambda value: cls(**fields(value))
    return _plain_type(hint)


def _below(place: str, decoder: _Decoder, value: Json) -> Any:
    try:
        return decoder(value)
    except ValueError as error:
        text = str(error)
        raise ValueError(f"{place}{text if text[:1] in '.[:' else f': {text}'}") from None


def _plain_type(wanted: type) -> _Decoder:
    def decode(value: Json) -> Any:
        if type(value) is not wanted:  # a bool is an int to isinstance
            raise ValueError(f": {wanted.__name__} is expected")
        return value

    return decode


def _restricted(wanted: type, allowed: range | re.Pattern[str]) -> _Decoder:
    plain = _plain_type(wanted)

    def decode(value: Json) -> Any:
        found = plain(value)
        if isinstance(allowed, range):
            if found not in allowed:
                raise ValueError(f": {found} is not {allowed.start} to {allowed.stop - 1}")
        elif not allowed.fullmatch(found):
            raise ValueError(f": {found!r} is not of the form {allowed.pattern}")
        return found

    return decode


def _chosen(options: tuple[str, ...]) -> _Decoder:
    def decode(value: Json) -> Any:
        for option in options:
            if value == option:
                return option
        raise ValueError(f": {value!r} is none of {', '.join(options)}")

    return decode


def _listed(inner: _Decoder) -> _Decoder:
    def decode(value: Json) -> Any:
        if not isinstance(value, list):
            raise ValueError(": a list is expected")
        return tuple(_below(f"[{n}]", inner, item) for n, item in enumerate(value))

    return decode


def _mapped(inner: _Decoder) -> _Decoder:
    def decode(value: Json) -> Any:
        if not isinstance(value, dict):
            raise ValueError(": an object is expected")
        return {key: _below(f".{key}", inner, item) for key, item in value.items()}

    return decode


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
