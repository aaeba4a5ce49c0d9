"""The rehearsal of the continuity plan leaves no command, no situation and no word out."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sigsum_ops.failover import outside
from sigsum_ops.lab import rehearsal
from sigsum_ops.lab.lab import Lab
from sigsum_ops.lab.rehearsal import ANSWERS, ARRANGE
from sigsum_ops.site.runbook import PAGES, commands, facts, pages
from sigsum_ops.site.runbook.commands import NOT_REHEARSED, SITUATIONS, Command

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "molecule/runbook"
# What no lab can do, by page. Whoever adds to it has found no way to try it.
NOT_IN_A_LAB = {
    ("promote", "opening the medium"),
    ("promote", "the DNS"),
    ("lost-hsm", "a hand at the plug"),
    ("lost-hsm", "making the device"),
    ("sites-gone", "real YubiHSMs"),
    ("database-primary", "exchanging a disk"),
    ("database-secondary", "exchanging a disk"),
    ("split-view", "asking people"),
    ("capacity", "other hardware"),
}


@pytest.fixture(scope="module")
def found() -> list[Command]:
    site = facts.read(ROOT / "inventories/example", date(2026, 3, 4))
    return commands.extract(pages.load(), site)


def test_each_situation_can_be_brought_about() -> None:
    assert ARRANGE.keys() == SITUATIONS.keys()


def test_each_word_in_capitals_is_answered(found: list[Command]) -> None:
    assert {word for command in found for word in command.asks} == ANSWERS.keys()


def test_the_scenario_types_every_command_once(found: list[Command]) -> None:
    """By what it is parametrised with."""
    by_page = {
        page.path.stem: commands.scenes([c for c in found if c.place == page.place])
        for page in pages.load()
    }
    typed = [
        command
        for page, numbers in rehearsal.plan(SITUATIONS)
        for n in numbers
        for command in by_page[page][n]
    ]
    assert len(typed) == len(set(typed))
    assert set(typed) == set(found)
    scenario = (RUNBOOK / "test_runbook_scenes.py").read_text()
    assert "rehearsal.plan(SITUATIONS))" in scenario
    assert re.search(
        r"^soak:.*\n(\t.*\n)*\t.*scenario-runbook", (ROOT / "Makefile").read_text(), re.M
    )


def test_what_is_only_possible_after_a_scene_goes_with_it() -> None:
    planned = rehearsal.plan({"primary-dead", "promoted"})
    assert planned == [("promote", (0, 2)), ("promote", (1,))]


def test_what_a_lab_cannot_do_is_named_where_it_stands() -> None:
    marked = {
        (page.path.stem, what)
        for page in pages.load()
        for what in re.findall(rf"\*{NOT_REHEARSED} ([^*]+)\.\*", " ".join(page.text.split()))
    }
    assert marked == NOT_IN_A_LAB
    text = " ".join(" ".join(path.read_text() for path in PAGES.glob("*.md")).split())
    assert text.count(NOT_REHEARSED) == len(NOT_IN_A_LAB)


def test_a_page_is_printed_for_the_machines_as_they_are_by_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last situation's end was a change of the primary; the next page named the old one."""
    done: list[str] = []
    lab = SimpleNamespace(hosts=lambda: {"log1": "", "log2": ""})
    site = rehearsal.Rehearsal(cast("Lab", lab), tmp_path, {}, inventory=tmp_path)
    site.after(lambda: done.append("undone"))

    def scene(*_: object) -> list[Command]:
        done.append("printed")
        return []

    monkeypatch.setattr(site, "scene", scene)
    monkeypatch.setattr(site, "on", lambda *_: "")
    site.rehearse("promote", 0)
    assert done == ["undone", "printed"]
    # What it commits, it commits to a repository of its own.
    assert not (site.inventory / ".git").is_symlink()


def test_the_inventory_is_committed_as_the_pages_say(tmp_path: Path) -> None:
    """playbooks/outside.yml says what is not, also where the checkout itself is a repository."""
    (tmp_path / "lab").mkdir()
    lab = SimpleNamespace(hosts=lambda: {"log1": "192.0.2.1", "log2": "192.0.2.2"})
    site = rehearsal.Rehearsal(cast("Lab", lab), tmp_path, {}, inventory=tmp_path / "lab")
    assert outside.uncommitted(site.inventory) == []
    site._write_inventory()
    assert outside.uncommitted(site.inventory) == []
    (site.inventory / "more.yml").touch()
    assert len(outside.uncommitted(site.inventory)) == 1
