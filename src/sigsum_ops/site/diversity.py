"""Whether the log machines are so unlike each other that one fault does not take them all.

A site's machines are compared component by component, every pair of them. What two share is judged
by the site's policy: ``diversity_policy`` in the inventory gives each component a level, and
``diversity_overrides`` excuses one with a written reason. What could not be read is never counted
as different.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from sigsum_ops.errors import UsageError
from sigsum_ops.site.hardware import Hardware, Part, Reading, parse

LEVELS = ("fail", "warn", "ignore")
POLICY = "diversity_policy"
OVERRIDES = "diversity_overrides"


@dataclass(frozen=True)
class Kind:
    """How one component is judged where the site does not say, and how a shared part is told."""

    title: str
    level: str
    shared: str = "{part} on {hosts}"


# Each component of Hardware, in the order of the report. The same kernel, microcode and system on
# all machines is what patching is for: it is shown, not judged.
COMPONENTS: Mapping[str, Kind] = {
    "machine": Kind("Machine", "fail", "{hosts} are one computer"),
    "disk": Kind("Disks", "fail"),
    "disk_serial": Kind("Disk serials", "fail", "one disk in {hosts}: {part}"),
    "disk_firmware": Kind("Disk firmware", "warn"),
    "disk_maker": Kind("Disk makers", "warn"),
    "board": Kind("Board", "warn"),
    "bios": Kind("BIOS", "warn"),
    "cpu": Kind("CPU", "warn"),
    "microcode": Kind("Microcode", "ignore"),
    "memory": Kind("Memory", "warn"),
    "network": Kind("Network cards", "warn"),
    "power_supply": Kind("Power supplies", "warn"),
    "kernel": Kind("Kernel", "ignore"),
    "os": Kind("System", "ignore"),
}


@dataclass(frozen=True)
class Override:
    """An excuse for one component, with who gave it and why.

    ``value`` limits it to one shared part, by its label in the report, so that it does not go on
    excusing what is bought later. It counts up to and including the day ``expires``.
    """

    component: str
    reason: str
    approved_by: str
    value: str = ""
    expires: datetime.date | None = None


@dataclass(frozen=True)
class Policy:
    """A level for each component, and the overrides."""

    levels: Mapping[str, str]
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True)
class Component:
    """The verdict on one component.

    Args:
        id: its name in policies.
        title: its name for people.
        values: what each machine has; "unknown" stands where nothing was readable.
        finding: ``different``, ``same`` or ``unknown``.
        verdict: ``ok``, ``noted``, ``excused``, ``warning`` or ``failure``.
        reason: why, and for a failure what to do; "" where there is nothing to say.
    """

    id: str
    title: str
    values: Mapping[str, Sequence[str]]
    finding: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The comparison of a site's log machines."""

    machines: tuple[str, ...]
    components: tuple[Component, ...]
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        good = all(component.verdict != "failure" for component in self.components)
        object.__setattr__(self, "ok", good)

    def as_json(self) -> dict[str, object]:
        """The report as an object of JSON's types."""
        found: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return found


# --- Policy -------------------------------------------------------------------------------------


def read_policy(levels: object, overrides: object) -> Policy:
    """Check what the inventory says and complete it with the defaults.

    Args:
        levels: ``diversity_policy``, a mapping of component to level.
        overrides: ``diversity_overrides``, a list of mappings.

    Raises:
        UsageError: naming the setting, its value and what is allowed.
    """
    chosen = {name: kind.level for name, kind in COMPONENTS.items()}
    if not isinstance(levels, Mapping):
        raise _refused(POLICY, levels, "a mapping of component to level")
    for name, level in levels.items():
        if name not in COMPONENTS:
            raise _refused(POLICY, name, f"the components {_names()}")
        if level not in LEVELS:
            raise _refused(f"{POLICY}.{name}", level, f"one of {', '.join(LEVELS)}")
        chosen[str(name)] = str(level)
    if not isinstance(overrides, Sequence) or isinstance(overrides, str):
        raise _refused(OVERRIDES, overrides, "a list of mappings")
    return Policy(chosen, tuple(_override(i, entry) for i, entry in enumerate(overrides)))


def _override(index: int, entry: object) -> Override:
    where = f"{OVERRIDES}[{index}]"
    allowed = ("component", "value", "reason", "approved_by", "expires")
    if not isinstance(entry, Mapping):
        raise _refused(where, entry, f"a mapping with {', '.join(allowed)}")
    for name, value in entry.items():
        if name not in allowed:
            raise _refused(f"{where}.{name}", value, f"only {', '.join(allowed)}")
    component = entry.get("component")
    if not isinstance(component, str) or component not in COMPONENTS:
        raise _refused(f"{where}.component", component, f"one of {_names()}")
    text = {}
    for name in ("reason", "approved_by"):
        value = entry.get(name)
        if not isinstance(value, str) or not value.strip():
            raise _refused(f"{where}.{name}", value, "a text that is not empty")
        text[name] = " ".join(value.split())
    value = entry.get("value", "")
    if not isinstance(value, str):
        raise _refused(f"{where}.value", value, "a text, as the report shows the part")
    return Override(
        component,
        text["reason"],
        text["approved_by"],
        " ".join(value.split()),
        _date(f"{where}.expires", entry.get("expires")),
    )


def _date(where: str, value: object) -> datetime.date | None:
    if value is None or isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(str(value))
    except ValueError as error:
        raise _refused(where, value, "a date such as 2027-12-31") from error


def _refused(setting: str, value: object, allowed: str) -> UsageError:
    shown = "is not set" if value is None else f"is {str(value)[:80]!r}"
    return UsageError(f"{setting} {shown}", hint=f"Allowed: {allowed}.")


def _names() -> str:
    return ", ".join(COMPONENTS)


# --- Comparison ---------------------------------------------------------------------------------


def compare(machines: Mapping[str, Hardware], policy: Policy, today: datetime.date) -> Report:
    """Compare all pairs of machines and judge what they share.

    Raises:
        UsageError: fewer than two machines.
    """
    if len(machines) < 2:
        raise UsageError(
            f"there is {len(machines)} log machine to compare: {', '.join(machines) or 'none'}",
            hint="The group log_machines of the inventory needs two or more.",
        )
    components = tuple(
        _judge(
            name, {host: getattr(found, name) for host, found in machines.items()}, policy, today
        )
        for name in COMPONENTS
    )
    return Report(tuple(machines), components)


def _judge(
    name: str, readings: Mapping[str, Reading], policy: Policy, today: datetime.date
) -> Component:
    kind = COMPONENTS[name]
    level = policy.levels[name]
    shared = _shared(readings)
    unknown = _unknown(readings)
    # A part in common is a finding even where another could not be read; both need an excuse.
    finding = "same" if shared else "unknown" if unknown else "different"
    facts = [
        kind.shared.format(part=label, hosts=" and ".join(hosts)) for label, hosts in shared.items()
    ] + unknown
    overrides = [override for override in policy.overrides if override.component == name]
    if finding == "different":
        verdict, reason = "ok", _superfluous(overrides)
    elif level == "ignore":
        verdict, reason = "noted", "; ".join(facts)
    else:
        excuse, expired = _excuse(overrides, set(shared), bool(unknown), today)
        verdict = "excused" if excuse else {"fail": "failure", "warn": "warning"}[level]
        reason = ". ".join(["; ".join(facts), *filter(None, [excuse, expired])])
    values = {host: reading.labels or ["unknown"] for host, reading in readings.items()}
    return Component(name, kind.title, values, finding, verdict, reason)


def _shared(readings: Mapping[str, Reading]) -> dict[str, list[str]]:
    """Each part that two or more machines have, by its label, with their names."""
    found: dict[str, list[str]] = {}
    placed: list[Part] = []
    for reading in readings.values():
        for part in reading.parts:
            if any(part.same_as(other) for other in placed):
                continue
            placed.append(part)
            hosts = [h for h, r in readings.items() if any(part.same_as(p) for p in r.parts)]
            if len(hosts) > 1:
                found[part.label] = hosts
    return found


def _unknown(readings: Mapping[str, Reading]) -> list[str]:
    """What could not be read, each with the machines where it was so."""
    found: dict[str, list[str]] = {}
    for host, reading in readings.items():
        if reading.unknown:
            found.setdefault(reading.unknown, []).append(host)
    return [f"{' and '.join(hosts)}: {why}" for why, hosts in found.items()]


def _excuse(
    overrides: Sequence[Override], shared: set[str], unknown: bool, today: datetime.date
) -> tuple[str, str]:
    """The reasons that together cover everything, else ""; and a note on those that ran out."""
    valid = [o for o in overrides if o.expires is None or o.expires >= today]
    expired = [o for o in overrides if o not in valid]
    note = "; ".join(f"the override by {o.approved_by} ran out on {o.expires}" for o in expired)
    values = {o.value for o in valid}
    needed = shared | ({"unknown"} if unknown else set())
    if not valid or not ("" in values or needed <= values):
        return "", note
    used = [o for o in valid if not o.value or o.value in needed]
    return "; ".join(f"{o.reason} ({o.approved_by})" for o in used), note


def _superfluous(overrides: Sequence[Override]) -> str:
    if not overrides:
        return ""
    return f"the override by {overrides[0].approved_by} is not needed any more: remove it"


# --- From recorded facts ------------------------------------------------------------------------


def judge(records: Mapping[str, object], today: datetime.date | None = None) -> Report:
    """Compare machines from what the playbook ``diversity.yml`` recorded of each.

    Args:
        records: by host, a mapping with ``hardware`` (of the module hardware_raw), ``policy`` and
            ``overrides`` (of the inventory).
        today: against which overrides run out.

    Raises:
        UsageError: a record, the policy or an override is malformed, or the policy differs
            between the machines.
    """
    machines = {}
    policies: dict[str, str] = {}
    policy = read_policy({}, [])
    for host, record in records.items():
        if not isinstance(record, Mapping):
            raise UsageError(f"{host}: its record is no mapping")
        try:
            machines[host] = parse(record.get("hardware"))
        except UsageError as error:
            raise UsageError(f"{host}: {error.message}", hint=error.hint) from error
        levels, overrides = record.get("policy", {}), record.get("overrides", [])
        policy = read_policy(levels, overrides)
        policies.setdefault(json.dumps([levels, overrides], sort_keys=True, default=str), host)
    if len(policies) > 1:
        raise UsageError(
            f"{POLICY} or {OVERRIDES} differ between {' and '.join(policies.values())}",
            hint="Allowed: one of each for the site. Set them for the group log_machines.",
        )
    return compare(machines, policy, today or datetime.datetime.now(datetime.UTC).date())
