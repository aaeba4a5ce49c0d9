"""A controller that dies: at which moments, and that nothing of it is left."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.lab import controller
from sigsum_ops.lab.controller import Controller, Moment, Steps, at, never, one_further, play
from sigsum_ops.lab.lab import Lab

SAID = """
PLAY [Promote] *****************************************************************

TASK [Know the machine] ********************************************************
ok: [log2]

TASK [sigsum_ops.site.log_server : Ask [whom]] *********************************
skipping: [log2]

TASK [Fence the old primary] ***
changed: [log2 -> log1(10.0.0.1)] => (item=log1)
changed: [log2 -> log3(10.0.0.3)] => (item=log3)

RUNNING HANDLER [sigsum_ops.site.log_server : Restart the log] *****************
included: tasks.yml for log2

TASK [Know the machine] ********************************************************
fatal: [log2]: UNREACHABLE! => {"changed": false}
TASK [no banner]
"""


def test_what_a_playbook_says_is_taken_for_its_steps() -> None:
    steps, begun, ended = Steps(), [], []
    for line in SAID.splitlines():
        if steps.begins(line):
            begun.append(steps.step)
        if steps.ends(line):
            ended.append(steps.step)
    fence, know = "Fence the old primary", "Know the machine"
    roles = "sigsum_ops.site.log_server : "
    assert begun == [
        know,
        f"{roles}Ask [whom]",
        fence,
        f"{roles}Restart the log",
        f"{know} (2)",
    ]
    assert ended == [know, fence, fence, f"{know} (2)"]


def moments(*names: str) -> list[Moment]:
    return [Moment(name, ended=True) for name in names]


def test_a_run_is_struck_at_one_moment() -> None:
    strike = at(3)
    assert [strike(moment) for moment in moments("a", "a", "b", "c", "d")] == [
        *(False, False, False),
        *(True, False),
    ]
    assert not any(map(at(3), moments("a", "b")))


@pytest.mark.parametrize(
    ("every", "offset", "struck"),
    [(1, 0, "a b c d e f"), (3, 0, "c f"), (3, 2, "a d"), (9, 0, "")],
)
def test_each_run_comes_one_step_further(every: int, offset: int, struck: str) -> None:
    strike, found = one_further(every, offset), []
    while True:
        died = next((each for each in moments(*"abcdef") if strike(each)), None)
        if died is None:
            break
        found.append(died.step)
    assert found == struck.split()


PLAYBOOK = """
echo "TASK [one] ***"
echo "ok: [log1]"
echo "TASK [skipped] ***"
echo "skipping: [log1]"
echo "TASK [slow] ***"
setsid sleep 77.{pid} &
sleep {slow}
echo "changed: [log1]"
sleep 5
"""


def script(*, slow: float = 0.0) -> list[str]:
    return ["sh", "-c", PLAYBOOK.format(pid=os.getpid(), slow=slow)]


def left() -> list[str]:
    """Processes of the script that are there still."""
    name = f"sleep\x0077.{os.getpid()}\x00"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [str(path)] if name in path.read_text() else []
        except OSError:
            continue
    return found


async def test_all_of_it_dies_while_a_step_runs() -> None:
    begun = time.monotonic()
    strike = lambda moment: moment == Moment("slow", ended=False)  # noqa: E731
    moment, _, _ = await play(script(slow=30), strike, 0.3)
    assert str(moment) == "while «slow» ran"
    assert 0.3 <= time.monotonic() - begun < 5
    assert left() == []


async def test_it_dies_as_a_step_has_ended() -> None:
    asked: list[str] = []

    def strike(moment: Moment) -> bool:
        asked.append(str(moment))
        return moment.step == "slow"

    moment, _, _ = await play(script(), strike, 5.0)
    assert moment == Moment("slow", ended=True)
    assert asked == ["as «one» ended", "as «slow» ended"]  # nothing is done where it is skipped
    assert left() == []


async def test_one_that_fails_is_told() -> None:
    lab = cast("Lab", SimpleNamespace(inventory=Path("/")))

    class Script(Controller):
        def command(self, *_: str) -> list[str]:
            return ["sh", "-c", "echo the reason; exit 3"]

    with pytest.raises(OpsError, match=r"promote\.yml -e target=log2 failed:\nthe reason"):
        await Script(lab).run("promote", "log2")
    assert await play(["true"], never, 1.0) == (None, 0, "")


def test_a_command_names_playbook_target_and_variables(tmp_path: Path) -> None:
    lab = cast("Lab", SimpleNamespace(inventory=tmp_path))
    command = Controller(lab, ("a=b",)).command("promote", "log2", "-e", "fenced_by=x")
    expected = ["sigsum_ops.site.promote", "-e", "target=log2", "-e", "a=b", "-e", "fenced_by=x"]
    assert command[-len(expected) :] == expected
    assert str(tmp_path) in command


def test_who_is_gone_already_is_no_error() -> None:
    controller.kill(2**22 + 1)  # beyond pid_max
