"""What the settings of the log's public endpoint may say; openssl makes the certificates."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest

from sigsum_ops.edge import endpoint
from sigsum_ops.edge.endpoint import problems

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


def says(settings: dict[str, str], now: datetime.datetime = NOW) -> str:
    """The one thing that is wrong."""
    [(setting, found, allowed)] = problems(settings, now)
    return f"{setting} {found}. Allowed: {allowed}."


@pytest.mark.parametrize(
    "san", ["DNS:log.example.org", "DNS:*.example.org,DNS:x", "DNS:LOG.example.ORG"]
)
def test_a_certificate_for_the_name(authority: Authority, san: str) -> None:
    assert list(problems(authority.issue("good", san=san), NOW)) == []


def test_a_certificate_by_acme(authority: Authority) -> None:
    more = {endpoint.ROOT: str(authority.root), endpoint.DIRECTORY: "https://acme.test/dir"}
    assert list(problems(ACME, NOW)) == []
    assert list(problems({**ACME, **more}, NOW)) == []


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
    assert says({**ACME, "tls_proxy_url": url}).startswith("tls_proxy_url is ")


def test_urls_with_a_path() -> None:
    for path in ("", "/", "/barreleye", "/a/b-2/"):
        assert (
            list(problems({**ACME, "tls_proxy_url": f"https://log.example.org{path}"}, NOW)) == []
        )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"tls_proxy_acme_email": ""}, "or its key is not set"),
        ({"tls_proxy_acme_email": "nobody"}, "tls_proxy_acme_email is 'nobody'"),
        ({"tls_proxy_acme_email": "a@b --pre-hook=x"}, "tls_proxy_acme_email is"),
        ({"tls_proxy_acme_directory": "http://acme.test/"}, "tls_proxy_acme_directory is"),
        ({"tls_proxy_acme_root_file": "/nowhere"}, "(/nowhere) is not read"),
        ({"tls_proxy_key_file": "/k"}, "is set beside a certificate of one's own"),
    ],
)
def test_acme_that_cannot_be_right(more: dict[str, str], text: str) -> None:
    assert text in says({**ACME, **more})


def test_a_certificate_that_cannot_be_right(authority: Authority, tmp_path: Path) -> None:
    good = authority.issue("one", san="DNS:log.example.org")
    other = authority.issue("other", san="DNS:*.log.example.org,DNS:example.org")
    assert "is for *.log.example.org, example.org." in says(other)
    assert "is not the key of the certificate" in says({**good, endpoint.KEY: other[endpoint.KEY]})
    assert "or its key is not set" in says({**good, endpoint.KEY: ""})
    assert "is not read" in says({**good, endpoint.CERTIFICATE: good[endpoint.KEY]})
    assert "is not read" in says({**good, endpoint.KEY: good[endpoint.CERTIFICATE]})
    assert "is valid from" in says(good, NOW + datetime.timedelta(days=28, hours=1))
    assert "is valid from" in says(good, NOW - datetime.timedelta(days=1))

    unsorted = tmp_path / "unsorted.pem"
    one, root = (Path(good[endpoint.CERTIFICATE]).read_text().split("-----END")[0], authority.root)
    leaf = f"{one}-----END CERTIFICATE-----\n"
    unsorted.write_text(leaf + leaf + root.read_text())
    assert "where the issuer of the one before belongs" in says(
        {**good, endpoint.CERTIFICATE: str(unsorted)}
    )


def test_a_key_with_a_passphrase_is_named_and_not_shown(authority: Authority) -> None:
    good = authority.issue("locked", san="DNS:log.example.org")
    key = Path(good[endpoint.KEY])
    locked = key.with_suffix(".locked")
    subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:x"], check=True
    )
    said = says({**good, endpoint.KEY: str(locked)})
    assert f"({locked}) is not read: TypeError" in said


@pytest.mark.parametrize(
    ("at", "everywhere"),
    [("0.0.0.0:6965", True), ("[::]:6965", True), (":6965", True), ("192.0.2.1:6965", False),
     ("[2001:db8::1]:6965", False), ("localhost:6965", False)],
)  # fmt: skip
def test_where_the_log_itself_listens(at: str, everywhere: bool) -> None:
    assert endpoint.is_everywhere(at) == everywhere
