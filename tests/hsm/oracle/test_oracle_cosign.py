"""A witness's oracle: cosignatures never go back, and nothing else is signed but its handshakes."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.hsm.oracle import handshake
from sigsum_ops.hsm.oracle.approve import Refused
from sigsum_ops.hsm.oracle.cosign import MAX_SKEW, Cosigned, WitnessApprover
from sigsum_ops.log.keys import public_key_of
from sigsum_ops.log.treehead import TreeHead

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(PRIVATE)
NOW = 1790000000
LOG, OTHER = "sigsum.org/v1/tree/" + "a" * 64, "example.org/log"
ROOTS = [bytes([number]) * 32 for number in range(4)]

# What litewitness 0.9.0 has signed for its certificate, by Go's crypto/x509, with the key above and
# at the time above.
LITEWITNESS = bytes.fromhex(
    "3081b4a003020102020101300506032b65703016311430120603550403130b6c6974657769746e657373301e170d"
    "3236303932313133313332305a170d3236303932323134313332305a3016311430120603550403130b6c69746577"
    "69746e657373302a300506032b657003210003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664"
    "125531b8a3273025300e0603551d0f0101ff04040302078030130603551d25040c300a06082b06010505070302"
)


def message(head: TreeHead, origin: str = LOG, at: int = NOW) -> bytes:
    """What a witness has signed for a tree head."""
    return f"cosignature/v1\ntime {at}\n".encode() + head.body(origin)


def approver(path: Path, *, bastion: bool = False) -> WitnessApprover:
    """One that begins with what is on the disk."""
    directory = path / "cosigned"
    cosigned = Cosigned(directory) if directory.exists() else Cosigned.begin(directory)
    return WitnessApprover((LOG, OTHER), cosigned, KEY if bastion else None, now=lambda: NOW)


def refused(approver: WitnessApprover, data: bytes) -> str:
    """The outcome of what must not be signed."""
    with pytest.raises(Refused) as refusal:
        approver.approve(data)
    return refusal.value.outcome


def test_each_log_goes_on_by_itself(tmp_path: Path) -> None:
    one = approver(tmp_path)
    one.approve(message(TreeHead(5, ROOTS[0])))
    one.approve(message(TreeHead(3, ROOTS[1]), OTHER))
    one.approve(message(TreeHead(5, ROOTS[0])))  # again, and later
    one.approve(message(TreeHead(9, ROOTS[2])))
    assert dict(Cosigned(tmp_path / "cosigned").all()) == {
        LOG: TreeHead(9, ROOTS[2]),
        OTHER: TreeHead(3, ROOTS[1]),
    }


def test_nothing_smaller_and_no_other_tree_of_the_same_size(tmp_path: Path) -> None:
    approver(tmp_path).approve(message(TreeHead(5, ROOTS[0])))
    for one in (approver(tmp_path), approver(tmp_path)):  # also after a restart
        assert refused(one, message(TreeHead(4, ROOTS[0]))) == "rolled-back"
        assert refused(one, message(TreeHead(5, ROOTS[1]))) == "rolled-back"
        one.approve(message(TreeHead(5, ROOTS[0])))


def test_what_is_not_on_the_disk_is_not_signed(tmp_path: Path) -> None:
    one = approver(tmp_path)
    (tmp_path / "cosigned").rmdir()
    (tmp_path / "cosigned").write_text("in the way")
    assert refused(one, message(TreeHead(5, ROOTS[0]))) == "journal"


def test_what_was_lost_does_not_begin_anew(tmp_path: Path) -> None:
    """Neither by itself, nor beneath a running oracle, nor a second time."""
    directory = tmp_path / "cosigned"
    with pytest.raises(OpsError, match="is not known"):
        Cosigned(directory)
    one = approver(tmp_path)
    one.approve(message(TreeHead(5, ROOTS[0])))
    with pytest.raises(OpsError, match="cannot be begun"):
        Cosigned.begin(directory)
    rmtree(directory)
    assert refused(one, message(TreeHead(9, ROOTS[0]))) == "journal"
    assert not directory.exists()


@pytest.mark.parametrize(
    "damage", [b"", b"rubbish\n", b"example.org/log\n5\n" + b"A" * 43 + b"=\n"]
)
def test_what_is_damaged_signs_nothing(tmp_path: Path, damage: bytes) -> None:
    approver(tmp_path).approve(message(TreeHead(5, ROOTS[0])))
    (file,) = (tmp_path / "cosigned").iterdir()
    file.write_bytes(damage)
    assert refused(approver(tmp_path), message(TreeHead(9, ROOTS[0]))) == "journal"
    with pytest.raises(OpsError, match="damaged"):
        list(Cosigned(tmp_path / "cosigned").all())


@pytest.mark.parametrize("at", [NOW - MAX_SKEW - 1, NOW + MAX_SKEW + 1, 0])
def test_a_cosignature_is_of_now(tmp_path: Path, at: int) -> None:
    assert refused(approver(tmp_path), message(TreeHead(5, ROOTS[0]), at=at)) == "not-now"
    assert not list((tmp_path / "cosigned").iterdir())


def test_only_logs_that_are_configured(tmp_path: Path) -> None:
    data = message(TreeHead(5, ROOTS[0]), "example.net/log")
    assert refused(approver(tmp_path), data) == "malformed"


@given(steps=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(ROOTS), st.booleans())))
def test_whatever_is_asked_one_history_is_signed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bytes, bool]]
) -> None:
    path = tmp_path_factory.mktemp("oracle")
    one, signed = approver(path), [TreeHead(0, ROOTS[0])][:0]
    for size, root, restart in steps:
        one = approver(path) if restart else one
        head = TreeHead(size, root)
        try:
            one.approve(message(head))
        except Refused:
            continue
        signed.append(head)
    assert [head.size for head in signed] == sorted(head.size for head in signed)
    assert len({head.size for head in signed}) == len(set(signed))


# --- The way into a bastion ---------------------------------------------------------------------


def test_the_certificate_of_litewitness_is_one_to_sign(tmp_path: Path) -> None:
    one = approver(tmp_path, bastion=True)
    one.approve(LITEWITNESS)
    for size in (32, 48):
        one.approve(handshake.CLIENT_CONTEXT + bytes(size))
    one.approve(message(TreeHead(5, ROOTS[0])))


def test_without_a_bastion_there_is_no_handshake(tmp_path: Path) -> None:
    one = approver(tmp_path)
    for data in (LITEWITNESS, handshake.CLIENT_CONTEXT + bytes(32)):
        assert refused(one, data) == "malformed"


def certificate(**changes: Any) -> bytes:
    """The signed part of a certificate such as litewitness's, but for the changes."""
    now = datetime.fromtimestamp(NOW, UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "litewitness")])
    usage = dict.fromkeys(
        [
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    usage |= {"digital_signature": True, **changes.get("usage", {})}
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(changes.get("issuer", name))
        .serial_number(1)
        .not_valid_before(changes.get("begin", now - timedelta(hours=1)))
        .not_valid_after(changes.get("end", now + timedelta(hours=24)))
        .public_key(changes.get("key", PRIVATE).public_key())
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([changes.get("purpose", ExtendedKeyUsageOID.CLIENT_AUTH)]),
            critical=False,
        )
    )
    for extension in changes.get("more", ()):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(PRIVATE, None).tbs_certificate_bytes


def test_the_certificate_that_the_refused_ones_are_made_of_is_one() -> None:
    handshake.check(certificate(), KEY, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"key": Ed25519PrivateKey.from_private_bytes(bytes(32))},
        {"issuer": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])},
        {"begin": datetime.fromtimestamp(NOW, UTC) + timedelta(hours=1)},
        {"end": datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=1)},
        {"end": datetime.fromtimestamp(NOW, UTC) + timedelta(days=365)},
        {"purpose": ExtendedKeyUsageOID.SERVER_AUTH},
        {"usage": {"key_cert_sign": True}},
        {"more": [x509.BasicConstraints(ca=True, path_length=None)]},
        {"more": [x509.SubjectAlternativeName([x509.DNSName("bank.example")])]},
    ],
)
def test_no_other_certificate(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        handshake.check(certificate(**changes), KEY, NOW)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        LITEWITNESS[:-1],
        LITEWITNESS + b"\0",
        handshake.CLIENT_CONTEXT,
        handshake.CLIENT_CONTEXT + bytes(33),
        handshake.CLIENT_CONTEXT.replace(b"client", b"server") + bytes(32),
        TreeHead(5, ROOTS[0]).body(LOG),  # a log's own signature
        b"SSHSIG\0\0\0\4file",
    ],
)
def test_nothing_else(data: bytes) -> None:
    with pytest.raises(UsageError):
        handshake.check(data, KEY, NOW)


@given(st.binary(max_size=300))
def test_no_octets_break_it(data: bytes) -> None:
    with pytest.raises(UsageError):
        handshake.check(data, KEY, NOW)


@example(place=104, change=1)  # a kind of key that nobody knows
@given(place=st.integers(0, len(LITEWITNESS) - 1), change=st.integers(1, 255))
def test_a_changed_octet_is_no_error_of_ours(place: int, change: int) -> None:
    data = bytearray(LITEWITNESS)
    data[place] ^= change
    with suppress(UsageError):
        handshake.check(bytes(data), KEY, NOW)
