"""The audit of a device's log: drained into an archive, compared with what the oracle asked for.

The log is a ring of 62 entries. The device says without a session how full it is; a session is
opened when there is something worth it, for as long as it takes to fetch, archive and free the
entries. They are freed only once they are on the disk, and an entry that was archived already is
known when it is fetched again: so none is lost or doubled wherever this is killed.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yubihsm.core import AuthSession
from yubihsm.defs import COMMAND, ERROR
from yubihsm.exceptions import YubiHsmDeviceError

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.devicelog import ENTRY_SIZE
from sigsum_ops.hsm.oracle import signatures
from sigsum_ops.hsm.oracle.signatures import Count
from sigsum_ops.hsm.watch import BAD, PROCEDURE, UNKNOWN
from sigsum_ops.hsm.watch.account import (
    Account,
    Comparison,
    Kind,
    Outcome,
    additions,
    compare,
)
from sigsum_ops.hsm.watch.archive import Archive, ArchiveError
from sigsum_ops.hsm.watch.config import Audit, load
from sigsum_ops.hsm.watch.link import Link, StaticKeys
from sigsum_ops.log.statefiles import write_durably
from sigsum_ops.service.metrics import family
from sigsum_ops.service.systemd import notify

log = logging.getLogger("sigsum-hsm-audit")

LOOK_EVERY = 1.0  # seconds; a real device makes about ten signatures in that time
DRAIN_EVERY = 10.0  # seconds, when little happens
DRAIN_AT = 16  # entries of the 62
METRICS_EVERY = 10.0  # seconds
STALE = 60.0  # seconds after which metrics are those of a service that hangs or is gone
_METRIC = "sigsum_hsm_audit"


@dataclass(frozen=True)
class Round:
    """One look at a device: the outcome, why it is not known, what came with it.

    Not ``drained``: the device could not be asked, and its log is as full as it was.
    """

    outcome: Outcome
    doubt: str | None = None
    new_entries: int = 0
    unlogged: tuple[int, int] = (0, 0)  # boots and authentications, for want of room
    drained: bool = True


def configured(config: Path) -> Audit:
    """What the file says of the audit. Raises UsageError."""
    settings = load(config).audit
    if settings is None:
        raise UsageError(f"{config} has no table [audit]")
    return settings


def open_archive(settings: Audit, *, writable: bool = True) -> Archive:
    """The archive that the settings name, with the account of their key. Raises ArchiveError."""
    return Archive.open(
        settings.archive,
        settings.where.serial,
        key=settings.key,
        user=settings.key_user,
        writable=writable,
    )


def once(settings: Audit, archive: Archive, link: Link, keys: StaticKeys) -> Round:
    """Fetch what the device has logged, archive it, free it, compare. Never raises for a device.

    A count that cannot be read keeps nothing from being fetched and freed.

    Raises:
        ArchiveError: the disk does not take it; nothing was freed.
    """
    account = archive.account
    known = account.entries
    try:
        link.expect(settings.where.serial, rehearsal_allowed=settings.where.rehearsal_device)
        before = _count(settings)
        with link.session(settings.authentication_key, keys) as session:
            boots, authentications, fetched = _fetch(session)
            after = _count(settings)
            _append(archive, list(additions(account, fetched)))
            if fetched:
                _free(session, int.from_bytes(fetched[-1][:2], "big"))
    except ArchiveError:
        raise
    except OpsError as error:
        outcome = Outcome.ALARM if account.outcome == Outcome.ALARM else Outcome.UNKNOWN
        return Round(outcome, str(error), account.entries - known, drained=False)
    comparison = _compared(account, before, after)
    if comparison.line:
        _append(archive, [comparison.line])
    outcome = account.outcome
    if comparison.waiting and outcome == Outcome.OK:
        outcome = Outcome.UNKNOWN
    return Round(outcome, comparison.waiting, account.entries - known, (boots, authentications))


def _count(settings: Audit) -> Count | OpsError | None:
    """The oracle's count, or why it is not known."""
    try:
        return signatures.read(settings.signatures)
    except OpsError as error:
        return error


def _compared(
    account: Account, before: Count | OpsError | None, after: Count | OpsError | None
) -> Comparison:
    if isinstance(before, OpsError):
        return Comparison(waiting=str(before))
    if isinstance(after, OpsError):
        return Comparison(waiting=str(after))
    return compare(account, before, after, time.time())


def _fetch(session: AuthSession) -> tuple[int, int, list[bytes]]:
    """GET_LOG_ENTRIES: boots and authentications that had no room, and the entries."""
    answer = session.send_secure_cmd(COMMAND.GET_LOG_ENTRIES)
    boots, authentications, count = struct.unpack_from("!HHB", answer)
    data = answer[5:]
    if len(data) != count * ENTRY_SIZE:
        raise ValueError(f"{len(data)} bytes for {count} log entries")
    starts = range(0, len(data), ENTRY_SIZE)
    return boots, authentications, [data[start : start + ENTRY_SIZE] for start in starts]


def _free(session: AuthSession, number: int) -> None:
    """Let the device forget its log up to this entry."""
    try:
        session.set_log_index(number)
    except YubiHsmDeviceError as error:
        # The ring went around meanwhile: the next fetch shows what that has cost.
        if error.code != ERROR.INVALID_DATA:
            raise


def _append(archive: Archive, lines: list[str]) -> None:
    if lines:
        archive.append([f"at {int(time.time())}", *lines])


def report(settings: Audit, archive: Archive, done: Round) -> dict[str, object]:
    """Everything that a round has shown, and the archive as it is."""
    account = archive.account
    return {
        "outcome": str(done.outcome),
        "doubt": done.doubt,
        "serial": settings.where.serial,
        "archive": str(archive.path),
        "new_entries": done.new_entries,
        "first_entry": account.first.number if account.first else None,
        "entries": account.entries,
        "signatures_made": account.made,
        "unlogged_boots": done.unlogged[0],
        "unlogged_authentications": done.unlogged[1],
        "findings": [finding.to_json() for finding in account.findings],
    }


def run_once(settings: Audit, keys: StaticKeys) -> dict[str, object]:
    """One round by itself, without the service. Raises ArchiveError."""
    link = Link(settings.where.connector)
    with open_archive(settings) as archive:
        done = once(settings, archive, link, keys)
        link.close()
        _write_metrics(settings.metrics_file, archive, done)
        return report(settings, archive, done)


def show(settings: Audit) -> dict[str, object]:
    """Check the whole archive, beside the service; asks no device. Raises ArchiveError.

    An archive without findings is ok only where the service still goes on with it, and knows.
    """
    with open_archive(settings, writable=False) as archive:
        outcome = archive.account.outcome
        doubt = _service_doubt(settings.metrics_file)
        if archive.account.base is None:
            doubt = doubt or "there is no moment yet from which on signatures are compared"
        if doubt and outcome == Outcome.OK:
            outcome = Outcome.UNKNOWN
        return report(settings, archive, Round(outcome, doubt))


def _service_doubt(path: Path | None) -> str | None:
    """Why the service does not know by its own metrics, which each of its rounds writes."""
    if path is None:
        return "whether the service runs: it has no metrics_file that would tell"
    try:
        metrics = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return f"{path} cannot be read: no round of the service is known"
    found = re.search(rf"^{_METRIC}_timestamp_seconds ([0-9.]+)$", metrics, re.M)
    last = float(found[1]) if found else 0.0
    since = datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    if abs(time.time() - last) > STALE:
        return f"the service has not looked at the device since {since}"
    if f'{_METRIC}_state{{state="unknown"}} 1\n' in metrics:
        return f"the service itself, as of {since}: journalctl -u sigsum-hsm-audit says why"
    return None


def acknowledge(settings: Audit, line: int) -> dict[str, object]:
    """Close the findings up to this line of the archive, which a person has looked into.

    Raises:
        UsageError: it is not the line of the last one, so that others are not known to them.
        ArchiveError: the service runs.
    """
    with open_archive(settings) as archive:
        findings = archive.account.findings
        if not findings or findings[-1].line != line:
            last = f"the last is of line {findings[-1].line}" if findings else "there is none"
            raise UsageError(
                f"{line} is not the line of the last open finding: {last}",
                hint="`sigsum-ops hsm audit --show` lists them.",
            )
        who = os.environ.get("SUDO_USER") or getpass.getuser()
        _append(archive, [f"acknowledged {line} {who}"])
        return report(settings, archive, Round(archive.account.outcome))


def exit_code(shown: Mapping[str, Any]) -> int:
    """Of the verb, for a report."""
    return {Outcome.OK: 0, Outcome.ALARM: BAD, Outcome.UNKNOWN: UNKNOWN}[shown["outcome"]]


def view(shown: Mapping[str, Any]) -> str:
    """A report for people."""
    lines = [
        f"{shown['outcome']:9} YubiHSM {shown['serial']}",
        f"archive   {shown['archive']}, {shown['entries']} entries ({shown['new_entries']} new),"
        f" {shown['signatures_made']} signatures",
    ]
    if shown["first_entry"] is not None:
        lines.append(f"          begins with the device's entry {shown['first_entry']}")
    if shown["doubt"]:
        lines.append(f"unknown   {shown['doubt']}")
    for found in shown["findings"]:
        when = datetime.fromtimestamp(found["time"], UTC).isoformat(timespec="seconds")
        lines.append(f"{found['outcome']:9} {found['kind']}, {when}, line {found['line']}:")
        lines.append(f"          {found['text']}")
    if shown["findings"]:
        lines.append(f"Procedure: {PROCEDURE}")
    return "\n".join(lines)


def serve(settings: Audit, keys: StaticKeys) -> None:
    """Look again and again until SIGTERM.

    Raises:
        ArchiveError: the archive is damaged, or cannot be written.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_archive(settings) as archive:
        if archive.cut:
            log.warning("%s: cut off an unfinished last line", archive.path)
        service = Service(settings, archive, keys)
        notify("READY=1")
        while not stop.is_set():
            service.look()
            stop.wait(LOOK_EVERY)
        notify("STOPPING=1")


class Service:
    """What is remembered between two looks at the device."""

    def __init__(self, settings: Audit, archive: Archive, keys: StaticKeys) -> None:
        self._settings = settings
        self._archive = archive
        self._keys = keys
        self._link = Link(settings.where.connector)
        self._said = ""
        self._told = 0  # findings
        self._began = self._written = float("-inf")
        self._failed = False

    def look(self) -> None:
        """Drain the device's log if it is time, and say what is new.

        A round that failed is not repeated early, however full the log is: it may leave a session
        behind for 30 s, and the device has 16, for the oracle too.
        """
        now = time.monotonic()
        if now - self._began < DRAIN_EVERY and (self._failed or not self._fills()):
            return
        self._began = now
        done = once(self._settings, self._archive, self._link, self._keys)
        self._failed = not done.drained
        changed = self._tell(done)
        if changed or now - self._written >= METRICS_EVERY:
            self._written = now
            _write_metrics(self._settings.metrics_file, self._archive, done)

    def _fills(self) -> bool:
        try:
            return self._link.identify().log_used >= DRAIN_AT
        except OpsError:
            return False

    def _tell(self, done: Round) -> bool:
        account = self._archive.account
        for finding in account.findings:
            if finding.line > self._told:
                level = logging.CRITICAL if finding.kind.outcome == Outcome.ALARM else logging.ERROR
                outcome = finding.kind.outcome.upper()
                log.log(level, "%s (%s): %s", outcome, finding.kind, finding.text)
                log.log(level, "  Procedure: %s", PROCEDURE)
        self._told = account.lines
        said = f"{done.outcome}: {done.doubt}" if done.doubt else str(done.outcome)
        if said == self._said:
            return False
        log.info("%s", said)
        notify(f"STATUS={said.splitlines()[0]}")
        self._said = said
        return True


def _write_metrics(path: Path | None, archive: Archive, done: Round) -> None:
    if path is None:
        return
    account = archive.account
    kinds = [finding.kind for finding in account.findings]
    lines = [
        *family(
            f"{_METRIC}_state",
            "gauge",
            "1 for what is to be thought of the device.",
            *((f'{{state="{outcome}"}}', int(outcome == done.outcome)) for outcome in Outcome),
        ),
        *family(
            f"{_METRIC}_findings",
            "gauge",
            "Findings that nobody acknowledged.",
            *((f'{{kind="{kind}"}}', kinds.count(kind)) for kind in Kind),
        ),
        *family(
            f"{_METRIC}_findings_total",
            "counter",
            "Findings, also acknowledged ones.",
            ("", account.found),
        ),
        *family(
            f"{_METRIC}_entries_total", "counter", "Entries in the archive.", ("", account.entries)
        ),
        *family(
            f"{_METRIC}_signatures_total",
            "counter",
            "Signatures by the signing key in the archive.",
            ("", account.made),
        ),
        *family(
            f"{_METRIC}_timestamp_seconds",
            "gauge",
            "When the device was last looked at.",
            ("", round(time.time(), 3)),
        ),
    ]
    if account.base:
        text = "The oracle's commands to sign that got no answer: each may hide one signature."
        lines += family(f"{_METRIC}_lost_total", "counter", text, ("", account.base.lost))
    try:
        write_durably(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        log.warning("%s: metrics cannot be written: %s", path, error.strerror)
