"""The bastion's probe, against a server that answers as litebastion does."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.errors import UsageError
from sigsum_ops.witness import probe
from sigsum_ops.witness.probe import Answer, Found, Settings, load, render

THERE, AWAY, HUNG = "a" * 64, "b" * 64, "c" * 64
NAMES = {THERE: "there", AWAY: "away", HUNG: "hung"}


@pytest.fixture(scope="module")
def bastion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where it answers: one witness refuses what it is asked, one is away, one is silent."""
    path = tmp_path_factory.mktemp("bastion")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=b",
    ]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "key.pem"]
    subprocess.run([*command, "-out", "cert.pem"], cwd=path, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path / "cert.pem", path / "key.pem")

    async def answer(request: web.Request) -> web.Response:
        assert request.path.endswith("/add-checkpoint")
        assert request.host == "bastion.example.org"
        assert await request.read() == probe.QUESTION
        key_hash = request.path.split("/")[1]
        if key_hash == HUNG:
            await asyncio.sleep(30)
        return web.Response(status=400 if key_hash == THERE else 502)

    loop = asyncio.new_event_loop()
    ready, address, runners = threading.Event(), list[str](), list[web.AppRunner]()

    async def serve() -> None:
        application = web.Application()
        application.router.add_post("/{tail:.*}", answer)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        address.append(f"127.0.0.1:{runner.addresses[0][1]}")
        ready.set()

    thread = threading.Thread(target=lambda: (loop.create_task(serve()), loop.run_forever()))
    thread.start()
    ready.wait()
    yield address[0]
    asyncio.run_coroutine_threadsafe(runners[0].cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def settings(bastion: str, tmp_path: Path) -> Settings:
    return Settings(bastion, "bastion.example.org", NAMES, tmp_path / "metrics.prom")


def test_who_is_there_who_is_away_and_who_is_silent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", 2.0)
    found = probe.probe(settings)
    assert {each.name: (each.reached, each.status) for each in found.answers} == {
        "there": (True, 400),
        "away": (False, 502),
        "hung": (False, 0),
    }
    assert not found.ok
    assert found.certificate_ends
    assert found.certificate_ends > found.at + 29 * 86400
    reasons = {each.name: each.reason for each in found.answers}
    assert reasons["away"] == "not connected to the bastion"
    assert reasons["hung"].startswith("does not answer in")


def test_a_bastion_that_is_down(tmp_path: Path) -> None:
    found = probe.probe(Settings("127.0.0.1:1", "b", {THERE: "there"}, tmp_path / "m"))
    assert found.certificate_ends is None
    assert "the bastion does not answer" in found.answers[0].reason


def test_the_metrics_remember_when_each_was_last_reached(settings: Settings) -> None:
    def found(at: float, reached: bool) -> Found:
        return Found(at, None, [Answer('a "name"', THERE, reached, 400 if reached else 502, 0.1)])

    probe.write(settings, found(100.0, True))
    probe.write(settings, found(200.0, False))
    text = settings.metrics_file.read_text()
    labels = f'{{name="a \\"name\\"",key_hash="{THERE}"}}'
    assert f"sigsum_bastion_backend_reached{labels} 0\n" in text
    assert f"sigsum_bastion_backend_last_reached_timestamp_seconds{labels} 100.0\n" in text
    probe.write(settings, found(300.0, True))
    assert f"last_reached_timestamp_seconds{labels} 300.0\n" in settings.metrics_file.read_text()


def test_promtool_likes_the_metrics(promtool: str) -> None:
    text = render(Found(1.0, 2.0, [Answer("a", THERE, True, 400, 0.1)]), {})
    subprocess.run([promtool, "check", "metrics"], input=text, check=True)
    lines = text.decode().splitlines()
    helps = [line.split()[2] for line in lines if line.startswith("# HELP")]
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert helps == types == sorted(set(helps), key=helps.index)
    assert all(line.startswith("sigsum_bastion_") for line in lines if line[0] != "#")


def test_the_command(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    file.write_text(
        f'address = "{settings.address}"\nname = "bastion.example.org"\n'
        f'metrics_file = "{settings.metrics_file}"\n[backends]\n{THERE} = "there"\n'
    )
    assert load(file).backends == {THERE: "there"}
    good = CliRunner().invoke(app, ["bastion", "probe", "-c", str(file), "--json"])
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["backends"][0]["reached"]
    file.write_text(file.read_text() + f'{AWAY} = "away"\n')
    bad = CliRunner().invoke(app, ["bastion", "probe", "-c", str(file)])
    assert bad.exit_code == 1
    assert "away: not connected to the bastion" in bad.stdout
    written = CliRunner().invoke(app, ["bastion", "probe", "-c", str(file), "--write"])
    assert written.exit_code == 0
    assert settings.metrics_file.exists()


def test_a_setting_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "probe.toml"
    file.write_text('address = "a:1"\nname = "b"\nmetrics_file = "/m"\nmore = 1\n[backends]\n')
    with pytest.raises(UsageError, match="more is not a setting"):
        load(file)
