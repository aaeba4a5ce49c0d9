"""``sigsum-ops oracle``: thin verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="The signing oracle: an ssh-agent that signs a log's tree heads, and never a split view.",
)

Config = Annotated[Path, typer.Option("--config", "-c", help="The oracle's configuration.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_CONFIG = Path("/etc/sigsum/oracle.toml")


def _say(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def run(config: Config = _CONFIG) -> None:
    """Serve until SIGTERM; what the unit sigsum-oracle runs.

    Waits while the device is away. Exits 1 where it answers and is not the one with the pinned key,
    and where the journal is missing or damaged; 2 on a bad configuration.
    """
    from sigsum_ops.hsm.oracle.config import load
    from sigsum_ops.hsm.oracle.service import run

    run(load(config))


@app.command()
def prove(config: Config = _CONFIG) -> None:
    """Have a standby's device show the log's key and sign something that is no tree head.

    Exits 1 where it does not, or where an oracle runs: that one has proven it at its start. The
    passphrase is taken from systemd, as the unit takes it.
    Example: systemd-run --pipe --wait --quiet --uid=sigsum-oracle
    --property=LoadCredential=hsm-passphrase:/etc/sigsum/private/hsm-passphrase sigsum-ops oracle
    prove
    """
    from sigsum_ops.hsm.oracle import service
    from sigsum_ops.hsm.oracle.config import load

    settings = load(config)
    typer.echo(f"{service.prove(settings)} signs with the key {settings.public_key.hash}")


@app.command()
def seed(
    config: Config = _CONFIG,
    empty: Annotated[bool, typer.Option("--empty", help="The log is new, its tree empty.")] = False,
    sth: Annotated[
        Path | None,
        typer.Option(
            help="A tree head that the log signed: an sth file, or an answer to get-tree-head."
        ),
    ] = None,
    promotion: Annotated[
        bool,
        typer.Option("--promotion", help="A promotion has just made this machine the primary."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what the log has signed so far, before the oracle first signs on this machine.

    With --empty, Trillian must show the log's tree to be empty and the only one. With --sth, the
    signature must be the log's, and the tree here must extend that tree head. With --promotion,
    the tree must be exactly as in promotion.json, beside the tree-id file; run again, it changes
    nothing. Nothing else begins a journal. On a machine that has one, --sth and --promotion add to
    it, with the oracle stopped.

    Run it as the journal's owner, or as root.
    Example: sigsum-ops oracle seed --sth /root/get-tree-head.answer
    """
    from sigsum_ops.errors import UsageError
    from sigsum_ops.hsm.oracle import operate
    from sigsum_ops.hsm.oracle.config import load

    if [empty, sth is not None, promotion].count(True) != 1:
        raise UsageError("exactly one of --empty, --sth and --promotion must be given")
    settings = load(config)
    if sth:
        seeded = operate.seed_signed(settings, sth, say=_say)
    elif promotion:
        seeded = operate.seed_promoted(settings, say=_say)
    else:
        seeded = operate.seed_empty(settings, say=_say)
    head = seeded.last
    if as_json:
        shown = {"size": head.size, "root_hash": head.root.hex(), "changed": seeded.changed}
        typer.echo(json.dumps(shown))
    else:
        unchanged = "" if seeded.changed else "unchanged; "
        typer.echo(f"{settings.journal}: {unchanged}the last tree head is {head}")


@app.command()
def show(
    config: Config = _CONFIG,
    size: Annotated[
        int | None, typer.Option(min=0, help="Also look up the root that is journaled for it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the log has signed, and the evidence where the oracle is latched.

    Checks the whole journal; can be run beside the oracle. Exits 1 if the oracle is latched or the
    journal is not as it was written.
    """
    from sigsum_ops.hsm.oracle import operate
    from sigsum_ops.hsm.oracle.config import load

    shown = operate.show(load(config), size)
    if as_json:
        typer.echo(json.dumps(shown))
    else:
        journal = shown["journal"]
        typer.echo(f"log       {shown['log_key_hash']}")
        typer.echo(f"journal   {journal['path']}, {journal['records']} tree heads")
        for name in ("first", "last"):
            record = journal[name]
            typer.echo(
                f"{name:9} size {record['size']}, root {record['root_hash']}, {record['time']}"
            )
        if "asked" in shown:
            typer.echo(
                f"asked     size {shown['asked']['size']},"
                f" root {shown['asked']['root_hash'] or 'not journaled'}"
            )
        if latch := shown["latch"]:
            typer.echo(f"LATCHED   {latch['path']}, SHA-256 {latch['sha256']}")
            typer.echo(json.dumps(latch["evidence"], indent=2))
    raise typer.Exit(code=1 if shown["latched"] else 0)


@app.command()
def resolve(
    config: Config = _CONFIG,
    followed: Annotated[
        str | None,
        typer.Option(
            "--yes-i-have-followed",
            metavar="SHA256",
            help="The whole digest of the evidence that was read, instead of being asked.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a latched oracle sign again, after docs/bcp/oracle-latched.md was followed.

    The oracle must be stopped, and Trillian's tree must be proven to extend the last journaled tree
    head: otherwise it would latch again at once, so this refuses. The evidence is moved aside, with
    a note of who resolved it, when, and on which tree; nothing is deleted.
    """
    from sigsum_ops.hsm.oracle import operate
    from sigsum_ops.hsm.oracle.config import load

    done = operate.resolve(
        load(config),
        followed=followed,
        ask=lambda question: str(typer.prompt(question, err=True)),
        say=_say,
    )
    if as_json:
        typer.echo(json.dumps(done))
    else:
        typer.echo(f"The evidence is now in {done['evidence']}")
        typer.echo("Now start the oracle and the log again.")


@app.command("check-config")
def check_config(
    config: Annotated[Path, typer.Argument(help="The file to check.")] = _CONFIG,
    as_json: Json = False,
) -> None:
    """Check a configuration by itself; contacts nothing, looks at no other file. Exits 0 or 2.

    Example: sigsum-ops oracle check-config /etc/sigsum/oracle.toml
    """
    from sigsum_ops.hsm.oracle.config import HsmKey, LogRole, load

    settings = load(config)
    until = settings.role.ungated_until if isinstance(settings.role, LogRole) else None
    shown = {
        "key_hash": settings.public_key.hash,
        "role": "log" if isinstance(settings.role, LogRole) else "witness",
        "key": "hsm" if isinstance(settings.key, HsmKey) else "software",
        "socket": str(settings.socket),
        "ungated_until": until and until.isoformat(),
    }
    text = f"{config}: {shown['role']}, {shown['key']} key"
    text += f", without a secondary until {shown['ungated_until']}" if until else ""
    typer.echo(json.dumps(shown) if as_json else text)
