"""Policy files: what sigsum-go's doc/policy.md allows is read, all else names its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigsum_ops.errors import UsageError
from sigsum_ops.log.policy import Group, load, parse

A, B, C, D = ("11" * 32, "22" * 32, "3f" * 32, "44" * 32)

TWO_LEVELS = f"""\
# who may sign
 log {A} https://log.example.org/a
witness north.example/w1 {B}
\twitness south {C.upper()} https://south.example
witness east {D}

group outer 2 south east
group rule all north.example/w1 outer
quorum rule
"""


def test_a_policy_of_two_levels() -> None:
    policy = parse(TWO_LEVELS.encode())
    assert [(log.key.hex, log.url) for log in policy.logs] == [(A, "https://log.example.org/a")]
    assert {name: (w.key.hex, w.url) for name, w in policy.witnesses.items()} == {
        "north.example/w1": (B, None),
        "south": (C, "https://south.example"),
        "east": (D, None),
    }
    assert policy.groups == {
        "outer": Group(2, ("south", "east")),
        "rule": Group(2, ("north.example/w1", "outer")),
    }
    assert policy.quorum == "rule"


@pytest.mark.parametrize(("threshold", "needed"), [("any", 1), ("all", 2), ("2", 2)])
def test_thresholds(threshold: str, needed: int) -> None:
    text = f"witness a {A}\nwitness b {B}\ngroup g {threshold} a b\nquorum g\n"
    assert parse(text.encode()).groups["g"].threshold == needed


def test_no_cosignature_needed() -> None:
    assert parse(b"quorum none").quorum == "none"


def test_names_are_octets_not_characters() -> None:
    kelvin = b"\xe2\x84\xaa"
    text = b"witness K %s\nwitness %s %s\nquorum %s\n"
    parsed = parse(text % (A.encode(), kelvin, B.encode(), kelvin))
    assert len(parsed.witnesses) == 2
    latin = parse(b"witness \xe5 %s\nquorum \xe5\n" % A.encode())
    assert latin.quorum in latin.witnesses


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (f"log {A}\nlog {A.upper()}\nquorum none", 2, "second log line"),
        (f"log {A[:-2]}\nquorum none", 1, "hexadecimal"),
        (f"log ssh-ed25519 {A} x\nquorum none", 1, "log line with 3 words"),
        ("log\nquorum none", 1, "log line with 0 words"),
        (f"witness {A}\nquorum none", 1, "witness line with 1 words"),
        (f"witness a {A}\nwitness a {B}\nquorum a", 2, "'a' is defined already"),
        (f"witness a {A}\nwitness b {A}\nquorum a", 2, "has the key of witness 'a'"),
        (f"witness none {A}\nquorum none", 1, "'none' is defined already"),
        (f"witness a {A}\ngroup g\nquorum g", 2, "group line with 1 words"),
        (f"witness a {A}\ngroup g 2 a\nquorum g", 2, "threshold 2 in a group of 1"),
        (f"witness a {A}\ngroup g 0 a\nquorum g", 2, "threshold 0"),
        (f"witness a {A}\ngroup g most a\nquorum g", 2, "'most' is neither"),
        (f"witness a {A}\ngroup g 2 a a\nquorum g", 2, "member of a group already"),
        (f"witness a {A}\ngroup g 1 a\ngroup h 1 a\nquorum h", 3, "member of a group already"),
        ("group g all g\nquorum g", 1, "no witness or group defined on an earlier line"),
        ("group g any none\nquorum g", 1, "'none' is no witness"),
        (f"quorum a\nwitness a {A}", 1, "'a' is no witness"),
        ("quorum none\nquorum none", 2, "second quorum"),
        ("quorum\n", 1, "quorum line with 0 words"),
        ("quorum none # why", 1, "quorum line with 3 words"),
        ("Quorum none", 1, "unknown keyword 'Quorum'"),
        ("quorum none\r\n", 1, "control character 0x0d"),
        ("quorum\u00a0none", 1, "unknown keyword"),
    ],
)
def test_refused_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(text.encode(), "here")
    assert refusal.value.message.startswith(f"here:{line}: ")
    assert says in refusal.value.message


def test_a_quorum_is_needed() -> None:
    with pytest.raises(UsageError, match="no quorum line"):
        parse(f"log {A}".encode())


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing: cannot read the policy file: No such file"):
        load(tmp_path / "nothing")
