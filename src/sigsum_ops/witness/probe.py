"""Whether each witness is reached through the bastion host, which a running process does not tell.

litebastion 0.9.0 answers 502 itself for a witness that is not connected. Whatever else is answered
comes from the witness, to which the question is an error. One whose connection is dead, and not
closed, does not answer in time.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509

from sigsum_ops.errors import OpsError
from sigsum_ops.log.statefiles import read_if_there, write_durably
from sigsum_ops.service.metrics import family
from sigsum_ops.service.settings import Table, read

CONFIGURATION = Path("/etc/sigsum/bastion-probe.toml")
TIMEOUT = 10.0  # seconds; all are asked at the same time
NOT_CONNECTED = 502
# No add-checkpoint (c2sp.org/tlog-witness): each witness refuses it, and writes nothing down.
QUESTION = b"sigsum-ops asks whether somebody is there\n"
_PREFIX = "sigsum_bastion"


@dataclass(frozen=True)
class Settings:
    """Where the bastion answers on this machine, by which name, and who may be behind it.

    ``backends`` are the names by the hash of the key.
    """

    address: str
    name: str
    backends: Mapping[str, str]
    metrics_file: Path


@dataclass(frozen=True)
class Answer:
    """What came of one question. ``reached`` is whether the witness itself answered."""

    name: str
    key_hash: str
    reached: bool
    status: int
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """All of them, at a time (Unix seconds), and when the bastion's certificate ends."""

    at: float
    certificate_ends: float | None
    answers: Sequence[Answer]

    @property
    def ok(self) -> bool:
        """Whether each is reached."""
        return all(answer.reached for answer in self.answers)

    def as_json(self) -> dict[str, Any]:
        """The same."""
        return {
            "ok": self.ok,
            "certificate_ends": self.certificate_ends,
            "backends": [vars(answer) for answer in self.answers],
        }


def load(path: Path) -> Settings:
    """Read the configuration that the role ``bastion`` writes.

    Raises:
        UsageError: naming the setting, its value and what is allowed.
    """

    def parse(values: dict[str, Any]) -> Settings:
        top = Table(values)
        backends = top.take("backends", dict)
        settings = Settings(
            top.text("address"), top.text("name"), backends, top.path("metrics_file")
        )
        top.done()
        return settings

    return read(path, parse)


def probe(settings: Settings) -> Found:
    """Ask all of them.

    The bastion's certificate is not judged here: the name leads to this machine's own address. Its
    end is told, and others look from outside.
    """
    return asyncio.run(_probe(settings))


def write(settings: Settings, found: Found) -> None:
    """Write the metrics, for the exporter.

    Raises:
        OpsError: the disk does not take them.
    """
    path = settings.metrics_file
    try:
        before = _last_reached(read_if_there(path) or b"")
        write_durably(path, render(found, before))
    except OSError as error:
        raise OpsError(f"{path}: cannot be written: {error.strerror}") from error


def render(found: Found, last_reached: Mapping[str, float]) -> bytes:
    """The metrics in Prometheus's text format.

    Args:
        found: what was seen now.
        last_reached: when each was reached before this (Unix seconds), by the hash of its key.
    """
    answers = found.answers
    labels = {each.key_hash: _labels(each.name, each.key_hash) for each in answers}
    lines: list[str] = []

    def add(name: str, text: str, *samples: tuple[str, float]) -> None:
        lines.extend(family(f"{_PREFIX}_{name}", "gauge", text, *samples))

    add("probe_timestamp_seconds", "When the witnesses were asked (Unix time).", ("", found.at))
    add(
        "backend_reached",
        "1 if the witness itself answered through the bastion.",
        *((labels[each.key_hash], int(each.reached)) for each in answers),
    )
    add(
        "backend_seconds",
        "How long the answer took.",
        *((labels[each.key_hash], round(each.seconds, 3)) for each in answers),
    )
    add(
        "backend_last_reached_timestamp_seconds",
        "When the witness last answered (Unix time), 0 for never.",
        *(
            (
                labels[each.key_hash],
                found.at if each.reached else last_reached.get(each.key_hash, 0),
            )
            for each in answers
        ),
    )
    if found.certificate_ends is not None:
        add(
            "certificate_end_timestamp_seconds",
            "When the bastion's certificate ends (Unix time).",
            ("", found.certificate_ends),
        )
    return "".join(f"{line}\n" for line in lines).encode()


def _labels(name: str, key_hash: str) -> str:
    escaped = name.replace("\\", r"\\").replace('"', r"\"")
    return f'{{name="{escaped}",key_hash="{key_hash}"}}'


def _last_reached(metrics: bytes) -> dict[str, float]:
    """When each was last reached, from what was written the last time."""
    found = {}
    for line in metrics.decode(errors="replace").splitlines():
        if line.startswith(f"{_PREFIX}_backend_last_reached_timestamp_seconds{{"):
            labels, _, value = line.rpartition(" ")
            with suppress(ValueError):
                found[labels.rpartition('key_hash="')[2].removesuffix('"}')] = float(value)
    return found


async def _probe(settings: Settings) -> Found:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ends = await _certificate_ends(settings, context)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        answers = await asyncio.gather(
            *(
                _ask(session, settings, context, key_hash, name)
                for key_hash, name in settings.backends.items()
            )
        )
    return Found(round(time.time(), 3), ends, sorted(answers, key=lambda each: each.name))


async def _ask(
    session: aiohttp.ClientSession,
    settings: Settings,
    context: ssl.SSLContext,
    key_hash: str,
    name: str,
) -> Answer:
    begin = time.monotonic()

    def answer(status: int, reason: str = "") -> Answer:
        reached = status not in (0, NOT_CONNECTED)
        return Answer(name, key_hash, reached, status, time.monotonic() - begin, reason)

    try:
        async with session.post(
            f"https://{settings.address}/{key_hash}/add-checkpoint",
            data=QUESTION,
            ssl=context,
            server_hostname=settings.name,
            headers={"Host": settings.name},
            allow_redirects=False,
        ) as response:
            why = "not connected to the bastion" if response.status == NOT_CONNECTED else ""
            return answer(response.status, why)
    except TimeoutError:
        return answer(0, f"does not answer in {TIMEOUT:.0f} s")
    except (aiohttp.ClientError, OSError) as error:
        return answer(0, f"the bastion does not answer: {error or type(error).__name__}")


async def _certificate_ends(settings: Settings, context: ssl.SSLContext) -> float | None:
    host, _, port = settings.address.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT):
            _, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=context, server_hostname=settings.name
            )
    except (OSError, TimeoutError, ValueError):
        return None
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    end: datetime = x509.load_der_x509_certificate(der).not_valid_after_utc
    return end.timestamp()
