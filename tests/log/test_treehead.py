"""Tree heads: the bytes that are signed, and parsers that take nothing else than log-go writes."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import BadSignature, PublicKey, public_key_of
from sigsum_ops.log.treehead import (
    EMPTY_TREE_HEAD,
    MAX_NUMBER,
    CosignatureMessage,
    SignedTreeHead,
    TreeHead,
    log_origin,
    parse_checkpoint,
    parse_cosignature_message,
    parse_cosigned_tree_head,
    parse_signed_tree_head,
)

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(SECRET)
ROOT = bytes(range(32))
SIGNATURE = bytes(range(64))
STH = f"size=5\nroot_hash={ROOT.hex()}\nsignature={SIGNATURE.hex()}\n"
WITNESS = "ab" * 32
COSIGNATURE = f"cosignature={WITNESS} 1700000000 {SIGNATURE.hex()}\n"

# What log-go 0.15.2 wrote, and its key.
LOG_GO_KEY = PublicKey.parse(
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHQFiWSmaTVRLWa0wr2VzqQOwg28zCINOnzlnXcuAKXH"
)
LOG_GO_STH = b"""\
size=5
root_hash=2f4e0d79b7e066069be4d391a858023d0acd245505ab6913a8fd69726b65741d
signature=bd0ebc6b435ec39a6c182d0423b515e436449448dff811922899ca307a5d788736e11c55808b36bbe6fd724c71b9aa5826d1c2301f43ad7b08bf6acbf7e7a808
"""


def test_log_gos_own_sth_file() -> None:
    sth = parse_signed_tree_head(LOG_GO_STH)
    sth.verify(LOG_GO_KEY)
    assert sth.head.size == 5
    with pytest.raises(BadSignature):
        parse_signed_tree_head(LOG_GO_STH.replace(b"size=5", b"size=6")).verify(LOG_GO_KEY)


def test_checkpoint_body() -> None:
    """Captured from log-go 0.15.2 at its agent: see the origin, and base64 where sth has hex."""
    assert TreeHead(5, ROOT).checkpoint(KEY) == (
        f"sigsum.org/v1/tree/{KEY.hash}\n5\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n".encode()
    )


@given(size=st.integers(0, MAX_NUMBER), root=st.binary(min_size=32, max_size=32))
def test_what_the_log_signs_verifies(size: int, root: bytes) -> None:
    head = TreeHead(size, root)
    signed = SignedTreeHead(head, SECRET.sign(head.checkpoint(KEY)))
    text = f"size={size}\nroot_hash={root.hex()}\nsignature={signed.signature.hex()}\n"
    assert parse_signed_tree_head(text.encode()) == signed
    signed.verify(KEY)


def test_another_head_key_or_origin_does_not_verify() -> None:
    head = TreeHead(5, ROOT)
    signature = SECRET.sign(head.checkpoint(KEY))
    other_key = PublicKey(bytes(32))
    for wrong, key in (
        (SignedTreeHead(TreeHead(6, ROOT), signature), KEY),
        (SignedTreeHead(EMPTY_TREE_HEAD, signature), KEY),
        (SignedTreeHead(head, signature), other_key),
        (SignedTreeHead(head, SECRET.sign(head.checkpoint(other_key))), KEY),
        # The origin of sigsum-go before 1.0, which log-go still accepts once to be upgraded.
        (
            SignedTreeHead(head, SECRET.sign(head.checkpoint(KEY).replace(b"/tree/", b"/"))),
            KEY,
        ),
    ):
        with pytest.raises(BadSignature):
            wrong.verify(key)


def test_cosigned_tree_head() -> None:
    other = COSIGNATURE.replace("ab", "cd").replace("1700000000", "0")
    parsed = parse_cosigned_tree_head(f"{STH}{COSIGNATURE}{other}".encode())
    assert parsed.signed == parse_signed_tree_head(STH.encode())
    assert [(c.key_hash, c.timestamp) for c in parsed.cosignatures] == [
        (WITNESS, 1700000000),
        ("cd" * 32, 0),
    ]
    assert parsed.cosignatures[0].signature == SIGNATURE
    assert parse_cosigned_tree_head(STH.encode()).cosignatures == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends where size="),
        ("size=5\n", "ends where root_hash="),
        (STH[:-1], "line 3: does not end"),
        (STH + "\n", "line 4: '' where cosignature="),
        (STH + "signature=00\n", "line 4: 'signature=00'"),
        (STH + "unknown=1\n", "line 4: 'unknown=1'"),
        ("\n" + STH, "line 1: ''"),
        ("size=5\n" + STH, "line 2: 'size=5'"),
        (STH.replace("size=5", "size 5"), "line 1"),
        (STH.replace("size=5", "Size=5"), "line 1"),
        (STH.replace("size=5", "size=05"), "line 1: '05'"),
        (STH.replace("size=5", "size=+5"), "line 1"),
        (STH.replace("size=5", "size=-5"), "line 1"),
        (STH.replace("size=5", "size= 5"), "line 1"),
        (STH.replace("size=5", "size=5 "), "line 1"),
        (STH.replace("size=5", "size=5\r"), "line 1"),
        (STH.replace("size=5", "size=5_0"), "line 1"),
        (STH.replace("size=5", "size=\u0665"), "line 1: not ASCII"),
        (STH.replace("size=5", "size="), "line 1"),
        (STH.replace("size=5", f"size={MAX_NUMBER + 1}"), "line 1"),
        (STH.replace("size=5", f"size={'9' * 5000}"), "line 1"),
        (STH.replace("root_hash=00", "root_hash="), "line 2"),
        (STH.replace("root_hash=00", "root_hash=0000"), "line 2"),
        (STH.replace("0a0b", "0A0B"), "line 2"),
        (STH.replace("0a0b", "0x0b"), "line 2"),
        (STH.replace("signature=00", "signature="), "line 3"),
        (STH.replace("\n", "\r\n"), "line 1"),
    ],
)
def test_malformed_tree_heads_are_refused(text: str, message: str) -> None:
    for parse in (parse_signed_tree_head, parse_cosigned_tree_head):
        with pytest.raises(UsageError) as refusal:
            parse(text.encode())
        assert message in refusal.value.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (COSIGNATURE + COSIGNATURE, "line 5: second cosignature by abab"),
        (COSIGNATURE.replace(" 1700000000", ""), "line 4: cosignature has 2 fields"),
        (COSIGNATURE.replace(" ", "  "), "line 4"),
        (COSIGNATURE.replace("1700000000", "01"), "line 4"),
        (COSIGNATURE.replace("ab", "AB"), "line 4"),
        (COSIGNATURE.replace("abab", "ab", 1), "line 4"),
        (COSIGNATURE[:-3] + "\n", "line 4"),
        (COSIGNATURE[:-1], "line 4: does not end"),
    ],
)
def test_malformed_cosignatures_are_refused(line: str, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_cosigned_tree_head(f"{STH}{line}".encode())
    assert message in refusal.value.message


def test_an_sth_file_has_no_cosignatures() -> None:
    with pytest.raises(UsageError, match="line 4"):
        parse_signed_tree_head(f"{STH}{COSIGNATURE}".encode())


@given(st.binary())
def test_garbage_is_refused_not_crashed_on(data: bytes) -> None:
    with pytest.raises(UsageError):
        parse_cosigned_tree_head(data)


# What is signed

BODY = TreeHead(5, ROOT).checkpoint(KEY)
MESSAGE = b"cosignature/v1\ntime 1700000000\n" + BODY


@settings(deadline=None)
@given(size=st.integers(0, MAX_NUMBER), root=st.binary(min_size=32, max_size=32))
def test_a_checkpoint_body_is_parsed_back(size: int, root: bytes) -> None:
    head = TreeHead(size, root)
    assert parse_checkpoint(head.checkpoint(KEY), KEY) == head


def test_another_logs_checkpoint_is_refused() -> None:
    with pytest.raises(UsageError, match=r"line 1: .* is not an origin to sign for"):
        parse_checkpoint(BODY, LOG_GO_KEY)


BAD_BODIES = [
    (b"", "ends where the origin"),
    (BODY[:-1], "line 3: does not end"),
    (BODY + b"\n", "line 4: '' where nothing may follow"),
    (BODY + b"an extension\n", "line 4: 'an extension'"),
    (BODY + b"x", "line 4: does not end"),
    (BODY + "\n\u2014 signature\n".encode(), "line 4"),
    (b"\n" + BODY, "line 1: ''"),
    (BODY.replace(b"sigsum", b"Sigsum"), "line 1"),
    (BODY.replace(b"/tree/", b"/"), "line 1"),
    (BODY.replace(b"\n5", b" \n5"), "line 1"),
    (BODY.replace(b"\n5", b"\r\n5"), "line 1"),
    (BODY.replace(b"\n5", b""), "line 2"),
    (BODY.replace(b"\n5\n", b"\n05\n"), "line 2: '05'"),
    (BODY.replace(b"\n5\n", b"\n-5\n"), "line 2"),
    (BODY.replace(b"\n5\n", b"\n+5\n"), "line 2"),
    (BODY.replace(b"\n5\n", b"\n 5\n"), "line 2"),
    (BODY.replace(b"\n5\n", b"\n5\0\n"), "line 2"),
    (BODY.replace(b"\n5\n", b"\n\n"), "line 2"),
    (BODY.replace(b"\n5\n", b"\n9223372036854775808\n"), "line 2"),
    (BODY.replace(b"8=", b"9="), "line 3"),  # the same hash to a lenient decoder
    (BODY.replace(b"8=", b"8"), "line 3"),
    (BODY.replace(b"AAEC", b"AAE C"), "line 3"),
    (BODY.replace(b"AAEC", b""), "line 3"),
    (BODY.replace(b"AAEC", b"AAECAAEC"), "line 3"),
    (BODY.replace(b"AAEC", b"_-EC"), "line 3"),
    (BODY.replace(b"AAEC", b"\xc3\xa4EC"), "line 3: not ASCII"),
    (MESSAGE, "line 1: 'cosignature/v1'"),
    (b"SSHSIG\0\0\0\4file", "line 1"),
]


@pytest.mark.parametrize(("data", "message"), BAD_BODIES)
def test_what_is_no_checkpoint_body_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_checkpoint(data, KEY)
    assert message in refusal.value.message


@settings(deadline=None)
@given(st.integers(0, len(BODY) - 1), st.binary(max_size=2))
def test_no_other_bytes_mean_the_same_checkpoint(at: int, other: bytes) -> None:
    """What is parsed is what is signed: there is one form for each tree head."""
    data = BODY[:at] + other + BODY[at + 1 :]
    try:
        head = parse_checkpoint(data, KEY)
    except UsageError:
        return
    assert head.checkpoint(KEY) == data


@settings(deadline=None)
@given(time=st.integers(0, MAX_NUMBER), size=st.integers(0, MAX_NUMBER))
def test_a_cosignature_message_is_parsed(time: int, size: int) -> None:
    """tlog-cosignature, section Ed25519 signed message."""
    head = TreeHead(size, ROOT)
    for origin in (log_origin(KEY), "example.com/behind-the-sofa"):
        body = head.checkpoint(KEY).replace(log_origin(KEY).encode(), origin.encode())
        data = b"cosignature/v1\ntime %d\n" % time + body
        assert parse_cosignature_message(data, [origin, "b"]) == CosignatureMessage(
            origin, time, head
        )
        with pytest.raises(UsageError, match=r"line 3: .* is not an origin"):
            parse_cosignature_message(data, ["b"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends where the header"),
        (b"cosignature/v1\n", "ends where the time"),
        (BODY, "line 1"),
        (MESSAGE[:-1], "line 5: does not end"),
        (MESSAGE + b"x\n", "line 6"),
        (MESSAGE.replace(b"/v1\n", b"/v2\n"), "line 1"),
        (MESSAGE.replace(b"time ", b"time"), "line 2"),
        (MESSAGE.replace(b"time ", b"Time "), "line 2"),
        (MESSAGE.replace(b"time ", b"time  "), "line 2"),
        (MESSAGE.replace(b"time 1", b"time 01"), "line 2"),
        (MESSAGE.replace(b"time 1", b"time -1"), "line 2"),
        (MESSAGE.replace(b"\n5\n", b"\n05\n"), "line 4"),
    ],
)
def test_what_is_no_cosignature_message_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_cosignature_message(data, {log_origin(KEY)})
    assert message in refusal.value.message
