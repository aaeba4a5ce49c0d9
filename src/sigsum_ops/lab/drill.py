"""``sigsum-ops drill failover``: the primary dies under load, again and again, and nothing is lost.

In each run leaves are submitted until the log acknowledges them with 200, the primary dies in one
way or another at a moment that the seed chooses (as it signs, as the secondary copies, or at any
time), the secondary is promoted by playbooks/promote.yml, and the old primary comes back and is
re-seeded by playbooks/reseed.yml. Either procedure may be struck at a step: the controller dies, or
with it the machine that is being promoted; then it is run again. From outside it is seen that what
the new primary publishes extends what the old one had published, that it contains every leaf
acknowledged with 200, and that the old primary, back from the dead, signs nothing new.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.lab import timeline
from sigsum_ops.lab.controller import Controller, Moment, Strike, at, never
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log import merkle
from sigsum_ops.log.api import ApiError, LogClient
from sigsum_ops.log.keys import PublicKey, load_public_key
from sigsum_ops.log.loadgen import Heads, Prepared, Tell, following, prepare, spread
from sigsum_ops.log.merkle import ProofError
from sigsum_ops.log.treehead import SignedTreeHead, TreeHead

MACHINES = ("log1", "log2")
PORT = 6965
RATE = 20.0  # leaves per second
CLIENTS = 4
# The load lasts so long before the primary dies, in seconds.
LOADED = (4.0, 12.0)
# Of how many moments one is chosen at which a procedure is struck. Where it has fewer, it may live.
MOMENTS = {"promote": 30, "reseed": 70}
JUDGED = "Refuse what would lose leaves or split the view"  # promote.yml's last check
STEP = (0.1, 1.5)  # a step may be struck while it runs if it takes longer than so many seconds
NOTICED = 10.0  # seconds after which the promotion begins if no submission has failed
SETTLE = 10.0  # seconds after a machine's boot until somebody looks at it
PATIENCE = 120.0  # seconds for a log to answer, sign or publish
FENCED = ("-e", "fenced_by=drill", "-e", "fenced_how='the drill has cut it off'")
_UNITS = "sigsum-log-primary sigsum-oracle trillian-log-signer trillian-log-server mariadb"


@dataclass(frozen=True)
class Death:
    """How a primary dies, and what brings its machine back afterwards."""

    name: str
    strike: Callable[[Lab, str], None]
    back: Callable[[Lab, str], None]
    reachable: bool
    before: Callable[[Lab, str], None] = lambda _lab, _host: None  # what it takes, done beforehand


@dataclass(frozen=True)
class Phase:
    """What goes on as a primary dies: from one change to the next of what ``watch`` prints."""

    name: str
    on_primary: bool = True
    watch: str = ""


def _sh(script: str) -> Callable[[Lab, str], None]:
    def run(lab: Lab, host: str) -> None:
        done = lab.exec(host, ["sh", "-ec", script], timeout=PATIENCE)
        if done.returncode:
            raise OpsError(f"on {host}: {done.stderr.strip()[-400:]}")

    return run


def _nothing(_lab: Lab, _host: str) -> None:
    pass


def _power(lab: Lab, host: str) -> None:
    lab.kill(host)


def _power_cycle(lab: Lab, host: str) -> None:
    lab.kill(host)
    lab.start(host)


def _start(lab: Lab, host: str) -> None:
    lab.start(host)


# A file system of its own for the database, so small that it can be filled, and back.
_SMALL_DISK = """
systemctl stop mariadb
mv /var/lib/mysql /var/lib/mysql.drill
install -d -o mysql -g mysql -m 0755 /var/lib/mysql
size=$(du -sm /var/lib/mysql.drill | cut -f 1)
mount -t tmpfs -o size=$((size + 64))m,uid=mysql,gid=mysql,mode=0755 drill /var/lib/mysql
cp -a /var/lib/mysql.drill/. /var/lib/mysql
systemctl start mariadb trillian-log-server trillian-log-signer sigsum-oracle sigsum-log-primary
"""
_LARGE_DISK = """
rm -f /var/lib/mysql/filler
systemctl stop mariadb
rm -rf /var/lib/mysql.drill/*
cp -a /var/lib/mysql/. /var/lib/mysql.drill
umount /var/lib/mysql
rmdir /var/lib/mysql
mv /var/lib/mysql.drill /var/lib/mysql
systemctl start mariadb
"""

DEATHS = (
    Death("power cut", _power, _start, reachable=False),
    Death(
        "network cut",
        # After the answer: this very connection goes with it.
        _sh("systemd-run --quiet --on-active=0.5 ip link set eth0 down; sleep 0.1"),
        _power_cycle,
        reachable=False,
    ),
    Death(
        "all of its processes killed",
        _sh(f"systemctl kill --signal=KILL {_UNITS}"),
        _nothing,
        reachable=True,
    ),
    Death("log stopped", _sh("systemctl stop sigsum-log-primary"), _nothing, reachable=True),
    Death(
        "its database's disk full",
        _sh("! dd if=/dev/zero of=/var/lib/mysql/filler bs=64k 2>/dev/null"),
        _sh(_LARGE_DISK),
        reachable=True,
        before=_sh(_SMALL_DISK),
    ),
)
PHASES = (
    Phase("at any time"),
    # The oracle notes what it is about to sign.
    Phase("as it signs", watch="stat --format=%y%i /var/lib/sigsum-oracle/journal"),
    Phase(
        "as the secondary copies",
        on_primary=False,
        watch="mariadb --skip-column-names trillian"
        " --execute='SELECT MAX(SequenceNumber) FROM SequencedLeafData'",
    ),
)
# What dies in a promotion, beside the old primary.
SECOND = ("", "", "controller", "controller and new primary")


@dataclass
class Changed:
    """One machine took another's place."""

    old: str
    new: str
    acknowledged: int = 0
    lost: int = 0
    violations: list[str] = field(default_factory=list)


@dataclass
class Run(Changed):
    """One failover. Times are seconds from the primary's death."""

    death: str = ""
    phase: str = ""
    struck: list[str] = field(default_factory=list)  # what died again, in which procedure and when
    retried: int = 0  # leaves that only the new primary acknowledged
    seconds_to_detect: float | None = None  # until a submission failed; None: it did not
    seconds_to_decide: float | None = None  # until all checks of the promotion were passed
    seconds_to_sign: float | None = None
    seconds_to_accept: float | None = None
    seconds_to_acknowledge: float | None = None
    seconds_to_pair: float | None = None


@dataclass(frozen=True)
class Plan:
    """How often, and by which seed everything is chosen."""

    runs: int = 3
    seed: str = "drill"
    variables: tuple[str, ...] = ()  # for each playbook, as -e takes them

    def check(self) -> None:
        """Refuse what makes no sense."""
        if not 0 < self.runs <= 1000:
            raise UsageError(f"-n {self.runs}: allowed is 1 to 1000")


class Load:
    """Leaves that are submitted to a log until it acknowledges them with 200.

    ``taken`` and ``noted`` are when a leaf was answered with 202 or 200, and when with 200.
    """

    def __init__(self, seed: str, count: int, rate: float | None = None) -> None:
        self.leaves = prepare(seed, count)
        self.acknowledged: list[Prepared] = []
        self.taken: list[float] = []
        self.noted: list[float] = []
        self._rate = rate or RATE

    async def submit(self, client: LogClient, stop: asyncio.Event, *others: LogClient) -> None:
        """At an even rate, until they are used up or ``stop`` is set.

        What one of the log's machines does not take is given to the next one.
        """
        begun = time.monotonic()

        async def acknowledged(leaf: Prepared) -> bool:
            for machine in (client, *others):
                with suppress(ApiError):
                    done = await machine.add_leaf(leaf.body)
                    self.taken.append(time.monotonic())
                    return done
            return False

        async def one(numbered: tuple[int, Prepared]) -> None:
            number, leaf = numbered
            await _until(stop, begun + number / self._rate)
            while not stop.is_set():
                if await acknowledged(leaf):
                    self.noted.append(time.monotonic())
                    self.acknowledged.append(leaf)
                    return
                await _until(stop, time.monotonic() + 0.5)

        # So many wait for their 200 at the same time.
        await spread(int(self._rate * 8), enumerate(self.leaves), one)


async def _until(stop: asyncio.Event, moment: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), max(moment - time.monotonic(), 0))


def failover(
    plan: Plan, *, lab: Lab, out: Path | None = None, tell: Tell = lambda _text: None
) -> dict[str, Any]:
    """The verb: run the drill on a converged lab; returns the result, and writes it to ``out``.

    Ends with the inventory's primary as the primary, by a handover if need be.

    Raises:
        OpsError: the lab does not run, or a procedure failed; the machines stay as they are then.
    """
    plan.check()
    has_both(lab)
    key = load_public_key(lab.state / "log-key.pub")
    rng = random.Random(plan.seed)  # noqa: S311 - an order, no secret
    runs: list[Run] = []
    for number in range(plan.runs):
        run = asyncio.run(_run(plan, lab, key, rng, number, tell))
        runs.append(run)
        result = _result(plan, runs)
        if out is not None:  # each time: whatever ends the drill, what it has shown is kept
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            out.with_suffix(".svg").write_text(timeline.draw(result["runs"]), encoding="utf-8")
        tell(
            f"run {number + 1} of {plan.runs}: {run.death} of {run.old}; {run.new} signed after"
            f" {run.seconds_to_sign} s, acknowledged after {run.seconds_to_acknowledge} s;"
            f" {run.acknowledged} leaves, {run.lost} lost, {len(run.violations)} violations"
        )
    if runs[-1].new != MACHINES[0]:
        tell(f"handing over to {MACHINES[0]}")
        asyncio.run(Controller(lab, plan.variables).run("handover", MACHINES[0]))
    return result


def _result(plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs have shown."""
    return {
        "runs": [asdict(run) for run in runs],
        "asked_for": plan.runs,
        "split_views": sum(len(run.violations) for run in runs),
        "lost_leaves": sum(run.lost for run in runs),
        "seconds_to_sign": [run.seconds_to_sign for run in runs],
        "seed": plan.seed,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
    }


def has_both(lab: Lab) -> None:
    """Raise OpsError for a lab without the two log machines."""
    if without := set(MACHINES) - set(lab.hosts()):
        raise OpsError(f"the lab has no {', '.join(sorted(without))}", hint="sigsum-ops lab up")


async def _run(
    plan: Plan, lab: Lab, key: PublicKey, rng: random.Random, number: int, tell: Tell
) -> Run:
    addresses = lab.hosts()
    old = await primary(addresses, key)
    new = next(name for name in MACHINES if name != old)
    death, phase, loaded = rng.choice(DEATHS), rng.choice(PHASES), rng.uniform(*LOADED)
    run = Run(old, new, death=death.name, phase=phase.name)
    await asyncio.to_thread(death.before, lab, old)
    load = Load(f"{plan.seed}/{number}/{time.time()}", int(loaded * RATE))

    async with LogClient(url(addresses[old]), timeout=5) as client:
        await answers(client)
        heads = Heads(client, key)
        async with following(heads):
            stop = asyncio.Event()
            submitting = asyncio.create_task(load.submit(client, stop))
            await asyncio.sleep(loaded)
            await asyncio.to_thread(_await_phase, lab, phase, old, new)
            tell(f"{death.name} of {old}, the primary, {phase.name}, at size {heads.size}")
            await asyncio.to_thread(death.strike, lab, old)
            dead = time.monotonic()
            stop.set()
            await submitting
        run.violations += heads.violations
        before = heads.latest
    run.acknowledged = len(load.acknowledged)
    await _detected(addresses[old], dead, run)

    attested = () if death.reachable else FENCED
    controller = Controller(lab, plan.variables)

    def judged(moment: Moment) -> bool:
        if moment.ended and moment.step == JUDGED and run.seconds_to_decide is None:
            run.seconds_to_decide = since(dead)
        return False

    async with LogClient(url(addresses[new]), timeout=5) as client:
        watching = asyncio.create_task(_first_signature(client, key, dead, run))
        second = rng.choice(SECOND)
        await _struck(controller, rng, second, run, "promote", new, *attested, watch=judged)
        await asyncio.wait_for(watching, PATIENCE)
        heads = Heads(client, key)
        await heads.look()
        await extends(client, before, heads, run, "what the old primary had published")
        run.lost = await missing(client, heads, load)

        await asyncio.to_thread(death.back, lab, old)
        await _repeats_only(client, addresses[old], key, heads, run)
        second = rng.choice(("", "controller"))
        await _struck(controller, rng, second, run, "reseed", old)
        run.seconds_to_pair = since(dead)
        again = Load(f"{plan.seed}/{number}/again/{time.time()}", 1, rate=10 * RATE)
        again.leaves += set(load.leaves).difference(load.acknowledged)
        await asyncio.wait_for(again.submit(client, asyncio.Event()), PATIENCE)
        run.seconds_to_acknowledge = round(again.noted[0] - dead, 1)
        run.retried = len(again.acknowledged) - 1
        await heads.look()
        run.lost += await missing(client, heads, again)
        run.violations += heads.violations
    return run


async def primary(addresses: Mapping[str, str], key: PublicKey) -> str:
    """The one machine that publishes tree heads."""
    found = []
    for name in MACHINES:
        async with LogClient(url(addresses[name]), timeout=5) as client:
            with suppress(ApiError):
                (await client.get_tree_head()).signed.verify(key)
                found.append(name)
    if len(found) != 1:
        raise OpsError(
            f"{' and '.join(found) or 'no machine'} answers as primary, where one must",
            hint="playbooks/site.yml converges the lab.",
        )
    return found[0]


def _await_phase(lab: Lab, phase: Phase, old: str, new: str) -> None:
    """Return as soon as it is that phase, or after some seconds if it does not come."""
    if phase.watch:
        changes = f'was=$({phase.watch}); while [ "$({phase.watch})" = "$was" ]; do :; done'
        _sh(f"timeout 10 sh -c {shlex.quote(changes)} || true")(
            lab, old if phase.on_primary else new
        )


async def _struck(
    controller: Controller,
    rng: random.Random,
    second: str,
    run: Run,
    playbook: str,
    target: str,
    *arguments: str,
    watch: Strike = never,
) -> None:
    """Run a procedure; where something dies in its middle, once more."""
    number, runs_for = rng.randrange(MOMENTS[playbook]) + 1, rng.uniform(*STEP)
    dies = at(number)

    def strike(moment: Moment) -> bool:
        return watch(moment) or dies(moment)

    if second and (
        moment := await controller.run(
            playbook, target, *arguments, strike=strike, runs_for=runs_for
        )
    ):
        run.struck.append(f"{second} in {playbook} {moment}")
        if second != "controller":
            await asyncio.to_thread(_power_cycle, controller.lab, target)
            await asyncio.sleep(SETTLE)  # its database may have to recover
    await controller.run(playbook, target, *arguments, strike=watch)


async def _detected(address: str, dead: float, run: Run) -> None:
    """Wait until a submission fails, as whoever watches over the log sees it; not for ever."""
    async with LogClient(url(address), timeout=2) as client:
        while time.monotonic() < dead + NOTICED:
            (leaf,) = prepare(f"{run.old}/{time.time()}", 1)
            try:
                await client.add_leaf(leaf.body)
            except ApiError:
                run.seconds_to_detect = since(dead)
                return
            await asyncio.sleep(0.2)


def since(moment: float) -> float:
    """Seconds from it, to tell."""
    return round(time.monotonic() - moment, 1)


async def answers(client: LogClient) -> None:
    """Wait until a log publishes, which may have been restarted just now."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            await client.get_tree_head()
        except ApiError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def _first_signature(client: LogClient, key: PublicKey, dead: float, run: Run) -> None:
    """Wait until the new primary publishes a signed tree head, and accepts a leaf."""
    while True:
        with suppress(ApiError, ProofError):
            (await client.get_tree_head()).signed.verify(key)
            run.seconds_to_sign = run.seconds_to_sign or since(dead)
            (leaf,) = prepare(f"{run.new}/{time.time()}", 1)
            await client.add_leaf(leaf.body)
            run.seconds_to_accept = since(dead)
            return
        await asyncio.sleep(0.2)


async def extends(
    client: LogClient, before: TreeHead, heads: Heads, run: Changed, what: str
) -> None:
    """Keep it among the violations if the newest tree head is no extension of an earlier one."""
    now = heads.latest
    try:
        if now.size < before.size:
            raise ProofError(f"size {now.size} is smaller than {before.size}")
        path = await client.get_consistency_proof(before.size, now.size)
        merkle.verify_consistency(before.size, before.root, now.size, now.root, path)
    except (ApiError, ProofError) as error:
        run.violations.append(f"{run.new} does not extend {what}: {error.message}")


async def missing(client: LogClient, heads: Heads, load: Load) -> int:
    """How many leaves that were acknowledged are not proven to be in the tree."""
    found = []

    async def prove(leaf: Prepared) -> None:
        head = heads.latest
        try:
            proof = await client.get_inclusion_proof(head.size, leaf.leaf_hash)
            merkle.verify_inclusion(leaf.leaf_hash, proof.index, head.size, head.root, proof.path)
        except (ApiError, ProofError) as error:
            found.append(error.message)

    await spread(CLIENTS, load.acknowledged, prove)
    return len(found)


async def _repeats_only(
    serving: LogClient, address: str, key: PublicKey, heads: Heads, run: Run
) -> None:
    """The old primary, back, publishes nothing that the new one does not extend, or nothing."""
    async with LogClient(url(address), timeout=2) as client:
        for _ in range(10):
            signed: SignedTreeHead | None = None
            with suppress(ApiError):
                signed = (await client.get_tree_head()).signed
            if signed is not None:
                signed.verify(key)
                await extends(serving, signed.head, heads, run, f"what {run.old} shows when back")
                if run.violations:
                    return
            await asyncio.sleep(0.5)


def url(address: str) -> str:
    return f"http://{address}:{PORT}"


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for a person."""
    signed = [run["seconds_to_sign"] for run in result["runs"]]
    paired = [run["seconds_to_pair"] for run in result["runs"]]
    yield (
        f"{len(signed)} failovers: a signed tree head after {min(signed)} to {max(signed)} s,"
        f" a pair again after {min(paired)} to {max(paired)} s"
    )
    for moment, said in (("detect", "no submission was taken"), ("decide", "all was checked")):
        found = (run[f"seconds_to_{moment}"] for run in result["runs"])
        seconds = [each for each in found if each is not None]
        of = f" (in {len(seconds)} of {len(signed)})" if len(seconds) < len(signed) else ""
        if seconds:
            yield f"{said} after {min(seconds)} to {max(seconds)} s{of}"
    acknowledged, retried = (
        sum(run[what] for run in result["runs"]) for what in ("acknowledged", "retried")
    )
    yield f"{acknowledged} leaves acknowledged with 200, {retried} more by the new primary"
    yield f"lost leaves: {result['lost_leaves']}; split views: {result['split_views']}"
    for run in result["runs"]:
        for violation in run["violations"]:
            yield f"VIOLATION: {violation}"
