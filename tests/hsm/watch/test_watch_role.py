"""What the roles around a device refuse, and what their units may not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_no_unit_of_the_watch_is_waited_for() -> None:
    """The audit reads its whole archive at its start: the oracle would sign only after that."""
    units = list((ROOT / "roles/hsm_watch/templates").glob("*.service.j2"))
    assert units
    for unit in units:
        assert "Before=" not in unit.read_text(), unit
    others = [path for path in (ROOT / "roles").glob("*/templates/*.j2") if path not in units]
    for other in others:
        lines = other.read_text().splitlines()
        orders = [line for line in lines if line.startswith(("After=", "Requires=", "Wants="))]
        assert "sigsum-hsm-" not in " ".join(orders), other


def preflight(directory: Path, role: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the role's preflight for this machine, of which it is told what it wants to know."""
    known = {"has_signed": False, "has_journal": False, "has_passphrase": True}
    tasks = [
        {"ansible.builtin.set_fact": {"sigsum_machine": known, "cacheable": True}},
        {"ansible.builtin.include_role": {"name": role, "tasks_from": "preflight"}},
    ]
    required = {
        "hsm_watch_serial": "12345678",
        "hsm_watch_health_public_key": "ab" * 32,
        "signing_oracle_public_key": "ab" * 32,
    }
    values = {**required, **variables}
    play = {"hosts": "localhost", "connection": "local", "vars": values, "tasks": tasks}
    path = directory / "play.yml"
    path.write_text(json.dumps([play]))
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("role", "variable"),
    [
        ("hsm_watch", "hsm_watch_health_passphrase_file"),
        ("hsm_watch", "hsm_watch_audit_passphrase_file"),
        ("signing_oracle", "signing_oracle_passphrase_file"),
    ],
)
def test_a_passphrase_file_that_says_nothing_is_refused(
    tmp_path: Path, role: str, variable: str
) -> None:
    good, named = tmp_path / "good", tmp_path / "named"
    good.write_text("correct horse\n")
    files = {"hsm_watch_health_passphrase_file": good, "hsm_watch_audit_passphrase_file": good}
    values = {name: str(path) for name, path in {**files, variable: named}.items()}
    for text in (None, "\n", "correct horse\n"):
        if text is not None:
            named.write_text(text)
        done = preflight(tmp_path, role, **values)
        if text and text.strip():
            assert done.returncode == 0, done.stdout
        else:
            assert done.returncode == 2, done.stdout
            said = " ".join(done.stdout.split())
            assert f"{variable}: {named} is not there on the controller, or is empty." in said
            assert "Know the machine" not in said
        assert "correct horse\n" not in done.stdout
