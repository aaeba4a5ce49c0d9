"""Reading apt's sources in both formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigsum_ops.errors import OpsError
from sigsum_ops.lab import apt

ONE_LINE = """\
# deb http://commented.example/debian trixie main
deb-src http://m.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] https://vendor.example/apt bookworm main
deb http://m.example/debian bookworm main contrib # a remark
deb http://m.example/debian bookworm-updates main
deb http://s.example/security bookworm-security main
"""
DEB822 = """\
# A remark
Types: deb deb-src
URIs: http://vendor.example/apt
Suites: trixie
Components: main

Types: deb
URIs: http://off.example/debian
Suites: trixie trixie-updates
Components: main
Enabled: no

types: deb
URIs: http://m.example/debian
Suites: trixie
# in between
 trixie-updates
Components: main non-free-firmware
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://source.example/debian
Suites: trixie trixie-updates
Components: main
"""


@pytest.mark.parametrize(
    ("name", "text", "archive", "security"),
    [
        ("x.list", ONE_LINE, "http://m.example/debian", "http://s.example/security"),
        ("x.sources", DEB822, "http://m.example/debian", "http://m.example/debian-security"),
        (
            "x.list",
            "deb http://m.example/debian/ stable main\n",
            "http://m.example/debian/",
            "http://m.example/debian-security",
        ),
    ],
)
def test_the_archive_is_told_from_other_repositories(
    tmp_path: Path, name: str, text: str, archive: str, security: str
) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / name).write_text(text)
    assert apt.machine_mirror(tmp_path) == apt.Mirror(archive, security)


def test_a_mirror_list_is_followed(tmp_path: Path) -> None:
    listing = tmp_path / "debian.list"
    listing.write_text("https://m.example/debian\tpriority:1\n")
    text = f"deb mirror+file:{listing} trixie main\n"
    (tmp_path / "sources.list").write_text(text)
    assert apt.machine_mirror(tmp_path).archive == "https://m.example/debian"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "deb cdrom:[x]/ trixie main\n",
        "deb http://x.example/ubuntu noble main\n",
        "deb http://vendor.example/apt trixie stable\n",
    ],
)
def test_no_mirror_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.list").write_text(text)
    with pytest.raises(OpsError, match="no mirror of Debian"):
        apt.machine_mirror(tmp_path)


def test_what_is_written_is_read_back() -> None:
    mirror = apt.Mirror("http://m.example/debian", "http://s.example/security")
    assert apt.choose_mirror(apt.parse_deb822(mirror.sources("trixie"))) == mirror


def test_where_apt_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lab's firewall has to let through."""
    mirror = apt.Mirror("http://[2001:db8::1]:3142/debian", "https://s.example/security")
    monkeypatch.setattr(apt, "machine_mirror", lambda: mirror)
    monkeypatch.setattr(
        apt, "machine_proxies", lambda: 'Acquire::http::Proxy "http://u:p@p.example:8080";\n'
    )
    assert apt.machine_ports() == [80, 443, 3142, 8080]
