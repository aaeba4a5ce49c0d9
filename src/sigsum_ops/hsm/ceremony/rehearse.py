"""A whole ceremony on rehearsal devices, without anyone at the keyboard if so wished.

Everything is in one directory: the devices' memories in ``devices``, what would be USB sticks in
``media``, the transcript and its signatures as in a real ceremony. Nothing in it is worth keeping
secret, and production refuses all of it. The participants' signing keys live in memory (tmpfs) for
as long as the signing takes; ``allowed_signers`` keeps their public halves.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.ceremony import canonical, signatures
from sigsum_ops.hsm.ceremony.media import working_directory
from sigsum_ops.hsm.ceremony.presentation import People
from sigsum_ops.hsm.ceremony.records import Mode, Role
from sigsum_ops.hsm.ceremony.runner import TRANSCRIPT, Setup, Standing, ask, perform
from sigsum_ops.hsm.ceremony.steps import Step
from sigsum_ops.hsm.ceremony.transcript import Transcript
from sigsum_ops.hsm.identity import REHEARSAL_SERIALS
from sigsum_ops.hsm.plan import DevicePlan, Participant, Plan
from sigsum_ops.hsm.rehearsal import serve

DEVICES = "devices"
MEDIA = "media"
CREDENTIALS = "credentials"
PLAN = "plan.json"


class Unattended:
    """Nobody: every phrase is typed as it is asked for, and every step told in one line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def welcome(self, plan: Plan, mode: Mode, steps: Sequence[Step]) -> None:
        self._say(f"{mode} of {plan.site}: {len(steps)} steps, {len(plan.devices)} devices")

    def begin(self, step: Step, number: int, coming: Sequence[Step]) -> None:
        self._say(f"[{number}/{number + len(coming)}] {step.title}")

    def confirm(self, step: Step, _role: Role, people: Sequence[str]) -> tuple[str, str]:
        return people[0], step.phrase or ""

    def bring(self, device: DevicePlan, found: Sequence[str]) -> None:
        there = "; ".join(found) or "nothing"
        raise OpsError(
            f"{device.name}, YubiHSM {device.serial}, is at none of the connectors: {there}",
            hint="Plug it in, and resume.",
        )

    def reset_by_touch(self, device: DevicePlan) -> None:
        raise OpsError(
            f"{device.name} does not take the factory's password, so it cannot be erased here",
            hint="Erase it by hand, or begin with a new rehearsal device.",
        )

    def happened(self, text: str) -> None:
        """What went well is in the transcript."""

    def read_aloud(self, what: str, digest: str) -> None:
        self._say(f"{what}: {digest}")

    def warn(self, text: str) -> None:
        self._say(text)


class RehearsalSigners:
    """Signing keys that ssh-keygen makes in memory (tmpfs) when needed, until ``stack`` ends."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._memory: Path | None = None

    def public_key(self, participant: Participant) -> str:
        kind, data, *_ = self._key(participant).with_suffix(".pub").read_text().split()
        return f"{kind} {data}"

    def sign(self, participant: Participant, line: bytes) -> str:
        return signatures.sign(line, self._key(participant))

    def _key(self, participant: Participant) -> Path:
        if self._memory is None:
            self._memory = self._stack.enter_context(working_directory())
        key = self._memory / participant.name.encode().hex()
        if not key.exists():
            made = subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                raise OpsError(f"ssh-keygen made no key: {made.stderr.strip()}")
        return key


def rehearse(plan: Plan, out: Path, people: People, *, resume: bool = False) -> Transcript:
    """Perform the plan's ceremony on rehearsal devices, all of it in ``out``.

    A plan with the serial numbers of real devices is rehearsed as a copy of it, ``out/plan.json``,
    in which only those differ: that is the plan to verify with.

    Raises:
        OpsError: it stopped; ``resume`` goes on.
    """
    plan = for_rehearsal(plan)
    with ExitStack() as stack:
        setup = _setup(plan, out, stack)
        return perform(setup, people, RehearsalSigners(stack), resume=resume)


def ask_rehearsal(plan: Plan, out: Path, people: People) -> list[Standing]:
    """Where each rehearsal device of an unfinished rehearsal stands (see ``runner.ask``)."""
    with ExitStack() as stack:
        return ask(_setup(for_rehearsal(plan), out, stack), people)


def for_rehearsal(plan: Plan) -> Plan:
    """The plan itself, or a copy with serial numbers that rehearsal devices have."""
    if all(device.serial in REHEARSAL_SERIALS for device in plan.devices):
        return plan
    devices = tuple(
        replace(device, serial=serial)
        for device, serial in zip(plan.devices, REHEARSAL_SERIALS[1:], strict=False)
    )
    return replace(plan, devices=devices)


def _setup(plan: Plan, out: Path, stack: ExitStack) -> Setup:
    media = [out / MEDIA / str(place) for place in range(1, plan.backup.media + 1)]
    credentials = out / MEDIA / CREDENTIALS
    out.mkdir(parents=True, exist_ok=True)
    for directory in (out / MEDIA, *media, credentials, out / DEVICES):
        directory.mkdir(mode=0o700, exist_ok=True)
    if not (out / TRANSCRIPT).exists():
        (out / PLAN).write_bytes(canonical.dumps(plan.to_json()) + b"\n")
    connectors = stack.enter_context(
        serve({device.serial: out / DEVICES for device in plan.devices})
    )
    return Setup(plan, Mode.REHEARSAL, out, tuple(connectors.values()), media, credentials)
