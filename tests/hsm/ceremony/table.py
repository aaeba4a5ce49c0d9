"""A ceremony's table for tests: a plan, directories for media, and rehearsal devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sigsum_ops.hsm import plan as plans
from sigsum_ops.hsm.ceremony import presentation, runner
from sigsum_ops.hsm.ceremony.records import Mode, ReadBack
from sigsum_ops.hsm.ceremony.rehearse import RehearsalSigners, Unattended
from sigsum_ops.hsm.ceremony.steps import Ref, Step, access_keys, keeps_manager, manager
from sigsum_ops.hsm.ceremony.transcript import Transcript, decode_all
from sigsum_ops.hsm.ceremony.verify import Verdict, verify
from sigsum_ops.hsm.device import Device
from sigsum_ops.hsm.plan import Plan
from sigsum_ops.hsm.rehearsal import serve

PLAN = """
site: test
generation: {generation}
participants:
  - {{name: olga, role: operator}}
  - {{name: wim, role: witness}}
backup: {backup}
devices:
  - {{name: backup-1, role: backup, serial: 90000001}}
  - {{name: backup-2, role: backup, serial: 90000002}}
  - {{name: log-1, role: log-oracle, serial: 90000003{more}}}
"""
HEX = "{form: hex, media: 2}"
SHARES = "{form: shares, threshold: 2, shares: 3}"


def small_plan(generation: str = "new", backup: str = HEX, more: str = "") -> Plan:
    return plans.loads(PLAN.format(generation=generation, backup=backup, more=more), "test")


@dataclass
class People(Unattended):
    """Nobody, who keeps what was said and can do something when a step begins."""

    at_step: Callable[[Step], None] = lambda _: None
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.said.append)

    def begin(self, step: Step, number: int, coming: Sequence[Step]) -> None:
        super().begin(step, number, coming)
        self.at_step(step)

    def warn(self, text: str) -> None:
        super().warn(f"WARNING {text}")

    @property
    def warnings(self) -> list[str]:
        return [text for text in self.said if text.startswith("WARNING")]


@dataclass(frozen=True)
class Table:
    """``out`` is the ceremony's directory; media and devices are below ``path`` too."""

    path: Path
    plan: Plan

    @property
    def out(self) -> Path:
        return self.path / "out"

    @property
    def transcript(self) -> Path:
        return self.out / runner.TRANSCRIPT

    @property
    def credentials(self) -> Path:
        return self.path / "credentials"

    @property
    def media(self) -> list[Path]:
        return [self.path / f"medium-{n}" for n in range(1, self.plan.backup.media + 1)]

    def setup(self, connectors: Sequence[str]) -> runner.Setup:
        for directory in (*self.media, self.credentials):
            directory.mkdir(exist_ok=True)
        return runner.Setup(
            self.plan, Mode.REHEARSAL, self.out, connectors, self.media, self.credentials
        )

    @contextmanager
    def devices(self) -> Iterator[dict[int, str]]:
        with serve({d.serial: self.path / "devices" for d in self.plan.devices}) as urls:
            yield urls

    def perform(
        self, connectors: Sequence[str], people: presentation.People | None = None, *, resume: bool
    ) -> Transcript:
        with ExitStack() as stack:
            return runner.perform(
                self.setup(connectors),
                people or People(),
                RehearsalSigners(stack),
                resume=resume,
            )

    def verdict(self) -> Verdict:
        return verify(
            self.transcript,
            allowed_signers=self.out / runner.ALLOWED_SIGNERS,
            plan=self.plan,
            rehearsal=True,
        )

    def records(self) -> list[object]:
        return [line.record for line in decode_all(self.transcript.read_bytes())]

    def read_backs(self) -> dict[int, ReadBack]:
        """The last one of each device: its final state."""
        return {r.serial: r for r in self.records() if isinstance(r, ReadBack)}

    def secret(self, pattern: str) -> bytes:
        """What the media hold in the file of this name."""
        (found, *_) = [*self.path.glob(f"medium-*/*/{pattern}"), *self.credentials.rglob(pattern)]
        return found.read_bytes().strip()

    def holdings(self, urls: dict[int, str]) -> dict[str, frozenset[Ref]]:
        """What each device shows to those who will use it, with the secrets on the media."""
        found = {}
        for planned in self.plan.devices:
            seen: set[Ref] = set()
            with Device(urls[planned.serial]) as device:
                for spec in access_keys(self.plan, planned):
                    name = f"{planned.name}/{spec.name}.passphrase"
                    with device.session(spec.id, self.secret(name)) as session:
                        seen |= set(session.objects())
                keeper = manager(self.plan)
                if keeps_manager(self.plan, planned):
                    with device.session(keeper.id, self.secret(f"{keeper.name}.hex")) as session:
                        seen |= set(session.objects())
            found[planned.name] = frozenset(seen)
        return found

    def planned(self) -> dict[str, frozenset[Ref]]:
        return {
            device.name: frozenset((spec.type, spec.id) for spec in self.plan.specs(device))
            for device in self.plan.devices
        }
