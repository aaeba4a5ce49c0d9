"""The parts of a soak that need no lab; molecule's site scenario runs a short one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from subprocess import CompletedProcess, TimeoutExpired

import pytest

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.lab import soak
from sigsum_ops.lab.lab import Lab
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
        **{"passed": False, "load": load, "audits": {"log1": "alarm"}},
    }
    said = "\n".join(lines(result))
    for word in ("SPLIT VIEW", "went back", "LOST", "not found", "LATCHED", "alarm", "FAILED: x"):
        assert word in said
    assert said.endswith("NOT PASSED")


def test_a_command_that_does_not_end_is_a_failure_and_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(_lab: Lab, _host: str, argv: Sequence[str], **_: object) -> None:
        raise TimeoutExpired(list(argv), 240)

    monkeypatch.setattr(Lab, "exec", hang)
    with pytest.raises(OpsError, match=r"systemctl kill .* took over"):
        FAULTS[0].strike(Lab(), random.Random("a"))  # noqa: S311 - an order


def test_an_ssh_that_fails_says_nothing_of_a_latch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_lab: Lab, _host: str, argv: Sequence[str], **_: object) -> CompletedProcess[str]:
        return CompletedProcess(list(argv), 255, "", "no route")

    monkeypatch.setattr(Lab, "exec", fail)
    with pytest.raises(OpsError, match="no route"):
        soak.latched(Lab())
