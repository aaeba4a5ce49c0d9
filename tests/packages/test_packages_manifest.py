"""The manifest is what the Ansible roles read: its keys are stable, and a broken one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.packages import manifest

ENTRY = {
    "name": "hello",
    "version": "1",
    "architecture": "all",
    "file": "hello_1_all.deb",
    "sha256": "00" * 32,
    "size": 7,
    "inputs": "11" * 32,
    "provenance": {"module": "example.org/hello"},
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / manifest.FILE_NAME
    manifest.save(path, {"hello": manifest.Package(**ENTRY)})  # type: ignore[arg-type]
    assert json.loads(path.read_text()) == {"packages": {"hello": ENTRY}}
    assert manifest.load(path)["hello"].file == "hello_1_all.deb"
    assert [entry.name for entry in tmp_path.iterdir()] == [manifest.FILE_NAME]


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="no packages have been built") as caught:
        manifest.load(tmp_path / "manifest.json")
    assert caught.value.hint == "Run: sigsum-ops packages build"


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "{}",
        '{"packages": []}',
        '{"packages": {"hello": "1"}}',
        json.dumps({"packages": {"hello": {**ENTRY, "size": "7"}}}),
        json.dumps({"packages": {"hello": {**ENTRY, "file": "../hello.deb"}}}),
        json.dumps({"packages": {"other": ENTRY}}),
        json.dumps({"packages": {"hello": {k: v for k, v in ENTRY.items() if k != "sha256"}}}),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, document: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(document)
    with pytest.raises(OpsError, match="not a manifest of packages"):
        manifest.load(path)
