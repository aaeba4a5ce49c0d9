"""What the pages have people type, found so that a test can type it first.

Each fenced block of a page is commands, one a line (a backslash goes on in the next), and its info
string says how they are tried::

    ```sh on=primary when=latched exit=1 ask=SHA256

===========  =======================================================================================
``on``       required: ``controller`` (from the root of the checkout, with ``.venv/bin`` on PATH),
             or as root on the inventory's ``primary``, ``secondary`` or ``client``
``when``     the situation that is made before the block; without it, things are as the block before
             left them. A page's first block has one. The names are SITUATIONS
``exit``     the exit status of each command; without it 0
``ask``      words in capitals, with commas, that the person replaces by what was shown before
===========  =======================================================================================

A block of ``text`` after it is what it prints: each line of it is a line of the block's output, in
this order, and ``…`` stands for anything. There is no third kind.

A *scene* is what follows from a ``when=`` to the next: commands that need each other, in one
situation. What a lab cannot do is no command: a sentence that begins with NOT_REHEARSED.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.site.runbook import pages
from sigsum_ops.site.runbook.facts import Site
from sigsum_ops.site.runbook.pages import Page

CONTROLLER = "controller"
PLACES = (CONTROLLER, "primary", "secondary", "client")
SITUATIONS: Mapping[str, str] = {
    "healthy": "both machines serve and agree",
    "practice": "both machines serve and agree, on a lab",
    "handing-over": "both serve and agree, and the secondary's passphrase is at the controller",
    "primary-dead": "the primary's power is cut",
    "promoted": "the secondary was promoted; the former primary is fenced and back on the network",
    "secondary-new": "the secondary has been installed anew, with nothing of the log on it",
    "database-away-primary": "the primary's MariaDB cannot be started",
    "database-back": "it can be started again, and nothing was promoted meanwhile",
    "database-away-secondary": "the secondary's MariaDB cannot be started",
    "quarantine": "the secondary is new, nothing signs, and there is a backup",
    "restored": "a backup is in quarantine on the secondary, and proven ahead of all that was seen",
    "upgradable": "the machines have an older package of this project",
    "refused": "the primary's tree-id file is lost, and the start guard has refused",
    "hsm-away": "the primary's YubiHSM is pulled",
    "hsm-replaced": "the secondary has another YubiHSM, and the inventory says so",
    "latched": "the oracle has latched, and the tree that was signed is back in place",
    "journal-damaged": "the oracle's journal has a damaged line in its middle",
    "audit-unknown": "the archive of the audit has a gap",
    "audit-damaged": "the archive of the audit has a damaged line in its middle",
}
NOT_REHEARSED = "Not rehearsed in the lab:"
_KEYS = {"on", "when", "exit", "ask"}
_WORD = re.compile(r"[A-Z][A-Z0-9-]*")


@dataclass(frozen=True)
class Block:
    """A fenced block of commands: where in the page it begins, and how it is tried."""

    page: Page
    line: int
    text: str
    on: str
    when: str | None
    exit: int
    asks: tuple[str, ...]
    prints: str = ""


@dataclass(frozen=True)
class Command:
    """One command with the site's values in it, at a line of a page.

    ``block`` is the line at which its block begins, ``prints`` what all of the block has printed
    once its last command has ended.
    """

    place: str
    block: int
    line: int
    text: str
    on: str
    host: str | None
    when: str | None
    exit: int
    asks: tuple[str, ...]
    prints: tuple[str, ...] = ()


class Rehearsal(Protocol):
    """The site on which the commands are tried; what a test has to bring."""

    def arrange(self, situation: str) -> None:
        """Bring about one of SITUATIONS, whatever the commands before left."""

    def run(self, command: Command, text: str) -> tuple[int, str]:
        """Run ``text`` where the command says; its exit status, and all that it printed."""

    def answer(self, command: Command, word: str, said: str) -> str:
        """What stands for a word in capitals in the command, after ``said`` by the one before."""


def blocks(page: Page) -> list[Block]:
    """The blocks of commands of a page.

    Raises:
        OpsError: a block does not say how it is tried.
    """
    found: list[Block] = []
    for token in pages.parser().parse(page.text):
        if token.type not in ("code_block", "fence"):
            continue
        assert token.map is not None  # noqa: S101 - every block has its lines
        line = token.map[0] + 1
        if token.type == "code_block":
            raise OpsError(f"{page.place}:{line}: an indented block", hint="Fence it: ```sh on=…")
        if token.info.split() == ["text"]:
            if not found or found[-1].prints:
                raise OpsError(f"{page.place}:{line}: a block of output, and nothing printed it")
            found[-1] = replace(found[-1], prints=token.content)
            continue
        block = _block(page, line, token.info, token.content)
        if not found and block.when is None:
            raise OpsError(f"{page.place}:{line}: the page's first block has no when=")
        found.append(block)
    return found


def extract(sources: Iterable[Page], site: Site) -> list[Command]:
    """Every command of the pages, in their order."""
    return [
        command for page in sources for block in blocks(page) for command in _commands(block, site)
    ]


def scenes(commands: Iterable[Command]) -> list[list[Command]]:
    """The commands in their order, cut where a situation is made."""
    found: list[list[Command]] = []
    for command in commands:
        if command.when is not None:
            found.append([])
        found[-1].append(command)
    return found


def rehearse(commands: Sequence[Command], site: Rehearsal) -> Iterator[Command]:
    """Type the commands one after the other, as a person at the pages would; yields each tried.

    Raises:
        OpsError: a command ended otherwise than its page says; with what it printed.
    """
    said = printed = ""
    block = None
    for command in commands:
        if command.when is not None:
            site.arrange(command.when)
        text = command.text
        for word in command.asks:
            text = site.answer(command, word, said).join(re.split(rf"\b{word}\b", text))
        status, said = site.run(command, text)
        printed = f"{printed}\n{said}" if (command.place, command.block) == block else said
        block = (command.place, command.block)
        wrong, shown = "", printed
        if status != command.exit:
            wrong = f"exit status {status}, not {command.exit}"
            shown = said
        elif missing := _missing(command.prints, printed):
            wrong = f"it does not print {missing!r} there"
        if wrong:
            raise OpsError(f"{command.place}:{command.line}: {wrong}: {text}\n{shown}")
        yield command


def _missing(wanted: Iterable[str], printed: str) -> str:
    """The first of the wanted lines that is not printed after those before it; empty if all are."""
    lines = iter(printed.splitlines())
    for line in wanted:
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")))
        if not any(pattern.fullmatch(each.strip()) for each in lines):
            return line
    return ""


def _block(page: Page, line: int, info: str, text: str) -> Block:
    def refuse(what: str) -> OpsError:
        return OpsError(
            f"{page.place}:{line}: {what}: ```{info}",
            hint="A block is ```text, or ```sh on=… as sigsum_ops.site.runbook.commands says.",
        )

    language, *words = info.split() or [""]
    settings = dict(word.partition("=")[::2] for word in words)
    if language != "sh" or not set(settings) <= _KEYS or len(settings) != len(words):
        raise refuse("a block that does not say how it is tried")
    if settings.get("on") not in PLACES:
        raise refuse(f"on= is none of {', '.join(PLACES)}")
    when = settings.get("when")
    if when is not None and when not in SITUATIONS:
        raise refuse(f"when= is none of {', '.join(SITUATIONS)}")
    if not settings.get("exit", "0").isdecimal():
        raise refuse("exit= is no number")
    asks = tuple(filter(None, settings.get("ask", "").split(",")))
    for word in asks:
        if not _WORD.fullmatch(word) or not re.search(rf"\b{word}\b", text):
            raise refuse(f"ask= has {word}, which is no word in capitals in the block")
    return Block(page, line, text, settings["on"], when, int(settings.get("exit", "0")), asks)


def _commands(block: Block, site: Site) -> list[Command]:
    found: list[Command] = []
    host = None if block.on == CONTROLLER else site.host(block.on)
    for line, text in _lines(block):
        filled = pages.fill(block.page, text, site, line)
        if "\n" in filled.replace("\\\n", ""):
            raise UsageError(f"{block.page.place}:{line}: a value of several lines in a command")
        asks = tuple(word for word in block.asks if re.search(rf"\b{word}\b", filled))
        when = None if found else block.when
        place = block.page.place
        found.append(
            Command(place, block.line, line, filled, block.on, host, when, block.exit, asks)
        )
    prints = pages.fill(block.page, block.prints, site, block.line).split("\n")
    found[-1] = replace(found[-1], prints=tuple(line.strip() for line in prints if line.strip()))
    return found


def _lines(block: Block) -> Iterator[tuple[int, str]]:
    """Each command with the line that it begins at; what a backslash continues is one."""
    begun: list[str] = []
    for number, text in enumerate(block.text.splitlines(), start=block.line + 1):
        begun.append(text)
        if not text.endswith("\\"):
            if whole := "\n".join(begun).strip():
                yield number - len(begun) + 1, whole
            begun = []
    if begun:
        raise OpsError(f"{block.page.place}: the block at line {block.line} ends with a backslash")
