"""The crash drill without a lab: every moment is struck, and what differs afterwards is found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.failover import procedure
from sigsum_ops.lab import crashes as module
from sigsum_ops.lab.controller import Controller, Moment, Strike, never
from sigsum_ops.lab.crashes import FENCED, PROCEDURES, crashes, differences, lines
from sigsum_ops.lab.lab import Lab
from sigsum_ops.site import ansible
from tests.failover.world import KEY

STEPS = {
    "promote": ["Look", FENCED.step, "Adopt"],
    "reseed": ["Look", "Retire"],
    "handover": ["Look", FENCED.step, "Retire"],
    "abandon": ["Look"],
    "site": ["Converge"],
}


class Site:
    """Playbooks that do nothing but come to their end, and machines that are as they should be."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lab = cast(
            "Lab", SimpleNamespace(hosts=lambda: {"log1": "one", "log2": "two"}, state=root)
        )
        self.journal = root / "journal"
        self.ended: list[str] = []
        self.pairs: list[tuple[str, bool]] = []
        self.broken_after = self.left_after = ""
        site = self

        async def run(
            _self: Controller,
            name: str,
            target: str,
            *,
            strike: Strike = never,
            **_more: float,
        ) -> Moment | None:
            for step in STEPS[name]:
                if strike(moment := Moment(step, ended=True)):
                    return moment
            site.ended.append(f"{name} {target}")
            if site.left_after == name:
                procedure.note(site.journal, {"step": "adopt", "host": target, "done": False})
            return None

        async def look(_self: object, url: str, *, pair: bool) -> None:
            site.pairs.append((url, pair))

        def rest(_lab: Lab, _key: object, wanted: Mapping[str, Any] | None) -> dict[str, Any]:
            broken = wanted is not None and site.ended[-1].startswith(site.broken_after or "never")
            # What a machine has only once it has been both.
            been_both = len(site.ended) > len(PROCEDURES)
            return {"log1": {"fenced": broken, "node_key": been_both}, "log2": {"fenced": False}}

        monkeypatch.setattr(Controller, "run", run)
        monkeypatch.setattr(module._History, "look", look)
        monkeypatch.setattr(module, "_rest", rest)
        monkeypatch.setattr(module, "load_public_key", lambda _path: KEY)
        monkeypatch.setattr(procedure, "journal", lambda _hash: self.journal)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_the_controller_dies_at_every_step(site: Site, tmp_path: Path) -> None:
    result = crashes(lab=site.lab, seed="a", out=tmp_path / "out.json")
    assert result["passed"]
    assert result["crashes"] == {
        name: [f"as «{step}» ended" for step in steps]
        for name, steps in STEPS.items()
        if name != "site"
    }
    whole = ["promote log2", "reseed log1", "handover log1"]
    assert site.ended == [*whole * 3, "abandon log2", "site log2"]
    cycle = [("http://two:6965", False), ("http://two:6965", True), ("http://one:6965", True)]
    assert site.pairs == [cycle[2], *cycle * 3, cycle[2]]
    assert json.loads((tmp_path / "out.json").read_text()) == result
    said = list(lines(result))
    assert said[0] == "promote: died at 3 moments, and came to its end"
    assert said[-1] == "passed"


def test_a_few_moments_only(site: Site) -> None:
    result = crashes(lab=site.lab, seed="a", every=3)
    assert [len(moments) for moments in result["crashes"].values()] <= [1, 1, 1, 1]
    assert len(result["crashes"]["promote"]) == 1


@pytest.mark.parametrize(
    ("attribute", "name", "said"),
    [
        (
            "broken_after",
            "reseed",
            "after reseed: log1: fenced is True, and without a death False",
        ),
        ("broken_after", "site", "after abandon: log1: fenced is True"),
        ("left_after", "promote", "after promote: adopt of log2"),
    ],
)
def test_what_is_not_as_without_a_death_is_told(
    site: Site, attribute: str, name: str, said: str
) -> None:
    setattr(site, attribute, name)
    result = crashes(lab=site.lab, seed="a")
    assert not result["passed"]
    assert any(said in line for line in lines(result))
    assert list(lines(result))[-1] == "NOT PASSED"


def test_a_procedure_that_does_not_go_on_leaves_what_was_found(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STEPS, "promote", ["Look"])  # it can never be stopped after the fence
    with pytest.raises(OpsError, match="has no moment"):
        crashes(lab=site.lab, seed="a", out=tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert not written["passed"]
    assert len(written["crashes"]["reseed"]) == 2


def test_in_one_procedure_only(site: Site) -> None:
    result = crashes(lab=site.lab, seed="a", struck=["handover"])
    assert result["passed"]
    assert {name: len(moments) for name, moments in result["crashes"].items()} == {"handover": 3}
    with pytest.raises(UsageError, match="--only site: allowed is promote, reseed, handover, aban"):
        crashes(lab=site.lab, seed="a", struck=["site"])


@pytest.mark.parametrize("every", [0, -1, 1001])
def test_what_makes_no_sense_is_refused(every: int) -> None:
    with pytest.raises(UsageError, match=f"--every {every}"):
        crashes(lab=cast("Lab", None), seed="a", every=every)


def test_a_lab_without_both_machines() -> None:
    lab = cast("Lab", SimpleNamespace(hosts=lambda: {"log2": ""}))
    with pytest.raises(OpsError, match="the lab has no log1"):
        crashes(lab=lab, seed="a")


def test_each_difference_is_found() -> None:
    wanted: dict[str, dict[str, Any]] = {"log1": {"a": 1, "b": [2]}, "log2": {"a": 1}}
    assert differences(wanted, wanted) == []
    found: dict[str, dict[str, Any]] = {"log1": {"a": 1, "b": []}, "log2": {"a": 3}}
    assert differences(wanted, found) == [
        "log1: b is [], and without a death [2]",
        "log2: a is 3, and without a death 1",
    ]


# What machines say

SAID = """log2 | SUCCESS => {
    "found": {"parts": ["primary"]}
}
[WARNING]: something
log1 | CHANGED => {"found": {"note": "log3 | SUCCESS => {}"}}
"""


def answered(monkeypatch: pytest.MonkeyPatch, said: str, code: int = 0) -> dict[str, Any]:
    done = SimpleNamespace(stdout=said, stderr="why", returncode=code)
    monkeypatch.setattr(ansible, "run", lambda *_, **__: done)
    return module._ask(cast("Lab", SimpleNamespace(inventory=None)), "failover", {})


def test_the_answers_of_both_machines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = answered(monkeypatch, SAID)
    assert answers["log2"]["found"]["parts"] == ["primary"]
    assert set(answers) == {"log1", "log2"}


@pytest.mark.parametrize(("said", "code"), [(SAID, 2), (SAID.split("[W")[0], 0), ("", 0)])
def test_a_machine_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, said: str, code: int
) -> None:
    with pytest.raises(OpsError, match="does not answer"):
        answered(monkeypatch, said, code)


def test_what_has_only_been_started_comes_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([{"a": {"n": n}} for n in (1, 2, 2, 3, 4, 4, 4)])
    clock = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda _seconds: None)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_state", lambda _lab, _key: next(states))
    lab = cast("Lab", None)
    assert module._rest(lab, KEY, None) == {"a": {"n": 2}}
    assert module._rest(lab, KEY, {"a": {"n": 4}}) == {"a": {"n": 4}}
    monkeypatch.setattr(module, "SECONDS", -1.0)
    assert module._rest(lab, KEY, {"a": {"n": 9}}) == {"a": {"n": 4}}
