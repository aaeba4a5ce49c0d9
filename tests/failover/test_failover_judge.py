"""Each thing that speaks against a promotion is found by its name, and by no other."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from sigsum_ops.failover import judge
from sigsum_ops.failover.judge import Problem

NOW = 1_800_000_000.0
SEEN = {"size": 12, "root_hash": "ab" * 32, "source": "/var/lib/sigsum-log/sth"}
SECONDARY: dict[str, Any] = {
    "parts": ["secondary"],
    "fenced": None,
    "tree": {"type": "PREORDERED_LOG", "state": "ACTIVE", "size": 12, "waiting": 0, "behind": []},
    "signed": [],
    "published": [],
    "split_views": [],
    "doubts": [],
    "has_tree_id": True,
    "promises": [],
    "has_sth": False,
    "has_startup": False,
    "has_latch": False,
    "promoted": None,
    "has_policy": True,
    "free_mb": 5000,
    "time": NOW,
    "unreadable": [],
}
PRIMARY: dict[str, Any] = {
    **SECONDARY,
    "parts": ["primary"],
    "tree": {**SECONDARY["tree"], "type": "LOG"},
    "signed": [SEEN],
    "has_sth": True,
}
PROMOTED = {"size": 12, "root_hash": "ab" * 32}
FENCED_BY, FENCED_HOW = "a person", "power cut at the PDU"

Looks = dict[str, dict[str, Any] | None]


def site(**changed: Any) -> Looks:
    """A primary log1 and a secondary log2, which differs as given; ``tree__x`` is in its tree."""
    target = deepcopy(SECONDARY)
    for name, value in changed.items():
        tree, _, field = name.partition("__")
        (target["tree"] if field else target)[field or tree] = value
    return {"log1": deepcopy(PRIMARY), "log2": target}


def names(looks: Looks, **more: Any) -> list[str]:
    return [problem.name for problem in judge.problems(looks, "log2", now=NOW, **more)]


def test_a_good_site_has_no_problem() -> None:
    assert names(site()) == []
    assert names({"log2": site()["log2"]}) == []
    assert names(site(parts=[])) == []  # stopped and masked by an earlier run


@pytest.mark.parametrize("state", ["FROZEN", "ACTIVE"])
@pytest.mark.parametrize("parts", [[], ["secondary"], ["primary"]])
@pytest.mark.parametrize("has", [False, True])
def test_a_promotion_that_was_interrupted_goes_on(state: str, parts: list[str], has: bool) -> None:
    looks = site(
        promoted=PROMOTED,
        tree__type="LOG",
        tree__state=state,
        parts=parts,
        has_sth=has,
        has_startup=not has,
    )
    assert names(looks) == []


@pytest.mark.parametrize("kind", ["PREORDERED_LOG", "LOG"])
def test_a_conversion_that_was_interrupted_goes_on(kind: str) -> None:
    assert names(site(parts=[], tree__type=kind, tree__state="FROZEN")) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"fenced": {"promoted": "log3", "by": "a person"}}, "target-fenced"),
        ({"parts": ["primary"]}, "target-part"),
        ({"parts": ["primary", "secondary"]}, "target-part"),
        ({"has_latch": True}, "latched"),
        ({"has_sth": True}, "state-left"),
        ({"has_startup": True}, "state-left"),
        ({"tree": None, "unreadable": ["MariaDB does not answer"]}, "tree-unreadable"),
        ({"tree__type": "LOG"}, "tree-type"),
        ({"tree__behind": ["log1 has size 13"]}, "behind"),
        ({"time": NOW + 5.1}, "clock"),
        ({"time": NOW - 5.1}, "clock"),
        ({"free_mb": 1023}, "disk"),
        ({"free_mb": 0}, "disk"),
        ({"free_mb": None}, "disk"),
        ({"has_policy": False}, "policy"),
        ({"split_views": ["/var/lib/x/split-view-1.json"]}, "split-view"),
        ({"doubts": ["/var/lib/sigsum-log/sth: damaged"]}, "doubtful"),
    ],
)
def test_each_problem_alone(changed: dict[str, Any], name: str) -> None:
    assert names(site(**changed)) == [name]


def test_a_machine_that_was_replaced() -> None:
    assert names(site(), replaced={"log2"}) == ["replaced"]
    assert names(site(), replaced={"log1"}) == []


def test_another_secondary_that_an_old_primary_could_go_on_with() -> None:
    other = deepcopy(SECONDARY)
    looks = {**site(), "log3": other}
    (problem,) = judge.problems(looks, "log2", now=NOW)
    assert (problem.name, problem.message[:5]) == ("other-secondary", "log3 ")
    other["parts"] = []
    assert names(looks) == []


def test_the_bounds_themselves_are_allowed() -> None:
    for difference in (-judge.CLOCK_BOUND, judge.CLOCK_BOUND):
        assert names(site(time=NOW + difference)) == []
    assert names(site(free_mb=judge.FREE_BOUND)) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"fenced": {"by": "a person"}}, "target-fenced"),
        ({"has_latch": True}, "latched"),
        ({"tree__behind": ["log1 has size 13"]}, "behind"),
        ({"time": NOW + 60}, "clock"),
        ({"free_mb": 1}, "disk"),
        ({"has_policy": False}, "policy"),
    ],
)
def test_what_a_promotion_that_has_begun_does_not_excuse(
    changed: dict[str, Any], name: str
) -> None:
    looks = site(**changed, promoted=PROMOTED, tree__type="LOG", has_sth=True, parts=["primary"])
    assert names(looks) == [name]


def test_evidence_that_another_machine_has() -> None:
    looks = site()
    assert looks["log1"] is not None
    looks["log1"]["split_views"] = ["/a", "/b"]
    looks["log1"]["doubts"] = ["/c: damaged"]
    found = judge.problems(looks, "log2", now=NOW)
    assert [problem.name for problem in found] == ["split-view", "split-view", "doubtful"]
    assert "log1 has seen two histories of this log: /b" in str(found[1])
    assert "/c: damaged" in str(found[2])


def test_all_of_them_are_said_at_once() -> None:
    looks = site(tree__behind=["log1 has 13", "a client has 14"], free_mb=0, has_latch=True)
    assert sorted(names(looks)) == ["behind", "behind", "disk", "latched"]


def test_a_target_that_does_not_answer() -> None:
    looks = site()
    looks["log2"] = None
    more = {"fenced_by": FENCED_BY, "fenced_how": FENCED_HOW, "seen": 1}
    assert names(looks, **more) == ["target-unreachable"]
    del looks["log2"]
    assert names(looks) == ["target-unreachable"]


@pytest.mark.parametrize(
    ("by", "how", "fenced"),
    [
        (FENCED_BY, FENCED_HOW, True),
        ("", "", False),
        ("  ", FENCED_HOW, False),
        (FENCED_BY, "", False),
        (FENCED_BY, "done it", False),
        (FENCED_BY, "pulled the plug", True),
    ],
)
def test_a_machine_that_does_not_answer_must_be_cut_off(by: str, how: str, fenced: bool) -> None:
    looks = site()
    looks["log1"] = None
    found = names(looks, fenced_by=by, fenced_how=how, seen=1)
    assert found == ([] if fenced else ["not-fenced"])
    assert reseed_names({**looks, "log3": PRIMARY}, fenced_by=by, fenced_how=how) == found


@pytest.mark.parametrize("known", ["signed", "published", "seen"])
def test_something_must_be_known_of_what_was_published(known: str) -> None:
    looks = site()
    looks["log1"] = None
    attested = {"fenced_by": FENCED_BY, "fenced_how": FENCED_HOW}
    assert names(looks, **attested) == ["nothing-seen"]
    if known == "seen":
        assert names(looks, seen=1, **attested) == []
    else:
        assert looks["log2"] is not None
        looks["log2"][known] = [SEEN]
        assert names(looks, **attested) == []


def test_a_log_that_is_new_may_have_published_nothing() -> None:
    looks = site()
    assert looks["log1"] is not None
    looks["log1"] |= {"signed": [], "has_sth": False}
    assert names(looks) == []


def test_every_silent_machine_is_named() -> None:
    looks = site()
    looks |= {"log1": None, "log3": None}
    (problem,) = judge.problems(looks, "log2", seen=1, now=NOW)
    assert problem.message.startswith("log1, log3 does not answer")


def test_a_problem_is_a_name_what_and_what_to_do() -> None:
    assert str(Problem("disk", "log2 is full")) == "disk: log2 is full"
    assert str(Problem("disk", "log2 is full", "Empty it.")) == "disk: log2 is full\n  Empty it."


def test_reasons_are_passed_on() -> None:
    said = "\n".join(
        str(problem)
        for looks in (
            site(tree=None, unreadable=["no socket", "no file"]),
            site(tree__behind=["a client has size 14"]),
            site(fenced={"by": "a person"}),
        )
        for problem in judge.problems(looks, "log2", now=NOW)
    )
    for words in ("no socket; no file", "a client has size 14", "a person"):
        assert words in said


# Making a machine a secondary


def reseed_names(looks: Looks, target: str = "log2", **more: Any) -> list[str]:
    return [problem.name for problem in judge.reseed_problems(looks, target, **more)]


def test_a_site_with_one_primary_takes_a_secondary() -> None:
    assert reseed_names(site()) == []
    assert reseed_names({"log1": PRIMARY, "log2": None}) == []  # a new machine
    assert reseed_names({"log1": PRIMARY}) == []
    assert reseed_names(site(fenced={"by": "a person"}, parts=[], has_sth=True)) == []
    assert reseed_names(site(tree=None, has_tree_id=False)) == []  # it never had one


def test_an_old_primary_that_comes_back() -> None:
    """It takes itself for the primary still; the journal knows better."""
    both: Looks = {"log1": PRIMARY, "log2": PRIMARY}
    assert reseed_names(both, replaced={"log2"}) == []
    assert reseed_names({**both, "log3": SECONDARY}, replaced={"log2"}) == []
    assert reseed_names(both) == ["primary"]
    assert reseed_names(both, replaced={"log1"}) == ["primary"]
    assert reseed_names(both, replaced={"log1", "log2"}) == ["primary"]


def test_nothing_is_copied_from_a_machine_that_was_replaced() -> None:
    assert reseed_names(site(), replaced={"log1"}) == ["primary"]


@pytest.mark.parametrize("replaced", [set[str](), {"log1"}])
def test_the_primary_itself(replaced: set[str]) -> None:
    assert reseed_names(site(), "log1", replaced=replaced) == ["target-serves"]
    assert reseed_names({"log1": PRIMARY, "log2": None}, "log1") == ["target-serves"]


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        ({"log1": SECONDARY, "log2": SECONDARY}, "none"),
        ({"log1": None, "log2": SECONDARY}, "none"),
        ({"log1": PRIMARY, "log2": SECONDARY, "log3": PRIMARY}, "log1 and log3"),
        ({"log1": PRIMARY, "log2": PRIMARY}, "log1 and log2"),
        ({}, "none"),
    ],
)
def test_there_must_be_one_primary(looks: Looks, found: str) -> None:
    (problem,) = judge.reseed_problems(looks, "log2")
    assert problem.name == "primary"
    assert problem.message.endswith(f"there is {found}")


def test_a_primary_whose_tree_cannot_be_read_or_lacks_something() -> None:
    looks = site()
    assert looks["log1"] is not None
    looks["log1"]["tree"]["behind"] = ["sth has size 13", "its own tree has size 14"]
    found = judge.reseed_problems(looks, "log2")
    assert [problem.name for problem in found] == ["ahead", "ahead"]
    assert "sth has size 13" in str(found[0])
    assert "split-view" in str(found[0])
    assert reseed_names(looks, wipe=True) == ["ahead", "ahead"]
    looks["log1"]["tree"] = None
    assert reseed_names(looks) == ["tree-unreadable"]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"has_latch": True}, "latched"),
        ({"tree": None, "unreadable": ["no socket"]}, "tree-unreadable"),
        ({"split_views": ["/a"]}, "split-view"),
        ({"doubts": ["sth: damaged"]}, "doubtful"),
    ],
)
def test_what_a_wipe_would_destroy_takes_a_word(changed: dict[str, Any], name: str) -> None:
    assert reseed_names(site(**changed)) == [name]
    assert reseed_names(site(**changed), wipe=True) == []


@pytest.mark.parametrize("evidence", ["split_views", "doubts"])
def test_no_word_excuses_the_evidence_of_others(evidence: str) -> None:
    looks = site()
    assert looks["log1"] is not None
    looks["log1"][evidence] = ["/a"]
    assert reseed_names(looks) == reseed_names(looks, wipe=True) != []
