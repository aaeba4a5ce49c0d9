"""What the exporter finds out, source by source; changes nothing.

A source that fails takes nothing from the others, and one that hangs is given up: what it would
have told is absent, which the alert rules see.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography import x509
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from sigsum_ops import __version__
from sigsum_ops.edge import policies, quorum
from sigsum_ops.errors import OpsError
from sigsum_ops.exporter.settings import Log, Settings
from sigsum_ops.exporter.table import OWN, PASSED, ROLES, TEXTFILES
from sigsum_ops.failover import units
from sigsum_ops.log import policy as policy_file
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.policy import NONE, Policy
from sigsum_ops.log.statefiles import parse_tree_id
from sigsum_ops.log.treehead import TreeHead
from sigsum_ops.log.trillian import Trillian

log = logging.getLogger(__name__)

PATIENCE = 3.0  # seconds for one source; Prometheus waits 10 for all of them
_UNITS = {
    "primary": "sigsum-log-primary.service",
    "secondary": "sigsum-log-secondary.service",
    "witness": "litewitness.service",
    "bastion": "litebastion.service",
}


@dataclass(frozen=True)
class Sample:
    """A value of one of the metrics in ``table.OWN``, the name without its beginning."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


class Reader:
    """Reads everything anew each time it is asked."""

    def __init__(self, settings: Settings, root: Path = Path("/")) -> None:
        self._settings = settings
        self._root = root
        self._said: dict[str, str] = {}
        self._version = _version()
        self._trillian = Trillian(settings.log.trillian, deadline=2) if settings.log else None

    async def families(self) -> list[Family]:
        """All metrics, as prometheus_client takes them."""
        # Asked once for both; a source that is given up takes it from nobody.
        played = asyncio.create_task(asyncio.to_thread(_played))
        sources: dict[str, Callable[[], Awaitable[list[Sample]]]] = {
            "machine": lambda: self._machine(played)
        }
        if self._settings.log and self._trillian:
            there, trillian = self._settings.log, self._trillian
            sources["log"] = lambda: self._log(there, trillian, played)
        for name in self._settings.certificates:
            sources[f"certificate:{name}"] = partial(self._certificate, name)
        samples = [Sample("ops_info", 1, (self._version,))]
        tried = (_tried(name, source, self._tell) for name, source in sources.items())
        for found in await asyncio.gather(*tried):
            samples += found
        passed, files = self._passed()
        return [*_own([*samples, *files]), *passed]

    def _tell(self, source: str, why: str) -> None:
        """Log what a source has come to, where it is something else than the last time."""
        if self._said.get(source, "") != why:
            log.warning("%s: %s", source, why or "can be read again")
        self._said[source] = why

    async def _machine(self, played: asyncio.Task[set[str]]) -> list[Sample]:
        plays = await asyncio.shield(played)
        at = self._root
        samples = [Sample("machine_role", role in plays, (role,)) for role in ROLES]
        samples += [
            Sample("machine_fenced", (at / "etc/sigsum/fenced.json").exists()),
            Sample("machine_quarantined", (at / "etc/sigsum/quarantined.json").exists()),
            Sample("machine_reboot_required", (at / "run/reboot-required").exists()),
        ]
        if self._settings.log:
            limits = at / "etc/sigsum/rate-limit"
            limited = limits.exists() and limits.stat().st_size > 0
            samples.append(Sample("log_rate_limited", limited))
        return samples

    async def _log(
        self, there: Log, trillian: Trillian, played: asyncio.Task[set[str]]
    ) -> list[Sample]:
        """Of the tree, and on a primary of what it publishes."""
        tree_id = parse_tree_id((self._root / "var/lib/sigsum-log/tree-id").read_bytes())
        samples: list[Sample] = []
        head = None
        if "primary" in await asyncio.shield(played):
            samples, head = await self._published(there)
        # After the tree head: a tree is never smaller than what was published before.
        tree = await asyncio.to_thread(trillian.latest_root, tree_id)
        samples.append(Sample("log_tree_size", tree.size))
        if head:
            samples.append(Sample("log_pending_leaves", max(0, tree.size - head.size)))
            found = await asyncio.to_thread(consistent, trillian, tree_id, head, tree)
            samples.append(Sample("log_consistent", found))
        return samples

    async def _published(self, there: Log) -> tuple[list[Sample], TreeHead | None]:
        # The role log_server always writes one: without it, no quorum is known.
        policy = policy_file.load(self._root / "etc/sigsum/policy")
        try:
            async with LogClient(there.url, timeout=2) as client:
                answer = await client.get_tree_head()
            judged = quorum.judge(policy, there.key, answer)
        except OpsError as error:
            self._tell("what the log publishes", error.message)
            return [Sample("log_answers", 0)], None
        self._tell("what the log publishes", "")
        samples = [
            Sample("log_answers", 1),
            Sample("log_published_size", judged.size),
            Sample("log_quorum", judged.ok),
            Sample("log_cosigned_timestamp_seconds", cosigned(policy, judged.cosigned)),
        ]
        samples += [
            Sample("log_cosignature_timestamp_seconds", at or 0, (witness,))
            for witness, at in judged.cosigned.items()
        ]
        return samples, answer.signed.head

    async def _certificate(self, name: str) -> list[Sample]:
        """Of what is served, which may be another one than the file by now."""
        address, port = self._settings.certificates[name]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        opened = asyncio.open_connection(address, port, ssl=context, server_hostname=name)
        _, writer = await opened
        try:
            tls = writer.get_extra_info("ssl_object")
            end = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
            at = end.not_valid_after_utc.timestamp()
            return [Sample("certificate_end_timestamp_seconds", at, (name,))]
        finally:
            writer.close()

    def _passed(self) -> tuple[list[Family], list[Sample]]:
        """What the services wrote, and when."""
        found: dict[str, Family] = {}
        samples = []
        known = {metric.name for metric in PASSED}
        for pattern in TEXTFILES:
            for path in sorted(self._root.glob(pattern.lstrip("/"))):
                label = ("/" + path.relative_to(self._root).as_posix(),)
                try:
                    text, written = path.read_text(encoding="utf-8"), path.stat().st_mtime
                    families = list(text_string_to_metric_families(text))
                except (OSError, ValueError) as error:
                    self._tell(*label, str(error))
                    samples.append(Sample("exporter_source_failed", 1, label))
                    continue
                self._tell(*label, "")
                samples.append(Sample("exporter_source_failed", 0, label))
                samples.append(Sample("exporter_file_timestamp_seconds", written, label))
                for family in families:
                    # The parser takes the ending from a counter's name.
                    name = family.name + ("_total" if family.type == "counter" else "")
                    if name in known:
                        found.setdefault(name, family)
        return list(found.values()), samples


def _version() -> str:
    """That of our package, which tells the sources too; of the module where there is none."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "sigsum-ops"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout or __version__


def _played() -> set[str]:
    """The parts that the machine plays: what runs, or would after a boot."""
    shown = units.show(_UNITS.values())
    return {
        role
        for role, name in _UNITS.items()
        if (unit := shown.get(name))
        and (unit["UnitFileState"] == "enabled" or unit["ActiveState"] == "active")
    }


def cosigned(policy: Policy, times: dict[str, int | None]) -> float:
    """When enough witnesses had cosigned a tree head (Unix time), 0 where they did not.

    A policy that wants none counts the last of those who did.
    """
    there: set[str] = set()
    if policy.quorum in (None, NONE):
        return max((at for at in times.values() if at), default=0)
    for name, at in sorted(times.items(), key=lambda item: item[1] or 0):
        if at is not None:
            there.add(name)
            if policies.counts(policy, there):
                return at
    return 0


def consistent(trillian: Trillian, tree_id: int, head: TreeHead, tree: TreeHead) -> bool:
    """Whether the tree extends a tree head. Raises OpsError where Trillian cannot tell."""
    if head.size > tree.size:
        return False
    path = trillian.consistency_proof(tree_id, head.size, tree.size)
    try:
        verify_consistency(head.size, head.root, tree.size, tree.root, path)
    except ProofError:
        return False
    return True


async def _tried(
    name: str, source: Callable[[], Awaitable[list[Sample]]], tell: Callable[[str, str], None]
) -> list[Sample]:
    begin = time.monotonic()
    samples: list[Sample] = []
    why = ""
    try:
        samples = await asyncio.wait_for(source(), PATIENCE)
    except TimeoutError:
        why = f"does not answer in {PATIENCE:.0f} s"
    except (OpsError, OSError, ValueError) as error:
        why = str(error)
    tell(name, why)
    return [
        *samples,
        Sample("exporter_source_failed", bool(why), (name,)),
        Sample("exporter_source_seconds", time.monotonic() - begin, (name,)),
    ]


def _own(samples: list[Sample]) -> Iterator[Family]:
    """The families of ``table.OWN`` that have samples."""
    for metric in OWN:
        family = Family(metric.name, metric.text, metric.kind)
        for sample in samples:
            if f"sigsum_{sample.name}" == metric.name:
                labels = dict(zip(metric.labels, sample.labels, strict=True))
                family.add_sample(metric.name, labels, float(sample.value))
        if family.samples:
            yield family
