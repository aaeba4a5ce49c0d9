"""What a transcript, played again, says of one device."""

from __future__ import annotations

from dataclasses import dataclass, field

from yubihsm.defs import AUDIT

from sigsum_ops.hsm import devicelog, names
from sigsum_ops.hsm.ceremony import records
from sigsum_ops.hsm.ceremony.logmatch import Recorded
from sigsum_ops.hsm.ceremony.records import Command, ObjectRef, ReadBack, StoredObject
from sigsum_ops.hsm.plan import DEFAULT_KEY_ID, DevicePlan

AUTHENTICATION_KEY = "authentication-key"
WRAP_KEY = "wrap-key"
ASYMMETRIC_KEY = "asymmetric-key"
DEFAULT_KEY = ObjectRef(AUTHENTICATION_KEY, DEFAULT_KEY_ID)

ALL_DOMAINS = tuple(names.DOMAINS)


class RecordError(ValueError):
    """A record that does not follow from those before it."""


@dataclass(frozen=True)
class Held:
    """An object that must now be on a device.

    ``commitment`` is the secret's that was put, None for keys made in a device, and for those whose
    command an interrupt kept out of the record. ``key`` is the public key that the device gave.
    """

    domains: tuple[int, ...]
    commitment: str | None = None
    key: str | None = None
    tested: bool = False


@dataclass(frozen=True)
class Exported:
    """Where a wrapped blob comes from; ``n`` is the line of its export."""

    n: int
    serial: int
    object: ObjectRef
    wrap: Held
    held: Held


@dataclass
class DeviceState:
    """One device as the record has it. ``objects`` is None until it is known to be factory-fresh.

    ``uncertain`` counts commands that may or may not have been carried out.
    """

    plan: DevicePlan
    identity: records.Device | None = None
    connected: bool = False
    objects: dict[ObjectRef, Held] | None = None
    uncertain: int = 0
    everything: int = names.ALL_CAPABILITIES
    sessions: set[int] = field(default_factory=set)
    listed: set[ObjectRef] = field(default_factory=set)  # by the last list-objects
    listed_with: int | None = None  # its session's key
    described: dict[ObjectRef, StoredObject] = field(default_factory=dict)
    options: dict[str, str | None] = field(default_factory=dict)
    public_keys: dict[int, str] = field(default_factory=dict)  # as this device gave them
    read_back: ReadBack | None = None
    changed_since: list[Command] = field(default_factory=list)  # since ``read_back``
    default_tried: str | None = None  # how the deleted default key was refused
    default_refused: bool = False  # and that this was written down
    recorded: list[Recorded] = field(default_factory=list)
    entries: list[tuple[int, devicelog.Entry]] = field(default_factory=list)  # with their lines
    log_read: int = 0  # how many commands are on record at the last get-log-entries
    log_read_with: int | None = None  # its session's key
    fetched: int = 0  # the same for the last one whose entries are on record
    # How the last try to attest went, by object and attesting key (None: with a certificate), and
    # what the record says of it, by object.
    attest_tried: dict[tuple[int, int], str | None] = field(default_factory=dict)
    attested: dict[int, str] = field(default_factory=dict)

    def factory_fresh(self) -> None:
        """It was reset: what was known is over."""
        self.objects = {DEFAULT_KEY: Held(ALL_DOMAINS)}
        self.uncertain = 0
        self.sessions.clear()
        self.forget_answers()
        self.public_keys.clear()
        self.read_back = None
        self.changed_since.clear()
        self.default_tried = None
        self.default_refused = False
        self.recorded.clear()
        self.entries.clear()
        self.log_read = self.fetched = 0
        self.log_read_with = None
        self.attest_tried.clear()
        self.attested.clear()

    def forget_answers(self) -> None:
        """A read-back is made of answers given after the last change."""
        self.listed.clear()
        self.listed_with = None
        self.described.clear()
        self.options.clear()

    def check_option(self, option: records.Option) -> None:
        """An option is only ever set to what the plan says: no audit is off for a while."""
        value = bytes.fromhex(option.value or "")
        if option.option == "force-audit":
            allowed = (AUDIT.ON, AUDIT.FIXED) if self.plan.forced_audit else (AUDIT.OFF,)
            planned = len(value) == 1 and value[0] in allowed
        else:
            wanted = {(int(command), int(on)) for command, on in self.plan.command_audit.items()}
            pairs = set(zip(value[::2], value[1::2], strict=False))
            planned = option.option == "command-audit" and len(value) % 2 == 0 and pairs <= wanted
        if not planned:
            raise RecordError(f"sets {option.option} of {self.plan.name} otherwise than planned")

    def check_answers(self, record: ReadBack) -> None:
        """A read-back says what the commands before it were answered, no more and no less."""
        shown = {item.ref: item for item in record.objects}
        if len(shown) != len(record.objects):
            raise RecordError("shows an object twice")
        if self.listed_with != record.session_key:
            raise RecordError(f"no session with key {record.session_key} listed the objects before")
        if self.listed != shown.keys() or any(
            self.described.get(ref) != item for ref, item in shown.items()
        ):
            raise RecordError(f"{self.plan.name} described its objects otherwise when asked")
        value = bytes.fromhex(self.options.get("command-audit") or "")
        audited = {
            names.name_of(names.COMMANDS, command): setting
            for command, setting in zip(value[::2], value[1::2], strict=False)
            if setting
        }
        forced = self.options.get("force-audit")
        if audited != record.command_audit or forced != f"{record.force_audit:02x}":
            raise RecordError(f"{self.plan.name} gave other audit options when asked")
