"""``manifest.json``: what ``packages build`` made, read by the Ansible roles as JSON.

``{"packages": {NAME: {"name", "version", "architecture", "file", "sha256", "size", "inputs",
"provenance"}}}``. ``file`` is relative to the manifest, ``size`` in bytes; ``inputs`` is the hash
that decides whether to build, ``provenance`` names the pinned sources (empty for our own code).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sigsum_ops.errors import OpsError

FILE_NAME = "manifest.json"


@dataclass(frozen=True)
class Package:
    """One built package."""

    name: str
    version: str
    architecture: str
    file: str
    sha256: str
    size: int
    inputs: str
    provenance: dict[str, str]


Manifest = dict[str, Package]


def load(path: Path) -> Manifest:
    """Read the manifest at ``path``: packages by name.

    Raises OpsError where there is none, or where it is not one.
    """
    again = "Run: sigsum-ops packages build"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {name: _package(name, entry) for name, entry in document["packages"].items()}
    except FileNotFoundError:
        raise OpsError(f"{path}: no packages have been built", hint=again) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OpsError(f"{path}: not a manifest of packages: {error}", hint=again) from error


def dump(manifest: Manifest) -> str:
    """The manifest as JSON text: sorted, so that equal builds give equal files."""
    packages = {name: asdict(package) for name, package in manifest.items()}
    return json.dumps({"packages": packages}, indent=2, sort_keys=True) + "\n"


def save(path: Path, manifest: Manifest) -> None:
    """Replace the manifest at ``path`` in one step."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(dump(manifest), encoding="utf-8")
    temporary.replace(path)


def _package(name: str, entry: dict[str, object]) -> Package:
    for field in fields(Package):
        kind = {"int": int, "str": str}.get(str(field.type), dict)
        if not isinstance(entry[field.name], kind):
            raise TypeError(f"{name}: {field.name} is not of type {field.type}")
    package = Package(**{field.name: entry[field.name] for field in fields(Package)})  # type: ignore[arg-type]
    if package.name != name or Path(package.file).name != package.file:
        raise ValueError(f"{name}: describes {package.name!r}, file {package.file!r}")
    return package
