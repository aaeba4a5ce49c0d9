"""The configuration: what is not exactly right is refused by its name."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sigsum_ops import cli
from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.oracle.config import (
    HsmKey,
    LogRole,
    SoftwareKey,
    WitnessRole,
    load,
)
from sigsum_ops.log.keys import PublicKey

KEY = PublicKey(bytes(range(32)))
LOG = f"""\
public_key = "{KEY.ssh} the log's"
metrics_file = "/var/lib/metrics/oracle.prom"
signatures_per_minute = 60
[log]
trillian = "127.0.0.1:8090"
tree_id_file = "/var/lib/sigsum-log/tree-id"
[hsm]
authentication_key = 200
signing_key = 500
passphrase_credential = "hsm-passphrase"
"""
SOFTWARE = '[software_key]\nfile = "/etc/sigsum/key"\nlab_only = true\n'
HSM = LOG[LOG.index("[hsm]") :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oracle.toml"


def test_a_logs(path: Path) -> None:
    path.write_text(LOG)
    settings = load(path)
    assert settings.public_key == KEY
    assert settings.role == LogRole("127.0.0.1:8090", Path("/var/lib/sigsum-log/tree-id"))
    assert settings.key == HsmKey("http://127.0.0.1:12345", 200, 500, "hsm-passphrase", False)
    assert settings.socket == Path("/run/sigsum-oracle/agent.sock")
    assert settings.journal == Path("/var/lib/sigsum-oracle/journal")
    assert settings.metrics_file == Path("/var/lib/metrics/oracle.prom")
    assert settings.latch == Path("/var/lib/sigsum-oracle/latch")
    assert settings.signatures_per_minute == 60


def test_a_witnesss(path: Path) -> None:
    path.write_text(
        f'public_key = "{KEY.hex}"\n[witness]\norigins = ["sigsum.org/v1/tree/{KEY.hash}", "b"]\n'
        + HSM
    )
    assert load(path).role == WitnessRole((f"sigsum.org/v1/tree/{KEY.hash}", "b"))


def test_a_labs(path: Path) -> None:
    path.write_text(LOG.replace(HSM, SOFTWARE))
    assert load(path).key == SoftwareKey(Path("/etc/sigsum/key"))


TREE_ID = 'tree_id_file = "/var/lib/sigsum-log/tree-id"\n'


@pytest.mark.parametrize("until", ["2026-11-23T12:00:00Z", "2026-11-23 12:00:00+00:00"])
def test_a_permit(path: Path, until: str) -> None:
    path.write_text(LOG.replace(TREE_ID, f"{TREE_ID}ungated_until = {until}\n"))
    role = load(path).role
    assert isinstance(role, LogRole)
    assert role.ungated_until == datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "until",
    [
        "2026-11-23T12:00:00",
        "2026-11-23T12:00:00+01:00",
        "2026-11-23T12:00:00.5Z",
        "2026-11-23",
        "12:00:00",
        '"2026-11-23T12:00:00Z"',
        '""',
        "1795435200",
        "true",
    ],
)
def test_a_permit_without_a_certain_end(path: Path, until: str) -> None:
    path.write_text(LOG.replace(TREE_ID, f"{TREE_ID}ungated_until = {until}\n"))
    with pytest.raises(UsageError, match=re.escape("ungated_until in [log]")):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("metrics_file", "metric_file", "metric_file is not a setting"),
        ("signing_key", "signing-key", "signing_key in [hsm] is missing"),
        ("[hsm]", "[hsm]\nmore = 1", "more in [hsm] is not a setting"),
        ("[log]", "[log]\nmore = 1", "more in [log] is not a setting"),
        ("[log]", "[lag]", "exactly one of the tables [log] and [witness]"),
        ("[hsm]", '[witness]\norigins = ["a"]\n[hsm]', "exactly one of the tables [log]"),
        (HSM, "", "exactly one of the tables [hsm] and [software_key]"),
        (HSM, HSM + SOFTWARE, "exactly one of the tables [hsm] and [software_key]"),
        (HSM, SOFTWARE.replace("true", "false"), "lab_only"),
        (HSM, SOFTWARE.replace("lab_only = true", ""), "lab_only"),
        (HSM, SOFTWARE.replace("lab_only = true", "lab_only = 1"), "lab_only in [software_key]"),
        ("= 200", "= 0", "authentication_key in [hsm]"),
        ("= 500", "= 65535", "signing_key in [hsm]"),
        ("= 500", "= true", "signing_key in [hsm]"),
        ("= 500", '= "500"', "signing_key in [hsm]"),
        ("= 60", "= 0", "signatures_per_minute"),
        ('"hsm-passphrase"', '"../key"', "passphrase_credential in [hsm]"),
        ('"hsm-passphrase"', '".."', "passphrase_credential in [hsm]"),
        ("[hsm]", '[hsm]\nconnector = "yhusb://"', "connector in [hsm]"),
        ("[hsm]", '[hsm]\nconnector = "http://127.0.0.1"', "connector in [hsm]"),
        ("[hsm]", '[hsm]\nconnector = "http://127.0.0.1:1x"', "connector in [hsm]"),
        ("127.0.0.1:8090", "8090", "trillian in [log]"),
        ('"/var/lib/sigsum-log/tree-id"', '"tree-id"', "tree_id_file in [log]"),
        ('"/var/lib/sigsum-log/tree-id"', "7", "tree_id_file in [log]"),
        ("ssh-ed25519", "ssh-rsa", "not an Ed25519 public key"),
        ("public_key", "#", "public_key is missing"),
        ("[hsm]", "[hsm", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(path: Path, old: str, new: str, named: str) -> None:
    assert old in LOG
    path.write_text(LOG.replace(old, new, 1))
    with pytest.raises(UsageError) as refusal:
        load(path)
    assert named in refusal.value.message
    assert str(path) in refusal.value.message


@pytest.mark.parametrize(
    "origins", ["[]", '["a", "a"]', '["a b"]', '["a+b"]', "[1]", '"a"', '[""]']
)
def test_origins(path: Path, origins: str) -> None:
    path.write_text(f'public_key = "{KEY.hex}"\n[witness]\norigins = {origins}\n' + HSM)
    with pytest.raises(UsageError, match=re.escape("origins in [witness]")):
        load(path)


def test_a_file_that_is_no_file(path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not TOML"):
        load(path)


def test_check_config(path: Path) -> None:
    path.write_text(LOG)
    done = CliRunner().invoke(cli.app, ["oracle", "check-config", str(path), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "key_hash": KEY.hash,
        "role": "log",
        "key": "hsm",
        "socket": "/run/sigsum-oracle/agent.sock",
        "ungated_until": None,
    }
    until = "ungated_until = 2026-11-23T12:00:00Z\n"
    path.write_text(LOG.replace(TREE_ID, TREE_ID + until))
    done = CliRunner().invoke(cli.app, ["oracle", "check-config", str(path), "--json"])
    assert json.loads(done.stdout)["ungated_until"] == "2026-11-23T12:00:00+00:00"
    done = CliRunner().invoke(cli.app, ["oracle", "check-config", str(path)])
    assert "without a secondary until 2026-11-23T12:00:00+00:00" in done.stdout
