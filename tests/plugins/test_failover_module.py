"""The module failover, its action and its filters, without a machine."""

from __future__ import annotations

from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from plugins.action import failover as action
from plugins.filter import failover as filters
from plugins.modules import failover as module
from sigsum_ops.backup import quarantine
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.failover import judge, procedure, units
from sigsum_ops.failover.seen import Seen
from sigsum_ops.failover.ungated import Permit, text
from sigsum_ops.log.trillian import CannotTell
from tests.failover.world import KEY, head, signed

HEAD = {"size": 12, "root_hash": head().root.hex()}

# How far it is


@pytest.mark.parametrize(
    ("size", "wanted", "first", "seconds", "line"),
    [
        (500, 1000, 0, 10.0, "  500 of 1000 leaves, 50/s, 10 s left"),
        (700, 1000, 500, 4.0, "  700 of 1000 leaves, 50/s, 6 s left"),
        (1000, 1000, 0, 10.0, "  1000 of 1000 leaves, 100/s, 0 s left"),
        (500, 1000, 500, 10.0, "  500 of 1000 leaves"),
        (0, 1000, 0, 0.0, "  0 of 1000 leaves"),
        (500, 1000, 0, 0.0, "  500 of 1000 leaves"),
    ],
)
def test_progress(size: int, wanted: int, first: int, seconds: float, line: str) -> None:
    assert action.progress(size, wanted, first, seconds) == line


Answer = dict[str, Any]


class Action(action.ActionModule):
    """With answers in place of a machine, and a clock that only sleeping moves."""

    def __init__(self, answers: list[Answer], *, check: bool = False, **arguments: Any) -> None:
        task = SimpleNamespace(args=arguments, async_val=0, check_mode=check, delegate_to=None)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="x"))
        super().__init__(task, connection, None, None, None, None)
        self.answers = answers
        self.asked: list[Answer] = []
        self.shown: list[str] = []
        self.time = 100.0

    def _execute_module(self, **call: Any) -> Answer:
        assert call["module_name"] == "sigsum_ops.site.failover"
        self.asked.append(call["module_args"])
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def go(self, monkeypatch: pytest.MonkeyPatch) -> Answer:
        clock = SimpleNamespace(
            monotonic=lambda: self.time, time=lambda: self.time, sleep=self.sleep
        )
        monkeypatch.setattr(action, "time", clock)
        monkeypatch.setattr(action, "Display", lambda: SimpleNamespace(display=self.shown.append))
        answer: Answer = self.run(task_vars={"inventory_hostname": "log2"})
        return answer


def looked(size: int | None, *behind: str) -> Answer:
    tree = None if size is None else {"size": size, "behind": list(behind)}
    return {"changed": False, "found": {"tree": tree, "unreadable": ["no socket"]}}


def follow(*answers: Answer, seen: tuple[int, ...] = (4, 10)) -> Action:
    return Action(list(answers), step="follow", log_key=KEY.hex, seen=[{"size": n} for n in seen])


def test_it_follows_until_the_tree_has_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    action = follow(looked(2, "x"), looked(6, "x"), looked(6, "x"), looked(10))
    result = action.go(monkeypatch)
    assert result == {
        "changed": False,
        "followed": {"size": 10, "seconds": 6.0},
        "found": {**looked(10)["found"], "received": 106.0},
    }
    assert action.shown == ["  2 of 10 leaves", "  6 of 10 leaves, 2/s, 2 s left"]
    assert all(call["step"] == "look" for call in action.asked)
    assert action.asked[0]["seen"] == [{"size": 4}, {"size": 10}]


def test_what_is_there_already_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    action = follow(looked(0), seen=())
    assert action.go(monkeypatch)["followed"] == {"size": 0, "seconds": 0.0}
    assert len(action.asked) == 1


def test_a_tree_that_cannot_be_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    action = follow(looked(None), looked(None), looked(10))
    assert action.go(monkeypatch)["followed"] == {"size": 10, "seconds": 4.0}


def test_slow_is_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action, "POLL", action.STALLED - 1)
    follower = follow(*(looked(n, "x") for n in range(1, 10)), looked(10))
    result = follower.go(monkeypatch)
    assert result["followed"]["size"] == 10
    assert len(follower.shown) == 9


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (looked(7, "log1 has 10"), "at size 7 of 10: ['log1 has 10']"),
        (looked(None), "of 10: ['no socket']"),
    ],
)
def test_no_leaf_more_is_the_end(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, said: str
) -> None:
    follower = follow(answer)
    result = follower.go(monkeypatch)
    assert result["failed"]
    assert action.STALLED < follower.time - 100 <= action.STALLED + 2 * action.POLL
    assert said in result["msg"]


def test_a_look_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = follow(looked(1, "x"), {"failed": True, "msg": "unreachable"}, looked(10))
    assert follower.go(monkeypatch)["msg"] == "unreachable"
    assert len(follower.asked) == 2


# What the controller notes


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "procedures.jsonl"
    monkeypatch.setattr(procedure, "journal", lambda key_hash: path / key_hash)
    return path / KEY.hash


def noted(path: Path) -> list[tuple[str, str, bool]]:
    return [(entry["step"], entry["host"], entry["done"]) for entry in procedure.read(path)]


@pytest.mark.parametrize("step", ["fence", "unfence", "adopt", "abandon", "retire"])
def test_a_step_is_noted_before_and_after(
    monkeypatch: pytest.MonkeyPatch, journal: Path, step: str
) -> None:
    reason = {"replaced": ["log1"]}
    stepping = Action([{"changed": True, "head": HEAD}], step=step, log_key=KEY.hex, reason=reason)

    def execute(**call: Any) -> Answer:
        assert noted(journal) == [(step, "log2", False)]
        return Action._execute_module(stepping, **call)

    monkeypatch.setattr(stepping, "_execute_module", execute)
    assert stepping.go(monkeypatch)["head"] == HEAD
    assert noted(journal) == [(step, "log2", False), (step, "log2", True)]
    before, after = procedure.read(journal)
    assert before["reason"] == after["reason"] == reason
    assert after["head"] == HEAD


def test_a_step_that_failed_is_noted_as_that(
    monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    stepping = Action([{"failed": True, "msg": "no"}], step="adopt", log_key=KEY.hex)
    assert stepping.go(monkeypatch)["msg"] == "no"
    assert noted(journal) == [("adopt", "log2", False)] * 2
    begun, ended = procedure.read(journal)
    assert "failed" not in begun
    assert ended["failed"] == "no"
    assert procedure.unfinished([begun]) == {("adopt", "log2")}
    assert procedure.unfinished([begun, ended]) == set()


def test_a_machine_that_has_followed_is_noted(
    monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    """Also where a new machine had nothing to be retired: it is not the replaced one any more."""
    follow(looked(2, "x"), looked(10)).go(monkeypatch)
    assert noted(journal) == [("follow", "log2", False), ("follow", "log2", True)]


def test_a_step_that_cannot_be_noted_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    journal.mkdir(parents=True)  # no file can be there
    stepping = Action([{"changed": True}], step="adopt", log_key=KEY.hex)
    result = stepping.go(monkeypatch)
    assert result["failed"]
    assert "cannot be written" in result["msg"]
    assert stepping.asked == []


def test_a_step_is_noted_for_the_machine_that_takes_it(
    monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    stepping = Action([{"changed": True}], step="fence", log_key=KEY.hex)
    stepping._task.delegate_to = "log1"
    stepping.go(monkeypatch)
    assert {host for _, host, _ in noted(journal)} == {"log1"}


@pytest.mark.parametrize(("step", "check"), [("look", False), ("adopt", True), ("retire", True)])
def test_what_changes_nothing_is_not_noted(
    monkeypatch: pytest.MonkeyPatch, journal: Path, step: str, check: bool
) -> None:
    stepping = Action([{"changed": check}], check=check, step=step, log_key=KEY.hex)
    assert stepping.go(monkeypatch) == {"changed": check}
    assert not journal.exists()


# The module


class Machine:
    """In place of what changes the machine: the calls, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mark: Path) -> None:
        self.calls: list[str] = []
        self.listening: list[int] = []
        self.busy = 0  # so often Trillian does not answer
        self.seen: list[Any] = []
        self.first = True
        self.proven: list[Any] = []
        mark.write_text("{}")
        monkeypatch.setattr(quarantine, "integrate", self.integrate)
        monkeypatch.setattr(quarantine, "lift", lambda: self.call("lift"))
        monkeypatch.setattr(units, "MARK", mark)
        monkeypatch.setattr(module, "LOCK", mark.with_name("lock"))
        monkeypatch.setattr(units, "mark", lambda reason: self.call(f"mark {reason['by']}"))
        monkeypatch.setattr(units, "mask", lambda names: self.call(f"mask {names[0]}"))
        monkeypatch.setattr(units, "unmask", lambda names: self.call(f"unmask {names[0]}"))
        monkeypatch.setattr(units, "listening", self.listen)
        monkeypatch.setattr(module, "adopt", self.adopt)
        monkeypatch.setattr(module, "retire", self.retire)
        monkeypatch.setattr(module, "abandon", lambda *_: self.call("abandon"))
        monkeypatch.setattr(module, "look", self.look)

    def call(self, name: str) -> bool:
        self.calls.append(name)
        return self.first

    def listen(self, address: str, ports: list[int]) -> list[int]:
        self.calls.append(f"listen {address}")
        return [port for port in self.listening if port in ports]

    def adopt(self, _trillian: object, key: object, seen: list[Any], _places: object) -> Any:
        assert key == KEY
        self.seen = seen
        if self.busy:
            self.busy -= 1
            raise CannotTell("busy")
        return head(), self.call("adopt")

    def integrate(self) -> list[Any]:
        self.calls.append("integrate")
        return self.proven

    def retire(self, _places: object) -> Path | None:
        return Path("/aside") if self.call("retire") else None

    def look(self, *_: object) -> Answer:
        self.calls.append("look")
        return {"parts": []}

    def run(self, step: str, *, check: bool = False, **parameters: Any) -> Answer:
        defaults: Answer = {"log_key": KEY.ssh, "seen": [], "reason": {"by": "N"}, "ports": [6965]}
        defaults |= {"address": None, "trillian": "x:1", "witnesses": False}
        params = {**defaults, "step": step, **parameters}
        return module.run(SimpleNamespace(params=params, check_mode=check))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch, tmp_path / "fenced.json")


PRIMARY = units.PRIMARY[0]


def test_witnesses_are_asked_with_what_came_signed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def witnesses(key: object, _places: object, given: list[Any]) -> list[Answer]:
        assert key == KEY
        asked.append([one.head for one in given])
        return [{"name": "w"}]

    monkeypatch.setattr(module, "witnesses", witnesses)
    seen = [
        {"source": "a file", "signed": signed(head(5)).decode()},
        {"source": "log1", "size": 3, "root_hash": head(3).root.hex()},
    ]
    assert "witnesses" not in machine.run("look", seen=seen)["found"]
    found = machine.run("look", seen=seen, witnesses=True, check=True)["found"]
    assert (found["witnesses"], asked) == ([{"name": "w"}], [[head(5)]])


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        ("look", ["look"]),
        ("fence", ["mark N", f"mask {PRIMARY}", "listen 127.0.0.1", "look"]),
        ("unfence", [f"unmask {PRIMARY}", "look"]),
        ("adopt", ["integrate", "adopt", "lift", "look"]),
        ("abandon", ["abandon", "look"]),
        ("retire", ["retire"]),
    ],
)
def test_each_step_and_nothing_in_check_mode(machine: Machine, step: str, calls: list[str]) -> None:
    result = machine.run(step, check=True)
    assert machine.calls == ([] if step == "retire" else ["look"])
    assert result["changed"] is (step != "look")
    assert units.MARK.exists()
    machine.calls.clear()
    assert machine.run(step)["changed"] is (step != "look")
    assert machine.calls == calls
    assert units.MARK.exists() is (step != "unfence")


GATED = {"replicated": True, "permit": ""}


@pytest.mark.parametrize("step", ["allow", "gate"])
@pytest.mark.parametrize("check", [False, True])
def test_what_is_only_noted_or_seen(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, step: str, check: bool
) -> None:
    monkeypatch.setattr(module, "look", lambda *_: GATED)
    assert machine.run(step, check=check) == {"changed": False, "found": GATED}
    assert machine.calls == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"replicated": False}, "names no secondary"),
        ({"replicated": None}, "names no secondary"),
        ({"permit": "2026-11-23T12:00:00Z"}, "go on alone until 2026-11-23T12:00:00Z"),
        ({"permit": None}, "nobody knows when"),
    ],
)
def test_a_primary_that_could_go_on_alone_is_not_taken_for_gated(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, changed: Answer, said: str
) -> None:
    monkeypatch.setattr(module, "look", lambda *_: {**GATED, **changed})
    assert machine.run("allow")["changed"] is False
    with pytest.raises(OpsError, match=said):
        machine.run("gate")


def test_a_second_run_says_that_it_changed_nothing(machine: Machine) -> None:
    machine.first = False
    for step in ("fence", "unfence", "adopt"):
        assert machine.run(step)["changed"] is False


def test_a_machine_on_which_somebody_listens_is_not_fenced(machine: Machine) -> None:
    machine.listening = [6965, 22]
    with pytest.raises(OpsError, match=r"listens at 127.0.0.1 on \[6965\]"):
        machine.run("fence")
    machine.listening = []
    machine.run("fence", address="192.0.2.1")
    assert "listen 192.0.2.1" in machine.calls


def test_adopting_waits_for_trillian_and_tells_the_head(machine: Machine) -> None:
    machine.busy = 1
    seen = [{"source": "a", "signed": signed(head(5)).decode()}, {"source": "b", **HEAD}]
    result = machine.run("adopt", seen=seen)
    assert result["head"] == HEAD
    assert [(item.source, item.head) for item in machine.seen] == [("a", head(5)), ("b", head())]


def test_what_is_not_adopted_stays_in_quarantine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.proven = [Seen(head(7), "the mark")]

    def refuse(_trillian: object, _key: object, seen: list[Any], _places: object) -> Any:
        assert seen == machine.proven
        raise OpsError("behind")

    monkeypatch.setattr(module, "adopt", refuse)
    with pytest.raises(OpsError, match="behind"):
        machine.run("adopt")
    assert machine.calls == ["integrate"]


def test_a_step_waits_for_one_that_a_dead_controller_began(machine: Machine) -> None:
    with ThreadPoolExecutor(1) as pool:
        with module.alone():
            second = pool.submit(machine.run, "adopt")
            machine.run("look")  # changes nothing, and waits for nobody
            with pytest.raises(futures.TimeoutError):
                second.result(0.2)
            assert "adopt" not in machine.calls
        assert second.result(5)["head"] == HEAD


def test_retiring_tells_where_the_past_is(machine: Machine) -> None:
    assert machine.run("retire")["aside"] == "/aside"
    machine.first = False
    assert machine.run("retire")["aside"] == ""


@pytest.mark.parametrize(
    "item",
    [
        {"source": "a", "signed": signed(head(5)).decode().replace("size=5", "size=6")},
        {"source": "a", "signed": ""},
    ],
)
def test_what_is_not_signed_by_the_log_stops_everything(machine: Machine, item: Answer) -> None:
    with pytest.raises(UsageError, match=r"^a: "):
        machine.run("adopt", seen=[item])
    assert machine.calls == []


def test_documentation_agrees_with_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    class Made(Exception):  # noqa: N818
        pass

    def make(*, argument_spec: dict[str, Any], supports_check_mode: bool) -> None:
        assert supports_check_mode
        raise Made(argument_spec)

    monkeypatch.setattr(module, "AnsibleModule", make)
    with pytest.raises(Made) as made:
        module.main()
    (arguments,) = made.value.args
    options = yaml.safe_load(module.DOCUMENTATION)["options"]
    for option in options.values():
        del option["description"]
    options["step"]["choices"].remove("follow")  # the action's, which looks again and again
    arguments["log_key"].pop("no_log")  # a public key, whatever its name makes Ansible think
    assert options == arguments


# The filters


def test_what_was_found_by_machine() -> None:
    hosts: dict[str, Answer] = {
        "a": {"failover_look": {"found": {"x": 1}}},
        "b": {"failover_look": {}},
        "c": {},
    }
    found = filters.failover_looks(hosts, ["a", "b", "c"])
    assert found == {"a": {"x": 1}, "b": None, "c": None}
    hosts["a"]["later"] = {"found": {"x": 2}}
    hosts["b"]["later"] = {"skipped": True}
    found = filters.failover_looks(hosts, ["a", "b", "c"], "later")
    assert found == {"a": {"x": 2}, "b": None, "c": None}


def test_who_knows_what_was_signed() -> None:
    item = {**HEAD, "source": "sth"}
    looks = {"a": {"promises": [item], "published": [item]}, "b": None}
    found = filters.failover_seen(looks)
    assert found == [{**item, "source": "a: sth"}] * 2
    assert [seen.source for seen in module.known(found, KEY)] == ["a: sth"] * 2


def test_the_choice_is_judged_as_the_target_is(
    monkeypatch: pytest.MonkeyPatch, journal: Path
) -> None:
    def choose(looks: Answer, judged: Any, gone: set[str]) -> judge.Choice:
        return judge.Choice(*judged("log2"), *gone) if looks else judge.Choice("", "none")

    def problems(_looks: Answer, target: str, **more: Any) -> list[str]:
        assert more.pop("now") > 1.7e9
        attested = {"fenced_by": "N", "fenced_how": "how", "seen": 3, "replaced": {"log1"}}
        assert more == attested
        return [target]

    monkeypatch.setattr(judge, "choose", choose)
    monkeypatch.setattr(judge, "problems", problems)
    reason = {"replaced": ["log1"]}
    procedure.note(journal, {"step": "adopt", "host": "log2", "reason": reason, "done": False})
    found = filters.promotion_choice({"log2": {}}, KEY.ssh, "N", "how", 3)
    assert found == {"name": "log2", "why": "log1"}
    assert filters.promotion_choice({}, KEY.ssh) == {"name": "", "why": "none"}


def test_the_filters_pass_everything_on(monkeypatch: pytest.MonkeyPatch, journal: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def judged(looks: Answer, target: str, **more: Any) -> list[judge.Problem]:
        asked.append((looks, target, more))
        return [judge.Problem("clock", "late", "Set it."), judge.Problem("disk", "full")]

    monkeypatch.setattr(judge, "problems", judged)
    monkeypatch.setattr(judge, "reseed_problems", judged)
    reason = {"replaced": ["log1"]}
    procedure.note(journal, {"step": "adopt", "host": "log2", "reason": reason, "done": False})
    permit = {"until": "2026-11-23T12:00:00Z", "by": "N", "why": "a b c"}
    procedure.note(journal, {"step": "allow", "host": "log3", "reason": permit, "done": True})
    texts = ["clock: late\n  Set it.", "disk: full"]
    assert filters.promotion_problems({}, "log2", KEY.ssh, "N", "how", 3) == texts
    inventory = {"log1": permit["until"]}
    more: Answer = {"ungated": permit, "hsm_out": "log1, log3", "inventory": inventory}
    assert filters.promotion_problems({}, "log2", KEY.ssh, "N", "how", **more) == texts
    assert filters.reseed_problems({}, "log1", KEY.hex, "N", "how", wipe=True) == texts
    (_, _, promotion), (_, _, alone), (_, target, reseed) = asked
    assert promotion.pop("now") > 1.7e9
    attested = {"fenced_by": "N", "fenced_how": "how", "replaced": {"log1"}}
    until = datetime(2026, 11, 23, 12, tzinfo=UTC)
    nothing = {"asked": Permit(), "permits": {"log3": until}, "hsm_out": [""]}
    assert promotion == {**attested, "seen": 3, **nothing}
    assert alone["asked"] == Permit(**permit)
    assert alone["permits"] == {"log1": until, "log3": until}
    assert alone["hsm_out"] == ["log1", "log3"]
    assert (target, reseed) == ("log1", {**attested, "wipe": True})


def test_the_longest_of_journal_and_inventory_counts(journal: Path) -> None:
    reason = {"until": "2026-11-23T12:00:00Z"}
    procedure.note(journal, {"step": "allow", "host": "log1", "reason": reason, "done": True})
    for until in ("2026-11-22T12:00:00Z", "2026-11-24T12:00:00Z"):
        found = filters.permits(KEY.ssh, {"log1": until})
        assert text(found["log1"]) == max(until, reason["until"])


def test_what_the_inventory_lets_go_on_alone() -> None:
    hosts: dict[str, Answer] = {
        "a": {"signing_oracle_ungated_until": "2026-11-23T12:00:00Z"},
        "b": {"signing_oracle_ungated_until": ""},
        "c": {},
        "d": {"signing_oracle_ungated_until": datetime(2026, 11, 23, 12, tzinfo=UTC)},
    }
    found = filters.failover_permits(hosts, ["a", "b", "c"])
    assert found == {"a": "2026-11-23T12:00:00Z"}
    # YAML makes another thing of a time without quotes.
    with pytest.raises(AnsibleFilterError, match=r"ungated_until of d: .* in quotes"):
        filters.permits(KEY.ssh, filters.failover_permits(hosts, ["d"]))


def test_a_file_that_somebody_has(tmp_path: Path) -> None:
    path = tmp_path / "sth"
    path.write_bytes(signed(head()))
    (seen,) = module.known(filters.seen_files([str(path)], KEY.ssh), KEY)
    assert (seen.head, seen.source) == (head(), str(path))
    path.write_bytes(b"\xff")
    for wrong in (path, tmp_path / "missing"):
        with pytest.raises(AnsibleFilterError, match=str(wrong)):
            filters.seen_files([str(wrong)], KEY.ssh)


def test_the_filters_have_their_names() -> None:
    assert set(filters.FilterModule().filters()) >= {
        "failover_looks",
        "failover_permits",
        "promotion_problems",
        "reseed_problems",
        "seen_files",
    }
