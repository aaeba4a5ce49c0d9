"""token: what upstream's program is told, and what is said where it is not there or refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.log.keys import PublicKey

KEY = PublicKey(bytes(range(32)))
# It says what it was told; molecule/edge has the real one.
PROGRAM = """#!/bin/sh
for argument; do case "$argument" in
--log-key=*) cat "${argument#--log-key=}";; --domain=refuse.*) echo "bad key" >&2; exit 1;;
*) echo "$argument";; esac; done
"""


def run(tmp_path: Path, domain: str) -> tuple[int, str]:
    (tmp_path / "log.pub").write_text(f"{KEY.ssh}\n")
    arguments = ["token", domain, "-k", "submit-token", "--log-key", str(tmp_path / "log.pub")]
    done = CliRunner().invoke(app, arguments)
    said = str(done.exception) if done.exception and not done.output else done.output
    return done.exit_code, said


def test_upstreams_program_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sigsum-token").write_text(PROGRAM)
    (tmp_path / "sigsum-token").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    code, said = run(tmp_path, "Log.Example.org")
    assert code == 0
    expected = ["create", "--signing-key=submit-token", KEY.ssh, "--domain=log.example.org"]
    assert said.splitlines() == expected
    code, said = run(tmp_path, "refuse.example.org")
    assert code != 0
    assert "sigsum-token refused: bad key" in said


def test_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = run(tmp_path, "example.org")
    assert code != 0
    assert "apt install sigsum-go" in said
