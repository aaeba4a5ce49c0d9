"""``sigsum-ops witness`` and ``sigsum-ops bastion``: thin verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sigsum_ops.witness import DATABASE

witness_app = typer.Typer(
    no_args_is_help=True,
    help="A witness: that its database is never older than what it has cosigned.",
)
bastion_app = typer.Typer(
    no_args_is_help=True, help="A bastion host: whether the witnesses behind it are reached."
)

Database = Annotated[Path, typer.Option("--db", help="litewitness's database.")]
Oracle = Annotated[Path, typer.Option(help="The configuration of the witness's oracle.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_DATABASE, _ORACLE = Path(DATABASE), Path("/etc/sigsum/oracle.toml")


@witness_app.command()
def guard(db: Database = _DATABASE, oracle: Oracle = _ORACLE) -> None:
    """Refuse to start a witness whose database was lost or rolled back.

    Runs before each start of litewitness, as its user. For each log the database must have what the
    signing oracle has cosigned last, or something larger. Exits 1 where it has not: see
    docs/witness.md.

    Example: sudo -u litewitness sigsum-ops witness guard
    """
    from sigsum_ops.witness.guard import guard

    typer.echo(f"{len(guard(db, oracle).known)} logs, none of them rolled back")


@witness_app.command()
def begin(db: Database = _DATABASE, oracle: Oracle = _ORACLE) -> None:
    """Say, once, that a witness's key has never cosigned anything, anywhere.

    Without it neither oracle nor litewitness starts. A key that has cosigned, on a machine that was
    lost, must not begin anew: it could cosign a second history (docs/witness.md). Refused where
    there is a beginning already, or a database with tree heads. Run it as root.

    Example: sudo sigsum-ops witness begin
    """
    from sigsum_ops.witness.guard import begin

    begin(db, oracle)
    typer.echo("begun: nothing was cosigned yet")


@witness_app.command()
def show(db: Database = _DATABASE, oracle: Oracle = _ORACLE, as_json: Json = False) -> None:
    """Show each log, with the tree head in the database and the one that was cosigned last.

    Exits 1 where the database was rolled back. Can be asked at any time, as the user litewitness.
    """
    from sigsum_ops.witness.guard import look

    witness = look(db, oracle)
    shown = witness.as_json()
    if as_json:
        typer.echo(
            json.dumps({"ok": not witness.problems, "problems": witness.problems, "logs": shown})
        )
    else:
        for origin, log in shown.items():
            typer.echo(f"{origin}{'' if log['keys'] else ' (not served: it has no key)'}")
            for name in ("database", "cosigned"):
                head = log[name]
                typer.echo(
                    f"  {name:9} {head['size']} {head['root_hash']}" if head else f"  {name:9} -"
                )
        for problem in witness.problems:
            typer.echo(f"ROLLED BACK: {problem}")
    raise typer.Exit(code=1 if witness.problems else 0)


@witness_app.command()
def recover(db: Database = _DATABASE, oracle: Oracle = _ORACLE) -> None:
    """Put a database that was lost or rolled back forward to what was cosigned last.

    What the oracle was last asked to cosign is all that anybody can have of this witness, so from
    there it goes on as if nothing had happened. It goes forward only, and can be run again. Run it
    as the user litewitness; a log that the database had lost gets its key by the next converge.

    Example: sudo -u litewitness sigsum-ops witness recover
    """
    from sigsum_ops.witness.guard import recover

    changed = recover(db, oracle)
    for origin in changed:
        typer.echo(f"{origin}: put forward to what was cosigned last")
    if not changed:
        typer.echo("the database has all that was cosigned")


@bastion_app.command()
def probe(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="What the role bastion writes.")
    ] = Path("/etc/sigsum/bastion-probe.toml"),
    write: Annotated[bool, typer.Option("--write", help="Also write the metrics.")] = False,
    as_json: Json = False,
) -> None:
    """Ask each witness through the bastion host, on that host.

    Exits 1 where one is not reached, with the reason. With --write, what the timer
    sigsum-bastion-probe does, it exits 0 then too: the metrics say it.

    Example: sigsum-ops bastion probe
    """
    from sigsum_ops.witness.probe import load, probe
    from sigsum_ops.witness.probe import write as write_metrics

    settings = load(config)
    found = probe(settings)
    if write:
        write_metrics(settings, found)
    if as_json:
        typer.echo(json.dumps(found.as_json()))
    else:
        for answer in found.answers:
            how = f"answers with {answer.status} in {answer.seconds:.2f} s"
            typer.echo(f"{answer.name}: {how if answer.reached else answer.reason}")
    raise typer.Exit(code=0 if write or found.ok else 1)
