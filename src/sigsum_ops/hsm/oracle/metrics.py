"""Counts and times of the oracle, in Prometheus's text format (version 0.0.4)."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sigsum_ops.hsm.oracle.journal import Journal
from sigsum_ops.hsm.oracle.permit import Permit
from sigsum_ops.service.metrics import family

STAGES = ("proof", "journal", "device", "total")
_PREFIX = "sigsum_oracle"


class Metrics:
    """What is counted. Each figure has one writing thread; reading one too early does no harm."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.ready = False
        self.latched = False
        self.permit: Permit | None = None
        self.sessions_opened = 0
        self.device_signatures = 0
        self.last_signed = 0.0  # Unix time
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._count: Counter[str] = Counter()
        self._journal: tuple[int, int] | None = None
        self._started = time.time()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the block takes to a stage's, also when it fails."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - begin
            self._count[stage] += 1

    def journal(self, journal: Journal) -> None:
        """Note how far the journal is."""
        self._journal = (journal.records, journal.last.head.size)

    def render(self, outcomes: Iterable[str]) -> bytes:
        """The file's content, with a line for each outcome, also those that never were."""
        lines: list[str] = []

        def add(name: str, kind: str, text: str, *samples: tuple[str, float]) -> None:
            lines.extend(family(f"{_PREFIX}_{name}", kind, text, *samples))

        add(
            "requests_total",
            "counter",
            "Requests to sign, by what came of them.",
            *((f'{{outcome="{name}"}}', self.requests[name]) for name in outcomes),
        )
        add(
            "seconds_total",
            "counter",
            "Time spent in a stage of signing.",
            *((f'{{stage="{stage}"}}', round(self._seconds[stage], 6)) for stage in STAGES),
        )
        add(
            "stages_total",
            "counter",
            "How often a stage of signing was entered.",
            *((f'{{stage="{stage}"}}', self._count[stage]) for stage in STAGES),
        )
        add("ready", "gauge", "1 once the pinned key was proven.", ("", int(self.ready)))
        add(
            "latched",
            "gauge",
            "1 if nothing is signed until a person has looked.",
            ("", int(self.latched)),
        )
        permit = self.permit
        add(
            "ungated",
            "gauge",
            "1 while the log is permitted to go on without its secondary.",
            ("", int(permit is not None and not permit.ended())),
        )
        if permit:
            add(
                "ungated_until_seconds",
                "gauge",
                "When the permit to go on without a secondary ends, or has ended (Unix time).",
                ("", permit.until),
            )
        add(
            "sessions_opened_total",
            "counter",
            "Sessions opened with the device; more than one means that one was lost or idle.",
            ("", self.sessions_opened),
        )
        add(
            "device_signatures_total",
            "counter",
            "Commands to sign that were sent to the device, answered or not.",
            ("", self.device_signatures),
        )
        add(
            "last_signed_timestamp_seconds",
            "gauge",
            "When a signature was last given, 0 for never.",
            ("", round(self.last_signed, 3)),
        )
        add(
            "start_time_seconds", "gauge", "When the oracle started.", ("", round(self._started, 3))
        )
        if self._journal:
            records, size = self._journal
            add("journal_records", "gauge", "Tree heads in the journal.", ("", records))
            add("journal_size", "gauge", "Size of the last journaled tree head.", ("", size))
        return "".join(f"{line}\n" for line in lines).encode()
