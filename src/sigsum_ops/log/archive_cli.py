"""``sigsum-ops archive``: thin verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="The archive of a log's published tree heads: what shows a split view, or that none was.",
)

_CONFIG = Path("/etc/sigsum/archive.toml")
_FILE = Path("/var/lib/sigsum-archive/heads")

File = Annotated[Path, typer.Argument(help="The archive.")]
LogKey = Annotated[Path, typer.Option(help="The log's public key file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def follow(
    config: Annotated[Path, typer.Option("--config", "-c", help="What to follow.")] = _CONFIG,
    once: Annotated[bool, typer.Option("--once", help="Ask each machine one time.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: one JSON object.")] = False,
) -> None:
    """Keep every tree head that the log publishes; what the unit sigsum-head-archive runs.

    Each is verified: the log's signature, and its proof that it extends the one before. Evidence
    of a split view is kept beside the archive in split-view-….json, and following goes on.

    Without --once until SIGTERM; exits 1 where the archive is damaged or cannot be written. With
    it, exits 0 where a machine showed a tree head that goes with the archive and none that does
    not; 1 while evidence of a split view is beside the archive; 75 where nobody answered, or gave
    no proof.

    Example: sigsum-ops archive follow --once --config archive.toml
    """
    import asyncio

    from sigsum_ops.errors import UsageError
    from sigsum_ops.log import follow as following

    settings = following.load(config)
    if not once:
        if as_json:
            raise UsageError("--json goes with --once")
        following.run(settings)
        return
    _tell(asyncio.run(following.once(settings)), as_json=as_json)


@app.command()
def keep(
    inventory: Annotated[
        Path | None, typer.Option("--inventory", "-i", help="Which site; ansible.cfg's otherwise.")
    ] = None,
    url: Annotated[list[str] | None, typer.Option(help="Ask there, not at its log_url.")] = None,
    as_json: Json = False,
) -> None:
    """Have this controller keep what the log publishes now; for a timer, every ten minutes or so.

    Run it as the user who runs the playbooks. Promotion, handover and re-seeding do it as they
    begin, and refuse what does not extend all that was kept. So the more often it runs, the more is
    known of the log where all its machines are lost. Exits as follow --once does.

    Example: sigsum-ops archive keep --inventory inventories/production
    """
    from sigsum_ops.log.keep import keep as keep_heads
    from sigsum_ops.log.target import log_of_inventory

    log = log_of_inventory(inventory)
    _tell(keep_heads(log.key, url or [log.url]), as_json=as_json)


def _tell(report: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the report of one look, and end with its exit code."""
    from sigsum_ops.log import follow as following

    if as_json:
        typer.echo(json.dumps(report))
    else:
        for answer in report["answers"]:
            typer.echo(f"{answer['outcome']:10} {answer['text']}")
        for path in report["split_views"]:
            typer.echo(f"SPLIT VIEW {path}")
    raise typer.Exit(code=following.exit_code(report))


@app.command()
def check(
    file: File = _FILE,
    log_key: LogKey = Path("/etc/sigsum/log.pub"),
    as_json: Json = False,
) -> None:
    """Verify an archive offline: every signature, and every proof from one tree head to the next.

    Can be run beside the service. Exits 1 where the archive does not verify, or evidence of a split
    view is beside it.

    Example: sigsum-ops archive check log1/heads --log-key log.pub
    """
    from datetime import UTC, datetime

    from sigsum_ops.log import archive
    from sigsum_ops.log.keys import load_public_key

    key = load_public_key(log_key)
    checked = archive.check(file, key)
    unproven = archive.unproven(file, key)
    splits = list(map(str, archive.evidence(file)))
    if as_json:
        shown = {
            "file": str(file),
            "heads": checked.heads,
            "first": archive.fields_of(checked.first.signed) | {"time": checked.first.time},
            "last": archive.fields_of(checked.last.signed) | {"time": checked.last.time},
            "unfinished_bytes": checked.cut,
            "unproven": [archive.fields_of(signed) for signed in unproven],
            "split_views": splits,
        }
        typer.echo(json.dumps(shown))
    else:
        typer.echo(f"{file}: {checked.heads} tree heads, all signed, each extends the one before")
        for name, kept in (("first", checked.first), ("last", checked.last)):
            when = datetime.fromtimestamp(kept.time, UTC).isoformat(timespec="seconds")
            typer.echo(f"{name:6} {kept.signed.head}, seen {when} at {kept.url}")
        for signed in unproven:
            typer.echo(f"signed, but not proven to go with these: {signed.head}")
        for path in splits:
            typer.echo(f"SPLIT VIEW {path}")
    raise typer.Exit(code=1 if splits else 0)


@app.command()
def show(
    file: File = _FILE,
    log_key: LogKey = Path("/etc/sigsum/log.pub"),
    last: Annotated[
        bool, typer.Option("--last", help="Only the last, with its signature.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the tree heads of an archive, verified; or the last, in the form of log-go's sth file.

    Example: sigsum-ops archive show --last > sth
    """
    from sigsum_ops.log import archive
    from sigsum_ops.log.keys import load_public_key

    key = load_public_key(log_key)
    if last:
        fields = archive.fields_of(archive.last(file, key))
        if as_json:
            typer.echo(json.dumps(fields))
        else:
            for name, value in fields.items():
                typer.echo(f"{name}={value}")
        return
    heads = archive.read(file, key)
    if as_json:
        typer.echo(json.dumps({"heads": [archive.fields_of(signed) for signed in heads]}))
    else:
        for signed in heads:
            typer.echo(str(signed.head))


@app.command("check-config")
def check_config(
    config: Annotated[Path, typer.Argument(help="The file to check.")] = _CONFIG,
    as_json: Json = False,
) -> None:
    """Check a configuration by itself; contacts nothing, looks at no other file. Exits 0 or 2.

    Example: sigsum-ops archive check-config /etc/sigsum/archive.toml
    """
    from sigsum_ops.log.follow import load

    settings = load(config)
    shown = {"key_hash": settings.public_key.hash, "urls": list(settings.urls)}
    typer.echo(json.dumps(shown) if as_json else f"{config}: {', '.join(settings.urls)}")
