"""The steps of a plan: pure, so what a ceremony will do is known before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from yubihsm.defs import CAPABILITY, OBJECT

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm import plan as plans
from sigsum_ops.hsm.ceremony import steps
from sigsum_ops.hsm.ceremony.recording import command
from sigsum_ops.hsm.ceremony.records import irreversible
from sigsum_ops.hsm.ceremony.steps import FACTORY_FRESH, Action, Kind
from sigsum_ops.hsm.plan import DeviceRole
from tests.hsm.ceremony.table import small_plan

ROOT = Path(__file__).parents[3]
PLANS = [
    small_plan("established"),
    small_plan("new"),
    plans.load(ROOT / "inventories/lab/hsm-plan.yml"),
    plans.load(ROOT / "inventories/example/hsm-plan.yml"),
]


@pytest.mark.parametrize("plan", PLANS)
def test_the_changes_of_each_device_lead_from_the_factory_to_the_plan(plan: plans.Plan) -> None:
    derived = steps.derive(plan)
    for device in plan.devices:
        state = FACTORY_FRESH
        for change in steps.changes_of(derived, device):
            assert change.before == state
            assert len(change.before ^ change.after) == (0 if "audit" in change.action else 1)
            state = change.after
        assert state == {(spec.type, spec.id) for spec in plan.specs(device)}


@pytest.mark.parametrize("plan", PLANS)
def test_where_a_device_stands_shows_in_what_it_holds(plan: plans.Plan) -> None:
    """No two places of a device's way look the same, but for options, which may be set again."""
    derived = steps.derive(plan)
    for device in plan.devices:
        changes = [c for c in steps.changes_of(derived, device) if c.before != c.after]
        states = [FACTORY_FRESH, *(change.after for change in changes)]
        assert len(set(states)) == len(states)


@pytest.mark.parametrize("plan", PLANS)
def test_what_cannot_be_undone_is_confirmed(plan: plans.Plan) -> None:
    for step in steps.derive(plan):
        deletes = any("delete" in change.action for change in step.changes)
        assert step.irreversible == (deletes or step.kind == Kind.RESET), step.id
    from yubihsm.defs import COMMAND

    from sigsum_ops.hsm.device import Exchange

    deleted = Exchange(1, COMMAND.DELETE_OBJECT, (OBJECT.WRAP_KEY, 400), None, None)
    record = command(90000001, deleted, lambda _: None)
    assert irreversible(record.command, record.parameters)


@pytest.mark.parametrize("plan", PLANS)
def test_secrets_are_made_before_anything_depends_on_them(plan: plans.Plan) -> None:
    derived = steps.derive(plan)
    kinds = [step.kind for step in derived]
    assert kinds.count(Kind.SECRETS) == 1
    first_put = next(
        n for n, s in enumerate(derived) if any(c.action == Action.PUT_MANAGER for c in s.changes)
    )
    assert kinds.index(Kind.RESET) < kinds.index(Kind.SECRETS) < first_put
    assert (kinds[0], kinds[-1]) == (Kind.PREFLIGHT, Kind.CLOSE)
    assert len({step.id for step in derived}) == len(derived)


@pytest.mark.parametrize("plan", PLANS)
def test_oracles_keep_neither_wrap_key_nor_manager_nor_default_key(plan: plans.Plan) -> None:
    derived = steps.derive(plan)
    for device in plan.devices:
        removed = {c.action for c in steps.changes_of(derived, device) if c.before > c.after}
        everywhere = {Action.DELETE_DEFAULT}
        oracle = {Action.DELETE_WRAP, Action.DELETE_MANAGER}
        backup = device.role == DeviceRole.BACKUP
        assert removed == (everywhere if backup else everywhere | oracle)


def test_one_device_generates_a_cloned_key_and_a_health_key_is_never_cloned() -> None:
    plan = small_plan("new")
    made: dict[str, list[Action]] = {}
    for step in steps.derive(plan):
        for change in step.changes:
            if change.spec and change.spec.type == OBJECT.ASYMMETRIC_KEY:
                made.setdefault(change.spec.name, []).append(change.action)
    assert made["log-signing-key"] == [Action.GENERATE, Action.CLONE, Action.CLONE]
    assert set(made["health-key"]) == {Action.GENERATE}


def test_devices_are_taken_by_role_not_by_their_place_in_the_plan() -> None:
    plan = small_plan()
    turned = replace(plan, devices=tuple(reversed(plan.devices)))
    order = [device.name for device in steps.ordered_devices(turned)]
    assert order == ["backup-2", "backup-1", "log-1"]


def test_a_plan_that_nobody_could_carry_out_is_refused() -> None:
    plan = small_plan()
    weak = replace(plan.objects["backup-authentication"], capabilities=CAPABILITY.SIGN_EDDSA)
    with pytest.raises(UsageError, match="no authentication key on all backups"):
        steps.derive(replace(plan, objects={**plan.objects, weak.name: weak}))
