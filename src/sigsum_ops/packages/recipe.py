"""What the builder knows of a package before it makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sigsum_ops.packages.deb import Contents

# Told what is being done now, often; shows it to a person or not.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """One package. ``inputs`` covers everything that the result depends on."""

    name: str
    version: str
    architecture: str
    inputs: str
    provenance: dict[str, str]
    # Makes the contents; may compile into the given empty directory.
    assemble: Callable[[Path, Progress], Contents]
