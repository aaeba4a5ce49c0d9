"""A build makes what is missing, only that, and leaves nothing half made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sigsum_ops.errors import UsageError
from sigsum_ops.packages import build as builder
from sigsum_ops.packages import deb, manifest
from sigsum_ops.packages.recipe import Progress, Recipe

Make = Callable[..., Recipe]
Build = Callable[[Recipe], manifest.Package]


@pytest.fixture
def recipe() -> Make:
    """A recipe of the given inputs, which notes each assembly in ``made``."""

    def make(inputs: str = "1", made: list[str] | None = None, version: str = "1") -> Recipe:
        def assemble(_work: Path, _progress: Progress) -> deb.Contents:
            if made is not None:
                made.append(inputs)
            file = deb.File("/usr/share/hello/inputs", inputs.encode())
            return deb.Contents(fields={"Description": "a test"}, files=[file])

        return Recipe("hello", version, "all", inputs, {}, assemble)

    return make


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build one recipe in ``tmp_path``."""

    def run(recipe: Recipe) -> manifest.Package:
        monkeypatch.setattr(builder, "RECIPES", {"hello": lambda: recipe})
        return builder.build(tmp_path, [], lambda _message: None)["hello"]

    return run


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_the_manifest_describes_the_file(tmp_path: Path, build: Build, recipe: Make) -> None:
    package = build(recipe())
    file = tmp_path / package.file
    assert package.sha256 == deb.sha256_file(file)
    assert package.size == file.stat().st_size
    assert manifest.load(tmp_path / "manifest.json") == {"hello": package}
    assert names(tmp_path) == {".lock", "manifest.json", "hello_1_all.deb"}


def test_the_second_build_makes_nothing(tmp_path: Path, build: Build, recipe: Make) -> None:
    made: list[str] = []
    first = build(recipe(made=made))
    before = (tmp_path / "manifest.json").stat().st_mtime_ns
    assert build(recipe(made=made)) == first
    assert made == ["1"]
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("spoil", ["tamper", "remove", "no manifest", "broken manifest"])
def test_a_spoiled_build_is_repaired(
    tmp_path: Path, build: Build, recipe: Make, spoil: str
) -> None:
    made: list[str] = []
    first = build(recipe(made=made))
    file, listed = tmp_path / first.file, tmp_path / "manifest.json"
    if spoil == "tamper":
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    elif spoil == "remove":
        file.unlink()
    elif spoil == "no manifest":
        listed.unlink()
    else:
        listed.write_text("{")
    assert build(recipe(made=made)) == first
    assert made == ["1", "1"]
    assert deb.sha256_file(file) == first.sha256


def test_other_inputs_are_built_and_the_old_file_stays(
    tmp_path: Path, build: Build, recipe: Make
) -> None:
    old = build(recipe())
    new = build(recipe("2", version="2"))
    assert new.sha256 != old.sha256
    assert {old.file, new.file} < names(tmp_path)
    assert manifest.load(tmp_path / "manifest.json") == {"hello": new}


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, build: Build, recipe: Make) -> None:
    old = build(recipe())

    def interrupted(work: Path, _progress: Progress) -> deb.Contents:
        (work / "half").write_text("made")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(replace(recipe("2", version="2"), assemble=interrupted))
    assert names(tmp_path) == {".lock", "manifest.json", old.file}
    assert manifest.load(tmp_path / "manifest.json") == {"hello": old}


def test_what_a_killed_build_left_is_swept(tmp_path: Path, build: Build, recipe: Make) -> None:
    (tmp_path / ".build-killed" / "packed").mkdir(parents=True)
    build(recipe())
    assert names(tmp_path) == {".lock", "manifest.json", "hello_1_all.deb"}


def test_two_builds_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Make) -> None:
    made: list[str] = []
    said: list[str] = []
    started, waiting = threading.Event(), threading.Event()
    plain = recipe(made=made)

    def slow(work: Path, progress: Progress) -> deb.Contents:
        started.set()
        assert waiting.wait(10)
        return plain.assemble(work, progress)

    def told(message: str) -> None:
        said.append(message)
        waiting.set()

    monkeypatch.setattr(builder, "RECIPES", {"hello": lambda: replace(plain, assemble=slow)})
    first = threading.Thread(target=builder.build, args=(tmp_path, [], lambda _message: None))
    first.start()
    assert started.wait(10)
    builder.build(tmp_path, [], told)
    first.join()
    assert said == ["waiting for another build to end"]
    assert made == ["1"]


def test_an_unknown_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no package nonesuch") as caught:
        builder.build(tmp_path / "out", ["nonesuch"], lambda _message: None)
    assert caught.value.hint == "Packages: trillian, sigsum-ops"
    assert not (tmp_path / "out").exists()


def test_only_one(tmp_path: Path) -> None:
    assert list(builder.build(tmp_path, ["sigsum-ops"], lambda _message: None)) == ["sigsum-ops"]
