"""Trillian's pins hold together, and a build needs nothing of the person's Go but the command."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.packages import deb, trillian

GO_MOD = (trillian.PINS / "go.mod").read_text()
GO_SUM = (trillian.PINS / "go.sum").read_text()
FakeGo = Callable[..., Path]


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    """Put a ``go`` of the given release first on PATH; it writes its environment and arguments."""
    monkeypatch.setattr(trillian, "GO_PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "env", "cat", "mkdir"):
        (tools / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(tools))

    def install(release: str, source: Path | None = None, status: int = 0) -> Path:
        script = f"""#!/bin/sh
case "$1 $2" in
"env GOVERSION") echo {release} ;;
"env -json") echo '{{"GOPROXY": "https://proxy.example", "GOSUMDB": ""}}' ;;
"mod download") echo '{json.dumps({"Dir": str(source)})}' ;;
"build -v")
    env > {tmp_path}/environment
    for argument in "$@"; do echo "$argument"; done > {tmp_path}/arguments
    echo "example.org/broken" >&2
    while [ "$1" != -o ]; do shift; done
    for name in trillian_log_server trillian_log_signer createtree updatetree; do
        echo "$name" > "$2$name"
    done
    exit {status} ;;
esac
"""
        (tools / "go").write_text(script)
        (tools / "go").chmod(0o755)
        return tools / "go"

    return install


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module directory whose schema is the pinned one."""
    directory = tmp_path / "module"
    schema = directory / "storage/mysql/schema/storage.sql"
    schema.parent.mkdir(parents=True)
    schema.write_text("CREATE TABLE Trees();\n")
    (directory / "LICENSE").write_text("Apache\n")
    pin = hashlib.sha256(schema.read_bytes()).hexdigest()
    monkeypatch.setattr(trillian, "SCHEMA_SHA256", pin)
    return directory


def assemble(tmp_path: Path, said: list[str] | None = None) -> dict[str, bytes]:
    work = tmp_path / "work"
    work.mkdir()
    contents = trillian.recipe().assemble(work, ([] if said is None else said).append)
    return {file.path: file.read() for file in contents.files}


def test_the_pins_agree() -> None:
    recipe = trillian.recipe()
    version = recipe.provenance["module_version"]
    assert recipe.version == f"{version.removeprefix('v')}-{trillian.REVISION}"
    assert f"{trillian.MODULE} {version} {recipe.provenance['module_sum']}" in GO_SUM.splitlines()
    assert f"toolchain {recipe.provenance['go_toolchain']}" in GO_MOD.splitlines()
    assert recipe.provenance["go_sum_sha256"] == hashlib.sha256(GO_SUM.encode()).hexdigest()


def test_every_required_module_has_its_hash() -> None:
    required = [line.split()[:2] for line in GO_MOD.splitlines() if line.startswith("\t")]
    assert len(required) > 50
    hashes = {tuple(line.split()[:2]) for line in GO_SUM.splitlines()}
    missing = [
        module
        for module, version in required
        if not {(module, version), (module, f"{version}/go.mod")} & hashes
    ]
    assert missing == []


def test_other_pins_are_another_version() -> None:
    """Hosts upgrade by version: whoever changes a pin sets a new REVISION and this digest."""
    pinned = "\n".join([GO_MOD, GO_SUM, *trillian.BUILD_FLAGS, trillian.SCHEMA_SHA256])
    assert (trillian.recipe().version, hashlib.sha256(pinned.encode()).hexdigest()) == (
        "1.7.3-1+so1",
        "c0d50cc12dc111e4755ed55f2842eb686138ca7df1460ceb5507c6b8867da1c0",
    )


def test_pinned_refuses_a_missing_version() -> None:
    with pytest.raises(OpsError, match="no version of toolchain"):
        trillian.pinned("toolchain", "module x\n\ngo 1.25.0\n")
    with pytest.raises(OpsError, match="no hash of"):
        trillian.module_sum("v1.7.3", f"{trillian.MODULE} v1.7.3/go.mod h1:x=\n")


def test_the_package(tmp_path: Path, fake_go: FakeGo, source: Path) -> None:
    fake_go("go1.21.0", source)
    said: list[str] = []
    assert assemble(tmp_path, said) == {
        "/usr/bin/trillian_log_server": b"trillian_log_server\n",
        "/usr/bin/trillian_log_signer": b"trillian_log_signer\n",
        "/usr/bin/trillian_createtree": b"createtree\n",
        "/usr/bin/trillian_updatetree": b"updatetree\n",
        "/usr/share/trillian/storage.sql": b"CREATE TABLE Trees();\n",
        "/usr/share/doc/trillian/copyright": b"Apache\n",
    }
    assert said[-1] == "compiling Trillian: 1 packages, example.org/broken"


def test_the_persons_go_settings_do_not_reach_the_compiler(
    tmp_path: Path, fake_go: FakeGo, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "GOFLAGS": "-tags=other",
        "GOEXPERIMENT": "jsonv2",
        "GOAMD64": "v4",
        "GOTOOLCHAIN": "local",
        "GONOSUMDB": "*",
        "CGO_CFLAGS": "-O0",
        "CGO_ENABLED": "1",
    }.items():
        monkeypatch.setenv(name, value)
    fake_go("go1.24.4", source)
    assemble(tmp_path)
    lines = (tmp_path / "environment").read_text().splitlines()
    seen = dict(line.partition("=")[::2] for line in lines if line.startswith(("GO", "CGO")))
    assert seen == {
        "GOPROXY": "https://proxy.example",
        "GOENV": "off",
        "GOWORK": "off",
        "GOTOOLCHAIN": trillian.pinned("toolchain", GO_MOD),
        "GOOS": "linux",
        "GOARCH": trillian.recipe().architecture,
        "CGO_ENABLED": "0",
    }
    assert "-trimpath" in (tmp_path / "arguments").read_text().splitlines()


def test_another_schema_is_refused(tmp_path: Path, fake_go: FakeGo, source: Path) -> None:
    fake_go("go1.24.4", source)
    (source / "storage/mysql/schema/storage.sql").write_text("CREATE TABLE Other();\n")
    with pytest.raises(OpsError, match=r"storage\.sql: not the pinned database schema"):
        assemble(tmp_path)
    assert not (tmp_path / "arguments").exists()


def test_a_failed_compilation(tmp_path: Path, fake_go: FakeGo, source: Path) -> None:
    fake_go("go1.24.4", source, status=1)
    with pytest.raises(OpsError, match=r"did not compile:\nexample\.org/broken"):
        assemble(tmp_path)


@pytest.mark.parametrize("release", [None, "go1.19.8", "devel"])
def test_no_usable_go(tmp_path: Path, fake_go: FakeGo, release: str | None) -> None:
    if release:
        fake_go(release)
    with pytest.raises(OpsError, match=r"Go 1\.21 or newer is needed") as caught:
        assemble(tmp_path)
    assert "apt install golang-go" in str(caught.value.hint)


@pytest.mark.parametrize(("candidate", "installed"), [("2:1.24~2", True), ("2:1.19~1", False)])
def test_debians_go_is_installed_by_root_if_recent(
    tmp_path: Path,
    fake_go: FakeGo,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    candidate: str,
    installed: bool,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    go = fake_go("go1.24.4", source)
    debian = go.rename(tmp_path / "debian-go")
    for name, body in {
        "apt-cache": f"echo '  Candidate: {candidate}'",
        "apt-get": f"cat {debian} > {go}; {shutil.which('chmod', path=os.defpath)} 755 {go}",
    }.items():
        (go.parent / name).write_text(f"#!/bin/sh\n{body}\n")
        (go.parent / name).chmod(0o755)
    if installed:
        assert "/usr/bin/trillian_createtree" in assemble(tmp_path)
    else:
        with pytest.raises(OpsError, match=r"Go 1\.21 or newer"):
            assemble(tmp_path)
    assert go.exists() is installed


@pytest.mark.lab
def test_the_real_build_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled twice, in two directories, each with an empty cache: minutes, and the network."""
    built = []
    for name in ("a", "elsewhere/b"):
        work = tmp_path / name / "work"
        work.mkdir(parents=True)
        monkeypatch.setenv("GOCACHE", str(tmp_path / name / "cache"))
        contents = trillian.recipe().assemble(work, lambda _message: None)
        built.append(deb.digest(contents))
    assert built[0] == built[1]
