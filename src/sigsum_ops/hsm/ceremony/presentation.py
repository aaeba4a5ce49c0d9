"""What the people at a ceremony see and are asked, in a terminal.

Each step says what will happen, what to hold in the hand, whether it can be undone, then what just
happened, and what is left. Everything goes to stderr, so that stdout is free for the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.ceremony import signatures
from sigsum_ops.hsm.ceremony.records import Mode, Role
from sigsum_ops.hsm.ceremony.steps import Step
from sigsum_ops.hsm.ceremony.verify import Verdict
from sigsum_ops.hsm.ceremony.words import words
from sigsum_ops.hsm.plan import DevicePlan, Participant, Plan

_NEXT = 3  # titles of coming steps that are shown
_BYTES_A_LINE = 4


class People(Protocol):
    """Whoever performs the ceremony, as the runner sees them."""

    def welcome(self, plan: Plan, mode: Mode, steps: Sequence[Step]) -> None:
        """Before anything happens."""

    def begin(self, step: Step, number: int, coming: Sequence[Step]) -> None:
        """A step begins; ``number`` counts from 1, ``coming`` are those after it."""

    def confirm(self, step: Step, role: Role, people: Sequence[str], /) -> tuple[str, str]:
        """Who of ``people`` confirms in this role, and what they typed."""

    def bring(self, device: DevicePlan, found: Sequence[str]) -> None:
        """Returns once the device is said to be plugged in; ``found`` says what is there instead.

        Raises:
            OpsError: nobody is there who could.
        """

    def reset_by_touch(self, device: DevicePlan) -> None:
        """Returns once a device whose keys nobody has was erased by hand. Raises OpsError."""

    def happened(self, text: str) -> None:
        """Something was done or proven."""

    def read_aloud(self, what: str, digest: str) -> None:
        """A hash, in hexadecimal, that people compare."""

    def warn(self, text: str) -> None:
        """Something that must not be overlooked."""


class Signers(Protocol):
    """How the participants sign the closing line."""

    def public_key(self, participant: Participant) -> str:
        """The line of the public key that an auditor may expect. Raises OpsError."""

    def sign(self, participant: Participant, line: bytes) -> str:
        """The armoured ssh signature. Raises OpsError."""


def hash_table(digest: str) -> Table:
    """A hash to read aloud: on each line four bytes, in hexadecimal and as words."""
    data = bytes.fromhex(digest)
    said = words(data)
    table = Table(box=None, show_header=False, pad_edge=False)
    for start in range(0, len(data), _BYTES_A_LINE):
        end = start + _BYTES_A_LINE
        table.add_row(data[start:end].hex(" "), "  ", " ".join(said[start:end]))
    return table


def step_table(steps: Sequence[Step]) -> Table:
    """All steps, for who prepares a ceremony."""
    table = Table("", "step", "what happens", "to be typed by both roles")
    for number, step in enumerate(steps, 1):
        table.add_row(str(number), escape(step.title), escape(step.what), step.phrase or "")
    return table


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """What an auditor wants to know."""
    if verdict.ok:
        yield f"It verifies: {verdict.lines} lines, signed by {', '.join(verdict.signers)}."
    else:
        place = f"line {verdict.line}: " if verdict.line else ""
        yield f"It does NOT verify: {place}{verdict.reason}"
    if verdict.public_keys:
        yield "Public keys, as an inventory has them:"
        yield from (f"  {name}: {key}" for name, key in verdict.public_keys.items())
        for device, keys in verdict.device_keys.items():
            yield from (f"  {name} of {device}: {key}" for name, key in keys.items())
    for rests_on in ("device", "people"):
        claims = [claim.claim for claim in verdict.claims if claim.rests_on == rests_on]
        if claims:
            yield f"Rests on the {'devices' if rests_on == 'device' else 'people'}:"
            yield from (f"  {claim}" for claim in claims)
    if verdict.notes:
        yield "To be weighed:"
        yield from (f"  {note}" for note in verdict.notes)
    if verdict.head:
        yield f"Hash of the closing line: {verdict.head}"


class Terminal:
    """People who sit at this terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def welcome(self, plan: Plan, mode: Mode, steps: Sequence[Step]) -> None:
        rehearsal = mode == Mode.REHEARSAL
        self._console.rule(
            "[bold yellow]REHEARSAL[/]: nothing of this is used later"
            if rehearsal
            else f"[bold]Key ceremony of {escape(plan.site)}[/]"
        )
        table = Table("device", "number on it", "what it is for")
        for device in plan.devices:
            table.add_row(device.name, str(device.serial), device.role)
        self._console.print(table)
        self._console.print(
            f"{len(steps)} steps. You can stop at any time, also by pulling a plug: "
            "“sigsum-ops ceremony resume” goes on from the last proven step."
        )

    def begin(self, step: Step, number: int, coming: Sequence[Step]) -> None:
        total = number + len(coming)
        body = (
            f"[bold]What will happen[/]  {escape(step.what)}\n"
            f"[bold]In your hand[/]      {escape(step.hold)}"
        )
        if step.irreversible:
            body += "\n[bold red]This cannot be undone.[/] It begins once you have confirmed it."
        self._console.print()
        self._console.print(
            Panel(body, title=f"Step {number} of {total}: {escape(step.title)}", title_align="left")
        )
        if coming:
            after = "; ".join(escape(later.title) for later in coming[:_NEXT])
            self._console.print(f"[dim]{len(coming)} left after this. Next: {after}[/]")

    def confirm(self, step: Step, role: Role, people: Sequence[str]) -> tuple[str, str]:
        person = people[0]
        if len(people) > 1:
            person = self._ask(f"Which {role} confirms? ({', '.join(people)})")
        typed = self._ask(f"[bold]{role} {escape(person)}[/], type “{step.phrase}”")
        return person, typed

    def bring(self, device: DevicePlan, found: Sequence[str]) -> None:
        for other in found:
            self._console.print(f"Found: {escape(other)}")
        self._ask(
            f"[bold]Plug in {escape(device.name)}, YubiHSM {device.serial}[/], wait until its "
            "light is on, and press Enter"
        )

    def reset_by_touch(self, device: DevicePlan) -> None:
        self._console.print(
            f"YubiHSM {device.serial} does not take the factory's password: its keys were changed "
            "before. It can only be erased by hand."
        )
        self._ask(
            "[bold]Pull it out. Hold its metal rim with two fingers, plug it in, and keep holding "
            "for 10 seconds.[/] Then press Enter"
        )

    def happened(self, text: str) -> None:
        self._console.print(f"[green]✓[/] {escape(text)}")

    def read_aloud(self, what: str, digest: str) -> None:
        self._console.print(
            f"[bold]{escape(what)}[/]: one reads the words aloud, the others compare"
        )
        self._console.print(hash_table(digest))

    def warn(self, text: str) -> None:
        self._console.print(Panel(escape(text), title="Take care", style="bold yellow"))

    def _ask(self, question: str) -> str:
        return ask(self._console, question)


class TerminalSigners:
    """Participants who sign with keys of their own, whose public halves the plan names."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)

    def public_key(self, participant: Participant) -> str:
        if participant.public_key is None:
            raise UsageError(
                f"the plan has no public_key of {participant.name}",
                hint="Each participant signs the transcript: put their ssh public key in the plan.",
            )
        return participant.public_key

    def sign(self, participant: Participant, line: bytes) -> str:
        """Ask for a key file until ssh-keygen has signed; its own questions go to the terminal."""
        while True:
            key = ask(
                self._console,
                f"[bold]{participant.role} {escape(participant.name)}[/], file of your signing key "
                "(or of its public half, if an agent holds it)",
            )
            try:
                return signatures.sign(line, Path(key).expanduser())
            except OpsError as error:
                self._console.print(Panel(escape(str(error)), style="bold yellow"))


def ask(console: Console, question: str) -> str:
    """One line that someone types. Raises OpsError at the end of the input."""
    try:
        return console.input(f"{question}: ").strip()
    except EOFError as error:
        raise OpsError(
            "nobody answers: the input has ended", hint="Run this in a terminal, and resume."
        ) from error
