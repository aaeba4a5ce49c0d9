"""The watch's configuration: what is not exactly right is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigsum_ops.errors import UsageError
from sigsum_ops.hsm.watch.audit import configured
from sigsum_ops.hsm.watch.check import run
from sigsum_ops.hsm.watch.config import Audit, Check, Where, load
from sigsum_ops.log.keys import PublicKey

KEY = PublicKey(bytes(range(32)))
TOP = 'serial = 12345678\nconnector = "http://127.0.0.1:12346"\n'
CHECK = f'[check]\npublic_key = "{KEY.ssh}"\npassphrase_credential = "health"\n'
AUDIT = '[audit]\npassphrase_credential = "audit"\narchive = "/a"\nsignatures = "/s"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hsm-watch.toml"


def test_the_ids_are_those_of_the_standard_plan(path: Path) -> None:
    path.write_text(TOP + CHECK + AUDIT)
    settings = load(path)
    where = Where("http://127.0.0.1:12346", 12345678, False)
    assert settings.check == Check(where, 800, 900, KEY, "health", None)
    assert settings.audit == Audit(where, 700, 500, 200, "audit", Path("/a"), Path("/s"), None)


def test_each_half_can_be_alone(path: Path) -> None:
    path.write_text(TOP + CHECK)
    assert load(path).audit is None
    with pytest.raises(UsageError, match=r"has no table \[audit\]"):
        configured(path)
    path.write_text(TOP + AUDIT + 'key = 600\nkey_user = 300\nmetrics_file = "/m"\n')
    assert load(path).check is None
    assert configured(path).key == 600
    with pytest.raises(UsageError, match=r"has no table \[check\]"):
        run(path, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TOP, "at least one of the tables"),
        (CHECK, "serial is missing"),
        (TOP.replace("12345678", "0") + CHECK, "serial is '0': allowed is a number from 1 to"),
        (TOP.replace("http:", "yhusb:") + CHECK, "connector is"),
        (TOP + CHECK + "keys = 1\n", r"keys in \[check\] is not a setting"),
        (TOP + CHECK.replace(KEY.ssh, "ssh-rsa AAAA"), "not an Ed25519 public key"),
        (TOP + CHECK.replace('"health"', '"../health"'), "the name of a systemd credential"),
        (TOP + AUDIT.replace('"/a"', '"a"'), r"archive in \[audit\] is 'a': allowed is an absolu"),
        (TOP + "check = 5\n", "check is '5': allowed is a dict"),
        ("serial", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        load(path)


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load(path)
