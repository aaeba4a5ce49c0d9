"""``sigsum-ops soak``: hours of load on a lab in which everything breaks that may break.

While leaves are submitted at a steady rate and every published tree head is verified against the
one before (``log.stress``), one fault after the other strikes: processes are killed, machines lose
power, the HSM is unplugged, the database is away. After each the log has to sign again by itself.
In the end every leaf that was acknowledged with 200 is proven; the oracle must not have latched.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log import stress
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.stress_report import summary
from sigsum_ops.log.target import Target, log_of_inventory

PRIMARY, SECONDARY = "log1", "log2"
TRILLIAN = ("trillian-log-server", "trillian-log-signer")
UNITS = {
    PRIMARY: ("mariadb", *TRILLIAN, "sigsum-rehearsal-hsm", "sigsum-oracle", "sigsum-log-primary"),
    SECONDARY: ("mariadb", *TRILLIAN, "sigsum-log-secondary"),
}
LATCH = "/var/lib/sigsum-oracle/latch"
# A log that does not sign again in this time after a fault is not coming back by itself.
PATIENCE = 180.0
# For one command on a machine, such as a restart of everything.
COMMAND_SECONDS = 240.0
# Between a recovery and the next fault, so that the log has something to lose.
REST = (5.0, 30.0)
# Submitted leaves get as long as this to be published in the end.
DRAIN = 180.0
_CLIENTS = 8
_POLL = 0.5

# On the machine, with the package that it has. Without an argument, all faults end.
DEVICE_FAULT = """
import sys
from sigsum_ops.hsm.rehearsal import clear, strike
url, faults = "http://127.0.0.1:12345", sys.argv[1:]
strike(url, *faults) if faults else clear(url)
"""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Fault:
    """Something that breaks. ``strike`` returns once it is over, and mending begins."""

    name: str
    strike: Callable[[Lab, random.Random], None]


def _sh(host: str, script: str) -> Callable[[Lab, random.Random], None]:
    def strike(lab: Lab, _rng: random.Random) -> None:
        _run(lab, host, "sh", "-ec", script)

    return strike


def _run(lab: Lab, host: str, *argv: str, allowed: Collection[int] = (0,)) -> tuple[int, str]:
    """Exit status and output of a command; OpsError where the status is not among the allowed."""
    command = " ".join(argv)[:200]
    try:
        done = lab.exec(host, argv, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise OpsError(f"on {host}, `{command}` took over {COMMAND_SECONDS:.0f} s") from error
    if done.returncode not in allowed:
        raise OpsError(f"on {host}, `{command}` failed: {done.stderr.strip()[-400:]}")
    return done.returncode, done.stdout


def _kill(host: str, unit: str) -> Fault:
    command = f"systemctl kill --signal=KILL --kill-whom=main {unit}"
    return Fault(f"kill -9 of {unit} on {host}", _sh(host, command))


def _away(host: str, units: Sequence[str], seconds: float) -> Fault:
    """Stopped for a time, and kept from being started again."""
    names = " ".join(units)
    script = (
        f"systemctl mask --runtime --now {names}; sleep {seconds:g};"
        f" systemctl unmask --runtime {names}; systemctl start {names}"
    )
    return Fault(f"{names} on {host} away for {seconds:g} s", _sh(host, script))


def _restart_all(lab: Lab, rng: random.Random) -> None:
    units = rng.sample(UNITS[PRIMARY], len(UNITS[PRIMARY]))
    _run(lab, PRIMARY, "sh", "-ec", "; ".join(f"systemctl restart {unit}" for unit in units))


def _unplug(seconds: float) -> Fault:
    def strike(lab: Lab, _rng: random.Random) -> None:
        _device(lab, f"unplug={seconds:g}")
        time.sleep(seconds)

    return Fault(f"HSM unplugged for {seconds:g} s", strike)


def _device(lab: Lab, *fault: str) -> None:
    _run(lab, PRIMARY, "python3", "-c", DEVICE_FAULT, *fault)


def _power(*hosts: str) -> Fault:
    def strike(lab: Lab, _rng: random.Random) -> None:
        for host in hosts:
            lab.kill(host)
        for host in hosts:
            lab.start(host)

    return Fault(f"power of {' and '.join(hosts)} cut", strike)


FAULTS = (
    *(_kill(host, unit) for host, units in UNITS.items() for unit in units),
    _away(PRIMARY, TRILLIAN, 60),
    _away(PRIMARY, ("mariadb",), 45),
    _away(SECONDARY, ("sigsum-log-secondary",), 30),
    _away(PRIMARY, ("sigsum-oracle",), 15),
    Fault("everything on the primary restarted, in any order", _restart_all),
    _unplug(20),
    _unplug(3),
    Fault("HSM loses its sessions", lambda lab, _rng: _device(lab, "lose-sessions")),
    Fault("HSM hangs for 8 s", lambda lab, _rng: _device(lab, "hang=8")),
    Fault("HSM signs in 0.1 s", lambda lab, _rng: _device(lab, "slow=0.1")),
    _power(PRIMARY),
    _power(SECONDARY),
    _power(PRIMARY, SECONDARY),
    Fault("primary rebooted", lambda lab, _rng: lab.restart(PRIMARY)),
)


def schedule(rng: random.Random, faults: Sequence[Fault] = FAULTS) -> Iterator[Fault]:
    """Every fault once in each round, each round in another order."""
    while True:
        yield from rng.sample(faults, len(faults))


@dataclass
class Damage:
    """What the faults did: by fault, seconds from its end until the log had signed more leaves."""

    recovered: dict[str, list[float]] = field(default_factory=dict)
    failed: str | None = None

    def report(self) -> dict[str, dict[str, float]]:
        """By fault, how often it struck, and how long the log was away after it, in seconds."""
        return {
            name: {
                "times": len(seconds),
                "median_s": round(median(seconds), 1),
                "max_s": round(max(seconds), 1),
            }
            for name, seconds in sorted(self.recovered.items())
        }


@dataclass(frozen=True)
class Plan:
    """How long, how hard, and which faults in which order."""

    hours: float = 1.0
    rate: float = 20.0
    seed: str = "soak"

    @property
    def load(self) -> stress.Load:
        """What is submitted meanwhile."""
        seconds = self.hours * 3600
        return stress.Load(self.seed, _CLIENTS, seconds, self.rate, drain=DRAIN)

    def check(self) -> None:
        """Refuse what makes no sense."""
        if not 0 < self.hours <= 1000:
            raise UsageError(f"--hours {self.hours}: allowed is more than 0, up to 1000")
        if not 0 < self.rate <= 1000:
            raise UsageError(f"--rate {self.rate}: allowed is more than 0, up to 1000 leaves/s")


def execute(
    plan: Plan,
    *,
    lab: Lab,
    faults: Sequence[Fault] = FAULTS,
    out: Path | None = None,
    tell: Tell = lambda _text: None,
) -> dict[str, Any]:
    """The verb: soak a converged lab; returns the result, and writes it to ``out``.

    Args:
        plan: what to do.
        lab: whose machines break. Nothing but a lab's can.
        faults: what may break.
        out: file for the result as JSON.
        tell: called with a line for the person who waits, at each fault.

    Raises:
        OpsError: the lab does not run, or its log does not sign before anything was broken.
    """
    plan.check()
    missing = {PRIMARY, SECONDARY} - set(lab.hosts())
    if missing:
        raise OpsError(f"the lab has no {', '.join(sorted(missing))}", hint="sigsum-ops lab up")
    target = log_of_inventory(lab.inventory)
    damage, commit = Damage(), _commit()
    done = asyncio.run(_soak(plan, lab, target, faults, damage, tell))
    _device(lab)  # no fault is left armed
    is_latched = latched(lab)
    audits = {host: _audit(lab, host) for host in UNITS}
    result = {
        "passed": (
            (done.passed and bool(damage.recovered) and damage.failed is None)
            and not (is_latched or "alarm" in audits.values())
        ),
        "split_views": len(done.heads.violations),
        "lost_leaves": len(done.unproven),
        "latched": is_latched,
        "audits": audits,
        "failed": damage.failed,
        "faults": damage.report(),
        "commit": commit,
        "plan": {"hours": plan.hours, "rate": plan.rate, "seed": plan.seed},
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "load": summary(done),
    }
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


async def _soak(
    plan: Plan,
    lab: Lab,
    target: Target,
    faults: Sequence[Fault],
    damage: Damage,
    tell: Tell,
) -> stress.Run:
    # The load's own progress would bury the faults'.
    load = asyncio.create_task(stress.run(target, plan.load))
    # So that what breaks is mended before the load ends.
    end = time.monotonic() + plan.hours * 3600
    breaking = asyncio.create_task(_break(plan, lab, target, faults, damage, end, tell))
    done, _ = await asyncio.wait({load, breaking}, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    return await load


async def _break(
    plan: Plan,
    lab: Lab,
    target: Target,
    faults: Sequence[Fault],
    damage: Damage,
    end: float,
    tell: Tell,
) -> None:
    rng = random.Random(plan.seed)  # noqa: S311 - an order, no secret
    async with LogClient(target.url, timeout=5) as client:
        await _signs(client, "at the start", 180.0)
        for fault in schedule(rng, faults):
            await asyncio.sleep(rng.uniform(*REST))
            if time.monotonic() > end:
                return
            try:
                await asyncio.to_thread(fault.strike, lab, rng)
                seconds = await _signs(client, f"after: {fault.name}", PATIENCE)
            except OpsError as error:
                # The machines stay as they are, to be looked at.
                damage.failed = f"{fault.name}: {error.message}"
                tell(f"FAILED  {damage.failed}")
                return
            damage.recovered.setdefault(fault.name, []).append(seconds)
            tell(f"{seconds:6.1f} s until it signed again: {fault.name}")


async def _signs(client: LogClient, when: str, patience: float) -> float:
    """Seconds until the log has published a larger tree head than it has now."""
    start, size = time.monotonic(), None
    while time.monotonic() < start + patience:
        try:
            now = (await client.get_tree_head()).signed.head.size
        except ApiError:
            pass
        else:
            if size is None:
                size = now
            if now > size:
                return time.monotonic() - start
        await asyncio.sleep(_POLL)
    raise OpsError(f"the log signs nothing new for {patience:.0f} s {when}")


def latched(lab: Lab) -> bool:
    """Whether the oracle has latched. Raises OpsError where the machine does not say."""
    return _run(lab, PRIMARY, "test", "-e", LATCH, allowed=(0, 1))[0] == 0


def _audit(lab: Lab, host: str) -> str:
    """What the audit of the machine's HSM has come to; an honest log is never alarmed about."""
    _, said = _run(lab, host, "sigsum-ops", "hsm", "audit", "--show", "--json", allowed=(0, 1, 3))
    return str(json.loads(said)["outcome"])


def _commit() -> str | None:
    """The commit that is checked out, with ``+`` where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
    return done.stdout.strip() or None


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for a person."""
    leaves, heads = result["load"]["leaves"], result["load"]["tree_heads"]
    yield (
        f"{leaves['submitted']} leaves submitted, {leaves['acknowledged_200']} acknowledged with"
        f" 200, {leaves['proven']} proven; {heads['changes']} tree heads, each extends the last"
        if not result["split_views"]
        else f"SPLIT VIEW: {result['load']['violations']}"
    )
    for name, fault in result["faults"].items():
        yield f"{fault['times']:4} x, {fault['median_s']:6} s, {fault['max_s']:6} s at most: {name}"
    if result["lost_leaves"]:
        yield f"LOST: {result['load']['unproven']}"
    if result["latched"]:
        yield f"LATCHED: {PRIMARY}:{LATCH} (docs/bcp/oracle-latched.md)"
    for host, outcome in result["audits"].items():
        yield f"audit of the HSM of {host}: {outcome}"
    if result["failed"]:
        yield f"FAILED: {result['failed']}"
    yield "passed" if result["passed"] else "NOT PASSED"
