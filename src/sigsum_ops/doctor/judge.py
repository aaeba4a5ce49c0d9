"""What the doctor finds, from what was read of all machines; touches none.

Each finding has a name that stays the same, a reason, and what to do. ``NAMES`` lists them for
people; docs/doctor.md is held to it by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sigsum_ops.failover import inventory

Facts = Mapping[str, Any]

DAY = 86400.0
CLOCK_BOUND = 60.0  # seconds; what is compared was not read at the same moment
RESTARTS = 3  # within LATELY of the last one
LATELY = 600.0  # seconds
FREE_SHARE = 0.1  # of a disk
CERTIFICATE = 21 * DAY  # ACME renews 30 days before the end
STALE = 300.0  # seconds; what writes metrics does so at least every minute
CHECKED = 2 * DAY  # a device that nobody has tried for so long may be dead
BACKUP = 1.5 * DAY
DRILL = 40 * DAY


class Weight(StrEnum):
    """Who should know of it, and when."""

    PAGE = "page"  # somebody, now
    TICKET = "ticket"  # on a working day


@dataclass(frozen=True)
class Finding:
    """What is wrong, with which machine (empty: the site), and what to do."""

    name: str
    machine: str
    what: str
    fix: str
    weight: Weight = Weight.PAGE

    def as_json(self) -> dict[str, str]:
        """The same."""
        return {**asdict(self), "weight": str(self.weight)}


@dataclass(frozen=True)
class Machine:
    """One machine: what the inventory says of it, and what it said itself, None for nothing."""

    name: str
    role: str = ""  # log_server_role
    permit: str = ""  # signing_oracle_ungated_until, as the inventory has it
    ours: bool = True  # whether site.yml gives it our package
    answers: bool = True
    package: str | None = None  # the version of ours that it has
    public: bool = False  # whether the inventory has rate limits for it
    facts: Facts | None = None
    why: str = ""  # it did not answer

    @property
    def log(self) -> Facts:
        """What it said as a log machine."""
        return (self.facts or {}).get("log") or {}


NAMES = {
    "inventory": "the inventory cannot be right",
    "no-answer": "a machine cannot be asked",
    "package": "a machine has another version of our package than the controller",
    "unit-failed": "a service has failed, does not run although it should, or is masked",
    "restarts": "a service is restarted again and again",
    "role": "which machine is the primary is not what the inventory says",
    "fenced": "a machine is fenced",
    "quarantined": "a machine was restored, and takes no part until that is settled",
    "latched": "the signing oracle signs nothing until a person has looked",
    "start-refused": "the start guard refused the log's last start",
    "split-view": "evidence of two histories",
    "other-tree": "the tree is not an extension of what was signed or published",
    "unreadable": "a part of what a machine should tell cannot be read",
    "ungated": "the log goes on without its secondary",
    "behind": "a secondary has not copied all that is published",
    "not-reached": "the log does not answer its users",
    "name": "the log's name leads elsewhere",
    "not-growing": "leaves are accepted, and not published",
    "no-quorum": "the published tree head has too few cosignatures",
    "witness": "a witness does not cosign",
    "backend": "a witness is not reached through the bastion",
    "hsm-audit": "the device's log shows what nobody accounts for, or is not known",
    "hsm-check": "a device was not tried lately, or does not sign",
    "rate-limit": "a log has no rate limits, which the inventory has",
    "certificate": "a certificate ends soon, or cannot be read",
    "backup": "the last backup is too old or failed, or its last drill",
    "stale": "a service has stopped to tell how it is",
    "disk": "a disk is nearly full",
    "clock": "a clock is off",
    "reboot": "a machine waits for a reboot",
}


def findings(
    machines: Mapping[str, Machine],
    asked: Facts,
    *,
    version: str,
    now: float,
    unfit: list[str] | None = None,
) -> list[Finding]:
    """Everything that is wrong, by machine and name.

    Args:
        machines: all that are in the inventory.
        asked: what ``ask`` found, empty for a site without a log.
        version: of our package, as this controller has it.
        now: Unix seconds.
        unfit: what ``sigsum-ops inventory check`` says.
    """
    found = [
        Finding("inventory", "", text, "Correct the inventory; site.yml refuses it.")
        for text in unfit or []
    ]
    for machine in machines.values():
        found += _reached(machine, version)
        if machine.facts is not None:
            for part in _PARTS:
                found += part(machine, machine.facts, now)
    found += _site(machines, asked)
    return sorted(found, key=lambda each: (each.weight, each.machine, each.name, each.what))


def _reached(machine: Machine, version: str) -> Iterator[Finding]:
    """Whether it can be asked."""
    if not machine.answers or (machine.facts is None and machine.package):
        yield Finding(
            "no-answer",
            machine.name,
            machine.why or "it cannot be asked by ssh",
            "Is it up, and reached? A dead primary: docs/bcp/promote.md",
        )
    elif machine.package != version and (machine.ours or machine.package):
        yield Finding(
            "package",
            machine.name,
            f"it has sigsum-ops {machine.package or 'not at all'}, this controller is {version}",
            "Converge it by site.yml, or go back to the commit with which it was.",
            Weight.TICKET,
        )


def _units(machine: Machine, facts: Facts, now: float) -> Iterator[Finding]:
    del now
    fenced = machine.log.get("fenced") is not None
    for name, unit in facts["units"].items():
        state, file = unit["ActiveState"], unit["UnitFileState"]
        if unit["LoadState"] == "masked":
            if not fenced and name.startswith(_OURS):
                yield Finding("unit-failed", machine.name, f"{name} is masked", _UNIT_FIX)
        elif state == "failed":
            why = f"{name} has failed ({unit.get('Result', '?')})"
            yield Finding("unit-failed", machine.name, why, f"journalctl -u {name} says why.")
        elif file == "enabled" and state != "active" and name.startswith(_OURS):
            why = f"{name} is {state} although it is enabled"
            yield Finding("unit-failed", machine.name, why, f"journalctl -u {name} says why.")
        restarts = int(unit.get("NRestarts") or 0)
        started = int(unit.get("ExecMainStartTimestampMonotonic") or 0) / 1e6
        if restarts >= RESTARTS and facts["up_seconds"] - started < LATELY:
            yield Finding(
                "restarts",
                machine.name,
                f"{name} was restarted {restarts} times, the last time"
                f" {facts['up_seconds'] - started:.0f} s ago",
                f"journalctl -u {name} says why it ends.",
                Weight.TICKET,
            )


_OURS = ("sigsum-", "trillian-", "mariadb", "litebastion", "litewitness", "nginx.", "unbound.")
_UNIT_FIX = "Who masked it, and why? systemctl unmask undoes it; site.yml starts what is needed."


def _log(machine: Machine, facts: Facts, now: float) -> Iterator[Finding]:
    """What a log machine's own look shows."""
    del facts, now
    log = machine.log
    if not log:
        return

    def say(name: str, what: str, fix: str, weight: Weight = Weight.PAGE) -> Finding:
        return Finding(name, machine.name, what, fix, weight)

    if log["fenced"] is not None:
        how = f"it is fenced: {log['fenced']}"
        yield say("fenced", how, "Re-seed it as a secondary: docs/bcp/reseed.md", Weight.TICKET)
    if log["quarantine"] is not None:
        yield say("quarantined", "it was restored from a backup", "docs/bcp/restore.md")
    if log["has_latch"]:
        yield say("latched", "its oracle is latched", "docs/bcp/oracle-latched.md")
    for path in log["split_views"]:
        yield say("split-view", f"there is {path}", "docs/bcp/split-view.md")
    for text in log["doubts"]:
        yield say("unreadable", text, "What shows what was signed must be readable. Restore it.")
    for text in log["unreadable"]:
        yield say("unreadable", text, "Does Trillian run, and its database?")
    tree = log["tree"] or {}
    for text in tree.get("behind", []):
        lags = "ends at size" in text
        if lags and machine.role == "secondary":
            yield say("behind", text, "docs/bcp/database-secondary.md")
        else:
            yield say("other-tree", text, "docs/bcp/start-refused.md; stop nothing, sign nothing.")
    if log["permit"]:
        until = f"its oracle lets the log go on alone until {log['permit']}"
        yield say("ungated", until, "Have a secondary again: docs/bcp/reseed.md", Weight.TICKET)


def _metrics(machine: Machine, facts: Facts, now: float) -> Iterator[Finding]:
    """What services say of themselves."""
    told: Mapping[str, float] = facts["metrics"]

    def say(name: str, what: str, fix: str, weight: Weight = Weight.PAGE) -> Finding:
        return Finding(name, machine.name, what, fix, weight)

    for sample, value in told.items():
        if sample.startswith("sigsum_guard_refused") and value:
            reason = sample.partition('"')[2].rstrip('"}')
            yield say(
                "start-refused", f"the start guard said {reason}", "docs/bcp/start-refused.md"
            )
        if sample.startswith("sigsum_bastion_backend_reached") and not value:
            who = sample.partition('name="')[2].partition('"')[0]
            yield say("backend", f"{who} is not reached", "docs/bastion.md", Weight.TICKET)
    for state, weight in (("alarm", Weight.PAGE), ("unknown", Weight.TICKET)):
        if told.get(f'sigsum_hsm_audit_state{{state="{state}"}}'):
            what = f"the audit of the device says {state}"
            yield say("hsm-audit", what, "docs/bcp/hsm-watch.md", weight)
    for state in ("failed", "unknown"):
        if told.get(f'sigsum_hsm_check_state{{state="{state}"}}'):
            yield say("hsm-check", f"its last check: {state}", "docs/bcp/lost-hsm.md")
    checked = told.get("sigsum_hsm_check_timestamp_seconds")
    if checked is not None and now - checked > CHECKED:
        days = f"its device was not tried for {(now - checked) / DAY:.0f} days"
        yield say("hsm-check", days, "systemctl start sigsum-hsm-check", Weight.TICKET)
    for name, what in (("run", "backup"), ("check", "check of the backups")):
        if told.get(f"sigsum_backup_{name}_failed"):
            yield say("backup", f"the last {what} failed", "docs/backups.md", Weight.TICKET)
    for name, bound, what in (
        ("sigsum_backup_last_success_timestamp_seconds", BACKUP, "backup"),
        ("sigsum_backup_check_timestamp_seconds", DRILL, "restore drill"),
    ):
        if name in told and now - told[name] > bound:
            age = f"the last {what} is {(now - told[name]) / DAY:.0f} days old"
            yield say("backup", age, "docs/backups.md", Weight.TICKET)
    for name, unit in _TELLS.items():
        runs = facts["units"].get(unit, {}).get("ActiveState") == "active"
        if name in told and runs and now - told[name] > STALE:
            age = f"{unit} has not told anything for {now - told[name]:.0f} s"
            yield say("stale", age, f"systemctl restart {unit}", Weight.TICKET)


# What is written all the time, by its unit.
_TELLS = {
    "sigsum_hsm_audit_timestamp_seconds": "sigsum-hsm-audit.service",
    "sigsum_bastion_probe_timestamp_seconds": "sigsum-bastion-probe.timer",
}


def _machine(machine: Machine, facts: Facts, now: float) -> Iterator[Finding]:
    """What any machine has."""

    def say(name: str, what: str, fix: str, weight: Weight = Weight.TICKET) -> Finding:
        return Finding(name, machine.name, what, fix, weight)

    for path, disk in facts["disks"].items():
        if disk["free"] < FREE_SHARE * disk["size"]:
            share = 100 * (1 - disk["free"] / disk["size"])
            full = f"{path} is {share:.0f} % full, {disk['free'] >> 20} MiB are free"
            yield say("disk", full, "docs/bcp/capacity.md", Weight.PAGE)
    for path, end in facts["certificates"].items():
        left = end - now
        if left < CERTIFICATE:
            ends = f"{path} ends in {left / DAY:.0f} days" if end else f"{path} cannot be read"
            weight = Weight.PAGE if left < 3 * DAY else Weight.TICKET
            yield say("certificate", ends, "docs/public-endpoint.md, on certificates", weight)
    if abs(facts["time"] - now) > CLOCK_BOUND:
        off = f"its clock is {facts['time'] - now:+.0f} s off this controller's"
        yield say("clock", off, "timedatectl timesync-status says why.", Weight.PAGE)
    if facts["reboot_required"]:
        yield say("reboot", "it waits for a reboot", "One machine at a time: docs/bcp/upgrade.md")
    if machine.public and machine.role == "primary" and not facts["rate_limited"]:
        yield say(
            "rate-limit",
            "the log takes leaves from anybody, and the inventory has log_server_rate_limit",
            "site.yml puts it in place: docs/rate-limits.md",
            Weight.PAGE,
        )


_PARTS: tuple[Callable[[Machine, Facts, float], Iterator[Finding]], ...] = (
    _units,
    _log,
    _metrics,
    _machine,
)


def primary_size(machines: Mapping[str, Machine]) -> int:
    """Of the primary's tree, which the log must come to publish; 0 where that is not known."""
    trees = [each.log.get("tree") or {} for each in machines.values() if each.role == "primary"]
    return max((int(tree.get("size", 0)) for tree in trees), default=0)


def _site(machines: Mapping[str, Machine], asked: Facts) -> Iterator[Finding]:
    """What shows between the machines, and from outside."""
    log = {name: each for name, each in machines.items() if each.role}
    if not log:
        return
    looks = {name: each.log or None for name, each in log.items()}
    permits = {name: each.permit for name, each in log.items() if each.permit}
    roles = {name: each.role for name, each in log.items()}
    for problem in inventory.differs(looks, roles, permits):
        yield Finding("role", "", problem.message, problem.hint)
    for text in asked.get("names", []):
        yield Finding("name", "", text, "Point the log's name to the primary: docs/bcp/promote.md")
    if asked.get("error"):
        yield Finding("not-reached", "", asked["error"], "docs/bcp/README.md says where to begin.")
        return
    size = primary_size(machines)
    if "size" in asked and asked["size"] < size:
        yield Finding(
            "not-growing",
            "",
            f"the log publishes {asked['size']} leaves, and its tree has had {size} for"
            f" {asked['waited']:.0f} s",
            "A secondary that is down stops the log: docs/bcp/database-secondary.md. Then look at"
            " the oracle: journalctl -u sigsum-oracle",
        )
    if asked.get("quorum") is False:
        missing = ", ".join(name for name, at in asked["cosigned"].items() if at is None)
        yield Finding(
            "no-quorum",
            "",
            f"no quorum in {asked['waited']:.0f} s; {missing or 'nobody'} did not cosign",
            "On the primary, `sigsum-ops policy ask /etc/sigsum/policy`: docs/witnesses.md",
        )
    else:
        for name, at in asked.get("cosigned", {}).items():
            if at is None:
                fix = (
                    "On the primary, `sigsum-ops policy ask /etc/sigsum/policy`: docs/witnesses.md"
                )
                yield Finding("witness", "", f"{name} did not cosign", fix, Weight.TICKET)
