"""Every command of docs/bcp says how it is tried, can be parsed, and names things that exist."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sigsum_ops.cli import app
from sigsum_ops.errors import OpsError
from sigsum_ops.site.runbook import PAGES, commands, facts, pages
from sigsum_ops.site.runbook.commands import SITUATIONS, Command
from sigsum_ops.site.runbook.facts import Site
from sigsum_ops.site.runbook.pages import Page

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "inventories/example"
# What a machine or the controller has beside our own command; Debian's or Ansible's.
PROGRAMS = {
    *("ansible", "ansible-playbook", "apt-get", "cat", "curl", "df", "du", "free", "install"),
    *("journalctl", "ls", "mariadb", "mariadb-install-db", "mv", "rm", "ss", "systemctl", "tar"),
    "test",
}
UNITS = {
    *("mariadb", "yubihsm-connector"),  # Debian's
    *(path.name.partition(".")[0] for path in (ROOT / "roles").glob("*/templates/*.service.j2")),
}
MODULES = {f"ansible.builtin.{name}" for name in ("ping", "copy", "fetch")}


@pytest.fixture(scope="module")
def example() -> Site:
    return facts.read(EXAMPLE, date(2026, 3, 4))


@pytest.fixture(scope="module")
def found(example: Site) -> list[Command]:
    return commands.extract(pages.load(), example)


def words(command: Command) -> list[str]:
    """The command as a shell splits it; where its output goes is no argument."""
    split = shlex.split(command.text.replace("\\\n", " "))
    return split[: split.index(">")] if ">" in split else split


def of(found: list[Command], program: str) -> Iterator[tuple[Command, list[str]]]:
    """The commands that call a program, with its arguments."""
    for command in found:
        first, *arguments = words(command)
        if first == program:
            yield command, arguments


def page(text: str) -> Page:
    return Page(PAGES / "promote.md", text)


# --- the pages ----------------------------------------------------------------------------------


def test_each_page_but_none_is_without_commands(found: list[Command]) -> None:
    """A page that lost its commands, or whose blocks are not seen, would pass all that follows."""
    assert {Path(command.place).name for command in found} == {
        path.name for path in PAGES.glob("*.md")
    }


def test_a_command_is_where_it_says(found: list[Command]) -> None:
    for command in found:
        line = (ROOT / command.place).read_text().splitlines()[command.line - 1]
        start = line.strip().partition("{{")[0].removesuffix("\\")
        assert start, f"{command.place}:{command.line}"
        assert command.text.startswith(start)


def test_each_command_calls_a_program_that_is_there(found: list[Command]) -> None:
    assert {words(command)[0] for command in found} - PROGRAMS == {"sigsum-ops"}


def test_verbs_and_options_exist(found: list[Command]) -> None:
    wrong = []
    for command, arguments in of(found, "sigsum-ops"):
        verb: Any = typer.main.get_command(app)
        rest = list(arguments)
        while rest and rest[0] in getattr(verb, "commands", {}):
            verb = verb.commands[rest.pop(0)]
        numbers = [{"LINE": "7", "SIZE": "7"}.get(word, word) for word in rest]
        try:
            if getattr(verb, "commands", None) is not None:
                raise ValueError(f"no such verb: {rest[:1]}")
            with verb.make_context("sigsum-ops", numbers):
                pass
        except Exception as error:  # noqa: BLE001 - click's several, each with a message
            message = getattr(error, "message", error)
            wrong.append(f"{command.place}:{command.line}: {command.text}: {message}")
    assert wrong == []


def test_playbooks_exist(found: list[Command], example: Site) -> None:
    machines = {each["name"] for each in example.values["machines"]}
    for command, arguments in of(found, "ansible-playbook"):
        option, inventory, playbook, *rest = (word for word in arguments if word != "--check")
        assert (command.on, option, inventory) == ("controller", "-i", str(EXAMPLE))
        assert set(rest[::2]) <= {"-e"}
        variables = dict(word.split("=", 1) for word in rest[1::2])
        assert variables.get("target", "log-north") in machines
        assert set(variables) <= {"target", "seen", "wipe", "going_back"}
        assert (ROOT / playbook).is_file(), command


def test_single_modules_are_called_as_they_are(found: list[Command], example: Site) -> None:
    names = {"log_machines", *(each["name"] for each in example.values["machines"])}
    for command, (option, inventory, host, flag, module, *rest) in of(found, "ansible"):
        assert (command.on, option, inventory, flag) == ("controller", "-i", str(EXAMPLE), "-m")
        assert host in names
        assert module in MODULES
        assert rest == [] or rest[0] == "-a"


def test_units_exist(found: list[Command]) -> None:
    for command, (verb, *rest) in of(found, "systemctl"):
        units = {word for word in rest if not word.startswith("-")}
        assert units, command
        assert units <= UNITS, command
        assert verb in {"is-active", "start", "stop", "restart", "enable", "disable"}
    for command, arguments in of(found, "journalctl"):
        named = {unit for flag, unit in itertools.pairwise(arguments) if flag == "-u"}
        assert named <= UNITS, command
        assert "--no-pager" in arguments or "--vacuum-size=200M" in arguments, command


def test_each_situation_is_used(found: list[Command]) -> None:
    assert {command.when for command in found} - {None} == set(SITUATIONS)


def test_there_is_no_command_in_a_sentence_only(example: Site) -> None:
    """What a sentence has a person type is in a block as well, so that it is tried."""
    sources = pages.load()
    tried = [command.text for command in commands.extract(sources, example)]
    alone = []
    for source in sources:
        for token in pages.parser().parse(pages.fill(source, source.text, example)):
            for child in token.children or []:
                text = child.content
                if child.type != "code_inline" or " " not in text:
                    continue
                if text.split()[0] not in {*PROGRAMS, "sigsum-ops", "cp", "sudo", "chmod"}:
                    continue
                if not any(command.startswith(text) for command in tried):
                    alone.append(f"{source.path.name}: {text}")
    assert alone == []


def test_no_block_depends_on_the_site(example: Site) -> None:
    """None is in a loop or a condition, where a site could lack it or have it twice."""
    for source in pages.load():
        filled = pages.fill(source, source.text, example)
        assert filled.count("```") == source.text.count("```"), source.place


# --- the extractor ------------------------------------------------------------------------------


def test_a_block_is_read_with_the_sites_values(example: Site) -> None:
    text = (
        "# T\n\n{% if primary %}\nx\n{% endif %}\n\n"
        "```sh on=secondary when=healthy exit=3 ask=SIZE,FILE\n"
        "show {{ secondary.name }} \\\n  --size SIZE\n\ncat FILE SIZE\n```\n\n"
        "- item\n\n  ```sh on=controller\n  ls {{ inventory }}\n  ```\n\n```text\noutput\n```\n"
    )
    place = "docs/bcp/promote.md"
    assert commands.extract([page(text)], example) == [
        Command(
            place,
            7,
            8,
            "show log-south \\\n  --size SIZE",
            "secondary",
            "log-south",
            "healthy",
            3,
            ("SIZE",),
        ),
        Command(place, 7, 11, "cat FILE SIZE", "secondary", "log-south", None, 3, ("SIZE", "FILE")),
        Command(place, 16, 17, f"ls {EXAMPLE}", "controller", None, None, 0, (), ("output",)),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```\nls\n```\n", ":3: a block that does not say how it is tried"),
        ("```sh\nls\n```\n", ":3: on= is none of"),
        ("```console on=primary when=healthy\nls\n```\n", ":3: a block that does not say"),
        ("```sh on=third when=healthy\nls\n```\n", ":3: on= is none of"),
        ("```sh on=primary when=broken\nls\n```\n", ":3: when= is none of"),
        ("```sh on=primary\nls\n```\n", ":3: the page's first block has no when="),
        ("```sh on=primary when=healthy exit=x\nls\n```\n", ":3: exit= is no number"),
        ("```sh on=primary when=healthy ask=FILE\nls\n```\n", ":3: ask= has FILE"),
        ("```sh on=primary when=healthy ask=ls\nls\n```\n", ":3: ask= has ls"),
        ("```sh on=primary when=healthy as=root\nls\n```\n", ":3: a block that does not say"),
        ("```sh on=primary on=client when=healthy\nls\n```\n", ":3: a block that does not say"),
        ("```sh on=primary when=healthy\nls \\\n```\n", "the block at line 3 ends with a back"),
        ("    ls\n", ":3: an indented block"),
        ("```text\nan output\n```\n", ":3: a block of output, and nothing printed it"),
    ],
)
def test_a_block_that_cannot_be_tried_is_refused(text: str, says: str, example: Site) -> None:
    with pytest.raises(OpsError, match=re.escape(says)):
        commands.extract([page(f"# T\n\n{text}")], example)


# --- the rehearsal ------------------------------------------------------------------------------


class Rehearsal:
    """A site that does what it is told, and remembers."""

    def __init__(self, **statuses: int) -> None:
        self.done: list[tuple[str, ...]] = []
        self.statuses = statuses

    def arrange(self, situation: str) -> None:
        self.done.append(("arrange", situation))

    def run(self, command: Command, text: str) -> tuple[int, str]:
        self.done.append((command.host or command.on, text))
        return self.statuses.get(words(command)[0], 0), f"said by {text}"

    def answer(self, command: Command, word: str, said: str) -> str:
        self.done.append(("answer", str(command.line), word, said))
        return r"a\1"


TEXT = """# T

```sh on=primary when=latched exit=1
show
```

```sh on=primary ask=SHA256
resolve SHA256 SHA256 SHA2567
start
```

```sh on=controller when=healthy
look
```

```text
said …ok
```
"""


def test_commands_are_typed_in_their_order(example: Site) -> None:
    typed = commands.extract([page(TEXT)], example)
    rehearsal = Rehearsal(show=1)
    assert list(commands.rehearse(typed, rehearsal)) == typed
    assert rehearsal.done == [
        ("arrange", "latched"),
        ("log-north", "show"),
        ("answer", "8", "SHA256", "said by show"),
        ("log-north", r"resolve a\1 a\1 SHA2567"),
        ("log-north", "start"),
        ("arrange", "healthy"),
        ("controller", "look"),
    ]


def test_a_command_that_ends_otherwise_stops_it_all(example: Site) -> None:
    typed = commands.extract([page(TEXT)], example)
    rehearsal = Rehearsal(show=1, start=5)
    with pytest.raises(OpsError, match=r"promote\.md:9: exit status 5, not 0: start\nsaid by sta"):
        list(commands.rehearse(typed, rehearsal))
    assert rehearsal.done[-1] == ("log-north", "start")
    with pytest.raises(OpsError, match=r"promote\.md:4: exit status 0, not 1: show"):
        list(commands.rehearse(typed, Rehearsal()))


@pytest.mark.parametrize(
    ("printed", "right"),
    [
        ("active\nactive", True),
        ("  active  \nnoise\nactive\n", True),
        ("active\ninactive", False),
        ("active", False),
        ("", False),
    ],
)
def test_what_is_printed_is_as_the_page_says(printed: str, *, right: bool, example: Site) -> None:
    class Prints(Rehearsal):
        def run(self, command: Command, text: str) -> tuple[int, str]:
            super().run(command, text)
            return 0, printed if text == "first" else ""

    text = (
        "# T\n\n```sh on=primary when=healthy\nfirst\nsecond\n```\n\n```text\nactive\nactive\n```\n"
    )
    typed = commands.extract([page(text)], example)
    assert [command.prints for command in typed] == [(), ("active", "active")]
    if right:
        assert list(commands.rehearse(typed, Prints())) == typed
    else:
        with pytest.raises(OpsError, match=r":5: it does not print 'active' there: second"):
            list(commands.rehearse(typed, Prints()))


def test_a_page_can_name_a_part_of_a_line_and_the_sites_own_values(example: Site) -> None:
    text = (
        "# T\n\n```sh on=primary when=healthy\nx\n```\n\n```text\n{{ primary.name }}: …ok…\n```\n"
    )
    (command,) = commands.extract([page(text)], example)
    assert command.prints == ("log-north: …ok…",)


def test_a_scene_ends_where_another_situation_begins(example: Site) -> None:
    typed = commands.extract([page(TEXT)], example)
    assert [len(scene) for scene in commands.scenes(typed)] == [3, 1]
    assert [scene[0].when for scene in commands.scenes(typed)] == ["latched", "healthy"]
