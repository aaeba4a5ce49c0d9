"""The verb: its checks first, then a person who types the name, then the playbook."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.failover import promote as module
from sigsum_ops.failover.promote import Request, problems, promote
from sigsum_ops.failover.ungated import Permit, text
from sigsum_ops.site import ansible


def refusal(*lines: str) -> str:
    """As ansible-playbook prints what a task refused, with results in JSON."""
    result = {"assertion": "x", "changed": False, "msg": "\n".join(lines)}
    said = json.dumps(result, indent=4)
    return f"fatal: [log2]: FAILED! => {said}\n\nPLAY RECAP ****\nlog2 : ok=1 failed=1\n"


REASONS = ["behind: log2 cannot prove it", "  Promote another."]
REFUSED = refusal("Nothing was changed.", *REASONS)


# What the playbook said


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("", []),
        ("PLAY [x] ***\n\nok: [log2]\n", []),
        (REFUSED, REASONS),
        (f"PLAY [x]\nok: [log1] => {{}}\n{REFUSED}", REASONS),
        (refusal("Nothing was changed.", "", "clock: a", " "), ["clock: a"]),
        (refusal("the task includes an option with an undefined variable"), []),
        (refusal("an error: Nothing was changed.", "a second line"), []),
        (refusal("another task fails first") + REFUSED, REASONS),
        ('fatal: [log2]: FAILED! => {"changed": false, "rc": 1}\n', []),
    ],
)
def test_the_reasons_are_read_from_what_the_playbook_said(output: str, found: list[str]) -> None:
    assert problems(output) == found


def test_the_playbook_refuses_in_these_words() -> None:
    text = (Path(__file__).parents[2] / "playbooks/promote.yml").read_text()
    assert text.count(module.NOTHING_CHANGED) >= 2


# What is asked of Ansible


def test_the_arguments_are_what_the_playbook_reads(tmp_path: Path) -> None:
    request = Request(
        "log2",
        seen=(Path("a b"), tmp_path / "c"),
        fenced_by="N",
        fenced_how="x 'y'",
        hsm_out=("log1", "log3"),
        ungated=Permit("TIME", "M", "a b c"),
    )
    playbook, option, variables = request.arguments
    assert (playbook, option) == ("sigsum_ops.site.promote", "--extra-vars")
    assert json.loads(variables) == {
        "target": "log2",
        "seen": [str(Path.cwd() / "a b"), str(tmp_path / "c")],
        "fenced_by": "N",
        "fenced_how": "x 'y'",
        "hsm_out": "log1,log3",
        "failover_ungated_until": "TIME",
        "failover_ungated_by": "M",
        "failover_ungated_why": "a b c",
    }


@pytest.mark.parametrize(("by", "how"), [("a person", ""), ("", "pulled its plug")])
def test_an_attestation_is_who_and_how(by: str, how: str) -> None:
    with pytest.raises(UsageError, match="go together"):
        Request("log2", fenced_by=by, fenced_how=how).check()


def test_a_request_that_makes_sense(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.write_text("")
    Request("log2").check()
    Request("log2", seen=(seen,), fenced_by="a person", fenced_how="pulled its plug").check()


def test_a_pulled_hsm_is_attested_too() -> None:
    with pytest.raises(UsageError, match="--fenced-by says by whom"):
        Request("log2", hsm_out=("log1",)).check()
    Request("log2", fenced_by="N", fenced_how="x", hsm_out=("log1",)).check()


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_was_seen_must_be_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no such file"):
        Request("log2", seen=(tmp_path / name,)).check()


# The verb


class Playbook:
    """Runs of ansible-playbook and how they end."""

    def __init__(self, *runs: tuple[int, str]) -> None:
        self.runs = list(runs)
        self.calls: list[tuple[str, ...]] = []
        self.outputs: list[Any] = []

    def __call__(
        self, program: str, *arguments: str, inventory: Path | None, output: Any = None
    ) -> CompletedProcess[str]:
        assert program == "ansible-playbook"
        self.calls.append(arguments)
        self.outputs.append((inventory, output))
        code, said = self.runs[len(self.calls) - 1]
        return CompletedProcess([], code, said, "")


Played = Callable[..., Playbook]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    def played(*runs: tuple[int, str]) -> Playbook:
        playbook = Playbook(*runs)
        monkeypatch.setattr(ansible, "run", playbook)
        return playbook

    return played


REQUEST = Request("log2", inventory=Path("x"))
UNSAID = {"target": "log2", "why": "", "warnings": [], "problems": [], "promoted": False}


def test_checked_confirmed_and_promoted(played: Played) -> None:
    playbook = played((0, ""), (0, ""))
    asked: list[str] = []

    def confirm(text: str) -> str:
        assert len(playbook.calls) == 1  # it has been checked
        asked.append(text)
        return " log2\n"

    result = promote(REQUEST, check=False, confirm=confirm)
    assert result == {**UNSAID, "promoted": True}
    assert playbook.calls == [(*REQUEST.arguments, "--check"), REQUEST.arguments]
    assert [inventory for inventory, _ in playbook.outputs] == [Path("x")] * 2
    assert playbook.outputs[0][1] is None  # its problems are read
    assert "Type log2" in asked[0]


@pytest.mark.parametrize("answer", ["", "y", "yes", "log1", "LOG2"])
def test_anything_else_than_the_name_is_a_no(played: Played, answer: str) -> None:
    playbook = played((0, ""))
    with pytest.raises(UsageError, match="nothing was changed"):
        promote(REQUEST, check=False, confirm=lambda _text: answer)
    assert len(playbook.calls) == 1


def test_nobody_is_asked_where_nobody_is_there(played: Played) -> None:
    playbook = played((0, ""), (0, ""))
    assert promote(REQUEST, check=False, confirm=None)["promoted"]
    assert len(playbook.calls) == 2


def never(_text: str) -> str:
    raise AssertionError


CHOICE = {"candidate": "log3", "why": "the best of two", "warnings": ["a witness is silent"]}


def picked(choice: dict[str, Any]) -> str:
    """As ansible-playbook prints what a task says."""
    said = json.dumps({"msg": choice}, indent=4)
    return f'ok: [log1] => {{\n    "changed": false\n}}\nok: [log3] => {said}\nPLAY RECAP ***\n'


def test_what_was_picked_and_confirmed_is_promoted(played: Played) -> None:
    """And not what would be picked when the machines are looked at again."""
    playbook = played((0, picked(CHOICE)), (0, picked({**CHOICE, "candidate": "log2"})))
    asked: list[str] = []

    def confirm(text: str) -> str:
        asked.append(text)
        return "log3"

    result = promote(Request(), check=False, confirm=confirm)
    assert (result["target"], result["promoted"]) == ("log3", True)
    first, second = (json.loads(call[2]) for call in playbook.calls)
    assert ("target" in first, second["target"]) == (False, "log3")
    for words in ("log3 is the best of two", "warning: a witness is silent", "Type log3"):
        assert words in asked[0]


def test_what_was_picked_is_told_where_it_is_refused(played: Played) -> None:
    played((2, picked(CHOICE) + REFUSED))
    result = promote(Request(), check=True, confirm=never)
    assert (result["target"], result["problems"]) == ("log3", REASONS)


def test_the_playbook_says_its_choice_as_it_is_read() -> None:
    plays = yaml.safe_load((Path(__file__).parents[2] / "playbooks/promote.yml").read_text())
    (said,) = (
        task["ansible.builtin.debug"]["msg"]
        for play in plays
        for task in play.get("tasks", [])
        if "candidate" in str(task.get("ansible.builtin.debug"))
    )
    assert set(said) == set(CHOICE)


def test_a_refusal_is_the_result_and_nobody_is_asked(played: Played) -> None:
    playbook = played((2, REFUSED))
    result = promote(REQUEST, check=False, confirm=never)
    assert result["problems"] == REASONS
    assert not result["promoted"]
    assert len(playbook.calls) == 1


def test_a_check_ends_after_the_checks(played: Played) -> None:
    playbook = played((0, ""))
    result = promote(REQUEST, check=True, confirm=never)
    assert result == UNSAID
    assert len(playbook.calls) == 1


def test_checks_that_could_not_be_made_are_no_pass(played: Played) -> None:
    playbook = played((4, "no hosts matched"))
    with pytest.raises(OpsError, match="could not be made:\nno hosts matched"):
        promote(REQUEST, check=False, confirm=None)
    assert len(playbook.calls) == 1


def test_a_promotion_that_was_not_finished_says_so(played: Played) -> None:
    played((0, ""), (2, ""))
    with pytest.raises(OpsError, match="log2 is not finished") as failed:
        promote(REQUEST, check=False, confirm=None)
    assert "run it again" in str(failed.value)


def test_a_request_without_sense_contacts_no_machine(played: Played) -> None:
    playbook = played()
    with pytest.raises(UsageError):
        promote(Request("log2", fenced_by="a person"), check=True, confirm=None)
    assert playbook.calls == []


def until(hours: float) -> str:
    return text(datetime.now(UTC) + timedelta(hours=hours))


@pytest.mark.parametrize(
    "permit",
    [
        Permit("tomorrow", "N", "a b c"),
        Permit(until(-1), "N", "a b c"),
        Permit(until(169), "N", "a b c"),
        Permit(until(1), "", "a b c"),
        Permit(until(1), "N", "because"),
        Permit("", "N", "a b c"),
    ],
)
def test_a_permit_that_cannot_be_given_contacts_no_machine(played: Played, permit: Permit) -> None:
    playbook = played()
    with pytest.raises(UsageError, match=r"^--ungated-until: "):
        promote(Request("log2", ungated=permit), check=True, confirm=None)
    assert playbook.calls == []


def test_who_confirms_is_told_what_the_permit_means(played: Played) -> None:
    played((0, ""))
    asked: list[str] = []

    def confirm(text: str) -> str:
        asked.append(text)
        return ""

    permit = Permit(until(1), "N", "a b c")
    with pytest.raises(UsageError, match="nothing was changed"):
        promote(Request("log2", ungated=permit), check=False, confirm=confirm)
    assert f"Until {permit.until} what it acknowledges is on no other machine" in asked[0]
