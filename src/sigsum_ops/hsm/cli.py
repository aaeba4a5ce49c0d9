"""``sigsum-ops hsm``: thin verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

_PORT = 12345


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
