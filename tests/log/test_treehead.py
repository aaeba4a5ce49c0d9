"""Tree heads: the bytes that are signed, and parsers that take nothing else than log-go writes."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import BadSignature, PublicKey, public_key_of
from sigsum_ops.log.treehead import (
    EMPTY_TREE_HEAD,
    MAX_NUMBER,
    SignedTreeHead,
    TreeHead,
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
