"""How the exporter answers, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.exporter import serve, table
from sigsum_ops.exporter.serve import Exporter, Server
from tests.exporter.conftest import Machine, samples

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICEhISEhISEhISEhISEhISEhISEhISEhISEhISEhISEh"
CONFIG = f"""\
listen = ["127.0.0.1:6970", "[::1]:6970"]

[log]
public_key = "{KEY}"
url = "http://127.0.0.1:6965/"
trillian = "127.0.0.1:8090"

[certificates]
"log.example.org" = "127.0.0.1:443"
"""


@pytest.fixture
def url(machine: Machine) -> Iterator[str]:
    with Server(("127.0.0.1", 0), Exporter(machine.reader)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def get(url: str) -> tuple[bytes, str]:
    """The body and its type, as the log in this loop goes on answering."""

    def fetch() -> tuple[bytes, str]:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return answer.read(), answer.headers["Content-Type"]

    return await asyncio.to_thread(fetch)


async def test_metrics(url: str) -> None:
    text, kind = await get(f"{url}/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    assert samples(text)[("sigsum_log_tree_size",)] == 9
    for name in ("# HELP sigsum_log_tree_size ", "# TYPE sigsum_log_tree_size gauge\n"):
        assert name in text.decode()


async def test_nothing_else_is_there(url: str) -> None:
    for path in ("/", "/metrics/", "/metrics?a=b", "/../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await get(url + path)
    with pytest.raises(urllib.error.HTTPError, match="501"):
        await asyncio.to_thread(urllib.request.urlopen, f"{url}/metrics", b"posted", 10)


async def test_who_asks_often_is_told_the_same(
    url: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "FRESH", 60.0)
    answers = await asyncio.gather(*(get(f"{url}/metrics") for _ in range(5)))
    assert len(set(answers)) == 1
    assert machine.log.requests == ["GET /get-tree-head"]


def checked(path: Path, text: str) -> tuple[int, str]:
    """What check-config makes of a configuration."""
    path.write_text(text)
    done = CliRunner().invoke(app, ["exporter", "check-config", str(path)])
    return done.exit_code, str(done.exception or "")


def test_a_good_configuration(tmp_path: Path) -> None:
    assert checked(tmp_path / "exporter.toml", CONFIG) == (0, "")
    assert checked(tmp_path / "exporter.toml", 'listen = ["127.0.0.1:6970"]\n') == (0, "")


@pytest.mark.parametrize(
    ("good", "bad", "named"),
    [
        ('["127.0.0.1:6970", "[::1]:6970"]', "[]", "listen is"),
        ("127.0.0.1:6970", "localhost:6970", "listen is 'localhost:6970'"),
        ("127.0.0.1:6970", "127.0.0.1:0", "listen is '127.0.0.1:0'"),
        ("127.0.0.1:6970", "127.0.0.1:x", "listen is '127.0.0.1:x'"),
        ("[::1]:6970", "::1:6970", "listen is '::1:6970'"),
        (KEY, "nokey", "not an Ed25519 public key"),
        ("http://127.0.0.1:6965/", "ftp://127.0.0.1/", "ftp://127.0.0.1/"),
        ("127.0.0.1:8090", "127.0.0.1", "trillian in [log] is '127.0.0.1'"),
        ("127.0.0.1:443", "log.example.org", "certificates is 'log.example.org'"),
        ("[certificates]", "[others]", "others is not a setting"),
        ("url =", "other = 1\nurl =", "other in [log] is not a setting"),
    ],
)
def test_a_bad_configuration_names_the_setting(
    tmp_path: Path, good: str, bad: str, named: str
) -> None:
    assert good in CONFIG
    code, said = checked(tmp_path / "exporter.toml", CONFIG.replace(good, bad))
    assert code != 0
    assert named in said


def test_the_table_is_what_the_documentation_says() -> None:
    root = Path(__file__).parents[2]
    assert table.main([str(root / "docs/metrics.md"), "--check"]) == 0
    names = [metric.name for metric in (*table.OWN, *table.PASSED)]
    assert len(names) == len(set(names))
    assert all((metric.kind == "counter") == metric.name.endswith("_total") for metric in table.OWN)


def test_it_starts_without_what_only_people_need() -> None:
    """Memory: docs/metrics.md says how much."""
    code = "import sys, sigsum_ops.exporter.serve; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"typer", "rich", "yaml", "ansible", "aiohttp.web"} & set(done.stdout.split())
