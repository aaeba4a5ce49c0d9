"""``sigsum-ops backup``: thin verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Back up a log machine; restore into quarantine.")

Config = Annotated[Path, typer.Option("--config", "-c", help="The backup's configuration.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_CONFIG = Path("/etc/sigsum/backup.toml")


def _say(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def init(config: Config = _CONFIG) -> None:
    """Make the repository where there is none, and remember which one it is.

    What the role backup does once; as root. Example: sigsum-ops backup init
    """
    from sigsum_ops.backup.config import load
    from sigsum_ops.backup.job import initialise

    settings = load(config)
    made = initialise(settings)
    typer.echo(f"{settings.repository}: {'made' if made else 'opened'}")


@app.command()
def run(config: Config = _CONFIG, as_json: Json = False) -> None:
    """Back up this machine, then remove what is too old; what sigsum-backup.service runs.

    Exits 1 where a part could not be backed up, or old backups could not be removed.
    Example: systemctl start sigsum-backup
    """
    from sigsum_ops.backup.config import load
    from sigsum_ops.backup.job import as_line, run

    result = run(load(config))
    typer.echo(json.dumps(result) if as_json else as_line(result))


@app.command()
def check(config: Config = _CONFIG, as_json: Json = False) -> None:
    """Check the repository and its data; what sigsum-backup-check.service runs.

    Exits 1 where something is damaged or missing. Example: systemctl start sigsum-backup-check
    """
    from sigsum_ops.backup.config import load
    from sigsum_ops.backup.job import as_line, check

    result = check(load(config))
    typer.echo(json.dumps(result) if as_json else as_line(result))


@app.command()
def restore(
    config: Config = _CONFIG,
    snapshot: Annotated[
        str | None, typer.Option(help="First digits of a snapshot's id.  [default: the newest]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore a backup as data on this machine, which must be in quarantine.

    What playbooks/restore.yml runs after it has asked whether it may. Nothing of it is started.
    Example: sigsum-ops backup restore --snapshot 4f3a91c2
    """
    from sigsum_ops.backup.config import load
    from sigsum_ops.backup.quarantine import RESTORED, restore

    mark = restore(load(config), snapshot, say=_say)
    restored = mark["restored"]
    typer.echo(
        json.dumps(mark)
        if as_json
        else f"restored tree {restored['tree_id']} as {restored['host']} had it at"
        f" {restored['time']}; its files are under {RESTORED}. Not proven yet."
    )


@app.command()
def prove(
    seen: Annotated[
        list[Path] | None,
        typer.Option(help="An answer to get-tree-head, an sth file, a proof, or an archive."),
    ] = None,
    trillian: Annotated[str, typer.Option(help="Trillian's log server.")] = "127.0.0.1:8090",
    wait: Annotated[float, typer.Option(min=0, help="Seconds for it to answer.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Prove that what was restored is ahead of every tree head that is given.

    Exits 0 where it is, with size and root; 1 where it is behind or another history, with how far;
    75 where Trillian does not say. The outcome is kept in /etc/sigsum/quarantined.json: without
    it the machine is not promoted.

    Example: sigsum-ops backup prove --seen get-tree-head.answer --seen message.proof
    """
    from sigsum_ops.backup.quarantine import EXIT_CANNOT_TELL, prove
    from sigsum_ops.log.trillian import CannotTell

    try:
        proof = prove(seen or [], trillian=trillian, wait=wait, say=_say)
    except CannotTell as error:
        _say(f"cannot tell: {error.message}")
        raise typer.Exit(code=EXIT_CANNOT_TELL) from error
    typer.echo(
        json.dumps(proof)
        if as_json
        else f"ahead of everything given: size {proof['size']}, root {proof['root_hash']}"
    )


@app.command("check-config")
def check_config(config: Annotated[Path, typer.Argument(help="The file.")]) -> None:
    """Check a configuration file, and contact nothing; what Ansible runs before it replaces it.

    Example: sigsum-ops backup check-config /etc/sigsum/backup.toml
    """
    from sigsum_ops.backup.config import load

    load(config)
