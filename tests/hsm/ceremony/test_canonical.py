"""Canonical JSON: one form per value, and nothing else is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigsum_ops.hsm.ceremony.canonical import MAX_INTEGER, Json, dumps, loads

INTEGERS = st.integers(-MAX_INTEGER, MAX_INTEGER)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


@given(VALUES)
def test_what_was_written_is_read_back(value: Json) -> None:
    assert loads(dumps(value)) == value


@given(VALUES)
def test_another_json_reader_reads_the_same(value: Json) -> None:
    assert json.loads(dumps(value)) == value


@given(VALUES, st.integers(0), st.integers(1, 255))
def test_no_other_bytes_mean_the_same(value: Json, where: int, flip: int) -> None:
    data = bytearray(dumps(value))
    data[where % len(data)] ^= flip
    try:
        changed = loads(bytes(data))
    except ValueError:
        return
    assert dumps(changed) == bytes(data)
    assert json.dumps(changed, sort_keys=True) != json.dumps(value, sort_keys=True)


def test_the_order_and_escapes_are_those_of_rfc_8785() -> None:
    """The keys of section 3.2.3 and the string of 3.2.2.2, as the RFC writes them."""
    keys = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\xf6": 7}
    wanted = '{"\\r":2,"1":4,"\x80":6,"\xf6":7,"\u20ac":1,"\U0001f600":5,"\ufb33":3}'
    assert dumps(keys) == wanted.encode()
    text = '"\u20ac$\\u000f\\nA\'B\\"\\\\\\"/"'
    assert dumps('\u20ac$\x0f\nA\'B"\\"/') == text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1.5",
        b"1e3",
        b"NaN",
        b"-0",
        b"01",
        b" 1",
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b'"\\u0041"',
        b'"\\/"',
        b'"\\ud800"',
        b"\xff",
        b"9007199254740992",
        b"1" * 5000,
        b"[" * 100_000,
    ],
)
def test_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(data)


@pytest.mark.parametrize("value", [1.0, MAX_INTEGER + 1, "\ud800", {1: 2}, b"bytes", object()])
def test_what_has_no_form_is_not_written(value: Json) -> None:
    with pytest.raises(ValueError, match=r"."):
        dumps(value)
