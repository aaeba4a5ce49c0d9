"""What no file of the repository may hold, and what its parts must agree on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

import sigsum_ops

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# In parts, so that this file does not hold what it looks for.
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("ftp", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("proxy", "golang", "org"),
        ("sum", "golang", "org"),
        ("galaxy", "ansible", "com"),
        ("registry", "npmjs", "org"),
        ("docker", "io"),
        ("quay", "io"),
        ("ghcr", "io"),
    )
)
# Where a checkout is or was. One directory below the root, such as /src, would be found by chance.
PLACES = ("/" + "work/", "/tmp/" + "scratch", *([f"{ROOT}/"] if len(ROOT.parts) > 2 else []))
COMMANDS = {"command", "shell", "raw", "script"}


@cache
def _files() -> list[Path]:
    """Every file that git has or would take: not what .gitignore leaves out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return sorted(path for name in set(listed.split("\0")) if (path := ROOT / name).is_file())


def _lines() -> Iterator[tuple[str, str]]:
    """Each line of each text file, with its place."""
    for path in _files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def _ansible() -> list[Path]:
    """The files that hold plays and tasks."""
    return [
        path
        for path in _files()
        if path.suffix == ".yml"
        and path.relative_to(ROOT).parts[0] in {"roles", "playbooks", "molecule", ".config"}
    ]


@pytest.mark.parametrize("above", [ROOT, ROOT / "collections/ansible_collections/sigsum_ops/site"])
def test_the_built_packages_are_found_by_path_and_by_the_collections_name(above: Path) -> None:
    """``ansible-playbook sigsum_ops.site.site`` sees the repository through links."""
    role = above / "roles/controller_package"
    default = yaml.safe_load((role / "defaults/main.yml").read_text())["controller_package_dir"]
    templar = Templar(loader=DataLoader(), variables={"role_path": str(role)})
    assert templar.template(trust_as_template(default)) == f"{ROOT}/dist/packages"


def test_no_registry_or_mirror_is_named() -> None:
    """The project installs from whatever the machine is configured with."""
    pattern = re.compile("|".join(rf"(?<![\w.-]){re.escape(host)}(?![\w.])" for host in HOSTS))
    assert [place for place, line in _lines() if pattern.search(line)] == []


def test_no_path_of_the_building_machine() -> None:
    pattern = re.compile("|".join(rf"(?<![\w.)}}-]){re.escape(place)}" for place in PLACES))
    assert [place for place, line in _lines() if pattern.search(line)] == []


def test_symbolic_links_resolve() -> None:
    links = [path for path in (ROOT / "collections").rglob("*") if path.is_symlink()]
    assert {link.name for link in links} >= {"galaxy.yml", "meta", "playbooks", "plugins", "roles"}
    for link in links:
        assert link.resolve(strict=True) == ROOT / link.name


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert galaxy["version"] == project["version"] == sigsum_ops.__version__


def test_each_locked_dependency_has_a_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"^\s*(-i\b|--(extra-)?index|--find-links|--trusted)", lock, re.M)
    assert "://" not in lock
    entries = re.sub(r"\\\n", " ", lock).splitlines()
    entries = [line for line in entries if line.strip() and not line.lstrip().startswith("#")]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==[^ ]+ ", entry, re.I), entry.split()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry.split()[0]


# --- Ansible ------------------------------------------------------------------------------------


def _hidden(text: str) -> Iterator[tuple[int, str]]:
    """Lines (from 1) that hide a failure, or a change without saying why.

    ``changed_when: false`` on a command claims that it only reads. That claim is a comment, on the
    line or right above it.
    """
    lines = text.splitlines()
    for task in _mappings(yaml.compose(text, Loader=yaml.CSafeLoader)):
        entries = {key.value: (key, value) for key, value in task.value}
        modules = {name.rpartition(".")[2] for name in entries}
        for name, (key, value) in entries.items():
            line = key.start_mark.line
            off = value.value in ("false", "False", "no")
            said = "#" in lines[line] or lines[line - 1].lstrip().startswith("#")
            unsaid_change = name == "changed_when" and modules & COMMANDS and not said
            if name == "ignore_errors" or (off and (name == "failed_when" or unsaid_change)):
                yield line + 1, name


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for key, value in node.value:
            yield from _mappings(key)
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _mappings(item)


def test_no_task_hides_its_failure_or_its_change() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in _ansible()
        for line, what in _hidden(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("task", "found"),
    [
        ("- command: x\n  changed_when: false\n", [(2, "changed_when")]),
        ("- command: x\n  changed_when: false # reads\n", []),
        ("- ansible.builtin.shell: x\n  # reads\n  changed_when: false\n", []),
        ("- debug: {}\n  changed_when: false\n", []),
        ("- command: x\n  changed_when: out.rc == 1\n", []),
        ("- block:\n    - debug: {}\n      ignore_errors: yes\n", [(3, "ignore_errors")]),
        ("- tasks:\n  - stat: {}\n    failed_when: no\n", [(3, "failed_when")]),
        ("- stat: {}\n  failed_when: x is failed\n", []),
    ],
)
def test_what_counts_as_hiding(task: str, found: list[tuple[int, str]]) -> None:
    assert list(_hidden(task)) == found


def test_each_play_has_a_name() -> None:
    playbooks = sorted((ROOT / "playbooks").glob("*.yml"))
    assert playbooks
    for path in playbooks:
        for play in yaml.safe_load(path.read_text()):
            assert play.get("name"), path.name


@pytest.mark.parametrize("name", ["lab", "example"])
def test_inventories_are_read_by_ansible(name: str) -> None:
    done = subprocess.run(
        [BIN / "ansible-inventory", "-i", ROOT / "inventories" / name, "--list"],
        cwd=ROOT,
        env={
            "PATH": str(BIN),
            "HOME": str(Path.home()),
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    machines = json.loads(done.stdout)["log_machines"]["hosts"]
    assert len(machines) >= 2
