"""``sigsum-ops drill crashes``: the controller dies at every step of a procedure, and it goes on.

First log2 is promoted, log1 re-seeded, and the log handed over to log1 without a crash, twice: how
the machines are after each of the three is how they must be. Then the same again, but each
procedure is run until the controller dies at its first step; run again until it dies one step
further; and so on until it comes to its end. What it has left then is compared with what no crash
had left. Last, a promotion that has fenced the old primary is given up by playbooks/abandon.yml,
struck as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.failover import procedure
from sigsum_ops.lab import drill
from sigsum_ops.lab.controller import Controller, Moment, one_further
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import PublicKey, load_public_key
from sigsum_ops.log.loadgen import Heads, Tell
from sigsum_ops.site import ansible

# Each with its target, and which machine is the primary afterwards. They end where they began.
PROCEDURES = (("promote", "log2", "log2"), ("reseed", "log1", "log2"), ("handover", "log1", "log1"))
STRUCK = (*(name for name, _, _ in PROCEDURES), "abandon")
# Where a promotion stops that is given up.
FENCED = Moment("Fence the old primary", ended=True)
LEAVES = 20
SECONDS = 90.0  # for what a procedure has only started to come to rest
_POLL = 2.0

# A unit that is stopped for good may have failed as it was.
_LISTING = (
    "cat /etc/sigsum/*.toml; cd /; ls -1 etc/sigsum etc/sigsum/private var/lib/sigsum-log"
    " var/lib/sigsum-oracle; ls -1d etc/systemd/system/*.fenced; systemctl list-units --failed"
    " --plain --no-legend | grep -v ' masked '"
)
_FACTS = ("has_signed", "has_journal", "has_passphrase", "running")
_LOOK = ("parts", "to_retire", "has_tree_id", "has_sth", "has_startup", "has_latch", "doubts")

State = dict[str, Any]


def crashes(
    *,
    lab: Lab,
    seed: str,
    every: int = 1,
    struck: Sequence[str] = STRUCK,
    variables: tuple[str, ...] = (),
    out: Path | None = None,
    tell: Tell = lambda _text: None,
) -> dict[str, Any]:
    """The verb: run it on a converged lab of which log1 is the primary.

    Args:
        lab: whose machines change their parts.
        seed: decides which steps are struck while they run, and on the leaves.
        every: only each so many-th moment is struck.
        struck: in which procedures; the others come to their end at once.
        variables: for each playbook, as -e takes them.
        out: file for the result as JSON.
        tell: called with a line for the person who waits.

    Raises:
        OpsError: the lab does not run, or a procedure did not go on; the machines stay as they are.
    """
    if not 0 < every <= 1000:
        raise UsageError(f"--every {every}: allowed is 1 to 1000")
    if unknown := set(struck) - set(STRUCK):
        raise UsageError(f"--only {min(unknown)}: allowed is {', '.join(STRUCK)}")
    missing = set(drill.MACHINES) - set(lab.hosts())
    if missing:
        raise OpsError(f"the lab has no {', '.join(sorted(missing))}", hint="sigsum-ops lab up")
    key = load_public_key(lab.state / "log-key.pub")
    result: dict[str, Any] = {
        "passed": False,
        "crashes": {},
        "differences": [],
        "unfinished": [],
        "split_views": 0,
        "lost_leaves": 0,
        "acknowledged": 0,
        "seed": seed,
        "every": every,
        "struck": list(struck),
        "cpus": os.cpu_count(),
    }
    try:
        asyncio.run(_crash(Controller(lab, variables), key, result, tell))
        result["passed"] = not any(
            result[name] for name in ("differences", "unfinished", "split_views", "lost_leaves")
        )
    finally:
        result["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        if out is not None:
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


async def _crash(
    controller: Controller, key: PublicKey, result: dict[str, Any], tell: Tell
) -> None:
    lab, rng = controller.lab, random.Random(result["seed"])  # noqa: S311 - no secret
    urls = {name: drill.url(address) for name, address in lab.hosts().items()}
    history = _History(key, f"{result['seed']}/{time.time()}")
    journal = procedure.journal(key.hash)
    begun = len(procedure.read(journal))

    async def dies(name: str, target: str) -> None:
        """Run a procedure until it comes to its end."""
        if name not in result["struck"]:
            await controller.run(name, target)
            return
        strike = one_further(result["every"], rng.randrange(result["every"]))
        moments = result["crashes"].setdefault(name, [])
        while moment := await controller.run(
            name, target, strike=strike, runs_for=rng.uniform(*drill.STEP)
        ):
            moments.append(str(moment))
            tell(f"{name}: the controller died {moment}")
        tell(f"{name} of {target} came to its end, {len(moments)} deaths later")

    async def check(name: str, primary: str, wanted: dict[str, State]) -> None:
        """Compare what is there with what must be."""
        await history.look(urls[primary], pair=name != "promote")
        found = await asyncio.to_thread(_rest, lab, key, wanted)
        result["differences"] += [f"after {name}: {each}" for each in differences(wanted, found)]
        left = procedure.unfinished(procedure.read(journal)[begun:])
        result["unfinished"] += [f"after {name}: {step} of {host}" for step, host in sorted(left)]
        result["split_views"] = len(history.run.violations)
        result["lost_leaves"], result["acknowledged"] = history.run.lost, history.run.acknowledged

    await history.look(urls["log1"], pair=True)
    expected: dict[str, dict[str, State]] = {}
    # Twice: some things a machine has only once it has been both, a primary and a secondary.
    for name, target, primary in PROCEDURES * 2:
        await controller.run(name, target)
        await history.look(urls[primary], pair=name != "promote")
        expected[name] = await asyncio.to_thread(_rest, lab, key, None)
        tell(f"{name} of {target} without a death")
    for name, target, primary in PROCEDURES:
        await dies(name, target)
        await check(name, primary, expected[name])
    # Nothing has happened then.
    if not await controller.run("promote", "log2", strike=lambda moment: moment == FENCED):
        raise OpsError(f"promote.yml has no moment {FENCED}")
    await dies("abandon", "log2")
    await controller.run("site", "log2")
    await check("abandon", "log1", expected["handover"])


class _History:
    """What the log has acknowledged and published, whichever machine is its primary."""

    def __init__(self, key: PublicKey, seed: str) -> None:
        self._key, self._seed, self._looks = key, seed, 0
        self._load = drill.Load(seed, 0)
        self._before: Any = None
        self.run = drill.Changed("", "the primary")

    async def look(self, url: str, *, pair: bool) -> None:
        """Compare with all that was seen before; with a ``pair``, have leaves acknowledged."""
        self._looks += 1
        async with LogClient(url, timeout=5) as client:
            await drill.answers(client)
            if pair:
                load = drill.Load(f"{self._seed}/{self._looks}", LEAVES)
                await asyncio.wait_for(load.submit(client, asyncio.Event()), drill.PATIENCE)
                self._load.acknowledged += load.acknowledged
            heads = Heads(client, self._key)
            await heads.look()
            if self._before is not None:
                await drill.extends(client, self._before, heads, self.run, "what was published")
            self._before = heads.latest
            self.run.lost += await drill.missing(client, heads, self._load)
            self.run.acknowledged = len(self._load.acknowledged)


def _rest(lab: Lab, key: PublicKey, wanted: Mapping[str, State] | None) -> dict[str, State]:
    """The machines' state as soon as it is the wanted one, or does not change any more."""
    end, before = time.monotonic() + SECONDS, None
    while True:
        found = _state(lab, key)
        if found == (before if wanted is None else wanted) or time.monotonic() > end:
            return found
        before = found
        time.sleep(_POLL)


def _state(lab: Lab, key: PublicKey) -> dict[str, State]:
    """By machine, everything that a procedure is to bring about, and nothing that passes."""
    facts = _ask(lab, "machine_facts", {})
    looks = _ask(lab, "failover", {"step": "look", "log_key": key.hex})
    states = {}
    for name in drill.MACHINES:
        known, look = facts[name]["ansible_facts"]["sigsum_machine"], looks[name]["found"]
        tree = look["tree"] or {}
        listing = lab.exec(name, ["sh", "-c", _LISTING], timeout=60).stdout.splitlines()
        states[name] = {
            **{each: known[each] for each in _FACTS},
            **{each: look[each] for each in _LOOK},
            "fenced": look["fenced"] is not None,
            "promoted": look["promoted"] is not None,
            "units": {
                unit: (shown["LoadState"], shown["UnitFileState"])
                for unit, shown in look["units"].items()
            },
            "tree": [tree.get(each) for each in ("type", "state", "waiting", "behind")],
            "files": listing,
        }
    return states


def _ask(lab: Lab, module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a module of the collection says on each machine."""
    done = ansible.run(
        "ansible",
        "log_machines",
        "--module-name",
        f"sigsum_ops.site.{module}",
        *(["--args", json.dumps(arguments)] if arguments else []),
        inventory=lab.inventory,
    )
    answers = {
        match[1]: json.JSONDecoder().raw_decode(done.stdout, match.end())[0]
        for match in re.finditer(r"^(\S+) \| [A-Z]+ => ", done.stdout, re.M)
    }
    if done.returncode or not set(drill.MACHINES) <= set(answers):
        raise OpsError(f"{module} does not answer:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
    return answers


def differences(wanted: Mapping[str, State], found: Mapping[str, State]) -> list[str]:
    """What of the machines is not as it is without a crash."""
    return [
        f"{name}: {what} is {found[name][what]}, and without a death {value}"
        for name, state in sorted(wanted.items())
        for what, value in state.items()
        if found[name][what] != value
    ]


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for a person."""
    for name, moments in result["crashes"].items():
        yield f"{name}: died at {len(moments)} moments, and came to its end"
    yield (
        f"{result['acknowledged']} leaves acknowledged with 200;"
        f" lost leaves: {result['lost_leaves']}; split views: {result['split_views']}"
    )
    for what in (*result["differences"], *result["unfinished"]):
        yield f"DIFFERENT: {what}"
    yield "passed" if result["passed"] else "NOT PASSED"
