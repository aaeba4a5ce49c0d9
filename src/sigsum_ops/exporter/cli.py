"""``sigsum-ops exporter``: thin verbs. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="What a machine tells Prometheus of itself.")

Config = Annotated[Path, typer.Argument(help="What to read, and where to answer.")]
_CONFIG = Path("/etc/sigsum/exporter.toml")


@app.command()
def show(config: Config = _CONFIG) -> None:
    """Print once what Prometheus would be told. docs/metrics.md names every metric.

    Example: sigsum-ops exporter show
    """
    import asyncio

    from sigsum_ops.exporter import read, settings
    from sigsum_ops.exporter.serve import render

    families = asyncio.run(read.Reader(settings.load(config)).families())
    typer.echo(render(families).decode(), nl=False)


@app.command()
def check_config(config: Config = _CONFIG) -> None:
    """Refuse a configuration that cannot be right; contacts nothing."""
    from sigsum_ops.exporter import settings

    settings.load(config)
