"""The handbook says what the ceremony asks, and every command of these pages can be typed."""

from __future__ import annotations

import html
import itertools
import re
import shlex
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sigsum_ops.cli import app
from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import plan as plans
from sigsum_ops.hsm.ceremony import handbook, steps
from sigsum_ops.hsm.ceremony.records import Role
from sigsum_ops.hsm.plan import DevicePlan, DeviceRole, Plan
from tests.hsm.ceremony.table import HEX, PLAN, SHARES

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs/ceremonies"
GENERATED = {
    "example.md": "inventories/example/hsm-plan.yml",
    "lab.md": "inventories/lab/hsm-plan.yml",
}
_FENCE = re.compile(r"^( *)```\n(.*?)\n\1```$", re.M | re.S)
_TYPED = re.compile(r"Typed by [^`]*?:\n\n```\n(.*?)\n```", re.S)
_INLINE = re.compile(r"`(sigsum-ops [^`]*)`")


def _text(roles: str, *, generation: str = "new", backup: str = HEX, first: int = 90000001) -> str:
    """A plan's YAML with a device for each role; serial numbers count from ``first``."""
    devices = "".join(
        f"  - {{name: device-{n}, role: {role}, serial: {first + n}}}\n"
        for n, role in enumerate(roles.split())
    )
    head = PLAN.partition("  - {{name: backup-1")[0].format(generation=generation, backup=backup)
    return head + devices


def _plans() -> list[Plan]:
    variants = itertools.product(
        ("established", "new"), (HEX, SHARES), (2, 4), ("", " witness-oracle")
    )
    return [
        plans.loads(
            _text(
                "backup " * backups + "log-oracle log-oracle" + witness,
                generation=generation,
                backup=backup,
                # Real ones, and those of rehearsals.
                first=(20000001, 90000001)[number // 3 % 2],
            ),
            "test",
        )
        for number, (generation, backup, backups, witness) in enumerate(variants)
    ]


def _name(plan: Plan) -> str:
    backups = len(plan.with_role(DeviceRole.BACKUP))
    witness = "witness" if plan.with_role(DeviceRole.WITNESS_ORACLE) else "no-witness"
    kind = "rehearsal" if plan.devices[0].serial >= 90000000 else "real"
    return f"{plan.generation}-{plan.backup.form}-{backups}-{witness}-{kind}"


def _words(text: str) -> str:
    return " ".join(text.split())


def _in_order(parts: list[str], text: str) -> None:
    place = 0
    for part in parts:
        found = text.find(part, place)
        assert found >= 0, f"not there, or not in its place: {part}"
        place = found + len(part)


@pytest.mark.parametrize("plan", _plans(), ids=_name)
def test_every_step_and_phrase_is_there_in_order(plan: Plan) -> None:
    book = handbook.build(plan, Path("plan.yml"))
    derived = steps.derive(plan)
    said: list[str] = []
    for number, step in enumerate(derived, 1):
        said += [f"Step {number} of {len(derived)}: {step.title}", step.what, step.hold]
        said += [step.phrase] if step.phrase else []
    markdown = handbook.markdown(book)
    _in_order(said, _words(markdown))
    _in_order(said, _words(html.unescape(re.sub(r"<[^>]+>", " ", handbook.html(book)))))
    phrases = [step.phrase for step in derived if step.phrase]
    # No phrase that nobody is asked for, and who is asked.
    assert _TYPED.findall(markdown) == phrases
    assert markdown.count("This cannot be undone.") == sum(step.irreversible for step in derived)
    who = "Typed by the operator (olga), then the witness (wim):"
    assert _words(markdown).count(who) == len(phrases)
    assert plan.hash() == "".join(
        re.findall(r"^\| ((?:[0-9a-f]{2} ?){4}) \|", markdown, re.M)
    ).replace(" ", "")


@pytest.mark.parametrize("plan", _plans()[::5], ids=_name)
def test_the_document_has_every_phrase(plan: Plan) -> None:
    book = handbook.build(plan, Path("plan.yml"))
    streams = re.findall(rb"stream\n(.*?)\nendstream", handbook.pdf(book), re.S)
    shown = b"".join(zlib.decompress(stream) for stream in streams if stream[:1] == b"x")
    _in_order([s.phrase for s in steps.derive(plan) if s.phrase], shown.decode("latin-1"))
    # The built-in fonts know Latin-1 only, and show a question mark for the rest.
    assert handbook.markdown(book).isascii()


@pytest.mark.parametrize("plan", _plans(), ids=_name)
def test_every_thing_is_brought_bagged_and_taken_away(plan: Plan) -> None:
    markdown = handbook.markdown(handbook.build(plan, Path("plan.yml")))
    bring, bags, custody = (
        markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]
        for title in ("What to bring", "Bags", "Who takes what away")
    )
    assert "| [ ] | medium for credentials |" in bring
    for device in plan.devices:
        assert f"| [ ] | {device.name} | {device.serial} | {device.role} |" in bring
        assert f"| {device.name} | {device.serial} | ____" in bags
        assert f"| {device.name} | {_destination(device)}" in custody
        for spec in steps.access_keys(plan, device):
            assert f"| {device.name} | {spec.name} |" in custody
    for number in range(1, plan.backup.media + 1):
        assert f"| [ ] | backup medium {number} |" in bring
        assert f"| backup medium {number} | - | ____" in bags
        assert f"| backup medium {number} | keeper {number}" in custody
    if plan.backup.form == "shares":
        assert "place ever has 2 of them" in _words(custody)
    else:
        assert "No medium is ever at one place with a backup device" in _words(custody)


def _destination(device: DevicePlan) -> str:
    return "safe " if device.role == DeviceRole.BACKUP else "its machine"


def test_people_of_one_role_are_all_named() -> None:
    plan = plans.loads(_text("backup backup log-oracle"), "test")
    wilma = replace(plan.participants[1], name="wilma")
    markdown = handbook.markdown(
        handbook.build(replace(plan, participants=(*plan.participants, wilma)), Path("p"))
    )
    assert "then the witness (wim or wilma):" in markdown
    assert "| [ ] | wilma | witness |" in markdown


# --- the handbook against the ceremony ----------------------------------------------------------


def _commands(text: str) -> list[list[str]]:
    """What a page says to type that begins with sigsum-ops, in words."""
    blocks = "\n".join(block for _, block in _FENCE.findall(text)).replace("\\\n", " ")
    lines = [line.strip() for line in blocks.splitlines()]
    typed = [line for line in lines if re.match(r"(\.venv/bin/)?sigsum-ops ", line)]
    return [shlex.split(line, comments=True)[1:] for line in (*typed, *_INLINE.findall(text))]


@cache
def _program() -> Any:
    return typer.main.get_command(app)


def _verb(words: list[str]) -> tuple[Any, list[str]]:
    """The verb that the words begin with, or a group of verbs, and the words after it."""
    command = _program()
    while words and (verbs := getattr(command, "commands", None)) is not None:
        assert words[0] in verbs, f"{words[0]} is no verb of {command.name}"
        command, words = verbs[words[0]], words[1:]
    return command, words


def _parse(words: list[str]) -> dict[str, Any]:
    """The values of a command's options. Raises typer's usage error where it would refuse them."""
    command, rest = _verb(words)
    values: dict[str, Any] = command.make_context(" ".join(words), list(rest)).params
    return values


def test_its_phrases_and_commands_carry_a_ceremony_through(memory: Path) -> None:
    plan = memory / "our plan.yml"
    plan.write_text(_text("backup backup log-oracle", backup=SHARES))
    markdown = handbook.markdown(handbook.build(plans.load(plan), Path(plan.name)))
    show, begin, check, resume, verify, report = _commands(markdown)
    typed = "".join(f"{phrase}\n" for phrase in _TYPED.findall(markdown) for _ in Role)
    shown = ""
    for words in (show, begin, check, verify, report, resume):
        done = subprocess.run(
            [sys.executable, "-m", "sigsum_ops.cli", *words],
            cwd=memory,
            input=typed if words == begin else "",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        shown += done.stdout + done.stderr
    # What people are told to read from the screen was on the screen.
    quoted = re.findall(
        r'from the screen: "([^"]+)"(?:, and at the end "([^"]+)")?', _words(markdown)
    )
    assert quoted
    for line in filter(None, itertools.chain(*quoted)):
        assert line in _words(shown)


@pytest.mark.parametrize("plan", _plans(), ids=_name)
def test_all_commands_are_about_the_same_ceremony(plan: Plan) -> None:
    markdown = handbook.markdown(handbook.build(plan, Path("plan.yml")))
    _, begin, check, resume, verify, report = map(_parse, _commands(markdown))
    assert check["check"]
    for name in {"plan", "out", "media", "credentials"} & set(begin):
        assert check[name] == resume[name] == begin[name]
    if "media" in begin:
        assert len(set(begin["media"])) == plan.backup.media
    for judged in (verify, report):
        assert judged["transcript"].parent == begin["out"]
        assert judged["plan"] == begin["plan"]
        assert judged["rehearsal"] == (plan.devices[0].serial >= 90000000)


# --- the documents ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", GENERATED)
def test_a_generated_page_is_the_plans(page: str) -> None:
    plan = GENERATED[page]
    now = handbook.markdown(handbook.build(plans.load(ROOT / plan), Path(plan)))
    again = f"sigsum-ops ceremony handbook --plan {plan} --out docs/ceremonies/{page}"
    assert (PAGES / page).read_text() == now, f"it has changed; run: {again}"


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.name)
def test_every_command_of_these_pages_is_understood(page: Path) -> None:
    for words in _commands(page.read_text()):
        if len(words) > 2 or any(word.startswith("-") for word in words):
            _parse(words)
        else:
            _verb(words)  # named in a sentence, not to be typed


def test_a_command_that_is_not_understood_is_noticed() -> None:
    text = "```\nsigsum-ops ceremony plan \\\n  --plan x\n```\nand `sigsum-ops ceremony verify`"
    assert _commands(text) == [["ceremony", "plan", "--plan", "x"], ["ceremony", "verify"]]
    assert _parse(_commands(text)[0])["plan"] == Path("x")
    usage_error = typer.BadParameter.__bases__[0]  # click's, or the one in newer typers
    for wrong in (["ceremony", "plan", "--plam", "x"], ["ceremony", "verify"]):
        with pytest.raises(usage_error, match=r"No such option|Missing"):
            _parse(wrong)
    with pytest.raises(AssertionError, match="no verb"):
        _parse(["ceremony", "verfiy"])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    book = handbook.build(plans.load(ROOT / GENERATED["lab.md"]), Path("plan.yml"))
    with pytest.raises(UsageError, match=r"ends in \.txt"):
        handbook.write(book, tmp_path / "book.txt")
    with pytest.raises(UsageError, match="cannot write"):
        handbook.write(book, tmp_path / "nowhere/book.md")
    handbook.write(book, tmp_path / "book.pdf")
    assert (tmp_path / "book.pdf").read_bytes().startswith(b"%PDF-")
