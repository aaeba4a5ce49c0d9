"""``sigsum-ops hsm``: thin verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

_PORT = 12345
_WATCH = Path("/etc/sigsum/hsm-watch.toml")

Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration of the watch.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File with the passphrase.  [default: the unit's, in /etc/sigsum/private]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()  # without it, typer would make the only verb the whole of it
def _root() -> None:
    """YubiHSM 2 devices, and software ones to rehearse with."""


@app.command("rehearse-device")
def rehearse_device(
    serial: Annotated[
        list[int] | None,
        typer.Option(help="Serial number, 90000000-99999999; once for each device."),
    ] = None,
    port: Annotated[
        list[int] | None,
        typer.Option(
            help="Port on 127.0.0.1, once for each device.  [default: 12345 and those after it]"
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Directory that keeps the devices, with their keys in the clear."),
    ] = None,
    firmware: Annotated[
        str | None, typer.Option(help="Firmware of a new device.  [default: 2.4.0]")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="What goes wrong (see above); may be repeated.")
    ] = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="List which commands are implemented, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run software YubiHSM 2 devices behind connectors, until interrupted.

    They do what real ones do, and keep their state over a restart, but protect nothing: they are
    for rehearsals and the lab, and production refuses them. A new device has the factory's
    authentication key 1 with the password "password".

    Faults are KIND[@COMMAND][=SECONDS]: unplug (the device comes back after SECONDS),
    unplug-after@COMMAND (done, but its reply is lost), hang, lose-sessions, log-full, slow (0.1 s
    a signature). Without a COMMAND they strike at once; all but slow strike once. In a running
    device: curl --data unplug=20 URL/rehearsal/faults, and curl -X DELETE to end all of them.

    Example: sigsum-ops hsm rehearse-device --serial 90000001 --state ./hsm --fault slow
    """
    from sigsum_ops.hsm.rehearsal import run

    if commands:
        table = run.command_table()
        if as_json:
            typer.echo(json.dumps({"commands": table}))
        else:
            from rich.console import Console

            Console().print(run.command_view(table))
        return
    with run.devices(serial or [], port or [], state, firmware, fault or [], _PORT) as urls:
        described = {
            "devices": [{"serial": number, "connector": url} for number, url in urls.items()]
        }
        if as_json:
            typer.echo(json.dumps(described))
        else:
            for number, url in urls.items():
                typer.echo(f"rehearsal device {number} at {url}")
        run.wait()


@app.command()
def status(
    device: Annotated[str, typer.Argument(help="The device, as the plan calls it.")],
    plan: Annotated[Path, typer.Option(help="The site's plan.")],
    connector: Annotated[
        str, typer.Option(help="URL of the connector.")
    ] = f"http://127.0.0.1:{_PORT}",
    opening: Annotated[
        list[str] | None,
        typer.Option(
            "--open",
            metavar="NAME=FILE",
            help="An authentication key of the plan, and the file with its passphrase; repeatable.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare one device with the plan: identity, firmware, storage, objects. Changes nothing.

    A session sees only its own domains, and what of the plan that leaves out is said. Without
    --open, the device says who it is, and whether the factory's password still opens it.

    Exit codes: 0 as planned, as far as was seen; 1 it differs; 2 usage; 3 cannot tell: the device
    is away, or does not take a passphrase.

    Example: sigsum-ops hsm status log1 --plan hsm-plan.yml --open health-authentication=/media/h
    """
    from rich.console import Console

    from sigsum_ops.hsm import plan as plans
    from sigsum_ops.hsm.watch import UNKNOWN
    from sigsum_ops.hsm.watch import status as statuses
    from sigsum_ops.hsm.watch.link import Away

    site = plans.load(plan)
    planned = statuses.planned(site, device)
    keys = statuses.passphrases(site, planned, opening or [])
    try:
        found = statuses.inventory(site, planned, connector, keys)
    except Away as error:
        if as_json:
            typer.echo(json.dumps({"as_planned": None, "doubts": [error.message]}))
        else:
            typer.echo(str(error), err=True)
        raise typer.Exit(UNKNOWN) from error
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        Console().print(statuses.view(found), soft_wrap=True)
    raise typer.Exit(found.exit_code)


@app.command()
def check(
    config: Config = _WATCH, passphrase_file: PassphraseFile = None, as_json: Json = False
) -> None:
    """Test a device with its health key, without the passphrase of any other.

    Signs with the health key, verifies, compares the public key with the pinned one, and writes the
    metric file that the configuration names. What the timer sigsum-hsm-check runs.

    Exit codes: 0 it signs; 1 it answers and does not; 2 usage; 3 cannot tell: it is away.

    Example, as root: sigsum-ops hsm check --json
    """
    from sigsum_ops.hsm.watch import check as checks

    result = checks.run(config, passphrase_file)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        typer.echo(f"{result.state}: {result.message}")
    raise typer.Exit(result.exit_code)


@app.command()
def audit(
    config: Config = _WATCH,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Check the archive and show it; ask no device.")
    ] = False,
    acknowledge: Annotated[
        int | None,
        typer.Option(
            metavar="LINE", help="Close the findings: the line of the last, which was looked into."
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Drain a device's log into an archive, and account for every signature. Runs until SIGTERM.

    The archive is checked whole at each start. One signature more in the device's log than its
    oracle asked for is an alarm; where part of the log is not known, the outcome is unknown. Either
    stays until a person has followed docs/bcp/hsm-watch.md and acknowledged it.

    Exit codes with --once and --show: 0 ok; 1 alarm, or a damaged archive; 2 usage; 3 unknown.

    Example: sigsum-ops hsm audit --show
    """
    from sigsum_ops.errors import UsageError
    from sigsum_ops.hsm.watch import audit as audits
    from sigsum_ops.hsm.watch.link import keys_from

    if once + show + (acknowledge is not None) > 1:
        raise UsageError("--once, --show and --acknowledge exclude each other")
    settings = audits.configured(config)
    if show:
        shown = audits.show(settings)
    elif acknowledge is not None:
        shown = audits.acknowledge(settings, acknowledge)
    else:
        keys = keys_from(passphrase_file, settings.passphrase_credential)
        if not once:
            audits.serve(settings, keys)
            return
        shown = audits.run_once(settings, keys)
    typer.echo(json.dumps(shown) if as_json else audits.view(shown))
    raise typer.Exit(audits.exit_code(shown))


@app.command("check-config")
def check_config(
    config: Annotated[Path, typer.Argument(help="The file to check.")] = _WATCH,
    as_json: Json = False,
) -> None:
    """Check the configuration of the watch by itself; contacts nothing. Exits 0 or 2.

    Example: sigsum-ops hsm check-config /etc/sigsum/hsm-watch.toml
    """
    from sigsum_ops.hsm.watch.config import load

    settings = load(config)
    parts = [name for name in ("check", "audit") if getattr(settings, name)]
    shown = {"config": str(config), "tables": parts}
    typer.echo(json.dumps(shown) if as_json else f"{config}: {' and '.join(parts)}")
