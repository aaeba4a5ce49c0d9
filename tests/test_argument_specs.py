"""Each role says its variables once: specification, defaults and page agree."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigsum_ops.errors import OpsError
from sigsum_ops.site.roledocs import drift, main, render

ROOT = Path(__file__).parents[1]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}

each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def _load(path: Path) -> Any:
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def _options(role: Path) -> dict[str, dict[str, Any]]:
    specification = _load(role / "meta" / "argument_specs.yml")["argument_specs"]
    return {
        name: option
        for entry in specification.values()
        for name, option in entry.get("options", {}).items()
    }


def test_there_are_roles() -> None:
    assert ROLES


@each_role
def test_defaults_are_those_of_the_specification(role: Path) -> None:
    """An option is required or has a default: one that has neither is undefined somewhere."""
    options = _options(role)
    for name, option in options.items():
        assert option.get("required", False) != ("default" in option), name
    specified = {name: its["default"] for name, its in options.items() if "default" in its}
    assert _load(role / "defaults" / "main.yml") == specified


@each_role
def test_defaults_have_the_type_that_they_claim(role: Path) -> None:
    for name, option in _options(role).items():
        if "default" not in option:
            continue
        default = option["default"]
        rendered_later = isinstance(default, str) and "{{" in default
        assert rendered_later or type(default) in TYPES[option["type"]], name
        if "elements" in option and not rendered_later:
            assert all(type(item) in TYPES[option["elements"]] for item in default), name
        if "choices" in option:
            assert default in option["choices"], name


@each_role
def test_variables_carry_their_role(role: Path) -> None:
    for name in _options(role):
        assert name.startswith(f"{role.name}_"), name
    for name in _load(role / "vars" / "main.yml"):
        assert f"{name}_".startswith(f"__{role.name}_"), name


@each_role
def test_the_page_is_the_specification(role: Path) -> None:
    assert drift(role) == "", "run make docs"


@pytest.fixture
def pump(tmp_path: Path) -> Path:
    """A role whose specification uses everything that a page can show."""
    role = tmp_path / "roles" / "pump"
    (role / "meta").mkdir(parents=True)
    (role / "meta" / "main.yml").write_text(
        "galaxy_info: {min_ansible_version: '2.17',"
        " platforms: [{name: Debian, versions: [trixie]}]}"
    )
    (role / "meta" / "argument_specs.yml").write_text(
        """
argument_specs:
  main:
    short_description: A pump.
    description: [Owns C(/run/pump)., Listens on port 7.]
    options:
      pump_mode: {type: str, required: true, choices: [slow, fast], description: How O(pump_rate)}
      pump_rate: {type: int, default: 3, description: 'Litres | minute'}
      pump_tags: {type: list, elements: str, default: [a], description: Tags.}
      pump_name: {type: str, default: "", description: [Name., Or none.]}
  stop:
    short_description: Stop it
    description: Stops.
    examples: "- stop: it"
"""
    )
    return role


def test_a_page_shows_what_the_specification_says(pump: Path) -> None:
    page = render(pump)
    for line in (
        "# pump",
        "A pump.",
        "Owns `/run/pump`.",
        "| `pump_mode` | str | **required** | How `pump_rate` One of `slow`, `fast`. |",
        "| `pump_rate` | int | `3` | Litres \\| minute |",
        "| `pump_tags` | list of str | [in defaults](defaults/main.yml) | Tags. |",
        "| `pump_name` | str | empty | Name. Or none. |",
        "    pump_mode: slow",
        "## Entry point `stop`",
        "- stop: it",
        "Runs on Debian trixie, with Ansible 2.17 or newer.",
    ):
        assert line in page.splitlines()


def test_a_difference_fails_the_check_until_the_page_is_made(
    pump: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roles = str(pump.parent)
    assert main([roles, "--check"]) == 1
    assert main([roles]) == 0
    assert main([roles, "--check"]) == 0
    page = pump / "README.md"
    page.write_text(page.read_text().replace("`3`", "`4`"))
    capsys.readouterr()
    assert main([roles, "--check"]) == 1
    out = capsys.readouterr().out
    assert "-| `pump_rate` | int | `4`" in out
    assert "+| `pump_rate` | int | `3`" in out
    assert "`4`" in page.read_text(), "a check writes nothing"


def test_a_role_that_cannot_be_documented_is_an_error(pump: Path, tmp_path: Path) -> None:
    specification = pump / "meta" / "argument_specs.yml"
    specification.write_text(specification.read_text().replace("short_description: A pump.", ""))
    with pytest.raises(OpsError, match="short_description"):
        render(pump)
    specification.unlink()
    with pytest.raises(OpsError, match=r"argument_specs\.yml: cannot be read"):
        main([str(pump.parent)])
    shutil.rmtree(pump)
    with pytest.raises(OpsError, match="no role there"):
        main([str(tmp_path)])
