"""``sigsum-ops lab``: thin verbs around Lab. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sigsum_ops.lab.lab import Lab

app = typer.Typer(
    no_args_is_help=True,
    help="Machines to try things on: containers with systemd, reached over ssh like real ones.\n\n"
    "Several labs can stand side by side, each with its own --name, network, keys and disks.",
)

Name = Annotated[str, typer.Option("--name", help="Which lab.")]
Host = Annotated[str, typer.Argument(help="Which machine, for example log1.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _lab(name: str) -> Lab:
    from sigsum_ops.lab.lab import Lab

    return Lab(name)


@app.command()
def up(
    name: Name = "lab",
    hosts: Annotated[
        str | None, typer.Option("--hosts", help="Only these, for example log1,log2.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the machines that do not run yet, and print where their inventory is.

    The first time takes about a minute: what is missing is installed with apt, and the machines'
    root file system is built. Asks for root with sudo. A lab whose processes are gone (this host
    was rebooted) is made anew, with empty disks and new keys.
    """
    lab = _lab(name)
    lab.up(hosts.split(",") if hosts is not None else None)
    description = lab.describe()
    if as_json:
        typer.echo(json.dumps(description))
        return
    for host, facts in description["hosts"].items():
        typer.echo(f"{host:10} {facts['address']:14} {facts['address6']:20} {facts['group']}")
    typer.echo(f"inventory: {description['inventory']}")


@app.command()
def down(
    name: Name = "lab",
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove cached images that no lab uses.")
    ] = False,
) -> None:
    """Remove a lab: machines, disks, keys, network. Only the cached image stays."""
    _lab(name).down(purge=purge)


@app.command()
def status(name: Name = "lab", as_json: Json = False) -> None:
    """Show how each machine is. Exits with 0 if all run, with 1 otherwise."""
    from dataclasses import asdict

    hosts = _lab(name).status()
    if as_json:
        typer.echo(json.dumps({"name": name, "hosts": [asdict(host) for host in hosts]}))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("host", "running", "systemd", "address", "IPv6", "uptime")
        for host in hosts:
            uptime = "" if host.uptime_s is None else f"{host.uptime_s} s"
            running = "yes" if host.running else "no"
            table.add_row(host.name, running, host.systemd, host.address, host.address6, uptime)
        Console().print(table)
    raise typer.Exit(0 if all(host.running for host in hosts) else 1)


@app.command("exec")
def execute(
    host: Host,
    command: Annotated[list[str], typer.Argument(help="After --, the program and its arguments.")],
    name: Name = "lab",
) -> None:
    """Run a command as root on a machine; its output and exit status are unchanged.

    Example: sigsum-ops lab exec log1 -- systemctl --failed
    """
    _become(_lab(name).ssh_command(host, command, tty=sys.stdin.isatty()))


@app.command()
def ssh(host: Host, name: Name = "lab") -> None:
    """Open a shell as root on a machine."""
    _become(_lab(name).ssh_command(host, tty=True))


@app.command()
def logs(
    host: Host,
    unit: Annotated[str | None, typer.Option("--unit", "-u", help="Only this unit's.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
    name: Name = "lab",
) -> None:
    """Show a machine's journal."""
    command = ["journalctl", "--no-pager"]
    command += [f"--unit={unit}"] if unit else []
    command += ["--follow"] if follow else []
    _become(_lab(name).ssh_command(host, command))


@app.command()
def restart(host: Host, name: Name = "lab") -> None:
    """Shut a machine down in good order and start it again."""
    _lab(name).restart(host)


@app.command()
def kill(host: Host, name: Name = "lab") -> None:
    """Cut a machine's power. `start` brings it back with the same disk."""
    _lab(name).kill(host)


@app.command()
def start(host: Host, name: Name = "lab") -> None:
    """Start a machine that was stopped."""
    _lab(name).start(host)


def _become(command: list[str]) -> None:
    """Become the command, so that its output, exit status and signals are its own."""
    os.execvp(command[0], command)  # noqa: S606 - a list, no shell
