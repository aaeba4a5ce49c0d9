"""What the documents name exists: files, make targets, verbs of the command line."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sigsum_ops.cli import app

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s#]+)(?:#[^)]*)?\)")
# A line that is only the command, or code within a sentence: not the verb "make".
_MAKE = re.compile(r"(?:^\s*(?:\$ )?|`)make ([a-z][a-z -]*?)(?=`|\s*(?:#.*)?$)", re.M)
_VERB = re.compile(r"(?:\.venv/bin/|`|^\s*|\$ )sigsum-ops((?: [a-z][a-z-]*)+)", re.M)


@cache
def _documents() -> list[Path]:
    """Every page that git has or would take: not what .gitignore leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(path for name in listed.split("\0") if name and (path := ROOT / name).exists())


def _targets() -> set[str]:
    named = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    return named | {f"scenario-{path.parent.name}" for path in ROOT.glob("molecule/*/molecule.yml")}


def _unknown_verb(words: list[str]) -> str | None:
    """The first word that is no verb where one is expected; arguments of a verb are free."""
    command: Any = typer.main.get_command(app)
    for number, word in enumerate(words):
        verbs = getattr(command, "commands", None)
        if verbs is None:
            return None
        if word not in verbs:
            return " ".join(words[: number + 1])
        command = verbs[word]
    return None


def test_there_is_a_page_for_newcomers() -> None:
    assert ROOT / "README.md" in _documents()


def test_relative_links_resolve() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in _documents()
        for link in _LINK.findall(page.read_text())
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_make_targets_exist() -> None:
    targets = _targets()
    missing = [
        f"{page.relative_to(ROOT)}: make {word}"
        for page in _documents()
        for words in _MAKE.findall(page.read_text())
        for word in words.split()
        if word not in targets
    ]
    assert missing == []


def test_verbs_exist() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: sigsum-ops {verb}"
        for page in _documents()
        for words in _VERB.findall(page.read_text())
        if (verb := _unknown_verb(words.split()))
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("text", "links", "makes", "verbs"),
    [
        ("see [a](b/c.md#d) and [e](https://x.example/)", ["b/c.md"], [], []),
        (
            "    make demo  # wait\n`make test-fast`,\nmake sense of it, then",
            [],
            ["demo", "test-fast"],
            [],
        ),
        ("run `sigsum-ops inventory check -i x`; sigsum-ops is", [], [], [" inventory check"]),
        ("    .venv/bin/sigsum-ops lab up\n", [], [], [" lab up"]),
    ],
)
def test_what_is_found_in_a_page(
    text: str, links: list[str], makes: list[str], verbs: list[str]
) -> None:
    assert _LINK.findall(text) == links
    assert _MAKE.findall(text) == makes
    assert _VERB.findall(text) == verbs


def test_an_unknown_verb_is_noticed() -> None:
    assert _unknown_verb(["inventory", "check", "anything"]) is None
    assert _unknown_verb(["inventory", "chekc"]) == "inventory chekc"
    assert _unknown_verb(["inventroy"]) == "inventroy"
