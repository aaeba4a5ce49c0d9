"""The command line: thin, every verb one function elsewhere.

Exit codes: 0 success; 1 the thing asked about is wrong or failed; 2 the arguments or an input file
are malformed; verbs that distinguish more say so in their help.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from sigsum_ops import __version__
from sigsum_ops.errors import OpsError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run a production Sigsum transparency log.",
)
console = Console()
errors = Console(stderr=True)


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
