"""``sigsum-ops packages``: thin verbs; nothing heavy is imported before a verb runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from sigsum_ops.packages.manifest import Manifest

app = typer.Typer(
    no_args_is_help=True, help="Debian packages, built once on the controller with pinned inputs."
)

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Directory of the packages; without it, dist/packages of the repository."
    ),
]
Only = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="trillian or sigsum-ops; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the manifest as one JSON object.")]


@app.command()
def build(out: Out = None, only: Only = None, as_json: Json = False) -> None:
    """Build the .deb files that Debian does not have; what is up to date stays as it is.

    Example: sigsum-ops packages build --only sigsum-ops
    """
    from sigsum_ops.packages import build as builder
    from sigsum_ops.packages.progress import shown

    directory = out or builder.default_directory()
    with shown(Console(stderr=True)) as progress:
        manifest = builder.build(directory, only or [], progress)
    _print(directory, manifest, as_json)


@app.command()
def show(out: Out = None, as_json: Json = False) -> None:
    """List the packages that were built, with their SHA-256 and where they came from."""
    from sigsum_ops.packages.build import default_directory
    from sigsum_ops.packages.manifest import FILE_NAME, load

    directory = out or default_directory()
    _print(directory, load(directory / FILE_NAME), as_json)


def _print(directory: Path, manifest: Manifest, as_json: bool) -> None:
    from sigsum_ops.packages.manifest import dump

    if as_json:
        typer.echo(dump(manifest), nl=False)
        return
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for package in manifest.values():
        console.print(str(directory / package.file))
        rows = {"sha256": package.sha256, "size": f"{package.size / 1e6:.2f} MB"}
        for key, value in (rows | package.provenance).items():
            console.print(f"  {key:15} {value}")
