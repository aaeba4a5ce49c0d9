"""Each thing that speaks against a promotion is found by its name, and by no other."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from sigsum_ops.failover import judge, ungated
from sigsum_ops.failover.judge import Problem
from sigsum_ops.failover.ungated import Permit

NOW = 1_800_000_000.0
UNPROVEN = {"since": "2026-01-02", "reason": "a test", "proof": None}
PROVEN = {**UNPROVEN, "proof": {"size": 12}}
SEEN = {"size": 12, "root_hash": "ab" * 32, "source": "/var/lib/sigsum-log/sth"}
SECONDARY: dict[str, Any] = {
    "parts": ["secondary"],
    "primary_runs": False,
    "node_key": "22" * 32,
    "gated_by": None,
    "fenced": None,
    "quarantine": None,
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
    "permit": "",
    "has_policy": True,
    "free_mb": {"/state": 5000, "/database": 5001},
    "time": NOW,
    "unreadable": [],
}
PRIMARY: dict[str, Any] = {
    **SECONDARY,
    "parts": ["primary"],
    "primary_runs": True,
    "node_key": None,
    "gated_by": "22" * 32,
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
        ({"quarantine": UNPROVEN}, "quarantined"),
        ({"quarantine": {"since": "now", "reason": "nothing was restored yet"}}, "quarantined"),
        ({"quarantine": UNPROVEN, "tree__type": "LOG", "parts": []}, "quarantined"),
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
        ({"free_mb": {"/state": 1023, "/database": 5000}}, "disk"),
        ({"free_mb": {"/state": 5000, "/database": 1023}}, "disk"),
        ({"free_mb": {"/state": 0, "/database": 0}}, "disk"),
        ({"free_mb": {"/state": 5000, "/database": None}}, "disk"),
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


@pytest.mark.parametrize("kind", ["PREORDERED_LOG", "LOG"])
def test_what_was_restored_and_is_proven_may_be_a_primarys_tree(kind: str) -> None:
    """Nothing is restored on a machine that has signed, so its earlier life does not matter."""
    looks = site(quarantine=PROVEN, parts=[], tree__type=kind)
    assert names(looks) == names(looks, replaced={"log2"}) == []
    assert looks["log2"] is not None
    looks["log2"]["tree"]["behind"] = ["log1 has size 13"]
    assert names(looks) == ["behind"]


def test_what_another_machine_holds_in_quarantine_is_no_matter() -> None:
    looks: Looks = {**site(), "log3": {**deepcopy(SECONDARY), "parts": [], "quarantine": UNPROVEN}}
    assert names(looks) == []
    assert reseed_names(looks) == []


# More than one secondary


def three(size: int, waiting: int = 0, **changed: Any) -> Looks:
    """As ``site``, with log3, a secondary whose tree is so large."""
    other = deepcopy(SECONDARY)
    other["tree"] |= {"size": size, "waiting": waiting}
    return {**site(**changed), "log3": other}


def dead(looks: Looks) -> Looks:
    """The primary answers, but does not run."""
    assert looks["log1"] is not None
    looks["log1"]["primary_runs"] = False
    return looks


@pytest.mark.parametrize("size", [0, 11, 12])
def test_another_secondary_that_the_target_extends_goes_on_with_it(size: int) -> None:
    looks = three(size)
    assert names(looks) == []
    assert judge.followers(looks, "log2") == ["log3"]


def test_another_secondary_whose_tree_nobody_can_compare() -> None:
    looks = three(12)
    assert looks["log3"] is not None
    looks["log3"] |= {"tree": None, "unreadable": ["MariaDB does not answer"]}
    (problem,) = judge.problems(looks, "log2", now=NOW)
    assert (problem.name, problem.message[:5]) == ("other-secondary", "log3 ")
    assert "MariaDB does not answer" in problem.message
    assert judge.followers(looks, "log2") == []
    looks["log3"]["parts"] = []
    assert names(looks) == []


@pytest.mark.parametrize(("size", "waiting"), [(13, 0), (12, 1), (5, 8)])
def test_another_secondary_that_is_ahead_is_the_better_candidate(size: int, waiting: int) -> None:
    """Also where the leaves have arrived only: they will be in its tree in a moment."""
    looks = three(size, waiting)
    (problem,) = judge.problems(looks, "log2", now=NOW)
    assert (problem.name, problem.message) == (
        "better-candidate",
        "log3 has 13 leaves, and log2 has 12",
    )
    assert "-e target=log3" in problem.hint
    assert judge.problems(looks, "log3", now=NOW) == []


def test_a_primary_and_a_secondary_that_are_silent_could_go_on_together() -> None:
    looks: Looks = {**three(12), "log1": None}
    (alone,) = judge.problems(looks, "log2", seen=1, now=NOW)
    (both,) = judge.problems({**looks, "log3": None}, "log2", seen=1, now=NOW)
    assert "together" not in alone.hint
    assert "together would go on" in both.hint


def test_the_best_to_wait_for_is_the_one_with_a_key_and_most_leaves() -> None:
    looks = {**three(3), "log4": deepcopy(SECONDARY), "log5": deepcopy(SECONDARY), "log6": None}
    assert judge.followers(looks, "log2") == ["log4", "log5", "log3"]
    assert looks["log4"] is not None
    looks["log4"]["node_key"] = None
    assert judge.followers(looks, "log2") == ["log5", "log3", "log4"]


def chosen(looks: Looks, replaced: set[str] | None = None) -> tuple[str, str]:
    gone = replaced or set()
    choice = judge.choose(
        looks, lambda name: judge.problems(looks, name, replaced=gone, now=NOW), gone
    )
    return choice.name, choice.why


def test_the_largest_tree_is_picked() -> None:
    why = "the best of log3 (13 leaves), log2 (12 leaves; better-candidate)"
    assert chosen(dead(three(12, 1))) == ("log3", why)
    assert chosen(dead(three(11)))[0] == "log2"
    assert chosen(dead(three(12)))[0] == "log2"  # one of two that are alike, always the same


def test_a_larger_tree_that_is_not_proven_is_not_picked() -> None:
    """It does not extend what was published: another history, or none that can be proven."""
    looks = dead(three(13))
    assert looks["log3"] is not None
    looks["log3"]["tree"]["behind"] = ["log1: sth has size 12: another one"]
    looks["log4"] = deepcopy(SECONDARY)
    assert looks["log4"] is not None
    looks["log4"]["tree"]["size"] = 13
    assert chosen(looks)[0] == "log4"


def test_one_that_is_refused_for_another_reason_is_not_picked() -> None:
    name, why = chosen(dead(three(12, free_mb={"/state": 0})))
    assert (name, "log2 (12 leaves; disk)" in why) == ("log3", True)


def test_a_promotion_that_was_begun_is_finished_first() -> None:
    begun: dict[str, Any] = {"promoted": PROMOTED, "tree__type": "LOG", "parts": []}
    name, why = chosen(dead(three(12, **begun)))
    assert (name, "log2 (12 leaves; its promotion was begun)" in why) == ("log2", True)
    # Another one has taken its place since.
    assert chosen(dead(three(12, **begun)), {"log2"})[0] == "log3"


def test_nobody_picks_while_a_primary_runs() -> None:
    name, why = chosen(three(12))
    assert (name, why.startswith("log1 is the primary, and runs")) == ("", True)


def test_nobody_is_picked_where_nobody_is_there() -> None:
    looks = dead(site(tree=None))
    assert chosen(looks) == ("", "no secondary answers whose tree can be read")
    assert chosen({**looks, "log2": None})[0] == ""


def test_a_primary_goes_on_waiting_for_the_secondary_that_it_has() -> None:
    looks = three(12)
    assert looks["log3"] is not None
    assert judge.gating(looks, "log1", "log3") == "log2"
    assert judge.gating(looks, "log1", "log2") == "log3"  # both have the same key in this world
    looks["log3"]["node_key"] = "33" * 32
    assert judge.gating(looks, "log1", "log2") == "log2"
    assert judge.gating({**looks, "log2": None}, "log1", "log3") == "log3"
    assert judge.gating({"log1": None, "log2": SECONDARY}, "log1", "log3") == "log3"


def test_what_is_handed_over_is_the_primarys_place() -> None:
    looks = three(12)
    assert judge.former(looks, "log2") == "log1"
    assert judge.former({"log1": SECONDARY, "log2": PRIMARY, "log3": SECONDARY}, "log1") == "log2"
    fenced = {**PRIMARY, "parts": list[str]()}
    assert judge.former({"log1": SECONDARY, "log2": fenced, "log3": SECONDARY}, "log1") == "log2"
    assert judge.former({"log1": SECONDARY, "log2": SECONDARY}, "log1") == "log2"
    assert judge.former({"log1": None, "log2": SECONDARY, "log3": None}, "log2") == "log1"


# Witnesses


def answer(size: int | None, reason: str = "", *, other_root: bool = False) -> dict[str, Any]:
    return {
        "name": "w",
        "url": "https://w.example",
        "size": size,
        "reason": reason,
        "other_root": other_root,
    }


@pytest.mark.parametrize(("size", "found"), [(0, []), (12, []), (13, ["witness-ahead"])])
def test_a_witness_that_is_ahead_of_the_tree(size: int, found: list[str]) -> None:
    looks = site(witnesses=[answer(size)])
    assert names(looks) == found
    assert looks["log2"] is not None
    assert judge.warnings(looks["log2"]) == []


def test_a_witness_that_has_cosigned_another_tree() -> None:
    (problem,) = judge.problems(site(witnesses=[answer(12, other_root=True)]), "log2", now=NOW)
    assert problem.name == "split-view"
    assert "w (https://w.example)" in problem.message


def test_a_witness_that_does_not_answer_is_a_warning() -> None:
    looks = site(witnesses=[answer(12), answer(None, "does not answer in 10 s")])
    assert names(looks) == []
    assert looks["log2"] is not None
    (text,) = judge.warnings(looks["log2"])
    assert text.startswith("the witness w (https://w.example) does not answer in 10 s")
    assert judge.warnings(SECONDARY) == []


def test_a_promoted_primary_may_have_its_secondary() -> None:
    """A handover whose controller died as the new secondary followed goes on."""
    serves = {"promoted": PROMOTED, "tree__type": "LOG", "parts": ["primary"], "has_sth": True}
    empty = {**deepcopy(SECONDARY), "tree": None}
    assert names({**site(**serves), "log1": empty}) == []
    for changed in ({"promoted": None}, {"parts": list[str]()}, {"has_sth": False}):
        assert "other-secondary" in names({**site(**{**serves, **changed}), "log1": empty})


def test_a_clock_is_compared_with_the_moment_at_which_it_was_told() -> None:
    """What was asked meanwhile, say of a witness, takes its time."""
    assert names(site(time=NOW - 60, received=NOW - 59)) == []
    assert names(site(time=NOW, received=NOW - 59)) == ["clock"]


def test_the_bounds_themselves_are_allowed() -> None:
    for difference in (-judge.CLOCK_BOUND, judge.CLOCK_BOUND):
        assert names(site(time=NOW + difference)) == []
    assert names(site(free_mb={"/state": judge.FREE_BOUND})) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"fenced": {"by": "a person"}}, "target-fenced"),
        ({"quarantine": UNPROVEN}, "quarantined"),
        ({"has_latch": True}, "latched"),
        ({"tree__behind": ["log1 has size 13"]}, "behind"),
        ({"time": NOW + 60}, "clock"),
        ({"free_mb": {"/state": 1}}, "disk"),
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
    looks = site(
        tree__behind=["log1 has 13", "a client has 14"], free_mb={"/state": 0}, has_latch=True
    )
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


# Going on alone


UNTIL = ungated.parse("2027-01-15T09:00:00Z")  # an hour after NOW
PERMIT = ungated.text(UNTIL)


def alone(*, silent: bool, **changed: Any) -> Looks:
    """The primary may go on alone, as itself says where it answers."""
    old = None if silent else {**deepcopy(PRIMARY), "permit": PERMIT, **changed}
    return {**site(), "log1": old}


def attest(how: str = FENCED_HOW, **more: Any) -> dict[str, Any]:
    return {"fenced_by": FENCED_BY, "fenced_how": how, "seen": 1, **more}


def test_nobody_takes_the_place_of_one_that_could_come_back_and_go_on() -> None:
    """Neither the journal nor the inventory is asked where the machine itself answers."""
    assert names(alone(silent=False)) == ["ungated-permit"]
    assert names(alone(silent=True), permits={"log1": UNTIL}, **attest()) == ["ungated-permit"]
    assert names(alone(silent=True), **attest()) == []
    assert names(alone(silent=False, permit=""), permits={"log1": UNTIL}) == []


def test_one_that_was_taken_out_of_the_inventory_could_too() -> None:
    assert names({"log2": site()["log2"]}, permits={"log1": UNTIL}) == ["ungated-permit"]


def test_the_targets_own_permit_keeps_it_from_nothing() -> None:
    assert names(site(), permits={"log2": UNTIL}) == []


@pytest.mark.parametrize("parts", [[], ["secondary"]])
def test_one_that_is_stopped_for_good_or_no_primary_does_not_go_on(parts: list[str]) -> None:
    assert "ungated-permit" not in names(alone(silent=False, parts=parts))


@pytest.mark.parametrize("silent", [False, True])
def test_a_permit_that_is_over_is_none(silent: bool) -> None:
    looks = alone(silent=silent)
    end = UNTIL.timestamp() + ungated.LATE.total_seconds()
    for log in looks.values():
        if log:
            log["time"] = end
    for now, expected in ((end - 1, ["ungated-permit"]), (end, [])):
        more = attest(permits={"log1": UNTIL})
        found = judge.problems(looks, "log2", now=now, **more)
        assert [problem.name for problem in found] == expected


@pytest.mark.parametrize("silent", [False, True])
def test_a_hsm_that_was_pulled_signs_nothing(silent: bool) -> None:
    looks, permits = alone(silent=silent), {"log1": UNTIL}
    pulled = attest("its HSM is in the safe", permits=permits)
    assert names(looks, **pulled, hsm_out={"log1"}) == []
    assert names(looks, **pulled, hsm_out={"log3", ""}) == ["ungated-permit"]
    # Somebody must have done it.
    for attested in ({}, {"fenced_by": "N"}, {"fenced_by": "N", "fenced_how": "pulled it"}):
        found = names(looks, **attested, seen=1, permits=permits, hsm_out={"log1"})
        assert "ungated-permit" in found


def test_what_is_asked_for_is_judged_too() -> None:
    assert names(site(), asked=Permit(PERMIT, "N", "a b c")) == []
    assert names(site(), asked=Permit(PERMIT, "N", "")) == ["ungated-until"]
    (problem,) = judge.problems(site(), "log2", asked=Permit("now", "N", "a b c"), now=NOW)
    assert (problem.name, "'now' is no UTC time" in problem.message) == ("ungated-until", True)


def test_who_has_a_secondary_needs_no_permit() -> None:
    looks = {**site(), "log3": deepcopy(SECONDARY)}
    (problem,) = (
        problem
        for problem in judge.problems(looks, "log2", asked=Permit(PERMIT, "N", "a b c"), now=NOW)
        if problem.name == "ungated-until"
    )
    assert problem.message.startswith("log3 can be the secondary of log2")


# Making a machine a secondary


def reseed_names(looks: Looks, target: str = "log2", **more: Any) -> list[str]:
    return [problem.name for problem in judge.reseed_problems(looks, target, **more)]


def test_a_site_with_one_primary_takes_a_secondary() -> None:
    assert reseed_names(site()) == []
    assert reseed_names({"log1": PRIMARY, "log2": None}) == []  # a new machine
    assert reseed_names({"log1": PRIMARY}) == []
    assert reseed_names(site(fenced={"by": "a person"}, parts=[], has_sth=True)) == []
    assert reseed_names(site(tree=None, has_tree_id=False)) == []  # it never had one
    assert reseed_names(site(quarantine=PROVEN, parts=[], tree__type="LOG")) == []


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
        ({"quarantine": UNPROVEN, "parts": []}, "quarantined"),
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


# Giving a promotion up


def begun(**changed: Any) -> Looks:
    """A promotion of log2 that has fenced log1, and no more; log2 differs as given."""
    looks = site(**{"parts": [], **changed})
    looks["log1"] = {**deepcopy(PRIMARY), "parts": [], "fenced": {"promoted": "log2"}}
    return looks


def given_up(looks: Looks, adopted: str = "") -> list[str]:
    return [problem.name for problem in judge.abandon_problems(looks, "log2", adopted=adopted)]


def test_a_promotion_is_given_up_before_it_came_to_the_tree() -> None:
    assert given_up(begun()) == []
    assert given_up(begun(), adopted="log1") == []  # which was promoted itself once
    assert given_up(begun(parts=["secondary"], promoted=PROMOTED)) == []
    assert given_up({**begun(), "log1": None}) == []


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"tree__type": "LOG"}, "too-late"),
        ({"tree__state": "FROZEN"}, "too-late"),
        ({"has_sth": True}, "too-late"),
        ({"tree": None, "unreadable": ["no socket"]}, "tree-unreadable"),
        ({"parts": ["primary"]}, "primary"),
    ],
)
def test_what_speaks_against_giving_it_up(changed: dict[str, Any], name: str) -> None:
    assert given_up(begun(**changed)) == [name]


def test_a_promotion_that_was_given_up_is_given_up_again() -> None:
    """The controller died when all was done, and had not said so."""
    looks = begun(parts=["secondary"])
    looks["log1"] = {**deepcopy(PRIMARY)}
    assert given_up(looks) == ["primary"]
    assert judge.abandon_problems(looks, "log2", unfenced={"log1"}) == []
    # Another controller has promoted a third machine since; this one's journal says nothing of it.
    looks["log1"] = {**deepcopy(PRIMARY), "parts": [], "fenced": {"promoted": "log2"}}
    looks["log3"] = {**deepcopy(PRIMARY)}
    found = judge.abandon_problems(looks, "log2", unfenced={"log1"})
    assert [each.name for each in found] == ["primary"]
    looks = {**begun(), "log2": {**deepcopy(PRIMARY)}}
    found = judge.abandon_problems(looks, "log2", unfenced={"log1"})
    assert "primary" in [each.name for each in found]


def test_what_may_start_again() -> None:
    looks = begun()
    assert judge.to_unfence(looks, "log2", set()) == ["log1"]
    assert judge.to_unfence(looks, "log3", set()) == []
    assert judge.to_unfence({**looks, "log1": None}, "log2", {("unfence", "log1")}) == []
    # It was unfenced, and the controller died before it noted that.
    looks["log1"] = {**deepcopy(PRIMARY)}
    assert judge.to_unfence(looks, "log2", {("fence", "log1")}) == []
    assert judge.to_unfence(looks, "log2", {("unfence", "log1"), ("fence", "log2")}) == ["log1"]
    # It was fenced again since, for another machine, which may be the primary and not answer.
    looks["log1"] = {**deepcopy(PRIMARY), "parts": [], "fenced": {"promoted": "log2"}}
    assert judge.to_unfence(looks, "log3", {("unfence", "log1")}) == []


def test_a_third_machine_that_may_have_been_promoted_since() -> None:
    looks = begun()
    assert given_up({**looks, "log2": None}) == ["target-unreachable"]
    assert given_up(looks, adopted="log3") == ["replaced"]  # whether it answers or not
    assert given_up({**looks, "log3": {**deepcopy(PRIMARY)}}) == ["primary"]
    # What was fenced for another one stays so.
    looks["log1"] = {**deepcopy(PRIMARY), "parts": [], "fenced": {"promoted": "log3"}}
    assert given_up(looks, adopted="log3") == []
