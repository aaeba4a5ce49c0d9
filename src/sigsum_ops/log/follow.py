"""Following a log's published tree heads into their archive: ``sigsum-ops archive follow``.

Every machine of the log is asked, since only the primary answers, and which one that is may change.
What is checked of a tree head that the log's key signed, and when it is a split view, is said at
``Follower.look``. An answer that cannot be read or is not signed shows nothing, and neither does
one that is missing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.archive import Archive, ArchiveError, SplitView, evidence, fields_of
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.merkle import ProofError, verify_consistency
from sigsum_ops.log.statefiles import write_durably
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD, SignedTreeHead, TreeHead
from sigsum_ops.service.metrics import family
from sigsum_ops.service.settings import Table, read
from sigsum_ops.service.systemd import notify

log = logging.getLogger("sigsum-head-archive")

TIMEOUT = 10.0  # seconds for one request
METRICS_EVERY = 10.0  # seconds
SPLIT_VIEW = 1  # exit codes of following once, beside 0 and 2
CANNOT_TELL = 75  # EX_TEMPFAIL of sysexits.h
_METRIC = "sigsum_head_archive"


@dataclass(frozen=True)
class Settings:
    """Which log to follow, and where to keep what it publishes. ``interval`` in seconds."""

    public_key: PublicKey
    urls: tuple[str, ...]
    file: Path
    interval: float
    metrics_file: Path | None
    timeout: float = TIMEOUT


class Outcome(StrEnum):
    """What one look at one machine has shown."""

    KEPT = "kept"  # a larger tree head than any before; it is in the archive now
    KNOWN = "known"  # it is in the archive, or smaller and shown to be extended by what is there
    UNPROVEN = "unproven"  # signed by the log, but nobody gave a proof
    SPLIT_VIEW = "split-view"
    NO_ANSWER = "no-answer"  # or none that the log's key signed


@dataclass(frozen=True)
class Answer:
    """The outcome, for a person, and the tree head where there was one."""

    url: str
    outcome: Outcome
    text: str
    head: TreeHead | None = None


def load(path: Path) -> Settings:
    """Read and check the configuration; contacts nothing and looks at no other file.

    Raises:
        UsageError: naming the setting, its value and what is allowed.
    """
    return read(path, parse)


def parse(values: dict[str, Any], *, timeout: float = TIMEOUT) -> Settings:
    """Check the values of the file; ``timeout`` in seconds for each request."""
    table = Table(values)
    urls = table.take("urls", list)
    if not urls or not all(isinstance(url, str) for url in urls) or len(set(urls)) != len(urls):
        raise table.wrong("urls", urls, "at least one URL, each once")
    for url in urls:
        LogClient(url)  # refuses what is no log's URL
        if not (url.isascii() and url.isprintable()) or " " in url or len(url) > 2000:
            raise table.wrong("urls", url, "URLs in printable ASCII, of at most 2000 characters")
    settings = Settings(
        public_key=PublicKey.parse(table.text("public_key")),
        urls=tuple(urls),
        file=table.path("file"),
        interval=table.number("interval", 1, 3600, 5),
        metrics_file=table.path("metrics_file", None),
        timeout=timeout,
    )
    table.done()
    return settings


class Follower:
    """Looks at the machines of a log, and keeps what they publish.

    ``seen`` is when one of them last showed the largest tree head of the archive (Unix time, 0 for
    never).
    """

    def __init__(
        self, archive: Archive, log_key: PublicKey, clients: Mapping[str, LogClient]
    ) -> None:
        self.seen = 0.0
        self._archive = archive
        self._log_key = log_key
        self._clients = clients
        self._judging = asyncio.Lock()
        self._judged: dict[str, tuple[SignedTreeHead, Answer]] = {}

    async def look(self, url: str) -> Answer:
        """Ask one machine for its tree head, and judge it. Costs one request while it is the same.

        One that is larger than the archive's last is kept with the log's proof that it extends
        that one. A smaller one is kept only if it was when it was new; the log has to prove that
        the last one extends it. With another root at a size that is in the archive, or a proof that
        does not verify, it is a split view, of which the evidence is kept instead. One of which
        nobody gives a proof is kept beside the archive, and judged when somebody can give it.

        Raises:
            ArchiveError: the disk does not take it, or the archive was damaged.
        """
        answer = await self._look(url)
        last = self._archive.last
        good = answer.outcome in (Outcome.KEPT, Outcome.KNOWN)
        if good and last and answer.head == last.signed.head:
            self.seen = time.time()
        return answer

    async def _look(self, url: str) -> Answer:
        try:
            signed = (await self._clients[url].get_tree_head()).signed
        except ApiError as error:
            return Answer(url, Outcome.NO_ANSWER, error.message)
        try:
            signed.verify(self._log_key)
        except ProofError as error:
            return Answer(url, Outcome.NO_ANSWER, f"{url}: {error.message}", signed.head)
        async with self._judging:
            # What was judged stays so: whatever the archive has become extends what it was then.
            judged, answer = self._judged.get(url, (None, None))
            if answer is None or judged != signed:
                answer = await self._judge(url, signed)
                if answer.outcome in (Outcome.KNOWN, Outcome.SPLIT_VIEW):
                    self._judged[url] = (signed, answer)
            await self._settle(url)
        return answer

    async def _settle(self, url: str) -> None:
        """Judge what could not be judged before, now that there may be somebody to prove it."""
        for signed in self._archive.unproven:
            last = self._archive.last
            if last and signed.head.size <= last.signed.head.size:
                answer = await self._judge(url, signed)
                if answer.outcome == Outcome.SPLIT_VIEW:
                    log.critical("%s", answer.text)

    async def _judge(self, url: str, signed: SignedTreeHead) -> Answer:
        """Judge a tree head, and see to it that it is kept, or the evidence is."""
        answer = await self._judgement(url, signed)
        if answer.outcome != Outcome.UNPROVEN:
            self._archive.forget_unproven(signed)
        elif answer.head:
            self._archive.keep_unproven(signed)
        return answer

    async def _judgement(self, url: str, signed: SignedTreeHead) -> Answer:
        head, newest = signed.head, self._archive.last
        last = newest.signed if newest else None
        same = None
        if last and head.size <= last.head.size:
            same = self._archive.find(head.size)
        if same and same.head == head:
            return Answer(url, Outcome.KNOWN, f"{url}: {head}", head)
        if same:
            message = f"two roots of size {head.size}: {same.head.root.hex()}, {head.root.hex()}"
            return self._split_view(SplitView("other-root", same, signed, None, url, message))
        before = last.head if last else EMPTY_TREE_HEAD
        larger = last is None or head.size > before.size
        old, new = (before, head) if larger else (head, before)
        try:
            path = await self._proof(url, old, new)
        except ApiError as error:
            text = f"{url}: {head} is not shown to go with size {before.size}: {error.message}"
            return Answer(url, Outcome.UNPROVEN, text, head)
        except _NotConsistentError as error:
            if last is None:  # signed, and no tree's: there is nothing to set it against
                return Answer(url, Outcome.UNPROVEN, error.message)
            return self._split_view(
                SplitView("not-proven", last, signed, error.path, url, error.message)
            )
        if larger:
            self._archive.append(signed, url, path)
        return Answer(url, Outcome.KEPT if larger else Outcome.KNOWN, f"{url}: {head}", head)

    async def _proof(self, url: str, old: TreeHead, new: TreeHead) -> tuple[bytes, ...]:
        """A proof that verifies, of whichever machine: one is enough to show that all is well.

        Raises:
            _NotConsistentError: there were proofs, and none of them verifies.
            ApiError: there was none.
        """
        errors: list[_NotConsistentError | ApiError] = []
        for asked in (url, *(other for other in self._clients if other != url)):
            try:
                path = await self._clients[asked].get_consistency_proof(old.size, new.size)
            except ApiError as error:
                errors.append(error)
                continue
            try:
                verify_consistency(old.size, old.root, new.size, new.root, path)
            except ProofError as error:
                errors.insert(0, _NotConsistentError(f"{asked}: {error.message}", path))
            else:
                return path
        raise errors[0]

    def _split_view(self, split: SplitView) -> Answer:
        text = f"SPLIT VIEW ({split.kind}): {split.url}, {split.found.head}: {split.message}"
        try:
            path = self._archive.keep_evidence(split)
        except ArchiveError:
            log.critical("%s (EVIDENCE NOT KEPT)", text)
            raise
        kept = path or "not kept: there is enough beside the archive"
        return Answer(split.url, Outcome.SPLIT_VIEW, f"{text} (evidence: {kept})", split.found.head)


class _NotConsistentError(ProofError):
    """A proof that does not verify."""

    def __init__(self, message: str, path: tuple[bytes, ...]) -> None:
        super().__init__(message)
        self.path = path


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[tuple[Archive, Follower]]:
    """The archive, open, and what follows the log into it."""
    async with AsyncExitStack() as stack:
        archive = stack.enter_context(Archive.open(settings.file, settings.public_key))
        if archive.cut:
            log.warning("%s: cut off an unfinished last line", archive.path)
        clients = {
            url: await stack.enter_async_context(LogClient(url, timeout=settings.timeout))
            for url in settings.urls
        }
        yield archive, Follower(archive, settings.public_key, clients)


async def once(settings: Settings) -> dict[str, Any]:
    """Look at each machine one time; returns the report that the verb prints.

    Raises:
        ArchiveError: the archive is damaged, in use, or cannot be written.
    """
    async with following(settings) as (archive, follower):
        answers = await asyncio.gather(*map(follower.look, settings.urls))
        _write_metrics(settings.metrics_file, archive, follower)
        last = archive.last
        return {
            "file": str(archive.path),
            "heads": archive.heads,
            "last": fields_of(last.signed) if last else None,
            "answers": [
                {
                    "url": answer.url,
                    "outcome": str(answer.outcome),
                    "text": answer.text,
                    "size": answer.head and answer.head.size,
                }
                for answer in answers
            ],
            "split_views": list(map(str, evidence(archive.path))),
        }


def exit_code(report: Mapping[str, Any]) -> int:
    """Of the verb, for a report of ``once``."""
    if report["split_views"]:
        return SPLIT_VIEW
    outcomes = {answer["outcome"] for answer in report["answers"]}
    good = outcomes & {Outcome.KEPT, Outcome.KNOWN} and Outcome.UNPROVEN not in outcomes
    return 0 if good else CANNOT_TELL


def run(settings: Settings) -> None:
    """Follow until SIGTERM.

    Raises:
        ArchiveError: the archive is damaged, in use, or cannot be written.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """``run``, in an event loop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with following(settings) as (archive, follower):
        for path in evidence(archive.path):
            log.critical("SPLIT VIEW seen before: %s", path)

        async def follow(url: str) -> None:
            tell = _teller()
            while True:
                tell(await follower.look(url))
                await asyncio.sleep(settings.interval)

        async def measure() -> None:
            while True:
                await asyncio.sleep(METRICS_EVERY)
                _write_metrics(settings.metrics_file, archive, follower)

        # Each machine by itself, so that one which does not answer keeps nobody waiting.
        working = [*(follow(url) for url in settings.urls), measure(), stop.wait()]
        tasks = [asyncio.create_task(work) for work in working]
        notify("READY=1")
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            _write_metrics(settings.metrics_file, archive, follower)


def _teller() -> Callable[[Answer], None]:
    """Logs what a machine shows when it is something else than the last time."""
    said = ""

    def tell(answer: Answer) -> None:
        nonlocal said
        well = answer.outcome in (Outcome.KEPT, Outcome.KNOWN)
        saying = f"{answer.url}: following" if well else answer.text
        if saying == said:
            return
        if answer.outcome == Outcome.SPLIT_VIEW:
            log.critical("%s", saying)
        else:
            log.log(logging.INFO if well else logging.WARNING, "%s", saying)
        said = saying

    return tell


def _write_metrics(path: Path | None, archive: Archive, follower: Follower) -> None:
    if path is None:
        return
    lines: list[str] = []

    def add(name: str, text: str, value: float) -> None:
        lines.extend(family(f"{_METRIC}_{name}", "gauge", text, ("", value)))

    add("heads", "Tree heads in the archive.", archive.heads)
    size = archive.last.signed.head.size if archive.last else 0
    add("last_size", "Size of the largest tree head in the archive.", size)
    add(
        "last_seen_timestamp_seconds",
        "When a machine last showed the largest tree head of the archive, 0 for never.",
        round(follower.seen, 3),
    )
    add(
        "unproven",
        "Signed tree heads of which nobody has shown whether they go with the archive.",
        len(archive.unproven),
    )
    found = int(bool(evidence(archive.path)))
    add("split_view", "1 if evidence of a split view is beside the archive.", found)
    try:
        write_durably(path, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        log.warning("%s: metrics cannot be written: %s", path, error.strerror)
