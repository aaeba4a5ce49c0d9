"""The parts of a soak that need no lab; molecule's site scenario runs a short one."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from sigsum_ops.errors import UsageError
from sigsum_ops.lab.soak import FAULTS, Damage, Fault, Plan, lines, schedule


def struck(seed: str, number: int) -> list[Fault]:
    """The first faults of a soak."""
    return list(islice(schedule(random.Random(seed)), number))  # noqa: S311 - an order


def test_every_fault_strikes_once_in_each_round_in_another_order() -> None:
    order = struck("a", 3 * len(FAULTS))
    rounds = [order[start : start + len(FAULTS)] for start in range(0, len(order), len(FAULTS))]
    assert all(set(round_) == set(FAULTS) for round_ in rounds)
    assert rounds[0] != rounds[1] != rounds[2]
    assert struck("a", len(order)) == order
    assert struck("b", len(order)) != order


def test_names_tell_faults_apart() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(
    "plan", [Plan(hours=0), Plan(hours=float("nan")), Plan(rate=-1), Plan(rate=1e9)]
)
def test_what_makes_no_sense_is_refused(plan: Plan) -> None:
    with pytest.raises(UsageError, match="allowed is more than 0"):
        plan.check()


def test_the_report_has_the_median_and_the_worst() -> None:
    damage = Damage({"kill": [1.0, 9.04, 2.0]})
    assert damage.report() == {"kill": {"times": 3, "median_s": 2.0, "max_s": 9.0}}


def test_everything_that_is_wrong_is_said() -> None:
    load = {
        "leaves": {"submitted": 9, "acknowledged_200": 8, "proven": 7},
        "tree_heads": {"changes": 3},
        "violations": ["the tree head went back"],
        "unproven": {"4": "not found"},
    }
    result = {
        **{"split_views": 1, "lost_leaves": 1, "latched": True, "failed": "x: y", "faults": {}},
        **{"passed": False, "load": load},
    }
    said = "\n".join(lines(result))
    for word in ("SPLIT VIEW", "went back", "LOST", "not found", "LATCHED", "FAILED: x: y"):
        assert word in said
    assert said.endswith("NOT PASSED")
