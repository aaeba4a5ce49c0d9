"""What the settings of the log's public endpoint may say; openssl makes the certificates."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from sigsum_ops.edge import endpoint
from sigsum_ops.edge.endpoint import problems, root_problems

# The certificates are made after this line.
NOW = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
URL = {"tls_proxy_url": "https://log.example.org/"}
ACME = {**URL, "tls_proxy_acme_email": "operator@example.org"}


class Authority:
    """A root, and the certificates that it issues."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "root.pem"
        self._openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
            " -subj /CN=root -keyout root.key -out root.pem"
        )

    def issue(self, name: str, *, san: str, days: int = 30) -> dict[str, str]:
        """A certificate with its key; returns the settings that name their files."""
        self._openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
            f" -days {days} -subj /CN={name} -addext subjectAltName={san}"
            f" -CA root.pem -CAkey root.key -keyout {name}.key -out {name}.pem"
        )
        chain = self.directory / f"{name}.pem"
        chain.write_bytes(chain.read_bytes() + self.root.read_bytes())
        return {
            **URL,
            endpoint.CERTIFICATE: str(chain),
            endpoint.KEY: str(self.directory / f"{name}.key"),
        }

    def _openssl(self, arguments: str) -> None:
        command = ["openssl", *arguments.split()]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def of_files(settings: dict[str, str], now: datetime.datetime = NOW) -> list[tuple[str, str, str]]:
    """What is wrong with the settings, or else with the files that they name."""
    files = [Path(settings[name]).read_text() for name in (endpoint.CERTIFICATE, endpoint.KEY)]
    return [
        *problems(settings),
        *endpoint.pair_problems(files[0], files[1], "log.example.org", now),
    ]


def says(found: Iterable[tuple[str, str, str]]) -> str:
    """The one thing that is wrong."""
    [(setting, wrong, allowed)] = found
    return f"{setting} {wrong}. Allowed: {allowed}."


@pytest.mark.parametrize(
    "san", ["DNS:log.example.org", "DNS:*.example.org,DNS:x", "DNS:LOG.example.ORG"]
)
def test_a_certificate_for_the_name(authority: Authority, san: str) -> None:
    assert of_files(authority.issue("good", san=san)) == []


def test_a_certificate_by_acme(authority: Authority) -> None:
    more = {endpoint.ROOT: "/nowhere", endpoint.DIRECTORY: "https://acme.test/dir"}
    assert list(problems(ACME)) == []
    assert list(problems({**ACME, **more})) == []
    assert list(root_problems(authority.root.read_text())) == []
    assert "tls_proxy_acme_root_file is not read" in says(root_problems("nonsense"))


def test_what_an_inventory_may_not_say_is_judged_without_its_files(authority: Authority) -> None:
    """An expired certificate must not refuse a promotion: the playbooks all judge the inventory."""
    ended = authority.issue("ended", san="DNS:log.example.org")
    assert list(problems({**ended, endpoint.CERTIFICATE: "/nowhere"})) == []
    assert "is valid from" in says(of_files(ended, NOW + datetime.timedelta(days=31)))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://log.example.org/",
        "https://log.example.org:8443/",
        "https://192.0.2.1/",
        "https://log.example.org/?x",
        "https://a:b@log.example.org/",
        "https://log.example.org/;return",
        "https://log.example.org/a b",
        "https://log.example.org/\n",
        "https://log/",
        "https://log.example.org:x/",
        "https://[::1/",
    ],
)
def test_a_url_at_which_no_log_can_be(url: str) -> None:
    assert says(problems({**ACME, "tls_proxy_url": url})).startswith("tls_proxy_url is ")


def test_urls_with_a_path() -> None:
    for path in ("", "/", "/barreleye", "/a/b-2/"):
        assert list(problems({**ACME, "tls_proxy_url": f"https://log.example.org{path}"})) == []


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"tls_proxy_acme_email": ""}, "or its key is not set"),
        ({"tls_proxy_acme_email": "nobody"}, "tls_proxy_acme_email is 'nobody'"),
        ({"tls_proxy_acme_email": "a@b --pre-hook=x"}, "tls_proxy_acme_email is"),
        ({"tls_proxy_acme_directory": "http://acme.test/"}, "tls_proxy_acme_directory is"),
        ({"tls_proxy_peers": ["192.0.2.1", "log2"]}, "tls_proxy_peers is ['192.0.2.1', 'log2']"),
        ({"tls_proxy_peers": "192.0.2.1"}, "tls_proxy_peers is '192.0.2.1'"),
        ({"tls_proxy_key_file": "/k"}, "is set beside a certificate of one's own"),
    ],
)
def test_acme_that_cannot_be_right(more: dict[str, object], text: str) -> None:
    assert text in says(problems({**ACME, **more}))


def test_a_certificate_that_cannot_be_right(authority: Authority, tmp_path: Path) -> None:
    good = authority.issue("one", san="DNS:log.example.org")
    other = authority.issue("other", san="DNS:*.log.example.org,DNS:example.org")
    assert "is for *.log.example.org, example.org." in says(of_files(other))
    assert "is not the key of the certificate" in says(
        of_files({**good, endpoint.KEY: other[endpoint.KEY]})
    )
    assert "or its key is not set" in says(problems({**good, endpoint.KEY: ""}))
    assert "is not read" in says(of_files({**good, endpoint.CERTIFICATE: good[endpoint.KEY]}))
    assert "is not read" in says(of_files({**good, endpoint.KEY: good[endpoint.CERTIFICATE]}))
    assert "is valid from" in says(of_files(good, NOW + datetime.timedelta(days=28, hours=1)))
    assert "is valid from" in says(of_files(good, NOW - datetime.timedelta(days=1)))

    unsorted = tmp_path / "unsorted.pem"
    one, root = (Path(good[endpoint.CERTIFICATE]).read_text().split("-----END")[0], authority.root)
    leaf = f"{one}-----END CERTIFICATE-----\n"
    unsorted.write_text(leaf + leaf + root.read_text())
    assert "where the issuer of the one before belongs" in says(
        of_files({**good, endpoint.CERTIFICATE: str(unsorted)})
    )


def test_a_key_with_a_passphrase_is_named_and_not_shown(authority: Authority) -> None:
    good = authority.issue("locked", san="DNS:log.example.org")
    key = Path(good[endpoint.KEY])
    locked = key.with_suffix(".locked")
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:x"], check=True
    )
    said = says(of_files({**good, endpoint.KEY: str(locked)}))
    assert "tls_proxy_key_file is not read: TypeError" in said


@pytest.mark.parametrize(
    ("at", "everywhere"),
    [("0.0.0.0:6965", True), ("[::]:6965", True), (":6965", True), ("192.0.2.1:6965", False),
     ("[2001:db8::1]:6965", False), ("localhost:6965", False)],
)  # fmt: skip
def test_where_the_log_itself_listens(at: str, everywhere: bool) -> None:
    assert endpoint.is_everywhere(at) == everywhere
