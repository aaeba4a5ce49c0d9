"""A rehearsal device with the log's key, as a ceremony leaves a log oracle."""

from __future__ import annotations

from contextlib import closing

from yubihsm.core import YubiHsm
from yubihsm.defs import CAPABILITY
from yubihsm.objects import AsymmetricKey, AuthenticationKey

from tests.hsm.oracle.world import SECRET

SERIAL = 90000007
PASSPHRASE = "correct horse"
AUTHENTICATION_KEY, SIGNING_KEY = 200, 500
_DOMAIN = 1 << 9


def provision(url: str) -> None:
    with (
        closing(YubiHsm.connect(url)) as hsm,
        closing(hsm.create_session_derived(1, "password")) as session,
    ):
        AuthenticationKey.put_derived(
            session,
            AUTHENTICATION_KEY,
            "Logsrv authentication",
            _DOMAIN,
            CAPABILITY.SIGN_EDDSA,
            CAPABILITY.NONE,
            PASSPHRASE,
        )
        AsymmetricKey.put(
            session,
            SIGNING_KEY,
            "Log server signing key",
            _DOMAIN,
            CAPABILITY.SIGN_EDDSA | CAPABILITY.EXPORTABLE_UNDER_WRAP,
            SECRET,
        )
