"""The inventory's rate limits, and the file that log-go reads."""

from __future__ import annotations

import pytest

from sigsum_ops.errors import UsageError
from sigsum_ops.log.ratelimit import SUFFIXES, RateLimits, parse, render

HASH = "0123456789abcdef" * 4


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_no_setting_is_no_limit(nothing: object) -> None:
    assert parse(nothing) is None


def test_each_kind_becomes_its_lines_in_one_order() -> None:
    limits = parse(
        {
            "public": 288,
            "domain": {"b.example.org": "20", "a.example.org": 10},
            "key": {HASH: 0},
        }
    )
    assert limits == RateLimits({HASH: 0}, {"b.example.org": 20, "a.example.org": 10}, 288)
    assert render(limits).splitlines() == [
        f"key {HASH} 0",
        "domain a.example.org 10",
        "domain b.example.org 20",
        f"public {SUFFIXES} 288",
    ]


def test_an_international_name_as_registries_write_it() -> None:
    assert parse({"domain": {"xn--bcher-kva.example": 1}}) is not None


def test_a_limit_for_listed_ones_only_lets_no_other_domain_in() -> None:
    limits = parse({"domain": {"example.org": 1}})
    assert limits is not None
    assert "public" not in render(limits)


@pytest.mark.parametrize(
    ("setting", "says", "allowed"),
    [
        ([], "is []", "key, domain, public"),
        ("domain example.org 10", "is 'domain", "key, domain, public"),
        ({"domains": {}}, "has 'domains'", "key, domain, public"),
        ({"domain": {}, "public": None}, "lets nobody", "one entry"),
        ({"public": {"limit": 1}}, "public: is", "0 to 2147483647"),
        ({"public": True}, "public: is True", "0 to 2147483647"),
        ({"public": -1}, "public: is -1", "0 to 2147483647"),
        ({"public": 1.5}, "public: is 1.5", "0 to 2147483647"),
        ({"public": 2**31}, "public: is 2147483648", "0 to 2147483647"),
        ({"public": "٣"}, "public: is", "0 to 2147483647"),
        ({"domain": ["example.org"]}, "domain: is", "domain: limit"),
        ({"domain": {"example.org": None}}, "domain: example.org: is None", "0 to 2147483647"),
        ({"domain": {"Example.org": 1}}, "has 'Example.org'", "lower case"),
        ({"domain": {"_sigsum_v1.example.org": 1}}, "has '_sigsum_v1", "without the label"),
        ({"domain": {"example.org.": 1}}, "has 'example.org.'", "such as example.org"),
        ({"domain": {"org": 1}}, "has 'org'", "such as example.org"),
        ({"domain": {"192.0.2.1": 1}}, "has '192.0.2.1'", "such as example.org"),
        ({"domain": {"example.org # x": 1}}, "has 'example.org # x'", "such as example.org"),
        ({"domain": {"a." * 130 + "org": 1}}, "has 'a.a.", "such as example.org"),
        ({"domain": {"exa\nmple.org": 1}}, "has 'exa\\nmple.org'", "such as example.org"),
        ({"domain": {"xn--72g.com": 1}}, "no international name", "log-go would not start"),
        ({"domain": {"a.xn--a.com": 1}}, "no international name", "log-go would not start"),
        ({"key": {HASH.upper(): 1}}, "has '0123456789ABCDEF", "lower-case hex"),
        ({"key": {int("1" * 64): 1}}, "has 1111", "in quotes"),
        ({"key": {HASH[:-1]: 1}}, "key: has", "64"),
    ],
)
def test_what_cannot_be_right_is_refused_with_its_place(
    setting: object, says: str, allowed: str
) -> None:
    with pytest.raises(UsageError) as error:
        parse(setting)
    assert says in error.value.message
    assert allowed in (error.value.hint or "")
