"""Leaves and tokens against what sigsum-submit and sigsum-token 1.0.0 make of the same key."""

from __future__ import annotations

from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sigsum_ops.errors import UsageError
from sigsum_ops.log import merkle
from sigsum_ops.log.keys import BadSignature, public_key_of
from sigsum_ops.log.leaf import LEAF_SIZE, Leaf, LeafRequest, submit_token

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MESSAGE = b"\x42" * 32
# sigsum-submit --raw-hash -k KEY, with MESSAGE in hex on its standard input
BODY = (
    b"message=4242424242424242424242424242424242424242424242424242424242424242\n"
    b"signature=9b757666b0d05ca81f38d7eb705bfadef9a87b7abf13ab1cd68523cc942e0e8e"
    b"93f180bfcaaa7894be52c09c12eb622d6af44c4e2dea3b5106cd002a10e55f0d\n"
    b"public_key=03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8\n"
)
# … --leaf-hash
LEAF_HASH = "fa9b6ac901fc64b2f89295d35d1584e2d7a93c2d07afd63a9eefac814a702195"
# sigsum-token create -k KEY --log-key KEY.pub --domain example.org
TOKEN = (
    "example.org fc6f901bd4b189d6e061aaaae3fb5203425a5bfcf9fbaeccec44142ca54f2b35"
    "c16cebc37da6e4ecc2374f4cf66640a2bf7767ec02e7b09c0f7470e0d9fbd506"
)


def test_request_is_what_sigsum_submit_writes() -> None:
    assert LeafRequest.sign(KEY, MESSAGE).body == BODY


def test_leaf_hash_is_what_sigsum_submit_says() -> None:
    assert LeafRequest.sign(KEY, MESSAGE).leaf.hash.hex() == LEAF_HASH


def test_token_is_what_sigsum_token_writes() -> None:
    assert submit_token(KEY, public_key_of(KEY), "example.org") == TOKEN


def test_leaf_is_checksum_signature_and_key_hash() -> None:
    request = LeafRequest.sign(KEY, MESSAGE)
    data = bytes(request.leaf)
    assert len(data) == LEAF_SIZE
    assert data[:32] == sha256(MESSAGE).digest()
    assert data[32:96] == request.signature
    assert data[96:].hex() == public_key_of(KEY).hash
    assert Leaf.from_bytes(data) == request.leaf
    assert request.leaf.hash == merkle.leaf_hash(data)


def test_a_request_verifies_only_as_signed() -> None:
    request = LeafRequest.sign(KEY, MESSAGE)
    request.verify()
    with pytest.raises(BadSignature):
        LeafRequest(bytes(32), request.signature, request.public_key).verify()


@pytest.mark.parametrize("message", [b"", b"x" * 31, b"x" * 33])
def test_a_message_has_32_bytes(message: bytes) -> None:
    with pytest.raises(UsageError, match="not 32"):
        LeafRequest.sign(KEY, message)


@pytest.mark.parametrize("size", [0, 127, 129])
def test_a_leaf_has_128_bytes(size: int) -> None:
    with pytest.raises(UsageError, match="not 128"):
        Leaf.from_bytes(bytes(size))


@pytest.mark.parametrize("domain", ["", "a b", "example.org\r\nx: y", ".org", "a..b", "a."])
def test_a_token_needs_a_domain_that_fits_a_header(domain: str) -> None:
    with pytest.raises(UsageError, match="domain"):
        submit_token(KEY, public_key_of(KEY), domain)
