"""Ed25519 keys, against ssh-keygen and against what is not such a key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sigsum_ops.errors import UsageError
from sigsum_ops.log.keys import BadSignature, PublicKey, load_private_key, public_key_of
from sigsum_ops.log.merkle import ProofError

SECRET = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(SECRET)


def other_ssh_key(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


RSA = other_ssh_key(rsa.generate_private_key(65537, 2048).public_key())
ECDSA = other_ssh_key(ec.generate_private_key(ec.SECP256R1()).public_key())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", path], check=True
    )
    return path


def test_agrees_with_ssh_keygen(key_file: Path, tmp_path: Path) -> None:
    public = (tmp_path / "key.pub").read_text()
    key = PublicKey.parse(public)
    assert public.startswith(key.ssh + " ")
    assert public_key_of(load_private_key(key_file)) == key


def test_known_answer() -> None:
    # RFC 8032 section 7.1, test 2.
    key = PublicKey.from_hex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key.verify(signature, b"\x72")
    with pytest.raises(BadSignature):
        key.verify(signature, b"\x73")
    assert key.hash == "39f713d0a644253f04529421b9f51b9b08979d08295959c4f3990ee617f5139f"


@given(st.binary(min_size=32, max_size=32))
def test_both_forms_round_trip(raw: bytes) -> None:
    key = PublicKey(raw)
    assert PublicKey.parse(key.ssh) == PublicKey.parse(key.hex) == key
    assert PublicKey.parse(f"{key.ssh} name@host with blanks\n") == key


@pytest.mark.parametrize(
    "text",
    [
        RSA,
        ECDSA,
        "",
        "garbage",
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-ed25519 !!!!",
        f"ssh-ed25519 {RSA.split()[1]}",
        KEY.ssh[:-4],
        f"{KEY.ssh}AAAA",
        f"{KEY.ssh}\n{KEY.ssh}\n",
        KEY.hex[:-1],
        f"{KEY.hex}0",
        KEY.hex.upper(),
        f"0x{KEY.hex[2:]}",
        f"{KEY.hex} {KEY.hex}",
        # The last letter of this base64 text has bits that are not used: two texts, one key.
        f"ssh-ed25519 {KEY.ssh.split()[1]}=",
    ],
)
def test_what_is_no_ed25519_public_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        PublicKey.parse(text)
    assert "Ed25519" in (refusal.value.hint or "")


def test_wrong_length_is_refused() -> None:
    with pytest.raises(UsageError, match="31 bytes"):
        PublicKey(bytes(31))


@given(st.integers(0, 64 * 8 - 1))
def test_any_flipped_bit_breaks_a_signature(bit: int) -> None:
    signature = bytearray(SECRET.sign(b"message"))
    KEY.verify(bytes(signature), b"message")
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProofError):
        KEY.verify(bytes(signature), b"message")


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
def test_signature_of_wrong_form(signature: bytes) -> None:
    with pytest.raises(BadSignature):
        KEY.verify(signature, b"message")


def test_private_keys_that_are_refused(key_file: Path, tmp_path: Path) -> None:
    encrypted, ecdsa = tmp_path / "encrypted", tmp_path / "ecdsa"
    for path, arguments in ((encrypted, ["ed25519", "-N", "secret"]), (ecdsa, ["ecdsa", "-N", ""])):
        subprocess.run(["ssh-keygen", "-q", "-t", *arguments, "-f", path], check=True)
    garbage = tmp_path / "garbage"
    garbage.write_text("garbage")
    public = key_file.with_suffix(".pub")
    for path in (encrypted, ecdsa, garbage, public, tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match=str(path)):
            load_private_key(path)
