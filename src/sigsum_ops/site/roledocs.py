"""Each role's README.md, made from its argument specification, so that the two cannot differ.

``python -m sigsum_ops.site.roledocs roles`` writes them; ``--check`` writes nothing, prints what
would change, and exits 1 if anything would.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from sigsum_ops.errors import OpsError

# Ansible's markup for code in descriptions: C(code), O(option), V(value), E(variable), M(module)…
_CODE = re.compile(r"\b[COVEMP]\(([^()]*)\)")
_COLLECTION = "sigsum_ops.site"


def render(role: Path) -> str:
    """The README of one role, from its ``meta`` directory.

    Raises:
        OpsError: meta/argument_specs.yml or meta/main.yml is missing or lacks what the page needs.
    """
    try:
        specification = _read(role / "meta" / "argument_specs.yml")["argument_specs"]
        galaxy = _read(role / "meta" / "main.yml")["galaxy_info"]
        return _template().render(
            name=role.name,
            # What two entry points share is said once: a preflight takes what its role takes.
            entries=[
                _entry(role.name, name, entry)
                for number, (name, entry) in enumerate(specification.items())
                if entry not in list(specification.values())[:number]
            ],
            platforms=", ".join(
                f"{platform['name']} {'/'.join(platform['versions'])}"
                for platform in galaxy["platforms"]
            ),
            ansible=galaxy["min_ansible_version"],
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise OpsError(
            f"{role}: the specification lacks something that its page needs: {error!r}"
        ) from error


def drift(role: Path) -> str:
    """What would change in a role's README.md, as a unified diff; empty where nothing would."""
    page = role / "README.md"
    present = page.read_text(encoding="utf-8") if page.exists() else ""
    return "".join(
        difflib.unified_diff(
            present.splitlines(keepends=True),
            render(role).splitlines(keepends=True),
            f"{page} (as it is)",
            f"{page} (from the specification)",
        )
    )


def main(arguments: list[str] | None = None) -> int:
    """Write or check the pages; see the module's description."""
    parser = argparse.ArgumentParser(prog="roledocs", description=__doc__)
    parser.add_argument("roles", type=Path, help="directory of the roles")
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    chosen = parser.parse_args(arguments)
    roles = sorted(path.parent.parent for path in chosen.roles.glob("*/meta/main.yml"))
    if not roles:
        raise OpsError(f"{chosen.roles}: no role there (a directory with meta/main.yml)")
    differences = [difference for role in roles if (difference := drift(role))]
    if chosen.check:
        sys.stdout.writelines(differences)
        if differences:
            sys.stderr.write("The roles' pages differ from their specifications: run make docs.\n")
        return 1 if differences else 0
    for role in roles:
        (role / "README.md").write_text(render(role), encoding="utf-8")
    return 0


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise OpsError(f"{path}: cannot be read: {error}") from error


def _template() -> jinja2.Template:
    # Markdown, not HTML: nothing is escaped but what would end a table's cell.
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["prose"] = lambda text: _CODE.sub(r"`\1`", " ".join(text.split()))
    environment.filters["cell"] = lambda text: text.replace("|", "\\|")
    return environment.get_template("role.md.j2")


def _entry(role: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    options = entry.get("options", {})
    return {
        "name": name,
        "is_main": name == "main",
        "short": entry["short_description"].rstrip("."),
        "description": _paragraphs(entry["description"]),
        "variables": [_variable(option, its) for option, its in options.items()],
        "example": entry.get("examples", _example(role, name, options)).strip(),
    }


def _variable(name: str, option: Mapping[str, Any]) -> dict[str, str]:
    kind = option["type"]
    if "elements" in option:
        kind += f" of {option['elements']}"
    choices = ", ".join(f"`{choice}`" for choice in option.get("choices", []))
    meaning = " ".join(_paragraphs(option["description"]))
    return {
        "name": name,
        "type": kind,
        "default": _default(option),
        "meaning": f"{meaning} One of {choices}." if choices else meaning,
    }


def _default(option: Mapping[str, Any]) -> str:
    if option.get("required"):
        return "**required**"
    default = option["default"]
    if isinstance(default, list | dict) and default:
        return "[in defaults](defaults/main.yml)"
    if default == "":
        return "empty"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _example(role: str, entry_point: str, options: Mapping[str, Any]) -> str:
    """A play with what must be set; a role says a better one in ``examples``."""
    call: dict[str, Any] = {"name": f"{_COLLECTION}.{role}"}
    if entry_point != "main":
        call["tasks_from"] = entry_point
    task: dict[str, Any] = {"ansible.builtin.import_role": call}
    required = {name: its for name, its in options.items() if its.get("required")}
    if required:
        task["vars"] = {name: its.get("choices", ["…"])[0] for name, its in required.items()}
    return yaml.safe_dump([task], sort_keys=False, allow_unicode=True)


def _paragraphs(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else text


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OpsError as failure:
        sys.exit(f"error: {failure}")
