"""What resolver_zones may say."""

from __future__ import annotations

import pytest

from sigsum_ops.edge.zones import problems

DS = "example.org. IN DS 58804 15 2 " + "fe" * 32
GOOD = {"name": "example.org", "servers": ["192.0.2.1", "2001:db8::1"]}


@pytest.mark.parametrize(
    "zones",
    [
        None,
        [],
        [GOOD],
        [{"name": ".", "forward": ["192.0.2.53"], "insecure": True}],
        [{**GOOD, "trust_anchors": [DS, f"{DS} ; a comment", DS.replace(" ", "\t")]}],
    ],
)
def test_what_can_be_right(zones: object) -> None:
    assert list(problems(zones)) == []


@pytest.mark.parametrize(
    ("zones", "says"),
    [
        ("example.org", "is 'example.org'"),
        ([{**GOOD, "server": []}], "has {"),
        ([{**GOOD, "name": "a" * 64 + ".org"}], "has the name"),
        ([{**GOOD, "name": "example.org\n"}], "has the name"),
        ([{**GOOD, "name": ""}], "has the name"),
        ([{"name": "x.test"}], "both or neither"),
        ([{**GOOD, "forward": ["192.0.2.53"]}], "both or neither"),
        ([{**GOOD, "servers": ["999.1.1.1"]}], "servers has '999.1.1.1'"),
        ([{**GOOD, "servers": ["dead"]}], "servers has 'dead'"),
        ([{**GOOD, "servers": ["127.0.0.53"]}], "servers has '127.0.0.53'"),
        ([{**GOOD, "servers": ["192.0.2.1\n"]}], "servers has"),
        ([{**GOOD, "trust_anchors": ["example.org. A 192.0.2.1"]}], "trust_anchors has"),
        ([{**GOOD, "trust_anchors": ["example.org. IN DS 1 15"]}], "trust_anchors has"),
    ],
)
def test_what_cannot(zones: object, says: str) -> None:
    (found, *_) = problems(zones)
    assert says in found[0]
