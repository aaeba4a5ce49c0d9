"""What a TXT record may say, and how people get it wrong."""

from __future__ import annotations

import base64

import pytest

from sigsum_ops.edge import txt
from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import PublicKey

KEY = PublicKey(bytes(range(32)))
HEX = KEY.hex


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.org", "example.org"),
        ("Log.Example.ORG.", "log.example.org"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("under_score.example.org", "under_score.example.org"),
    ],
)
def test_a_domain_is_what_a_log_counts(text: str, name: str) -> None:
    assert txt.domain(text) == name


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("_sigsum_v1.example.org", "example.org"),
        ("_sigsum_v0.example.org", "example.org"),
        ("_sigsum.example.org", "example.org"),
        ("org", "xn--"),
        ("bücher.example", "xn--"),
        ("192.0.2.1", "xn--"),
        ("a..example.org", "xn--"),
        ("https://example.org", "xn--"),
        ("", "xn--"),
        ("a." * 122 + "org", "xn--"),
    ],
)
def test_what_is_no_domain_is_refused(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        txt.domain(text)
    assert hint in (error.value.hint or "")


@pytest.mark.parametrize(
    "strings", [[HEX], [HEX.upper()], [HEX[:40], HEX[40:]]], ids=["hex", "capitals", "two strings"]
)
def test_a_key_is_read_as_a_log_reads_it(strings: list[str]) -> None:
    assert txt.read([each.encode() for each in strings]).key == KEY


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        (f'"{HEX}"', "quotes or spaces"),
        (f" {HEX}", "quotes or spaces"),
        (KEY.ssh, f"publish its hex form: {HEX}"),
        ("ssh-rsa AAAA", "another kind of key"),
        (f"{HEX} {HEX[::-1]}", "a TXT record of its own"),
        (HEX + HEX[::-1], "a TXT record of its own"),
        (f"{HEX},{HEX}", "a TXT record of its own"),
        (f"v=sigsum1; k={HEX}", f"it should be {HEX} alone"),
        (f"0x{HEX}", "0x"),
        (HEX[:-1], "has 63 hex digits"),
        (base64.b64encode(KEY.raw).decode(), f"publish it in hex: {HEX}"),
        ("hello", "is no key"),
        ("ü" * 64, "is no key"),
    ],
)
def test_each_mistake_is_explained(text: str, says: str) -> None:
    record = txt.read([text.encode()])
    assert record.key is None
    assert says in record.problem or says in record.text


def test_octets_that_are_no_text_are_shown() -> None:
    assert txt.read([b"\xff\x00"]).text == "\\xff\x00"


def test_the_record_for_a_zone_file() -> None:
    assert txt.zone_line(KEY) == f'_sigsum_v1 IN TXT "{HEX}"'
    assert txt.zone_line(KEY, "Example.org") == f'_sigsum_v1.example.org. IN TXT "{HEX}"'
