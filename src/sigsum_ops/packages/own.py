"""Our own package: the part of ``sigsum_ops`` that a host runs, for Debian's Python."""

from __future__ import annotations

from pathlib import Path

import sigsum_ops
from sigsum_ops.packages import deb
from sigsum_ops.packages.recipe import Recipe

NAME = "sigsum-ops"
# Rooms that only a controller needs.
LEFT_OUT = ("lab", "monitoring", "packages", "site/runbook")
DESTINATION = "/usr/lib/python3/dist-packages/sigsum_ops"

# Debian's names for the dependencies in pyproject.toml; a test keeps the two together.
DEPENDS = {
    "typer": "python3-typer",
    "aiohttp": "python3-aiohttp",
    "rich": "python3-rich",
    "PyYAML": "python3-yaml",
    "cryptography": "python3-cryptography",
    "grpcio": "python3-grpcio",
    "protobuf": "python3-protobuf",
    "yubihsm": "python3-yubihsm",
    "dnspython": "python3-dnspython",
    "prometheus-client": "python3-prometheus-client",
}
# What the programs that it configures read: the list that a log's rate limits go by.
DATA = ("publicsuffix",)
RECOMMENDS = {"jinja2": "python3-jinja2"}

# What dh_python3 would write. `-f`: all source files bear the same time, so a file of unchanged
# length cannot be told from its predecessor by time and size.
POSTINST = f"""#!/bin/sh
set -e
if [ "$1" = configure ] && command -v py3compile >/dev/null; then
    py3compile -f -p {NAME}
fi
"""
PRERM = f"""#!/bin/sh
set -e
if command -v py3clean >/dev/null; then
    py3clean -p {NAME}
fi
"""
COMMAND = """#!/usr/bin/python3
from sigsum_ops.cli import main

main()
"""


def recipe(source: Path | None = None) -> Recipe:
    """How to make the package from ``source`` (a ``sigsum_ops`` directory; the running one)."""
    contents = _contents(source or Path(sigsum_ops.__file__).parent)
    inputs = deb.digest(contents)
    return Recipe(
        name=NAME,
        version=f"{sigsum_ops.__version__}+src.{inputs[:12]}",
        architecture="all",
        inputs=inputs,
        provenance={},
        assemble=lambda _work, _progress: contents,
    )


def _contents(source: Path) -> deb.Contents:
    files = [
        deb.File(f"{DESTINATION}/{path.relative_to(source).as_posix()}", path.read_bytes())
        for path in source.rglob("*")
        if path.is_file() and _belongs(path.relative_to(source))
    ]
    files.append(deb.File("/usr/bin/sigsum-ops", COMMAND.encode(), 0o755))
    license_file = source.parents[1] / "LICENSE"
    if license_file.exists():
        files.append(deb.File(f"/usr/share/doc/{NAME}/copyright", license_file.read_bytes()))
    return deb.Contents(
        fields={
            "Depends": ", ".join(["python3 (>= 3.11)", *DEPENDS.values(), *DATA]),
            "Recommends": ", ".join(RECOMMENDS.values()),
            "Description": "operate a Sigsum transparency log: programs of a host\n"
            " The start guard of a log, and the library that the Ansible modules of the\n"
            " collection sigsum_ops.site import.",
        },
        files=files,
        scripts={"postinst": POSTINST, "prerm": PRERM},
    )


def _belongs(relative: Path) -> bool:
    """Whether a file is source: not a controller's room, byte code, or an editor's leftover."""
    return not any(relative.is_relative_to(room) for room in LEFT_OUT) and not any(
        part.startswith(".") or part == "__pycache__" or part.endswith(("~", ".pyc"))
        for part in relative.parts
    )
