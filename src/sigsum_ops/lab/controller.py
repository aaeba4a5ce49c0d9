"""A controller that may die: it runs a playbook, and is killed (kill -9) at one of its steps.

What a step is, the playbook itself says as it runs: each task and handler that does something on a
machine. So one that somebody adds later is among those at which the controller dies. As a step has
ended is as the next one begins: the machines are the same, and the controller remembers nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.lab.lab import Lab
from sigsum_ops.site import ansible

_BANNER = re.compile(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \*+$")
# Not ``skipping`` nor ``included``: these do nothing on a machine.
_RESULT = re.compile(r"(?:ok|changed|failed|fatal): \[")
_LINE = 1 << 24  # bytes: a result is one line of JSON
_SAID = 80  # lines that are kept to tell why it failed


@dataclass(frozen=True)
class Moment:
    """When a controller may die: as a step has ended, or while it runs."""

    step: str
    ended: bool

    def __str__(self) -> str:
        return f"{'as' if self.ended else 'while'} «{self.step}» {'ended' if self.ended else 'ran'}"


@dataclass
class Steps:
    """Follows what a playbook says, line by line.

    Steps of the same name are told apart by a number: the procedures share some.
    """

    step: str = ""
    _names: Counter[str] = field(default_factory=Counter)

    def begins(self, line: str) -> bool:
        """Whether a step begins with this line; ``step`` is its name then."""
        if not (banner := _BANNER.match(line)):
            return False
        name = banner[1]
        self._names[name] += 1
        number = self._names[name]
        self.step = name if number == 1 else f"{name} ({number})"
        return True

    def ends(self, line: str) -> bool:
        """Whether with this line the step has done something on a machine."""
        return bool(self.step) and _RESULT.match(line) is not None


Strike = Callable[[Moment], bool]  # whether the controller dies now


def never(_moment: Moment) -> bool:
    """The controller lives."""
    return False


def at(number: int) -> Strike:
    """At the moment of this number, from 1 on; never, where the playbook has not so many."""
    moments: set[Moment] = set()

    def strike(moment: Moment) -> bool:
        moments.add(moment)
        return len(moments) == number

    return strike


def one_further(every: int = 1, offset: int = 0) -> Strike:
    """At each moment of a playbook that is run again and again, once; at each ``every``-th only."""
    met: set[Moment] = set()

    def strike(moment: Moment) -> bool:
        if moment in met:
            return False
        met.add(moment)
        return (len(met) + offset) % every == 0

    return strike


@dataclass(frozen=True)
class Controller:
    """Runs this collection's playbooks on a lab. ``variables`` are for each, as -e takes them."""

    lab: Lab
    variables: tuple[str, ...] = ()

    def command(self, playbook: str, target: str, *arguments: str) -> list[str]:
        """What an operator would type."""
        variables = [
            word for value in (f"target={target}", *self.variables) for word in ("-e", value)
        ]
        name = f"sigsum_ops.site.{playbook}"
        return ansible.command(
            "ansible-playbook", name, *variables, *arguments, inventory=self.lab.inventory
        )

    async def run(
        self,
        playbook: str,
        target: str,
        *arguments: str,
        strike: Strike = never,
        runs_for: float = 0.5,
    ) -> Moment | None:
        """Run a playbook to its end, or until the controller dies.

        Args:
            playbook: its name, without directory.
            target: the machine that it is about.
            arguments: more for the command line.
            strike: asked once while a step runs that takes longer than ``runs_for``, and once as
                each step has ended.
            runs_for: seconds from the begin of a step.

        Returns:
            The moment at which it died; None if it came to its end.

        Raises:
            OpsError: the playbook failed.
        """
        moment, code, said = await play(
            self.command(playbook, target, *arguments), strike, runs_for
        )
        if moment is None and code:
            raise OpsError(
                f"playbooks/{playbook}.yml -e target={target} failed:\n{said}",
                hint="The machines are as it left them; run it again when the reason is gone.",
            )
        return moment


async def play(
    command: list[str], strike: Strike, runs_for: float
) -> tuple[Moment | None, int, str]:
    """``Controller.run`` for any command: the moment, the exit status, and the last lines."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=ansible.environment(
            **ansible.PLAIN,
            ANSIBLE_DISPLAY_SKIPPED_HOSTS="true",  # else a step is told only when it has ended
            PYTHONUNBUFFERED="1",
        ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LINE,
        start_new_session=True,
    )
    output = process.stdout
    if output is None:
        raise RuntimeError("the process has no output")
    steps, said = Steps(), deque[str](maxlen=_SAID)
    patience: float | None = None  # seconds, while a step runs
    dies: Moment | None = None
    try:
        while True:
            try:
                line = (await asyncio.wait_for(output.readline(), patience)).decode(
                    errors="replace"
                )
            except TimeoutError:
                moment, patience = Moment(steps.step, ended=False), None
            else:
                if not line:
                    break
                said.append(line)
                if steps.begins(line.rstrip()):
                    patience = runs_for
                if not steps.ends(line):
                    continue
                moment, patience = Moment(steps.step, ended=True), None
            if strike(moment):
                dies = moment
                break
    finally:
        if process.returncode is None and (dies or not output.at_eof()):
            kill(process.pid)
        await process.communicate()
    return dies, process.returncode or 0, "".join(said)


def kill(pid: int) -> None:
    """Kill -9 a process and all that came of it: Ansible's workers have sessions of their own.

    What was begun on a machine goes on there, as it does where a controller loses its power.
    """
    found = [pid]
    for each in found:  # it grows
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGSTOP)  # so that it makes no more
            for path in Path(f"/proc/{each}/task").glob("*/children"):
                with suppress(OSError):
                    found += map(int, path.read_text().split())
    for each in found:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
