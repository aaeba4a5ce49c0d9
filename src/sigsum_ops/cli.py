"""The command line: thin, every verb one function elsewhere.

Exit codes: 0 success; 1 the thing asked about is wrong or failed; 2 the arguments or an input file
are malformed; verbs that distinguish more say so in their help.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from sigsum_ops import __version__
from sigsum_ops.backup.cli import app as backup_app
from sigsum_ops.edge.cli import dns_app, policy_app, ports, token
from sigsum_ops.errors import OpsError
from sigsum_ops.exporter.cli import app as exporter_app
from sigsum_ops.hsm.cli import app as hsm_app
from sigsum_ops.hsm.oracle.cli import app as oracle_app
from sigsum_ops.log.archive_cli import app as archive_app
from sigsum_ops.witness.cli import bastion_app, witness_app

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run a production Sigsum transparency log.",
)
console = Console()
errors = Console(stderr=True)


def _end(
    result: Mapping[str, Any], lines: Iterable[str], *, passed: bool, as_json: bool
) -> NoReturn:
    """Tell a long test's result, and exit by it."""
    for line in [json.dumps(result)] if as_json else lines:
        typer.echo(line)
    raise typer.Exit(code=0 if passed else 1)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"sigsum-ops {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    del version


inventory_app = typer.Typer(no_args_is_help=True, help="Check what an inventory says.")
app.add_typer(inventory_app, name="inventory")
app.add_typer(backup_app, name="backup")
app.add_typer(hsm_app, name="hsm")
app.add_typer(oracle_app, name="oracle")
app.add_typer(archive_app, name="archive")
app.add_typer(dns_app, name="dns")
app.add_typer(policy_app, name="policy")
app.add_typer(witness_app, name="witness")
app.add_typer(bastion_app, name="bastion")
app.add_typer(exporter_app, name="exporter")
app.command()(token)
app.command()(ports)
# Only a controller has these rooms: the hosts' package leaves them out (packages/own.py).
for name, room in (("lab", "lab"), ("packages", "packages"), ("ceremony", "hsm.ceremony")):
    if find_spec(f"sigsum_ops.{room}") and find_spec(f"sigsum_ops.{room}.cli"):
        app.add_typer(import_module(f"sigsum_ops.{room}.cli").app, name=name)


@inventory_app.command("check")
def inventory_check(
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="File or directory; without it, ansible.cfg's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Refuse an inventory that cannot be right, as site.yml does first; contacts no machine.

    Example: sigsum-ops inventory check -i inventories/example
    """
    from sigsum_ops.site.inventory import check

    problems = check(inventory)
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "problems": problems}))
    else:
        for problem in problems:
            console.print(problem, markup=False, highlight=False, soft_wrap=True)
        if not problems:
            console.print("The inventory has no problems that show before a machine is touched.")
    raise typer.Exit(code=1 if problems else 0)


@app.command()
def guard(
    config: Annotated[Path, typer.Option(help="log-go's configuration.")] = Path(
        "/etc/sigsum/config.toml"
    ),
    log_key: Annotated[Path, typer.Option(help="The log's public key file.")] = Path(
        "/etc/sigsum/log.pub"
    ),
    oracle: Annotated[
        Path,
        typer.Option(help="The oracle's configuration; only a log without a secondary needs it."),
    ] = Path("/etc/sigsum/oracle.toml"),
    state_dir: Annotated[
        Path | None,
        typer.Option(help="Where the guard keeps its files.  [default: the sth file's directory]"),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds to go on asking while it cannot tell.  [default: for ever]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove that a primary may start: its tree extends everything that is known to be signed.

    Runs before each start of sigsum-log-primary, as its user, and contacts only Trillian.

    Exit 0, proven: go on. Keeps the proven tree head in guard-evidence.json.

    Exit 75, cannot tell: nothing says no, but Trillian or its database is not answering. Each
    reason is said once. Trying again may help.

    Exit 1, refused: the tree is not what was signed, or a file that says so is lost or damaged, or
    the log would sign without its secondary, and the oracle has no permit for that.
    guard-refused.json and guard.prom tell monitoring; a person follows docs/bcp/start-refused.md.
    Trying again changes nothing.

    Example: sudo -u sigsum-log sigsum-ops guard --wait 10
    """
    from sigsum_ops.log.guard import run

    result = run(
        config=config,
        log_key=log_key,
        oracle=oracle,
        state_dir=state_dir,
        wait=wait,
        say=lambda line: typer.echo(line, err=True),
    )
    typer.echo(result.as_json() if as_json else result.message, err=not as_json)
    raise typer.Exit(code=result.exit_code)


@app.command()
def stress(
    url: Annotated[
        str | None, typer.Argument(help="The log's URL.  [default: the inventory's log_url]")
    ] = None,
    log_key: Annotated[
        Path | None, typer.Option(help="The log's public key file.  [default: the inventory's]")
    ] = None,
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="File or directory; without it, ansible.cfg's."),
    ] = None,
    i_own_this_log: Annotated[
        bool, typer.Option("--i-own-this-log", help="Load a log that is not in the inventory.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option(help="Clients that submit at the same time; at most 64.")
    ] = 16,
    rate: Annotated[
        float | None,
        typer.Option(help="Leaves per second, at even times.  [default: as fast as answered]"),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(help="Seconds; at most 300.  [default: 10 where --count is not given]"),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Leaves after which to stop; at most 100000.")
    ] = None,
    drain: Annotated[
        float, typer.Option(help="Seconds that the log has afterwards to publish what it accepted.")
    ] = 90.0,
    no_limits: Annotated[
        bool, typer.Option("--no-limits", help="Allow more clients, seconds and leaves.")
    ] = False,
    seed: Annotated[
        str | None,
        typer.Option(help="Makes the leaves; the same seed, the same leaves.  [default: random]"),
    ] = None,
    token_domain: Annotated[
        str | None, typer.Option(help="Domain of the submit token, where the log limits rates.")
    ] = None,
    token_key: Annotated[
        Path | None, typer.Option(help="Private key file (OpenSSH) that signs the submit token.")
    ] = None,
    trillian_metrics: Annotated[
        str | None,
        typer.Option(help="URL of the primary's Trillian signer's /metrics, for sequenced/s."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for result.json and plot.png.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Load a log of yours, then prove every leaf that it acknowledged with 200.

    Exits 1 where a leaf acknowledged with 200 is not proven, no leaf was, or a tree head does not
    extend the one before. Example: sigsum-ops stress --duration 30 --concurrency 32 --out load
    """
    import secrets

    from rich.markup import escape

    from sigsum_ops.log.stress import Load, execute
    from sigsum_ops.log.stress_report import lines

    with errors.status("") as status:
        result = execute(
            Load(
                seed=seed or secrets.token_hex(8),
                clients=concurrency,
                seconds=10.0 if duration is None and count is None else duration,
                rate=rate,
                count=count,
                drain=drain,
            ),
            url=url,
            log_key=log_key,
            inventory=inventory,
            owned=i_own_this_log,
            unlimited=no_limits,
            token_domain=token_domain,
            token_key=token_key,
            trillian_metrics=trillian_metrics,
            out=out,
            tell=lambda text: status.update(escape(text)),
        )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for name, value in lines(result):
            console.print(f"{name:16} {value}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code=0 if result["passed"] else 1)


@app.command()
def diversity(
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="File or directory; without it, ansible.cfg's."),
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--from", help="Compare what --record wrote here; contacts no machine."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--record", help="Keep what was read in this new directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare the hardware of the log machines, so that one fault does not take them all.

    Reads disks (also behind RAID controllers), board, BIOS, CPU, memory, network cards, power
    supplies, kernel and system of each, and judges what they share by the inventory's
    diversity_policy and diversity_overrides: see docs/hardware.md. What could not be read counts as
    shared. Exits 0 where they are diverse (with warnings or not), 1 where not, 2 on a bad policy.

    Example: sigsum-ops diversity -i inventories/example
    """
    from sigsum_ops.site import diversity_report

    report = diversity_report.run(inventory, recorded, keep)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    else:
        console.print(diversity_report.table(report))
        console.print(diversity_report.summary(report), markup=False, highlight=False)
    raise typer.Exit(code=0 if report.ok else 1)


@app.command()
def runbook(
    out: Annotated[Path, typer.Option(help="Directory for runbook.html and runbook.pdf.")],
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", help="File or directory; commands name it so.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the business continuity plan with the names, addresses, keys and contacts of a site.

    Fills docs/bcp from the inventory and contacts no machine. Exits 2 where the inventory lacks
    what a page names; 1 where the PDF cannot be made here, and then the HTML is there all the same.

    Example: sigsum-ops runbook -i inventories/example --out runbook
    """
    from dataclasses import asdict

    from sigsum_ops.site.runbook import write

    written = write(inventory, out, say=lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(asdict(written), default=str))


@app.command()
def bench(
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="A lab's; without it, ansible.cfg's."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each side is measured.")] = 2,
    clients: Annotated[int, typer.Option(help="Clients of the load.")] = 64,
    warmup: Annotated[float, typer.Option(help="Seconds of load before the window.")] = 35.0,
    window: Annotated[float, typer.Option(help="Seconds of load to measure, at least.")] = 60.0,
    proofs: Annotated[int, typer.Option(help="Submissions that are timed to their proof.")] = 20,
    seed: Annotated[str | None, typer.Option(help="Makes the leaves.  [default: random]")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE=VALUE",
            help="Compare ours not with upstream's, but with ours where this is changed.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the result, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare the settings of upstream's collection with ours, on a lab, alternating.

    Takes about 8 minutes a round. The lab must have been converged; it is left with our settings.
    Examples: sigsum-ops bench --out docs/measurements/bench.json
    sigsum-ops bench --change trillian_sequencer_interval=50ms --proofs 1
    """
    import secrets

    from sigsum_ops.log.bench import Plan, execute, lines, parse_changes

    plan = Plan(
        seed or secrets.token_hex(8),
        rounds,
        clients,
        warmup,
        window,
        proofs,
        parse_changes(change or []),
    )
    result = execute(
        plan,
        inventory=inventory,
        out=out,
        tell=lambda text: errors.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(json.dumps(result))
    else:
        for line in lines(result):
            typer.echo(line)


@app.command()
def soak(
    hours: Annotated[float, typer.Option(help="How long.")] = 1.0,
    rate: Annotated[float, typer.Option(help="Leaves per second that are submitted.")] = 20.0,
    seed: Annotated[
        str | None, typer.Option(help="Decides on the faults and leaves.  [default: random]")
    ] = None,
    name: Annotated[str, typer.Option(help="The lab.")] = "lab",
    out: Annotated[Path | None, typer.Option(help="File for the result, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Load a lab for hours while everything breaks that may break: it has to mend itself.

    Kills processes, cuts power, unplugs the HSM, takes the database away, one after the other, and
    waits after each until the log signs again. Exits 1 where a leaf acknowledged with 200 is not
    proven, a tree head does not extend the one before, the oracle latched, or the log did not come
    back. The lab must have been converged. Example: sigsum-ops soak --hours 8 --out soak.json
    """
    import secrets

    from sigsum_ops.lab.lab import Lab
    from sigsum_ops.lab.soak import Plan, execute, lines

    result = execute(
        Plan(hours, rate, seed or secrets.token_hex(8)),
        lab=Lab(name),
        out=out,
        tell=lambda text: errors.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    _end(result, lines(result), passed=result["passed"], as_json=as_json)


@app.command()
def promote(
    target: Annotated[
        str,
        typer.Option(help="The secondary that becomes the primary.  [default: the best one]"),
    ] = "",
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="File or directory; without it, ansible.cfg's."),
    ] = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A tree head or proof that somebody has: it must be covered, too."
        ),
    ] = None,
    fenced_by: Annotated[
        str, typer.Option(help="Who saw to it that a machine that does not answer cannot sign.")
    ] = "",
    fenced_how: Annotated[
        str, typer.Option(help="How, in words, such as: 'power cut at the PDU'.")
    ] = "",
    hsm_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="A machine whose YubiHSM was pulled and is kept out; --fenced-by, too.",
        ),
    ] = None,
    ungated_until: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Let it go on without a secondary until then, such as 2026-11-23T12:00:00Z.",
        ),
    ] = "",
    ungated_by: Annotated[str, typer.Option(help="Who allows that.")] = "",
    ungated_why: Annotated[str, typer.Option(help="Why, in words.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Only check; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a secondary the primary, because the primary is dead or has to go.

    Everything is checked before anything is changed: that the old primary signs no more, and that
    the target's tree extends all that is known to have been signed. Without a target the secondary
    with the largest tree is picked. Interrupted, it is run again and goes on. Exits 1 where it is
    refused, with the reasons. docs/bcp/promote.md tells the rest.
    Example: sigsum-ops promote --target log2 --check
    """
    from sigsum_ops.failover.promote import Request, lines, promote
    from sigsum_ops.failover.ungated import Permit

    ungated = Permit(ungated_until, ungated_by, ungated_why)
    fenced = (fenced_by, fenced_how, tuple(hsm_out or ()))
    request = Request(target, inventory, tuple(seen or ()), *fenced, ungated)
    result = promote(request, check=check, confirm=None if yes else lambda text: typer.prompt(text))
    if as_json:
        typer.echo(json.dumps(result))
    elif result["problems"]:
        typer.echo("\n".join(["Refused; nothing was changed.", *result["problems"]]))
    else:
        done = "is the primary" if result["promoted"] else "can become the primary"
        typer.echo("\n".join([f"{result['target']} {done}", *lines(result)]))
    raise typer.Exit(code=1 if result["problems"] else 0)


@app.command()
def doctor(
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="File or directory; without it, ansible.cfg's."),
    ] = None,
    url: Annotated[str, typer.Option(help="Where to find the log, if not at its log_url.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at a whole site, and say what is wrong, why, and what to do. Changes nothing.

    Asks every machine by ssh, and the log as its users do, which takes up to half a minute where
    leaves or cosignatures are waited for. docs/doctor.md lists what it finds. Exits 0 where it
    finds nothing, 1 where it does.

    Example: sigsum-ops doctor -i inventories/production
    """
    from sigsum_ops.doctor import visit

    found = visit.visit(inventory, url)
    for line in [visit.as_json(found)] if as_json else visit.lines(found):
        typer.echo(line)
    raise typer.Exit(code=1 if found else 0)


_Seed = Annotated[str | None, typer.Option(help="Decides on all chance.  [default: random]")]
_ExtraVars = Annotated[
    list[str] | None, typer.Option("-e", metavar="NAME=VALUE", help="For each playbook.")
]
_LabName = Annotated[str, typer.Option(help="The lab.")]
_Out = Annotated[Path | None, typer.Option(help="File for the result, as JSON.")]

drill = typer.Typer(help="Rehearse the bad days, on a lab.", no_args_is_help=True)
app.add_typer(drill, name="drill")


@drill.callback()
def _drill() -> None:
    """Rehearse the bad days, on a lab."""


@drill.command()
def failover(
    runs: Annotated[int, typer.Option("-n", help="How many failovers.")] = 3,
    seed: _Seed = None,
    extra_vars: _ExtraVars = None,
    name: _LabName = "lab",
    out: _Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let the primary die under load, promote the secondary, re-seed the old one; and again.

    The machine loses its power or network, its processes are killed, its disk is full, or the log
    is stopped; in half of the runs the controller dies at a step of the promotion or of the
    re-seeding, or the new primary does. Exits 1 where a leaf that was acknowledged with 200 is not
    proven in the new primary's tree, or a tree head does not extend the ones before.
    Example: sigsum-ops drill failover -n 3 --seed monday --json
    """
    import secrets

    from sigsum_ops.lab import drill
    from sigsum_ops.lab.lab import Lab

    result = drill.failover(
        drill.Plan(runs, seed or secrets.token_hex(8), tuple(extra_vars or ())),
        lab=Lab(name),
        out=out,
        tell=lambda text: errors.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    passed = not result["lost_leaves"] and not result["split_views"]
    _end(result, drill.lines(result), passed=passed, as_json=as_json)


@drill.command()
def handover(
    runs: Annotated[int, typer.Option("-n", help="How many handovers.")] = 2,
    seed: _Seed = None,
    extra_vars: _ExtraVars = None,
    name: _LabName = "lab",
    out: _Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Hand over under load, there and back, and measure how long no machine takes a leaf.

    Exits 1 where that is longer than 15 s, where a leaf that was acknowledged with 200 is not
    proven in the tree, or a tree head does not extend the ones before.
    Example: sigsum-ops drill handover -n 10 --json
    """
    import secrets

    from sigsum_ops.lab.drill import Plan
    from sigsum_ops.lab.handovers import handovers, lines
    from sigsum_ops.lab.lab import Lab

    result = handovers(
        Plan(runs, seed or secrets.token_hex(8), tuple(extra_vars or ())),
        lab=Lab(name),
        out=out,
        tell=lambda text: errors.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    _end(result, lines(result), passed=result["passed"], as_json=as_json)


@drill.command()
def crashes(
    every: Annotated[int, typer.Option(help="Strike only at each so many-th moment.")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Strike only in this: promote, reseed, handover or abandon."),
    ] = None,
    seed: _Seed = None,
    extra_vars: _ExtraVars = None,
    name: _LabName = "lab",
    out: _Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Kill the controller (kill -9) at every step of promote, reseed and handover (three hours).

    Each procedure is run again after each death, and comes one step further. Exits 1 where it does
    not leave the machines as it does without a crash, a step is left begun in the journal, or the
    log has lost a leaf or its history. Example: sigsum-ops drill crashes --every 10 --seed monday
    """
    import secrets

    from sigsum_ops.lab.crashes import STRUCK, crashes, lines
    from sigsum_ops.lab.lab import Lab

    result = crashes(
        lab=Lab(name),
        seed=seed or secrets.token_hex(8),
        every=every,
        struck=only or STRUCK,
        variables=tuple(extra_vars or ()),
        out=out,
        tell=lambda text: errors.print(text, markup=False, highlight=False, soft_wrap=True),
    )
    _end(result, lines(result), passed=result["passed"], as_json=as_json)


def main() -> None:
    """Entry point: turn an OpsError into a message and its exit code."""
    try:
        app()
    except OpsError as error:
        errors.print(f"[bold red]error:[/] {error.message}", highlight=False, soft_wrap=True)
        if error.hint:
            errors.print(f"       {error.hint}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
