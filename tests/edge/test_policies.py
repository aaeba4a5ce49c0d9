"""What a policy means, built from an inventory, linted and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.edge import policies
from sigsum_ops.errors import UsageError
from sigsum_ops.log import target
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.policy import Policy, build, parse
from sigsum_ops.log.target import Target

KEYS = [PublicKey(bytes([number] * 32)) for number in range(8)]
LOG = (KEYS[7], "https://log.example.org/")


def setting(count: int, **more: Any) -> dict[str, Any]:
    """So many witnesses, each with a URL."""
    witnesses = {
        f"w{number}": {"key": KEYS[number].hex, "url": f"https://w{number}.example.org/"}
        for number in range(count)
    }
    return {"witnesses": witnesses, **more}


def policy(count: int, **more: Any) -> Policy:
    return parse(build(setting(count, **more), LOG).encode())


def majority(count: int, threshold: int) -> dict[str, Any]:
    members = [f"w{number}" for number in range(count)]
    return {"groups": {"us": {"threshold": threshold, "members": members}}, "quorum": "us"}


def test_an_inventory_becomes_a_policy_file() -> None:
    given = setting(3, quorum="both")
    given["groups"] = {
        "both": {"threshold": "all", "members": ["w0", "either"]},
        "either": {"threshold": 1, "members": ["w2", "w1"]},
    }
    given["witnesses"]["w2"] = {"key": KEYS[2].ssh}
    assert build(given, LOG).splitlines() == [
        f"log {KEYS[7].hex} https://log.example.org/",
        f"witness w0 {KEYS[0].hex} https://w0.example.org/",
        f"witness w1 {KEYS[1].hex} https://w1.example.org/",
        f"witness w2 {KEYS[2].hex}",
        "group either 1 w1 w2",
        "group both all either w0",
        "quorum both",
    ]


def _changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    made = setting(2, **majority(2, 2))
    change(made)
    return made


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([], "is []"),
        (_changed(lambda s: s.update(quorums="us")), "has 'quorums'"),
        (_changed(lambda s: s.pop("quorum")), "None"),
        (_changed(lambda s: s.update(quorum="them")), "'them'"),
        (_changed(lambda s: s["witnesses"].update(w0="x")), "witnesses: w0: is 'x'"),
        (_changed(lambda s: s["witnesses"]["w0"].update(key="x")), "witnesses: w0: "),
        (_changed(lambda s: s["witnesses"]["w0"].update(key=KEYS[1].hex)), "has the key of"),
        (_changed(lambda s: s["witnesses"]["w0"].update(url="x\nquorum none")), "url is 'x"),
        (_changed(lambda s: s["witnesses"].update({"a b": {"key": KEYS[3].hex}})), "is 'a b'"),
        (_changed(lambda s: s["witnesses"].update({"#x": {"key": KEYS[3].hex}})), "is '#x'"),
        (_changed(lambda s: s["groups"]["us"].update(threshold=3)), "threshold 3"),
        (_changed(lambda s: s["groups"]["us"].update(members=["w0", "us"])), "made of each other"),
        (_changed(lambda s: s["groups"]["us"].update(members="w0")), "members is 'w0'"),
        (_changed(lambda s: s["groups"]["us"].update(members=["w0", "w0"])), "members is ['w0'"),
        (_changed(lambda s: s.update(witnesses=3)), "witnesses: is 3"),
        (_changed(lambda s: s["groups"].update({"w0": s["groups"]["us"]})), "made of each other"),
    ],
)
def test_what_cannot_be_right_is_refused(wrong: object, says: str) -> None:
    with pytest.raises(UsageError) as error:
        build(wrong)
    assert says in error.value.message


@pytest.mark.parametrize(
    ("count", "threshold", "needed", "spare"),
    [(1, 1, 1, 0), (3, 2, 2, 1), (4, 3, 3, 1), (5, 1, 1, 4)],
)
def test_how_many_a_quorum_takes(count: int, threshold: int, needed: int, spare: int) -> None:
    one = policy(count, **majority(count, threshold))
    assert (policies.needed(one), policies.spare(one)) == (needed, spare)


@given(st.data())
def test_needed_and_spare_are_what_trying_all_of_them_says(data: st.DataObject) -> None:
    """Groups of groups too: the least quorum, and the most that may always be silent."""
    inner = data.draw(st.integers(1, 3))
    count = inner + data.draw(st.integers(1, 3))
    names = [f"w{number}" for number in range(count)]
    outer = ["inner", *names[inner:]]
    one = policy(
        count,
        groups={
            "inner": {"threshold": data.draw(st.integers(1, inner)), "members": names[:inner]},
            "outer": {"threshold": data.draw(st.integers(1, len(outer))), "members": outer},
        },
        quorum="outer",
    )
    everybody = set(names)
    sets = [set(some) for size in range(count + 1) for some in combinations(names, size)]
    quorums = [some for some in sets if policies.counts(one, some)]
    assert policies.needed(one) == min(map(len, quorums))
    fatal = min(len(some) for some in sets if not policies.counts(one, everybody - some))
    assert policies.spare(one) == fatal - 1
    disjoint = any(not some & other for some in quorums for other in quorums)
    assert (policies.apart(one) is not None) == disjoint


def test_a_good_policy_has_nothing_to_find() -> None:
    assert list(policies.lint(policy(3, **majority(3, 2)))) == []


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (policy(1, quorum="none"), "without any witness"),
        (policy(2, quorum="w0"), "not part of the quorum: w1"),
        (policy(2, **majority(2, 2)), "no witness may be silent"),
        (policy(4, **majority(4, 2)), "w0 and w1 are a quorum, and so are w2 and w3"),
        (parse(f"log {KEYS[7].hex} http://x/\nquorum none\n".encode()), "without TLS: http://x/"),
        (parse(b"quorum none\n"), "no log line"),
    ],
)
def test_what_lint_finds(one: Policy, says: str) -> None:
    assert any(says in found for found in policies.lint(one)), list(policies.lint(one))


def test_too_many_to_try_is_said() -> None:
    keys = [PublicKey(bytes([number] * 32)) for number in range(17)]
    lines = [f"witness w{number} {key.hex}" for number, key in enumerate(keys)]
    members = " ".join(f"w{number}" for number in range(17))
    one = parse("\n".join([*lines, f"group us 2 {members}", "quorum us"]).encode())
    assert any("not looked for two quorums" in found for found in policies.lint(one))


def test_what_a_log_needs_beside() -> None:
    one = parse(f"witness w0 {KEYS[0].hex}\nquorum w0\n".encode())
    assert any("has no URL" in found for found in policies.lint(one, of_a_log=True))
    assert not any("no log line" in found for found in policies.lint(one, of_a_log=True))


def test_differences_say_what_a_change_means() -> None:
    old, new = policy(3, **majority(3, 2)), policy(4, **majority(4, 2))
    new.witnesses["w0"] = type(new.witnesses["w0"])(KEYS[6], "https://elsewhere.example.org/")
    assert list(policies.differences(old, new)) == [
        f"! witness w0 has another key: {KEYS[0].hex}, now {KEYS[6].hex}",
        "  witness w0 has another URL: https://w0.example.org/, now https://elsewhere.example.org/",
        f"+ witness w3 {KEYS[3].hex} https://w3.example.org/",
        "  group us: 2 of w0, w1, w2, now 2 of w0, w1, w2, w3",
        "  the quorum can spare 1 of its witnesses, now 2",
    ]
    assert list(policies.differences(old, old)) == []


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other = tmp_path / "good", tmp_path / "other"
    good.write_text(build(setting(3, **majority(3, 2)), LOG))
    other.write_text(build(setting(2, quorum="w0"), LOG))
    run = CliRunner().invoke
    done = run(app, ["policy", "lint", str(good)])
    assert (done.exit_code, done.stdout) == (
        0,
        f"{good}: 2 of 3 witnesses are a quorum; 1 may be silent\n",
    )
    done = run(app, ["policy", "lint", str(other), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["found"][0] == "not part of the quorum: w1"
    assert run(app, ["policy", "diff", str(good), str(good)]).exit_code == 0
    done = run(app, ["policy", "diff", str(good), str(other)])
    assert done.exit_code == 1
    assert "- witness w2" in done.stdout
    described: dict[str, Any] = setting(3, **majority(3, 2))
    monkeypatch.setattr(target, "log_of_inventory", lambda _: Target(LOG[1], LOG[0], described))
    assert run(app, ["policy", "build"]).stdout == good.read_text()
    described.clear()
    assert "sigsum_policy" in str(run(app, ["policy", "build"]).exception)
