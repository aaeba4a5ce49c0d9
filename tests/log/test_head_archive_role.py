"""The role head_archive: what it refuses, and that it writes what the service reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sigsum_ops.log.follow import Settings, load
from sigsum_ops.log.keys import PublicKey

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/head_archive"
KEY = PublicKey(bytes(range(32)))


def play(directory: Path, urls: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the role's preflight, and render its configuration, for this machine."""
    tasks = [
        {"ansible.builtin.set_fact": {"sigsum_machine": {}, "cacheable": True}},
        {"ansible.builtin.include_role": {"name": "head_archive", "tasks_from": "preflight"}},
        {
            "ansible.builtin.template": {
                "src": str(ROLE / "templates/archive.toml.j2"),
                "dest": str(directory / "archive.toml"),
            }
        },
    ]
    variables = {"head_archive_public_key": KEY.hex, "head_archive_urls": urls}
    path = directory / "play.yml"
    path.write_text(
        json.dumps(
            [
                {
                    "hosts": "localhost",
                    "connection": "local",
                    "vars": variables,
                    "vars_files": [str(ROLE / f"{kind}/main.yml") for kind in ("defaults", "vars")],
                    "tasks": tasks,
                }
            ]
        )
    )
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_service_reads_what_the_role_writes(tmp_path: Path) -> None:
    urls = ["http://192.0.2.1:6965/", "https://log.example.org/"]
    done = play(tmp_path, urls)
    assert done.returncode == 0, done.stdout
    state = Path("/var/lib/sigsum-archive")
    metrics = Path("/run/sigsum-archive/metrics.prom")
    assert load(tmp_path / "archive.toml") == Settings(
        KEY, tuple(urls), state / "heads", 5, metrics
    )


def test_following_nothing_is_refused(tmp_path: Path) -> None:
    done = play(tmp_path, [])
    assert done.returncode == 2, done.stdout
    assert "head_archive_urls is empty" in done.stdout
    assert not (tmp_path / "archive.toml").exists()
