"""What a machine tells of itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from sigsum_ops.doctor import examine

NOW = datetime.now(UTC).replace(microsecond=0)


def certificate(end: datetime) -> bytes:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "log.example.org")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(end)
        .sign(key, None)
        .public_bytes(serialization.Encoding.PEM)
    )


def test_certificates_end(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pem", tmp_path / "bad.pem"
    end = NOW + timedelta(days=9)
    good.write_bytes(certificate(end))
    bad.write_text("no certificate")
    found = examine.certificates([good, bad, tmp_path / "none.pem"])
    assert found == {str(good): end.timestamp(), str(bad): 0.0}


def test_metrics_of_all_services(tmp_path: Path) -> None:
    backup = tmp_path / "var/lib/sigsum-backup"
    backup.mkdir(parents=True)
    text = '# HELP a b\na_b 1\na_c{d="e f",g="h}"} 2.5e+09\nnot a sample\na_d -1\n'
    (backup / "backup.prom").write_text(text)
    (backup / "check.prom").write_bytes(b"\xff\xfe")
    assert examine.metrics(tmp_path) == {"a_b": 1, 'a_c{d="e f",g="h}"}': 2.5e9, "a_d": -1}


def test_a_disk_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    found = examine.disks([tmp_path, tmp_path / "a", tmp_path / "none"])
    assert list(found) == [str(tmp_path)]
    assert 0 <= found[str(tmp_path)]["free"] <= found[str(tmp_path)]["size"]


LISTED = """\
mariadb.service      loaded active   running MariaDB
cron.service         loaded failed   failed  Cron
getty@tty1.service   loaded inactive dead    Getty
sshd@.service        indirect enabled
"""
SHOWN = """\
Id=mariadb.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NRestarts=0

Id=cron.service
LoadState=loaded
ActiveState=failed
UnitFileState=disabled
NRestarts=0

Id=getty@tty1.service
LoadState=loaded
ActiveState=inactive
UnitFileState=disabled
NRestarts=0

Id=sigsum-oracle.service
LoadState=not-found
ActiveState=inactive
UnitFileState=
"""


def test_units_that_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def systemctl(*arguments: str) -> str:
        asked.append(arguments)
        return SHOWN if arguments[0] == "show" else LISTED

    monkeypatch.setattr(examine, "_systemctl", systemctl)
    found = examine.units()
    assert list(found) == ["mariadb.service", "cron.service"]
    assert found["cron.service"]["ActiveState"] == "failed"
    assert "sshd@.service" not in asked[-1]
