"""``sigsum-ops packages build``: make what is missing, and only that."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.packages import deb, manifest, own, trillian
from sigsum_ops.packages.manifest import Manifest, Package
from sigsum_ops.packages.recipe import Progress, Recipe

RECIPES = {trillian.NAME: trillian.recipe, own.NAME: own.recipe}
_WORK_PREFIX = ".build-"


def default_directory() -> Path:
    """``dist/packages`` of the repository that this code lies in, else of the current directory."""
    root = Path(__file__).resolve().parents[3]
    return (root if (root / "galaxy.yml").exists() else Path.cwd()) / "dist" / "packages"


def build(out: Path, only: Collection[str], progress: Progress) -> Manifest:
    """Make the packages named in ``only`` (all, if empty) in ``out``; return the whole manifest.

    A package whose inputs are those of the manifest, and whose file has the hash recorded there, is
    left as it is. Files of earlier versions stay: going back is installing one of them.
    """
    if unknown := set(only) - RECIPES.keys():
        raise UsageError(
            f"no package {', '.join(sorted(unknown))}", hint=f"Packages: {', '.join(RECIPES)}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _lock(out / ".lock", progress):
            _sweep(out)
            built = _previous(out / manifest.FILE_NAME)
            for name in RECIPES:
                if not only or name in only:
                    recipe = RECIPES[name]()
                    if not is_current(out, built.get(name), recipe):
                        built[name] = _make(out, recipe, progress)
                        manifest.save(out / manifest.FILE_NAME, built)
            return built
    except OSError as error:
        raise OpsError(f"packages could not be built: {error}") from error


def is_current(out: Path, package: Package | None, recipe: Recipe) -> bool:
    """Whether ``package`` is what ``recipe`` would make, and its file is still as it was made."""
    if package is None or package.inputs != recipe.inputs or package.version != recipe.version:
        return False
    file = out / package.file
    return file.is_file() and deb.sha256_file(file) == package.sha256


def _make(out: Path, recipe: Recipe, progress: Progress) -> Package:
    with tempfile.TemporaryDirectory(prefix=_WORK_PREFIX, dir=out) as work:
        compiled, packed = Path(work, "compiled"), Path(work, "packed")
        compiled.mkdir()
        packed.mkdir()
        contents = recipe.assemble(compiled, progress)
        progress(f"packing {recipe.name} {recipe.version}")
        made = deb.write(recipe.name, recipe.version, recipe.architecture, contents, packed)
        package = Package(
            name=recipe.name,
            version=recipe.version,
            architecture=recipe.architecture,
            file=made.name,
            sha256=deb.sha256_file(made),
            size=made.stat().st_size,
            inputs=recipe.inputs,
            provenance=recipe.provenance,
        )
        made.replace(out / made.name)
    return package


def _previous(path: Path) -> Manifest:
    """What was built before; a manifest that cannot be read only means to build again."""
    try:
        return manifest.load(path)
    except OpsError:
        return {}


def _sweep(out: Path) -> None:
    """Remove what a killed build left; called with the lock held, so nobody works in there."""
    for path in out.glob(f"{_WORK_PREFIX}*"):
        shutil.rmtree(path)


@contextmanager
def _lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the directory's lock; it goes with the process, however that ends."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build to end")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
