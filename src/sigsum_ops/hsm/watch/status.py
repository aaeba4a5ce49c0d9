"""An inventory of one device against the plan. Reads only, and says how far it could see.

A session sees the objects of its own domains and no others. What other domains hold is neither
confirmed nor denied here; the ceremony has read it back in a session that saw all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from yubihsm.core import AuthSession
from yubihsm.defs import COMMAND, ERROR, OBJECT, OPTION
from yubihsm.exceptions import YubiHsmDeviceError

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import names
from sigsum_ops.hsm.ceremony.records import ReadBack, StoredObject
from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.plan import DEFAULT_KEY_ID, DevicePlan, Plan, differences
from sigsum_ops.hsm.watch import BAD, UNKNOWN
from sigsum_ops.hsm.watch.link import Away, Link, Refused, StaticKeys, keys_of, static_keys

_DEFAULT_PASSWORD = "password"  # noqa: S105 - the factory's, known to everyone


@dataclass
class Status:
    """What was seen. ``domains`` are those of the sessions that were opened."""

    device: str
    serial: int
    planned_serial: int
    firmware: str
    part_number: str | None
    rehearsal: bool
    log_used: int
    log_size: int
    opened: list[str] = field(default_factory=list)
    domains: list[int] = field(default_factory=list)
    objects: list[StoredObject] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)  # of the plan, in domains that were not seen
    storage: dict[str, int] | None = None
    options_seen: bool = False
    differences: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # what could not be looked at

    @property
    def exit_code(self) -> int:
        if self.differences:
            return BAD
        return UNKNOWN if self.doubts else 0

    def to_json(self) -> dict[str, object]:
        return {
            "as_planned": None if self.doubts and not self.differences else not self.differences,
            **{name: value for name, value in vars(self).items() if name != "objects"},
            "objects": [vars(item) for item in self.objects],
        }


def passphrases(plan: Plan, device: DevicePlan, given: Sequence[str]) -> dict[str, StaticKeys]:
    """Read what opens which authentication key, from NAME=FILE.

    Raises:
        UsageError: no such key on this device, or no such file.
    """
    allowed = [s.name for s in plan.specs(device) if s.type == OBJECT.AUTHENTICATION_KEY]
    found = {}
    for text in given:
        name, _, file = text.partition("=")
        if name not in allowed or not file:
            raise UsageError(
                f"--open {text!r} is not NAME=FILE with an authentication key of {device.name}",
                hint=f"Its authentication keys: {', '.join(allowed)}.",
            )
        found[name] = keys_of(Path(file))
    return found


def planned(plan: Plan, name: str) -> DevicePlan:
    """The device that the plan calls so. Raises UsageError."""
    for device in plan.devices:
        if device.name == name:
            return device
    known = ", ".join(device.name for device in plan.devices)
    raise UsageError(f"the plan has no device {name!r}", hint=f"It has {known}.")


def inventory(
    plan: Plan, device: DevicePlan, connector: str, keys: Mapping[str, StaticKeys]
) -> Status:
    """Look at the device behind a connector.

    Args:
        plan: the site's.
        device: which of its devices that shall be.
        connector: its URL.
        keys: what opens which of the device's authentication keys; with none, the device says who
            it is and nothing else.

    Raises:
        Away: it does not answer.
    """
    link = Link(connector)
    info = link.identify()
    status = Status(
        device.name,
        info.serial,
        device.serial,
        ".".join(map(str, info.version)),
        (info.part_number or "").rstrip("\0") or None,
        is_rehearsal(info.serial, info.part_number),
        info.log_used,
        info.log_size,
    )
    if info.serial != device.serial:
        # Its keys are none of these passphrases' business.
        status.differences.append(
            f"this is YubiHSM {info.serial}, not {device.serial} ({device.name})"
        )
        return status
    if device.firmware and tuple(info.version) < device.firmware:
        least = ".".join(map(str, device.firmware))
        status.differences.append(f"firmware is {status.firmware}, not {least} or newer")
    _try_default_key(link, status)
    specs = {spec.name: spec for spec in plan.specs(device)}
    found: dict[tuple[str, int], StoredObject] = {}
    options: tuple[int, dict[str, int]] | None = None
    for name, key in keys.items():
        spec = specs[name]
        try:
            with link.session(spec.id, key) as session:
                status.storage = _storage(session)
                options = _options(session) or options
                for item in session.list_objects():
                    stored = StoredObject.of(item.get_info())
                    found[stored.type, stored.id] = stored
        except Refused as error:
            if error.code == ERROR.OBJECT_NOT_FOUND:
                status.differences.append(f"{name} (id {spec.id}) is missing")
            else:
                status.doubts.append(error.message)
        except Away as error:
            status.doubts.append(error.message)
        else:
            status.opened.append(name)
    link.close()
    status.objects = [found[ref] for ref in sorted(found)]
    _compare(status, plan, device, options)
    return status


def _try_default_key(link: Link, status: Status) -> None:
    """Everyone knows what opens it, so it is no secret of anybody's whether it does."""
    try:
        with link.session(DEFAULT_KEY_ID, static_keys(_DEFAULT_PASSWORD)):
            status.differences.append("the factory's password opens the default authentication key")
    except Refused as error:
        if error.code != ERROR.OBJECT_NOT_FOUND:
            status.differences.append("the default authentication key is there, with a passphrase")
    except Away as error:
        status.doubts.append(error.message)


def _storage(session: AuthSession) -> dict[str, int]:
    fields = ("records", "free_records", "pages", "free_pages", "page_size")
    return dict(
        zip(
            fields,
            struct.unpack("!5H", session.send_secure_cmd(COMMAND.GET_STORAGE_INFO)),
            strict=True,
        )
    )


def _options(session: AuthSession) -> tuple[int, dict[str, int]] | None:
    """Forced and command audit, where this session may ask for them."""
    try:
        forced = session.get_option(OPTION.FORCE_AUDIT)[0]
        pairs = session.get_option(OPTION.COMMAND_AUDIT)
    except YubiHsmDeviceError as error:
        if error.code != ERROR.INSUFFICIENT_PERMISSIONS:
            raise
        return None
    audits = {pairs[n]: pairs[n + 1] for n in range(0, len(pairs) - 1, 2)}
    return forced, {names.name_of(names.COMMANDS, c): value for c, value in audits.items() if value}


def _compare(
    status: Status, plan: Plan, device: DevicePlan, options: tuple[int, dict[str, int]] | None
) -> None:
    """Compare what was seen with what of the plan can be seen so."""
    specs = plan.specs(device)
    seen = 0
    for spec in specs:
        if spec.name in status.opened:
            seen |= spec.domains
    visible = [spec for spec in specs if spec.domains & seen]
    status.domains = list(names.domain_numbers(seen))
    status.unseen = [spec.name for spec in specs if not spec.domains & seen]
    status.options_seen = options is not None
    forced, command_audit = options or (int(device.forced_audit), {})
    found = ReadBack(
        status.serial,
        0,
        tuple(status.domains),
        tuple(status.objects),
        forced,
        command_audit,
    )
    expected = replace(
        device,
        objects=tuple(spec.name for spec in visible),
        command_audit=device.command_audit if options else {},
    )
    problems = [*status.differences, *differences(plan, expected, found)]
    status.differences = list(dict.fromkeys(problems))


def view(status: Status) -> RenderableType:
    """The status for people."""
    about = Table.grid(padding=(0, 2))
    part = f", {status.part_number}" if status.part_number else ""
    about.add_row("device", f"{status.device}: YubiHSM {status.serial}{part}")
    about.add_row("firmware", status.firmware)
    if status.rehearsal:
        about.add_row("", "a rehearsal device: it protects nothing")
    about.add_row("its log", f"{status.log_used} of {status.log_size} entries")
    if storage := status.storage:
        about.add_row(
            "storage", f"{storage['free_records']} of {storage['records']} places are free"
        )
    domains = ", ".join(map(str, status.domains)) or "none"
    about.add_row("domains seen", f"{domains} (opened: {', '.join(status.opened) or 'nothing'})")
    about.add_row("not seen", Text(", ".join(status.unseen) or "nothing of the plan"))
    if not status.options_seen:
        about.add_row("", "the audit's settings: no session may ask for them")
    objects = Table("id", "type", "label", "domains", "capabilities", "origin")
    for item in status.objects:
        objects.add_row(
            str(item.id),
            item.type,
            Text(item.label),
            ", ".join(map(str, item.domains)),
            ", ".join(item.capabilities),
            ", ".join(item.origin),
        )
    lines = [Text(f"DIFFERS      {text}") for text in status.differences]
    lines += [Text(f"CANNOT TELL  {text}") for text in status.doubts]
    if not lines:
        lines = [Text("As planned, as far as was seen.")]
    return Group(about, *([objects] if status.objects else []), *lines)
