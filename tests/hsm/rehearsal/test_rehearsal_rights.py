"""Who may do what: capabilities, delegated capabilities and domains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from yubihsm.core import AuthSession, YubiHsm
from yubihsm.defs import ALGORITHM, AUDIT, CAPABILITY, COMMAND, ERROR, OBJECT
from yubihsm.objects import AsymmetricKey, AuthenticationKey, HmacKey, Opaque, WrapKey

from sigsum_ops.hsm.rehearsal import commands
from tests.hsm.rehearsal.client import ALL, NONE, log_in, public_key, refused, signing_key, wrap_key

SIGN_ALL = (
    CAPABILITY.SIGN_EDDSA
    | CAPABILITY.SIGN_ECDSA
    | CAPABILITY.DERIVE_ECDH
    | CAPABILITY.SIGN_HMAC
    | CAPABILITY.VERIFY_HMAC
    | CAPABILITY.SIGN_ATTESTATION_CERTIFICATE
    | CAPABILITY.EXPORTABLE_UNDER_WRAP
)
ED25519 = ALGORITHM.EC_ED25519
DATA = ALGORITHM.OPAQUE_DATA
Do = Callable[[AuthSession], object]

# What a session can do with one capability, and not without it. 500 is an Ed25519 key, 501 one on
# P-256, 502 one that is for export, 400 a wrap key, 300 an HMAC key, 200 an opaque object, and
# 210, 310, 410, 510, 110 are there to be deleted.
ACTIONS: dict[CAPABILITY, Do] = {
    CAPABILITY.GET_OPAQUE: lambda s: Opaque(s, 200).get(),
    CAPABILITY.PUT_OPAQUE: lambda s: Opaque.put(s, 0, "", 1, NONE, DATA, b"x"),
    CAPABILITY.PUT_AUTHENTICATION_KEY: lambda s: AuthenticationKey.put_derived(
        s, 0, "", 1, NONE, NONE, "x"
    ),
    CAPABILITY.PUT_ASYMMETRIC: lambda s: s.send_secure_cmd(
        COMMAND.PUT_ASYMMETRIC_KEY, bytes(43) + b"\1" + bytes(8) + bytes([ED25519]) + bytes(32)
    ),
    CAPABILITY.GENERATE_ASYMMETRIC_KEY: lambda s: AsymmetricKey.generate(
        s, 0, "", 1, NONE, ED25519
    ),
    CAPABILITY.SIGN_ECDSA: lambda s: AsymmetricKey(s, 501).sign_ecdsa(b"m"),
    CAPABILITY.SIGN_EDDSA: lambda s: AsymmetricKey(s, 500).sign_eddsa(b"m"),
    CAPABILITY.DERIVE_ECDH: lambda s: AsymmetricKey(s, 501).derive_ecdh(
        public_key(AsymmetricKey(s, 501))
    ),
    CAPABILITY.EXPORT_WRAPPED: lambda s: WrapKey(s, 400).export_wrapped(AsymmetricKey(s, 502)),
    CAPABILITY.PUT_WRAP_KEY: lambda s: wrap_key(s, bytes(16), 0, NONE, NONE),
    CAPABILITY.GENERATE_WRAP_KEY: lambda s: WrapKey.generate(
        s, 0, "", 1, NONE, ALGORITHM.AES128_CCM_WRAP, NONE
    ),
    CAPABILITY.SET_OPTION: lambda s: s.set_force_audit(AUDIT.OFF),
    CAPABILITY.GET_OPTION: lambda s: s.get_force_audit(),
    CAPABILITY.GET_PSEUDO_RANDOM: lambda s: s.get_pseudo_random(1),
    CAPABILITY.PUT_HMAC_KEY: lambda s: HmacKey.put(s, 0, "", 1, NONE, b"k"),
    CAPABILITY.GENERATE_HMAC_KEY: lambda s: HmacKey.generate(s, 0, "", 1, NONE),
    CAPABILITY.SIGN_HMAC: lambda s: HmacKey(s, 300).sign_hmac(b"m"),
    CAPABILITY.VERIFY_HMAC: lambda s: HmacKey(s, 300).verify_hmac(bytes(32), b"m"),
    CAPABILITY.GET_LOG_ENTRIES: lambda s: s.set_log_index(s.get_log_entries().entries[-1].number),
    CAPABILITY.SIGN_ATTESTATION_CERTIFICATE: lambda s: AsymmetricKey(s, 501).attest(),
    CAPABILITY.DELETE_OPAQUE: lambda s: Opaque(s, 210).delete(),
    CAPABILITY.DELETE_AUTHENTICATION_KEY: lambda s: AuthenticationKey(s, 110).delete(),
    CAPABILITY.DELETE_ASYMMETRIC_KEY: lambda s: AsymmetricKey(s, 510).delete(),
    CAPABILITY.DELETE_WRAP_KEY: lambda s: WrapKey(s, 410).delete(),
    CAPABILITY.DELETE_HMAC_KEY: lambda s: HmacKey(s, 310).delete(),
    CAPABILITY.RESET_DEVICE: lambda s: s.send_secure_cmd(COMMAND.RESET_DEVICE),
}


@pytest.fixture
def furnished(session: AuthSession) -> AuthSession:
    """The objects that the actions work on."""
    for object_id in (500, 510):
        signing_key(session, object_id, SIGN_ALL)
    AsymmetricKey.generate(session, 501, "", 1, SIGN_ALL, ALGORITHM.EC_P256)
    signing_key(session, 502)
    for object_id in (400, 410):
        wrap_key(session, bytes(16), object_id)
    for object_id in (300, 310):
        HmacKey.put(session, object_id, "", 1, SIGN_ALL, b"k")
    for object_id in (200, 210):
        Opaque.put(session, object_id, "", 1, NONE, DATA, b"x")
    AuthenticationKey.put_derived(session, 110, "", 1, NONE, NONE, "x")
    return session


@pytest.mark.parametrize("capability", ACTIONS, ids=lambda c: c.name)
def test_each_command_needs_its_capability(
    hsm: YubiHsm, furnished: AuthSession, capability: CAPABILITY
) -> None:
    act = ACTIONS[capability]
    without = log_in(furnished, hsm, ALL & ~capability, ALL)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        act(without)
    act(log_in(furnished, hsm, capability, NONE))


def test_every_capability_that_the_device_asks_for_is_in_the_matrix() -> None:
    asked = {capability for _, capability in commands.IN_SESSION.values() if capability}
    # These need what test_rehearsal_wrap and test_rehearsal_commands have at hand.
    elsewhere = {CAPABILITY.IMPORT_WRAPPED, CAPABILITY.CHANGE_AUTHENTICATION_KEY}
    assert asked - elsewhere <= set(ACTIONS)


@pytest.mark.parametrize(
    ("act", "object_id", "kind"),
    [
        (ACTIONS[CAPABILITY.SIGN_EDDSA], 500, OBJECT.ASYMMETRIC_KEY),
        (ACTIONS[CAPABILITY.SIGN_ECDSA], 501, OBJECT.ASYMMETRIC_KEY),
        (ACTIONS[CAPABILITY.DERIVE_ECDH], 501, OBJECT.ASYMMETRIC_KEY),
        (ACTIONS[CAPABILITY.SIGN_HMAC], 300, OBJECT.HMAC_KEY),
        (ACTIONS[CAPABILITY.VERIFY_HMAC], 300, OBJECT.HMAC_KEY),
    ],
)
def test_a_key_is_used_only_for_what_it_was_made_for(
    session: AuthSession, act: Do, object_id: int, kind: OBJECT
) -> None:
    if kind == OBJECT.HMAC_KEY:
        HmacKey.put(session, object_id, "", 1, NONE, b"k")
    else:
        algorithm = ED25519 if object_id == 500 else ALGORITHM.EC_P256
        AsymmetricKey.generate(session, object_id, "", 1, NONE, algorithm)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        act(session)


def test_a_session_sees_only_its_own_domains(hsm: YubiHsm, session: AuthSession) -> None:
    signing_key(session, 500, domains=0b001)
    signing_key(session, 600, domains=0b110)
    narrow = log_in(session, hsm, ALL, ALL, domains=0b010)
    seen = {o.id for o in narrow.list_objects()}
    assert 600 in seen
    assert 500 not in seen
    AsymmetricKey(narrow, 600).get_info()
    hidden = AsymmetricKey(narrow, 500)
    for act in (hidden.get_info, hidden.get_public_key, hidden.delete):
        with refused(ERROR.OBJECT_NOT_FOUND):
            act()
    with refused(ERROR.OBJECT_NOT_FOUND):
        hidden.sign_eddsa(b"m")
    # And yet the id is taken.
    with refused(ERROR.OBJECT_EXISTS):
        signing_key(narrow, 500, domains=0b010)


def test_a_session_makes_objects_in_its_own_domains_only(
    hsm: YubiHsm, session: AuthSession
) -> None:
    narrow = log_in(session, hsm, ALL, ALL, domains=0b011)
    signing_key(narrow, 500, domains=0b001)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        signing_key(narrow, 501, domains=0b101)
    with refused(ERROR.INVALID_DATA):
        signing_key(narrow, 502, domains=0)


def test_a_session_gives_away_only_what_was_delegated_to_it(
    hsm: YubiHsm, session: AuthSession
) -> None:
    limited = log_in(session, hsm, ALL, CAPABILITY.SIGN_EDDSA)
    signing_key(limited, 500, CAPABILITY.SIGN_EDDSA)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        signing_key(limited, 501, CAPABILITY.SIGN_EDDSA | CAPABILITY.EXPORTABLE_UNDER_WRAP)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        wrap_key(limited, bytes(16), 400, NONE, CAPABILITY.SIGN_ECDSA)
    with refused(ERROR.INSUFFICIENT_PERMISSIONS):
        AuthenticationKey.put_derived(limited, 101, "", 1, NONE, CAPABILITY.SIGN_ECDSA, "x")
    wrap_key(limited, bytes(16), 400, NONE, CAPABILITY.SIGN_EDDSA)
