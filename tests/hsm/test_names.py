"""Names of the YubiHSM's constants: yubihsm-shell's, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yubihsm.defs import ALGORITHM, CAPABILITY

from sigsum_ops.hsm import names


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("ed25519", ALGORITHM.EC_ED25519),
        ("ecp256", ALGORITHM.EC_P256),
        ("ecp256-yubico-authentication", ALGORITHM.EC_P256_YUBICO_AUTHENTICATION),
        ("eck256", ALGORITHM.EC_K256),
        ("ecbp512", ALGORITHM.EC_BP512),
        ("ecdsa-sha384", ALGORITHM.EC_ECDSA_SHA384),
        ("ecdh", ALGORITHM.EC_ECDH),
        ("rsa2048", ALGORITHM.RSA_2048),
        ("rsa-pkcs1-sha1", ALGORITHM.RSA_PKCS1_SHA1),
        ("mgf1-sha512", ALGORITHM.RSA_MGF1_SHA512),
        ("aes256-ccm-wrap", ALGORITHM.AES256_CCM_WRAP),
        ("aes128-yubico-authentication", ALGORITHM.AES128_YUBICO_AUTHENTICATION),
    ],
)
def test_algorithms_are_called_as_by_the_shell(name: str, member: ALGORITHM) -> None:
    assert names.ALGORITHMS[name] is member
    assert names.name_of(names.ALGORITHMS, member) == name


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("sign-eddsa", CAPABILITY.SIGN_EDDSA),
        ("put-asymmetric-key", CAPABILITY.PUT_ASYMMETRIC),
        ("put-mac-key", CAPABILITY.PUT_HMAC_KEY),
        ("put-public-wrap-key", CAPABILITY.PUBLIC_WRAP_KEY_WRITE),
        ("delete-public-wrap-key", CAPABILITY.PUBLIC_WRAP_KEY_DELETE),
    ],
)
def test_capabilities_are_called_as_by_the_shell(name: str, member: CAPABILITY) -> None:
    assert names.CAPABILITIES[name] is member


def test_a_number_that_nobody_named_is_shown_as_it_is() -> None:
    assert names.name_of(names.COMMANDS, 0x99) == "0x99"


@given(st.integers(0, 2**64 - 1))
def test_any_set_of_bits_has_names_and_comes_back(bits: int) -> None:
    assert names.flags(names.CAPABILITIES, names.flag_names(names.CAPABILITIES, bits)) == bits


@given(st.integers(0, 0xFFFF))
def test_any_mask_of_domains_comes_back(mask: int) -> None:
    assert names.domain_mask(names.domain_numbers(mask)) == mask
