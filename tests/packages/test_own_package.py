"""Our own package has what a host runs, and works without what only a controller needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sigsum_ops
from sigsum_ops.packages import deb, own

ROOT = Path(__file__).parents[2]
INSIDE = "usr/lib/python3/dist-packages"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("own")
    recipe = own.recipe()
    contents = recipe.assemble(work, print)
    package = deb.write(recipe.name, recipe.version, recipe.architecture, contents, work)
    subprocess.run(["dpkg-deb", "--raw-extract", package, work / "unpacked"], check=True)
    return work / "unpacked"


def on_host(unpacked: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "PYTHONPATH": str(unpacked / INSIDE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_only_the_hosts_rooms(unpacked: Path) -> None:
    package = unpacked / INSIDE / "sigsum_ops"
    assert (package / "log" / "__init__.py").is_file()
    assert not (package / "lab").exists()
    assert not (package / "packages").exists()
    assert (package / "hsm/oracle/service.py").is_file()
    assert not [path for path in unpacked.rglob("*") if path.suffix == ".pyc"]
    assert (unpacked / "usr/share/doc/sigsum-ops/copyright").read_text() == (
        ROOT / "LICENSE"
    ).read_text()
    assert os.access(unpacked / "usr/bin/sigsum-ops", os.X_OK)


def test_every_module_imports_without_the_controllers_rooms(unpacked: Path) -> None:
    program = """
import importlib, json, pkgutil, sigsum_ops
names = [found.name for found in pkgutil.walk_packages(sigsum_ops.__path__, "sigsum_ops.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([sigsum_ops.__file__, names]))
"""
    done = on_host(unpacked, "-c", program)
    assert done.returncode == 0, done.stderr
    file, names = json.loads(done.stdout)
    assert file.startswith(str(unpacked))
    assert "sigsum_ops.cli" in names


def test_the_command_on_a_host(unpacked: Path) -> None:
    command = str(unpacked / "usr/bin/sigsum-ops")
    assert (
        on_host(unpacked, command, "--version").stdout == f"sigsum-ops {sigsum_ops.__version__}\n"
    )
    offered = on_host(unpacked, command, "--help").stdout
    assert "inventory" in offered
    assert "packages" not in offered


def test_a_changed_source_is_another_version(tmp_path: Path) -> None:
    copy = tmp_path / "src" / "sigsum_ops"
    shutil.copytree(Path(sigsum_ops.__file__).parent, copy)
    before = own.recipe(copy)
    assert re.fullmatch(re.escape(sigsum_ops.__version__) + r"\+src\.[0-9a-f]{12}", before.version)
    for unpackaged in ("errors.py~", ".errors.py.swp", "packages/more.py", "lab/more.py"):
        (copy / unpackaged).write_text("not packaged")
    (copy / "log" / "__pycache__").mkdir(exist_ok=True)
    (copy / "log" / "__pycache__" / "more.cpython-311.pyc").write_bytes(b"")
    assert own.recipe(copy).version == before.version
    (copy / "log" / "more.py").write_text("MORE = 1\n")
    assert own.recipe(copy).version != before.version


def test_every_dependency_has_its_debian_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[<>=~!]", item)[0] for item in project["dependencies"]}
    assert declared == own.DEPENDS.keys() | own.RECOMMENDS.keys()
    assert project["version"] == sigsum_ops.__version__
