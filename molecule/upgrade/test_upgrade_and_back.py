"""Newer programs on a running site and back, under load: one history, and nothing is lost.

The other log-go and Trillian are the same programs in packages of another version: the archives
have one log-go, and a Trillian takes minutes to build. Our own package is built from other sources.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml
from resources.support import EPHEMERAL, Ansible, Run, submit
from testinfra.host import Host

import sigsum_ops
from sigsum_ops.lab import drill
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.api import LogClient
from sigsum_ops.log.keys import load_public_key
from sigsum_ops.log.loadgen import Heads, following
from sigsum_ops.packages import deb, manifest, own

ROOT = Path(__file__).parents[2]
PINS = yaml.safe_load((ROOT / "roles/base/defaults/main.yml").read_text())["base_pins"]
KEPT = "/var/lib/sigsum-packages"
LOG_GO = "0.16.0-1"  # another release: not to be run beside the one before
# Both machines one after the other, since log-go goes in tandem; others work beside this one.
WRITE_DOWNTIME = 120.0
# With the same times in it, the file is the same on both machines.
REPACK = f"""
set -eu
export SOURCE_DATE_EPOCH=1
rm -rf /root/repack && mkdir -p /root/repack {KEPT}
dpkg-deb --raw-extract /var/cache/apt/archives/sigsum-log-go_0*.deb /root/repack
sed -i 's/^Version: .*/Version: {LOG_GO}/' /root/repack/DEBIAN/control
dpkg-deb -Zgzip -z1 --root-owner-group --build /root/repack {KEPT} > /dev/null
sha256sum {KEPT}/sigsum-log-go_{LOG_GO}_*.deb | cut -d ' ' -f 1
"""


def play(ansible: Ansible, *arguments: str, **variables: object) -> Run:
    """Run upgrade.yml as an operator does."""
    extra = json.dumps({"log_server_interval": "2s", **variables})
    return ansible.playbook("--extra-vars", extra, *arguments, path=ROOT / "playbooks/upgrade.yml")


def versions(host: Host) -> dict[str, str]:
    """What the machine has of what changes here."""
    names = ("sigsum-log-go", "sigsum-ops", "trillian")
    return {name: host.package(name).version for name in names}


@pytest.fixture(scope="module")
def newer(
    tmp_path_factory: pytest.TempPathFactory, machines: Mapping[str, Host]
) -> dict[str, object]:
    """What an operator's checkout and inventory say after an update, as variables."""
    out = tmp_path_factory.mktemp("packages")
    packages = manifest.load(EPHEMERAL / "packages" / manifest.FILE_NAME)

    source = tmp_path_factory.mktemp("source") / "src/sigsum_ops"
    shutil.copytree(Path(sigsum_ops.__file__).parent, source)
    (source / "log/another.py").write_text('"""Makes another version."""\n')
    recipe = own.recipe(source)
    made = deb.write(recipe.name, recipe.version, "all", recipe.assemble(out, print), out)
    packages["sigsum-ops"] = dataclasses.replace(
        packages["sigsum-ops"], version=recipe.version, file=made.name
    )

    trillian = packages["trillian"]
    version = f"{trillian.version}.1"
    script = (
        'dpkg-deb --raw-extract "$1" x && sed -i "s/^Version: .*/Version: $2/" x/DEBIAN/control'
        " && dpkg-deb -Zgzip -z1 --root-owner-group --build x trillian.deb && rm -r x"
    )
    command = ["sh", "-ec", script, "sh", str(EPHEMERAL / "packages" / trillian.file), version]
    subprocess.run(command, cwd=out, check=True, stdout=subprocess.DEVNULL)
    packages["trillian"] = dataclasses.replace(trillian, version=version, file="trillian.deb")
    manifest.save(out / manifest.FILE_NAME, packages)

    (digest,) = {machines[name].check_output(REPACK) for name in drill.MACHINES}
    return {
        "controller_package_dir": str(out),
        "base_pins": {**PINS, "sigsum-log-go": {"version": LOG_GO, "sha256": digest}},
    }


def under_load(lab: Lab, upgrade: Callable[[], Run]) -> Run:
    """Submit while it upgrades; then see that one history has all that was acknowledged."""
    return asyncio.run(_under_load(lab, upgrade))


async def _under_load(lab: Lab, upgrade: Callable[[], Run]) -> Run:
    key, stop = load_public_key(lab.state / "log-key.pub"), asyncio.Event()
    load = drill.Load(f"upgrade {upgrade}", 20000)
    async with LogClient(f"http://{lab.hosts()['log1']}:{drill.PORT}", timeout=5) as client:
        heads = Heads(client, key)
        async with following(heads):
            submitting = asyncio.create_task(load.submit(client, stop))
            run = await asyncio.to_thread(upgrade)
            await asyncio.sleep(3)
            stop.set()
            await submitting
            assert run.ok, run.output
            await heads.look()
        assert load.acknowledged
        assert heads.violations == []
        assert await drill.missing(client, heads, load) == 0
    return run


def write_downtime(run: Run) -> float:
    """What it says of both machines together, in seconds."""
    (said,) = re.findall(r"While (.+), the log refused leaves for ([0-9.]+) s in all", run.text)
    assert said[0] == "log2 and log1 were upgraded", run.output
    return float(said[1])


def test_what_would_be_upgraded(ansible: Ansible, newer: dict[str, object], log2: Host) -> None:
    before = versions(log2)
    run = play(ansible, "--check", **newer)
    assert run.ok, run.output
    assert not any(run.changed.values())
    assert f"sigsum-log-go {before['sigsum-log-go']} -> {LOG_GO}" in run.text
    assert versions(log2) == before


def test_a_database_is_not_opened_by_an_older_mariadb(ansible: Ansible) -> None:
    run = play(ansible, upgrade_mariadb="1:10.11.14-0+deb12u2")
    assert not run.ok
    assert not any(run.changed.values())
    assert "Nothing was changed." in run.text
    assert "mariadb-downgrade: log1" in run.text


def test_upgrade_and_back(
    ansible: Ansible,
    lab: Lab,
    newer: dict[str, object],
    log1: Host,
    log2: Host,
    client1: Host,
) -> None:
    before = versions(log1)
    assert versions(log2) == before
    run = under_load(lab, lambda: play(ansible, **newer))
    assert run.ok, run.output
    after = versions(log1)
    assert versions(log2) == after
    assert not set(before.items()) & set(after.items())
    assert after["sigsum-log-go"] == LOG_GO
    print(f"write-downtime of the upgrade: {write_downtime(run)} s")
    assert write_downtime(run) <= WRITE_DOWNTIME
    submit(client1)

    # What the archive had is now on the machine itself as well.
    assert log2.file(f"{KEPT}/sigsum-log-go_{before['sigsum-log-go']}_amd64.deb").exists
    back = under_load(lab, lambda: play(ansible, going_back=True))
    assert back.ok, back.output
    assert versions(log1) == versions(log2) == before
    print(f"write-downtime of the way back: {write_downtime(back)} s")
    assert write_downtime(back) <= WRITE_DOWNTIME
    submit(client1)

    again = play(ansible)
    assert again.ok, again.output
    assert not any(again.changed.values())
    assert "nothing to do" in again.text


def test_a_machine_that_fails_leaves_the_other_as_it_is(
    ansible: Ansible, newer: dict[str, object], log1: Host, client1: Host
) -> None:
    """The secondary is refused its log-go; the primary, which was stopped for it, serves again."""
    pins = {**PINS, "sigsum-log-go": {"version": LOG_GO, "sha256": "0" * 64}}
    before = versions(log1)
    run = play(ansible, **{**newer, "base_pins": pins})
    assert not run.ok
    assert "is not the pinned one" in run.text or "base_pins says" in run.text
    assert versions(log1) == before
    submit(client1)
    assert play(ansible, going_back=True).ok
