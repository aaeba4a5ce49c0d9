"""Records: strict JSON both ways, and no field that a secret could slip into."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigsum_ops.hsm import plan
from sigsum_ops.hsm.ceremony import canonical, records
from sigsum_ops.hsm.ceremony.canonical import Json
from sigsum_ops.hsm.ceremony.records import Command, Interrupted, Left, ObjectRef, Record
from tests.hsm.ceremony.synthesis import Script, plan_text


def examples() -> list[Record]:
    script = Script(plan.loads(plan_text(), "plan")).perform()
    script.add(Interrupted("Ctrl-C", None, (Left(90000001, ObjectRef("wrap-key", 400)),)))
    script.add(records.Resumed("again", "reset", 3, "software", {"kernel": "6.1"}))
    script.add(records.Attestation(90000001, 500, 0, None, "invalid-data"))
    return script.lines


EXAMPLES = examples()
SOME = st.sampled_from(EXAMPLES)


def test_every_kind_is_among_the_examples() -> None:
    assert {record.kind for record in EXAMPLES} == set(records.KINDS)


def test_what_was_written_is_read_back() -> None:
    for record in EXAMPLES:
        body = canonical.loads(canonical.dumps(records.to_json(record)))
        assert records.parse(record.kind, body) == record


def _places(value: Json, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value inside, but for the plan and the host, which are as they are."""
    found: list[tuple[str | int, ...]] = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*path, key)) if key not in ("plan", "host") else []
    if isinstance(value, list):
        for n, item in enumerate(value):
            found += _places(item, (*path, n))
    return found


def _put(body: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    copy: Any = dict(body) if isinstance(body, Mapping) else list(body)
    copy[path[0]] = _put(body[path[0]], path[1:], value)
    return copy


@given(SOME, st.data())
def test_a_value_of_another_type_is_refused(record: Record, data: st.DataObject) -> None:
    body = records.to_json(record)
    places = _places(cast(Json, body))
    path = data.draw(st.sampled_from(places))
    with pytest.raises(ValueError, match=r".+"):
        records.parse(record.kind, _put(body, path, {"another": [True]}))


@given(SOME, st.text(min_size=1))
def test_a_field_more_or_less_is_refused(record: Record, name: str) -> None:
    body = records.to_json(record)
    if name not in body:
        with pytest.raises(ValueError, match="missing or unknown"):
            records.parse(record.kind, {**body, name: "00"})
    for left_out in body:
        with pytest.raises(ValueError, match=left_out):
            records.parse(record.kind, {k: v for k, v in body.items() if k != left_out})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("serial", 0, r"^device\.serial: 0 is not 1 to 4294967295$"),
        ("serial", True, r"^device\.serial: int is expected$"),
        ("name", "Backup", r"^device\.name: 'Backup' is not of the form"),
        ("firmware", [2, 256], r"^device\.firmware\[1\]: 256 is not 0 to 255$"),
        ("firmware", "2.4", r"^device\.firmware: a list is expected$"),
        ("part_number", 7, r"^device\.part_number: str is expected$"),
    ],
)
def test_the_place_of_a_wrong_value_is_named(field: str, value: Json, said: str) -> None:
    device = next(record for record in EXAMPLES if record.kind == "device")
    with pytest.raises(ValueError, match=said):
        records.parse("device", {**records.to_json(device), field: value})


def test_what_no_ceremony_does_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="wrap-data"):
        Command(90000001, 1, "wrap-data", records.Nothing(), records.Nothing(), None)
    body = records.to_json(next(record for record in EXAMPLES if isinstance(record, Command)))
    with pytest.raises(ValueError, match="no place in a ceremony"):
        records.parse("command", {**body, "command": "sign-ecdsa"})
    with pytest.raises(ValueError, match="none of opened"):
        records.parse("secret", {})
    for reply, error in ((None, None), (records.Nothing(), "no-reply")):
        with pytest.raises(ValueError, match="either a reply or an error"):
            Command(90000001, 1, "echo", records.Nothing(), reply, error)


def test_a_command_has_no_field_for_a_secret() -> None:
    """Random bytes, keys and passphrases: the only trace of one is a commitment."""
    commands = [record for record in EXAMPLES if isinstance(record, Command)]
    for command in {record.command: record for record in commands}.values():
        body = records.to_json(command)
        for part in ("parameters", "reply"):
            inner = body[part]
            if isinstance(inner, dict):
                with pytest.raises(ValueError, match="unknown"):
                    records.parse("command", {**body, part: {**inner, "key_material": "00"}})


def test_only_what_destroys_or_is_permanent_is_irreversible() -> None:
    option = records.Option
    assert records.irreversible("reset-device", records.Nothing())
    assert records.irreversible("delete-object", ObjectRef("wrap-key", 400))
    assert records.irreversible("set-option", option("force-audit", "02"))
    assert records.irreversible("set-option", option("command-audit", "6a014402"))
    # Command 2 is set to 1 here: the 2 is not a value.
    assert not records.irreversible("set-option", option("command-audit", "0201"))
    assert not records.irreversible("set-option", option("force-audit", "01"))
    assert not records.irreversible("sign-eddsa", records.Sign(500, "00"))


def test_a_test_message_is_of_one_ceremony_device_and_key_and_no_tree_head() -> None:
    messages = {
        records.test_message(ceremony, serial, key)
        for ceremony in ("00" * 16, "01" * 16)
        for serial in (90000001, 90000002)
        for key in (500, 600)
    }
    assert len(messages) == 8
    for message in messages:
        assert not message.startswith((b"sigsum.org/v1/tree/", b"cosignature/v1", b"SSHSIG"))


def test_records_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLES[0].kind = "x"  # type: ignore[misc]
