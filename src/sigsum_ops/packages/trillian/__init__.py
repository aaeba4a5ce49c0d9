"""Trillian's Debian package, compiled from the modules that ``go.mod`` and ``go.sum`` here pin.

The Go release is pinned too (``toolchain`` in go.mod): the controller's own ``go`` only fetches it,
through the module proxy and the checksum database (https://go.dev/doc/toolchain).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.packages import deb
from sigsum_ops.packages.recipe import Progress, Recipe

NAME = "trillian"
MODULE = "github.com/google/trillian"
REVISION = "1+so1"
PINS = Path(__file__).parent
SCHEMA_SHA256 = "58c9d1c5cc093eb33fb3bf05e3ab05ba053ef1ae0a5584cbd6cda69307aaef63"

# Trillian's program and its name in the package, where the bare name says too little.
PROGRAMS = {
    "trillian_log_server": "trillian_log_server",
    "trillian_log_signer": "trillian_log_signer",
    "createtree": "trillian_createtree",
    "updatetree": "trillian_updatetree",
}
# Upstream's own tags choose the storage (cmd/internal/provider): MySQL's alone is half the build.
BUILD_FLAGS = (
    "-trimpath",
    "-buildvcs=false",
    "-mod=readonly",
    "-tags=mysql,etcd",
    "-ldflags=-s -w -buildid=",
)
# Settings of the person's Go that say where to fetch and cache; all others are ours.
KEPT_SETTINGS = ("GOPROXY", "GOSUMDB", "GOMODCACHE", "GOCACHE")
OLDEST_GO = (1, 21)  # the first that fetches another toolchain
ARCHITECTURES = ("amd64", "arm64")  # Debian's and Go's names are the same for these
GO_PATH = "/usr/local/go/bin"  # where go.dev's archive goes; often missing from root's PATH


def pinned(what: str, text: str) -> str:
    """The version that go.mod's ``text`` gives for ``toolchain`` or for a required module."""
    found = re.search(rf"^(?:require )?\s*{re.escape(what)} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise OpsError(f"{PINS / 'go.mod'}: no version of {what}")
    return found[1]


def module_sum(version: str, text: str) -> str:
    """The hash of the module's files in go.sum's ``text``."""
    found = re.search(rf"^{re.escape(MODULE)} {re.escape(version)} (h1:\S+)$", text, re.MULTILINE)
    if found is None:
        raise OpsError(f"{PINS / 'go.sum'}: no hash of {MODULE} {version}")
    return found[1]


def recipe() -> Recipe:
    """How to make the package for this machine's architecture."""
    go_mod, go_sum = ((PINS / name).read_text() for name in ("go.mod", "go.sum"))
    version = pinned(MODULE, go_mod)
    toolchain = pinned("toolchain", go_mod)
    architecture = own_architecture()
    inputs = hashlib.sha256()
    # The code that builds is an input as well: a changed recipe makes the package again.
    sources = [PINS / name for name in ("go.mod", "go.sum", "tools.go", "__init__.py")]
    for path in (*sources, Path(deb.__file__)):
        inputs.update(hashlib.sha256(path.read_bytes()).digest())
    inputs.update(architecture.encode())
    return Recipe(
        name=NAME,
        version=f"{version.removeprefix('v')}-{REVISION}",
        architecture=architecture,
        inputs=inputs.hexdigest(),
        provenance={
            "go_toolchain": toolchain,
            "module": MODULE,
            "module_version": version,
            "module_sum": module_sum(version, go_sum),
            "go_sum_sha256": hashlib.sha256(go_sum.encode()).hexdigest(),
            "schema_sha256": SCHEMA_SHA256,
        },
        assemble=lambda work, progress: _assemble(work, progress, toolchain, architecture),
    )


def _assemble(work: Path, progress: Progress, toolchain: str, architecture: str) -> deb.Contents:
    go = _go(progress)
    settings = environment(go, toolchain, architecture)
    progress(f"fetching {toolchain} and Trillian's source")
    source = Path(json.loads(_run([go, "mod", "download", "-json", MODULE], settings))["Dir"])
    schema = source / "storage/mysql/schema/storage.sql"
    if deb.sha256_file(schema) != SCHEMA_SHA256:
        raise OpsError(
            f"{schema}: not the pinned database schema",
            hint="A new Trillian may bring a new schema: read the difference, plan the migration, "
            "then set SCHEMA_SHA256 (docs/packages.md).",
        )
    _compile(go, settings, work, progress)
    return deb.Contents(
        fields={
            "Homepage": "https://github.com/google/trillian",
            "Description": "transparent, append-only Merkle tree log\n"
            " Log server, log signer, and the programs that create and update trees, with the\n"
            " MySQL (MariaDB) storage and its schema. Statically linked.",
        },
        files=[
            *(
                deb.File(f"/usr/bin/{name}", work / built, 0o755)
                for built, name in PROGRAMS.items()
            ),
            deb.File("/usr/share/trillian/storage.sql", schema),
            deb.File("/usr/share/doc/trillian/copyright", source / "LICENSE"),
        ],
    )


def _compile(go: str, settings: dict[str, str], work: Path, progress: Progress) -> None:
    """Compile the programs into ``work``, telling ``progress`` each Go package on the way."""
    command = [go, "build", "-v", *BUILD_FLAGS, "-o", f"{work}/"]
    command += [f"{MODULE}/cmd/{name}" for name in PROGRAMS]
    said: list[str] = []
    compiled = 0
    with subprocess.Popen(
        command, env=settings, cwd=PINS, stderr=subprocess.PIPE, text=True
    ) as build:
        assert build.stderr is not None  # noqa: S101
        for line in map(str.strip, build.stderr):
            said.append(line)
            if line.startswith("go: downloading"):
                progress(line.removeprefix("go: "))
            else:
                compiled += 1
                progress(f"compiling Trillian: {compiled} packages, {line}")
    if build.returncode != 0:
        raise OpsError("Trillian did not compile:\n" + "\n".join(said[-12:]))


def environment(go: str, toolchain: str, architecture: str) -> dict[str, str]:
    """An environment in which nothing of the person's Go set-up reaches the programs."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GO", "CGO"))}
    clean["PATH"] = f"{clean.get('PATH', os.defpath)}:{GO_PATH}"
    kept = json.loads(
        _run([go, "env", "-json", *KEPT_SETTINGS], {**os.environ, "GOTOOLCHAIN": "local"})
    )
    return {
        **clean,
        **{key: value for key, value in kept.items() if value},
        "GOENV": "off",
        "GOWORK": "off",
        "GOTOOLCHAIN": toolchain,
        "GOOS": "linux",
        "GOARCH": architecture,
        "CGO_ENABLED": "0",
    }


def _go(progress: Progress) -> str:
    """The ``go`` command; Debian's is installed where there is none and we may."""
    if found := find_go():
        return found
    candidate = _debian_go() if os.geteuid() == 0 else None
    if candidate is not None and candidate >= OLDEST_GO:
        progress("installing Debian's golang-go")
        _run(
            ["apt-get", "install", "--yes", "--no-install-recommends", "golang-go"],
            {**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if found := find_go():
            return found
    raise OpsError(
        "Go 1.21 or newer is needed to build Trillian, and none was found",
        hint="On Debian 13: apt install golang-go (as root). On older releases: the one in "
        "backports, or https://go.dev/dl/. It fetches the pinned release by itself.",
    )


def find_go() -> str | None:
    """The first ``go`` on PATH or where go.dev's archive puts it, if it is recent enough."""
    found = shutil.which("go") or shutil.which("go", path=GO_PATH)
    if found is None:
        return None
    said = _run([found, "env", "GOVERSION"], {**os.environ, "GOTOOLCHAIN": "local"})
    return found if _release(said) >= OLDEST_GO else None


def _debian_go() -> tuple[int, int] | None:
    """The release of golang-go that apt would install, if there is apt and it knows one."""
    if shutil.which("apt-cache") is None:
        return None
    said = _run(["apt-cache", "policy", "golang-go"], {**os.environ, "LC_ALL": "C"})
    found = re.search(r"Candidate: 2:(\S+)", said)
    return _release(found[1]) if found else None


def _release(version: str) -> tuple[int, int]:
    """Major and minor number of ``go1.24.4``, ``1.26rc1`` or ``devel …`` (which is none: 0, 0)."""
    found = re.match(r"(?:go)?(\d+)\.(\d+)", version.strip())
    return (int(found[1]), int(found[2])) if found else (0, 0)


def own_architecture() -> str:
    machine = os.uname().machine
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    if architecture not in ARCHITECTURES:
        raise OpsError(
            f"Trillian's package is made for {' and '.join(ARCHITECTURES)}, not for {machine}",
            hint="Build on a machine of the hosts' architecture and copy dist/packages.",
        )
    return architecture


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, cwd=PINS, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-12:]
        raise OpsError(f"{' '.join(command)} failed:\n" + "\n".join(said))
    return done.stdout
