"""``sigsum-ops ceremony``: thin verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sigsum_ops.hsm.ceremony.runner import Setup
    from sigsum_ops.hsm.ceremony.transcript import Transcript

app = typer.Typer(
    no_args_is_help=True,
    help="Key ceremonies: planned, rehearsed on software devices, performed, and audited.\n\n"
    "Exit codes: 0 done, or it verifies; 1 stopped, or it does not verify; 2 the arguments, the "
    "plan or the media are not of the form needed; 130 stopped by Ctrl-C. What stopped goes on "
    "with “resume”.",
)

PlanFile = Annotated[
    Path, typer.Option("--plan", metavar="FILE", help="The site's object plan (YAML).")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory of the transcript.")]
Connectors = Annotated[
    list[str] | None,
    typer.Option(
        "--connector",
        metavar="URL",
        help="URL of a YubiHSM connector; several if several devices are plugged in.  "
        "[default: http://127.0.0.1:12345]",
    ),
]
Media = Annotated[
    list[Path] | None,
    typer.Option(
        "--media",
        metavar="DIR",
        help="Where a backup medium is mounted; as many times as the plan has media.",
    ),
]
Credentials = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where the medium for the passphrases of those who use the devices is mounted.",
    ),
]
Signers = Annotated[
    Path | None,
    typer.Option(
        "--allowed-signers",
        metavar="FILE",
        help="Your list of whose key is whose (ssh-keygen(1)).",
    ),
]
AgreedPlan = Annotated[
    Path | None, typer.Option("--plan", metavar="FILE", help="The plan that was agreed on.")
]
IsRehearsal = Annotated[
    bool, typer.Option("--rehearsal", help="Expect a rehearsal, and accept nothing else.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("plan")
def show_plan(
    plan: PlanFile,
    as_json: AsJson = False,
) -> None:
    """Say what a ceremony of this plan would do, step by step, and the plan's hash.

    Example: sigsum-ops ceremony plan --plan inventories/lab/hsm-plan.yml
    """
    from sigsum_ops.hsm.ceremony import steps
    from sigsum_ops.hsm.ceremony.presentation import hash_table, step_table
    from sigsum_ops.hsm.plan import load

    loaded = load(plan)
    derived = steps.derive(loaded)
    if as_json:
        _print(
            {
                "plan_hash": loaded.hash(),
                "steps": [
                    {
                        "id": step.id,
                        "device": step.device.name if step.device else None,
                        "title": step.title,
                        "what": step.what,
                        "hold": step.hold,
                        "phrase": step.phrase,
                        "irreversible": step.irreversible,
                    }
                    for step in derived
                ],
            }
        )
        return
    from rich.console import Console

    console = Console()
    console.print(step_table(derived))
    console.print("Hash of the plan:")
    console.print(hash_table(loaded.hash()))


@app.command()
def handbook(
    plan: PlanFile,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Ends in .md, .html or .pdf, and is written so.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write the pages by which people perform a plan's ceremony, to print and take along.

    What to bring, who, how long, each step with what is typed and said, what to do when something
    stops it, the bags, and who takes what away.

    Example: sigsum-ops ceremony handbook --plan inventories/example/hsm-plan.yml --out handbook.pdf
    """
    from sigsum_ops.hsm.ceremony import handbook as pages
    from sigsum_ops.hsm.plan import load

    loaded = load(plan)
    pages.write(pages.build(loaded, plan), out)
    if as_json:
        _print({"handbook": str(out), "plan_hash": loaded.hash()})
    else:
        typer.echo(out)


@app.command()
def rehearse(
    plan: PlanFile,
    out: Out,
    attended: Annotated[
        bool, typer.Option("--attended", help="Ask for everything as the real ceremony does.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Perform the whole ceremony on rehearsal devices, in one new directory.

    Leaves there what a ceremony leaves: transcript.jsonl, signatures and allowed_signers; and what
    stands for hardware: devices/ and media/. A plan with real serial numbers is rehearsed as the
    copy plan.json, which is then the plan to verify with.

    Example: sigsum-ops ceremony rehearse --plan inventories/lab/hsm-plan.yml --out rehearsal
    """
    _rehearse(plan, out, attended=attended, resume=False, as_json=as_json)


@app.command()
def run(
    plan: PlanFile,
    out: Out,
    connector: Connectors = None,
    media: Media = None,
    credentials: Credentials = None,
    as_json: AsJson = False,
) -> None:
    """Perform the ceremony with real devices. Erases them.

    The secrets of the backups go to the backup media, the passphrases of those who use the devices
    to the medium for credentials. Interrupted, it goes on with “resume” and the same options.

    Example: sigsum-ops ceremony run --plan plan.yml --out ceremony --media /media/a
    --media /media/b --credentials /media/c
    """
    _run(plan, out, connector, media, credentials, resume=False, as_json=as_json)


@app.command()
def resume(
    plan: PlanFile,
    out: Out,
    connector: Connectors = None,
    media: Media = None,
    credentials: Credentials = None,
    attended: Annotated[
        bool, typer.Option("--attended", help="Ask for everything, also in a rehearsal.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only ask each device where it stands, and change nothing."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted ceremony or rehearsal, from the last step that is proven.

    Every device that was touched is asked what it holds. With --check that is all, and the exit
    code is 1 if one holds a key that must not stay there.

    Example: sigsum-ops ceremony resume --plan plan.yml --out ceremony --media /media/a
    --media /media/b --credentials /media/c
    """
    from sigsum_ops.hsm.ceremony.runner import is_of_rehearsal

    rehearsal = is_of_rehearsal(out)
    if check:
        _check(plan, out, connector, media, credentials, rehearsal=rehearsal, as_json=as_json)
    elif rehearsal:
        _rehearse(plan, out, attended=attended, resume=True, as_json=as_json)
    else:
        _run(plan, out, connector, media, credentials, resume=True, as_json=as_json)


@app.command()
def verify(
    transcript: Annotated[Path, typer.Argument(help="The transcript; signatures/ beside it.")],
    allowed_signers: Signers = None,
    plan: AgreedPlan = None,
    rehearsal: IsRehearsal = False,
    as_json: AsJson = False,
) -> None:
    """Recompute a transcript offline, and say whether everything holds.

    Exits 0 only if it does and each participant's signature counts. Without --allowed-signers a
    transcript can at best be self-consistent, which anyone can make: exit 1.

    Example: sigsum-ops ceremony verify transcript.jsonl --allowed-signers mine --plan plan.yml
    """
    from sigsum_ops.hsm.ceremony import verify as verifying
    from sigsum_ops.hsm.plan import load

    verdict = verifying.verify(
        transcript,
        allowed_signers=allowed_signers,
        plan=load(plan) if plan else None,
        rehearsal=rehearsal,
    )
    if as_json:
        _print(verdict.to_json())
    else:
        from rich.console import Console

        from sigsum_ops.hsm.ceremony.presentation import verdict_lines

        for line in verdict_lines(verdict):
            Console().print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code=0 if verdict.ok else 1)


@app.command()
def report(
    transcript: Annotated[Path, typer.Argument(help="The transcript; signatures/ beside it.")],
    allowed_signers: Signers = None,
    plan: AgreedPlan = None,
    rehearsal: IsRehearsal = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write to.  [default: the transcript's]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render a transcript as a page to print and sign by hand: report.html and report.pdf.

    The page says whether the transcript verifies; the exit code does, too, as for “verify”.
    """
    from sigsum_ops.hsm.ceremony import report as reporting
    from sigsum_ops.hsm.ceremony import verify as verifying
    from sigsum_ops.hsm.plan import load

    verdict = verifying.verify(
        transcript,
        allowed_signers=allowed_signers,
        plan=load(plan) if plan else None,
        rehearsal=rehearsal,
    )
    page, document = reporting.write(reporting.build(transcript, verdict), out or transcript.parent)
    if as_json:
        _print({"ok": verdict.ok, "html": str(page), "pdf": str(document)})
    else:
        typer.echo(f"{page}\n{document}")
    raise typer.Exit(code=0 if verdict.ok else 1)


def _rehearse(plan: Path, out: Path, *, attended: bool, resume: bool, as_json: bool) -> None:
    from sigsum_ops.hsm.ceremony.presentation import Terminal
    from sigsum_ops.hsm.ceremony.rehearse import PLAN, Unattended, rehearse
    from sigsum_ops.hsm.ceremony.secrets import keep_memory_private
    from sigsum_ops.hsm.plan import load

    keep_memory_private()
    _end_orderly()
    people = Terminal() if attended else Unattended(_say)
    transcript = rehearse(load(plan), out, people, resume=resume)
    _finished(transcript, out, as_json=as_json, plan=out / PLAN)


def _run(
    plan: Path,
    out: Path,
    connector: list[str] | None,
    media: list[Path] | None,
    credentials: Path | None,
    *,
    resume: bool,
    as_json: bool,
) -> None:
    from sigsum_ops.hsm.ceremony.presentation import Terminal, TerminalSigners
    from sigsum_ops.hsm.ceremony.runner import perform
    from sigsum_ops.hsm.ceremony.secrets import keep_memory_private

    keep_memory_private()
    _end_orderly()
    setup = _production(plan, out, connector, media, credentials)
    transcript = perform(setup, Terminal(), TerminalSigners(), resume=resume)
    _finished(transcript, out, as_json=as_json, plan=plan)


def _production(
    plan: Path,
    out: Path,
    connector: list[str] | None,
    media: list[Path] | None,
    credentials: Path | None,
) -> Setup:
    from sigsum_ops.errors import UsageError
    from sigsum_ops.hsm.ceremony.records import Mode
    from sigsum_ops.hsm.ceremony.runner import Setup
    from sigsum_ops.hsm.plan import load

    if credentials is None:
        raise UsageError(
            "no --credentials: the passphrases of those who use the devices need a medium"
        )
    connectors = connector or ["http://127.0.0.1:12345"]
    return Setup(load(plan), Mode.PRODUCTION, out, connectors, media or [], credentials)


def _check(
    plan: Path,
    out: Path,
    connector: list[str] | None,
    media: list[Path] | None,
    credentials: Path | None,
    *,
    rehearsal: bool,
    as_json: bool,
) -> None:
    from sigsum_ops.hsm.ceremony.presentation import Terminal
    from sigsum_ops.hsm.ceremony.rehearse import ask_rehearsal
    from sigsum_ops.hsm.ceremony.runner import ask
    from sigsum_ops.hsm.plan import load

    people = Terminal()
    if rehearsal:
        standings = ask_rehearsal(load(plan), out, people)
    else:
        standings = ask(_production(plan, out, connector, media, credentials), people)
    if as_json:
        _print({"devices": [standing.to_json() for standing in standings]})
    else:
        for standing in standings:
            typer.echo(str(standing))
    raise typer.Exit(code=1 if any(standing.left for standing in standings) else 0)


def _finished(transcript: Transcript, out: Path, *, as_json: bool, plan: Path) -> None:
    from sigsum_ops.hsm.ceremony.runner import ALLOWED_SIGNERS

    last = transcript.lines[-1]
    opened = transcript.opened
    result = {
        "transcript": str(transcript.path),
        "allowed_signers": str(out / ALLOWED_SIGNERS),
        "plan": str(plan),
        "plan_hash": opened.plan_hash,
        "mode": str(opened.mode),
        "lines": last.n,
        "head": last.hash,
    }
    if as_json:
        _print(result)
    else:
        flag = " --rehearsal" if opened.mode == "rehearsal" else ""
        typer.echo(
            f"{last.n} lines in {result['transcript']}; verify with:\n"
            f"sigsum-ops ceremony verify {result['transcript']} "
            f"--allowed-signers {result['allowed_signers']} --plan {plan}{flag}"
        )


def _end_orderly() -> None:
    """A closed terminal or a shutdown is an interrupt like Ctrl-C, not a death."""
    import signal

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print(value: dict[str, Any]) -> None:
    json.dump(value, sys.stdout)
    typer.echo()
