"""What an upgrade of the log machines would change, and what speaks against it; touches none.

Versions are Debian's: ``[epoch:]upstream[-revision]`` (Debian policy, section 5.6.12).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

MARIADB, TRILLIAN, LOG_GO = "mariadb-server", "trillian", "sigsum-log-go"

Versions = Mapping[str, str]  # of a machine's packages, by name
# What is left behind where something must be understood first; as the tasks look for it.
MARKS = {
    "fenced.json": "docs/bcp/reseed.md",
    "quarantined.json": "docs/bcp/restore.md",
    "latch": "docs/bcp/oracle-latched.md",
    "guard-refused.json": "docs/bcp/start-refused.md",
    "split-view": "docs/bcp/split-view.md",
}


@dataclass(frozen=True)
class Machine:
    """One log machine.

    ``parts`` are the units of the log that run, ``marks`` the files of MARKS that are there.
    ``schema`` is the SHA-256 of the database schema that its Trillian came with,
    ``schema_wanted`` of the one that comes with the Trillian to be installed. ``head`` is the body
    in which it says which tree it has signed or, as a secondary, stored.
    """

    part: str
    parts: Iterable[str]
    marks: Iterable[str]
    installed: Versions
    wanted: Versions
    schema: str
    schema_wanted: str
    head: str


def series(version: str) -> tuple[int, int]:
    """The first two numbers of the upstream version: (11, 8) of ``1:11.8.6-0+deb13u1``."""
    found = re.match(r"(?:\d+:)?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def changes(installed: Versions, wanted: Versions) -> dict[str, dict[str, str]]:
    """By package, the version that goes (``old``) and the one that comes (``new``)."""
    return {
        name: {"old": installed.get(name, "none"), "new": version}
        for name, version in sorted(wanted.items())
        if installed.get(name) != version
    }


def text(changed: Mapping[str, Mapping[str, str]]) -> str:
    """The changes of a machine for a person."""
    found = [f"{name} {each['old']} -> {each['new']}" for name, each in changed.items()]
    return "; ".join(found) or "nothing to do: every package is the one that is wanted"


def in_tandem(changed: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the primary must not run beside what comes.

    log-go's RELEASES.md: nodes on different releases are not tested together. A release that only
    mends, with the same first two numbers, may: then the primary goes on meanwhile.
    """
    log_go = changed.get(LOG_GO)
    return log_go is not None and series(log_go["old"]) != series(log_go["new"])


def size(head: str) -> int:
    """Of a tree head's body (log.md, section 3.1), -1 where it is none."""
    found = re.search(r"^size=(\d+)$", head, re.MULTILINE)
    return int(found[1]) if found else -1


def problems(machines: Mapping[str, Machine]) -> list[str]:
    """Everything that speaks against upgrading the site; each begins with a name that stays."""
    found = [each for name, machine in sorted(machines.items()) for each in _machine(name, machine)]
    signed = max((size(its.head) for its in machines.values() if its.part == "primary"), default=-1)
    for name, its in sorted(machines.items()):
        if its.part == "secondary" and -1 < size(its.head) < signed:
            found.append(
                f"behind: {name} has stored {size(its.head)} leaves, and {signed} are signed."
                " Wait until it has caught up; if it does not: docs/bcp/database-secondary.md"
            )
    return found


def _machine(name: str, machine: Machine) -> Iterator[str]:
    for mark in machine.marks:
        page = next((page for part, page in MARKS.items() if part in mark), "nothing is known")
        yield f"marked: {name} has {mark}, which must be understood first: {page}"
    if list(machine.parts) != [f"sigsum-log-{machine.part}"]:
        yield (
            f"part: {name} is the {machine.part} in the inventory, and runs"
            f" {' and '.join(machine.parts) or 'no log'}"
        )
    elif size(machine.head) < 0:
        yield f"silent: the log of {name} does not say which tree it has: {machine.head[:100]!r}"
    yield from _versions(name, machine)


def _versions(name: str, machine: Machine) -> Iterator[str]:
    changed = changes(machine.installed, machine.wanted)
    for package, each in changed.items():
        if each["old"] == "none":
            yield f"not-installed: {name} has no {package}: playbooks/site.yml installs it"
        if each["new"] in ("", "(none)"):
            yield f"not-offered: apt on {name} knows no {package}"
    mariadb = changed.get(MARIADB)
    if mariadb and (0, 0) < series(mariadb["new"]) < series(mariadb["old"]):
        yield (
            f"mariadb-downgrade: {name} has MariaDB {mariadb['old']}, whose data files"
            f" {mariadb['new']} cannot open. Re-seed the machine with the older one instead."
        )
    if TRILLIAN in changed and machine.schema != machine.schema_wanted:
        yield (
            f"trillian-schema: Trillian {changed[TRILLIAN]['new']} has another database schema than"
            f" {changed[TRILLIAN]['old']} on {name}, and nothing here migrates it"
        )
