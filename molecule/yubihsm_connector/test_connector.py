"""Debian's real yubihsm-connector where no device is plugged in, which a lab can show."""

from __future__ import annotations

from typing import Any

import pytest
from resources.support import SSH, Ansible, eventually, exposure, http, listening, main_pid
from testinfra.host import Host

UNIT = "yubihsm-connector"
STATUS = "http://127.0.0.1:12345/connector/status"
# An oracle whose journal is there and whose device is not.
ORACLE = """
set -eu
cd $(mktemp -d)
mkdir state credentials && echo passphrase > credentials/hsm-passphrase
cat > oracle.toml <<TOML
public_key = "{key}"
socket = "$PWD/agent.sock"
state_directory = "$PWD/state"
[log]
trillian = "127.0.0.1:8090"
tree_id_file = "$PWD/tree-id"
[hsm]
connector = "http://127.0.0.1:12345"
authentication_key = 200
signing_key = 500
passphrase_credential = "hsm-passphrase"
TOML
python3 - <<PYTHON
from pathlib import Path
from sigsum_ops.hsm.oracle.journal import create
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.treehead import EMPTY_TREE_HEAD
create(Path("state/journal"), PublicKey.from_hex("{key}").hash, EMPTY_TREE_HEAD)
PYTHON
export CREDENTIALS_DIRECTORY=$PWD/credentials
timeout 8 sigsum-ops oracle run --config oracle.toml 2>&1 || echo "ended $?"
test ! -e agent.sock
"""


def connected(host: Host) -> dict[str, str]:
    """What the connector says of itself."""
    status, body = http(host, STATUS)
    assert status == 200
    return dict(line.split("=", 1) for line in body.split())


def test_it_says_that_there_is_no_device(log1: Host) -> None:
    assert connected(log1)["status"] == "NO_DEVICE"


def test_it_listens_on_loopback_only(log1: Host) -> None:
    assert listening(log1) == SSH | {"tcp 127.0.0.1:12345"}


def test_it_starts_with_the_machine_and_comes_back(log1: Host) -> None:
    assert log1.service(UNIT).is_enabled
    killed = main_pid(log1, UNIT)
    log1.check_output("kill -9 %s", killed)
    eventually(
        lambda: main_pid(log1, UNIT) not in ("0", killed) and http(log1, STATUS)[0] == 200,
        seconds=10,
        what="the connector answers",
    )


def test_its_exposure_is_at_most_2(log1: Host) -> None:
    assert exposure(log1, f"{UNIT}.service") <= 2.0


def test_an_oracle_waits_for_the_device_and_serves_nothing_meanwhile(log1: Host) -> None:
    said = log1.check_output("sh -c %s", ORACLE.format(key="00" * 31 + "01"))
    assert "waiting for the device" in said
    assert said.strip().endswith("ended 124")  # by timeout, not by itself
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("yubihsm_connector_listen", "0.0.0.0:12345"),
        ("yubihsm_connector_listen", "127.0.0.1"),
        ("yubihsm_connector_serial", "1234567"),
    ],
)
def test_what_would_be_reached_by_others_is_refused(
    ansible: Ansible, setting: str, value: str
) -> None:
    variables: dict[str, Any] = {setting: value}
    run = ansible.playbook(**variables)
    assert not run.ok
    assert set(run.changed.values()) == {0}
    assert f"{setting} ({value})" in run.text
