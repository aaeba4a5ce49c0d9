"""Debian's yubihsm-shell and yubihsm-wrap, and openssl, against the rehearsal device."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path
from typing import TypedDict

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from yubihsm.core import YubiHsm
from yubihsm.defs import ALGORITHM, CAPABILITY, COMMAND, OBJECT, ORIGIN
from yubihsm.objects import AsymmetricKey, HmacKey, WrapKey

from tests.hsm.rehearsal.client import EVERYWHERE, PASSWORD, SIGNING, public_key

PROGRAMS = ("yubihsm-shell", "yubihsm-wrap", "openssl")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"needs the programs {', '.join(MISSING)}: Debian has packages of them"
)
SECRET = bytes(range(32))


class Login(TypedDict):
    key: int
    password: str


class Shell:
    """yubihsm-shell in a directory of files, with one device."""

    def __init__(self, connector: str, directory: Path) -> None:
        self.connector = connector
        self.directory = directory

    def __call__(self, action: str, *options: str, key: int = 1, password: str = PASSWORD) -> str:
        done = self.run(action, *options, key=key, password=password)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(
        self, action: str, *options: str, key: int = 1, password: str = PASSWORD
    ) -> subprocess.CompletedProcess[str]:
        rest = ["--authkey", str(key), "-p", password, "-a", action, *options]
        return self.program("yubihsm-shell", "-C", self.connector, *rest)

    def program(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, timeout=60, check=False
        )

    def info(self, object_id: int, kind: str) -> dict[str, str]:
        """What it says of an object: ``name: value`` by comma."""
        text = self("get-object-info", "-i", str(object_id), "-t", kind).strip()
        return dict(part.split(": ", 1) for part in text.split(", "))

    def sign(self, object_id: int, message: bytes) -> bytes:
        (self.directory / "message").write_bytes(message)
        options = ("-i", str(object_id), "-A", "ed25519", "--in", "message")
        return base64.b64decode(self("sign-eddsa", *options))


@pytest.fixture
def shell(connector: str, tmp_path: Path) -> Shell:
    (tmp_path / "files").mkdir()
    return Shell(connector, tmp_path / "files")


def test_a_ceremony(shell: Shell, hsm: YubiHsm) -> None:
    for object_id, label, domains, rights, delegated in (
        ("100", "Backup authentication", "all", "all", "all"),
        ("200", "Logsrv authentication", "10", "sign-eddsa", "none"),
    ):
        names = ("-i", object_id, "-l", label, "-d", domains, "-c", rights)
        shell("put-authentication-key", *names, "--delegated", delegated, "--new-password", "new")
    (shell.directory / "wrap.key").write_bytes(SECRET)
    backup: Login = {"key": 100, "password": "new"}
    shell(
        "put-wrap-key", "-i", "400", "-l", "Common wrap key", "-d", "all",
        "-c", "import-wrapped,export-wrapped", "--delegated", "exportable-under-wrap,sign-eddsa",
        "--informat", "binary", "--in", "wrap.key", **backup,
    )  # fmt: skip
    shell(
        "generate-asymmetric-key", "-i", "500", "-l", "Log server signing key", "-d", "10",
        "-c", "exportable-under-wrap,sign-eddsa", "-A", "ed25519", **backup,
    )  # fmt: skip
    assert "Found 5 object(s)" in shell("list-objects", **backup)
    said = shell.info(500, "asymmetric-key")
    assert said["id"] == "0x01f4"
    assert said["algorithm"] == "ed25519"
    assert said["domains"] == "10"
    assert said["origin"] == "generated"
    assert said["capabilities"] == "exportable-under-wrap:sign-eddsa"

    # python-yubihsm sees the same.
    session = hsm.create_session_derived(100, "new")
    info = AsymmetricKey(session, 500).get_info()
    assert (info.label, info.domains, info.capabilities) == (
        "Log server signing key",
        1 << 9,
        SIGNING,
    )
    assert WrapKey(session, 400).get_info().delegated_capabilities == SIGNING
    # The oracle's key signs, and openssl agrees.
    oracle: Login = {"key": 200, "password": "new"}
    (shell.directory / "message").write_bytes(b"a message")
    sign = ("-i", "500", "-A", "ed25519", "--in", "message", "--outformat", "binary")
    shell("sign-eddsa", *sign, "--out", "signature", **oracle)
    shell("get-public-key", "-i", "500", "--outformat", "PEM", "--out", "public.pem", **oracle)
    verified = shell.program(
        *("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem"),
        *("-rawin", "-in", "message", "-sigfile", "signature"),
    )
    assert "Verified Successfully" in verified.stdout
    public_key(AsymmetricKey(session, 500)).verify(
        (shell.directory / "signature").read_bytes(), b"a message"
    )
    denied = shell.run("get-pseudo-random", **oracle)
    assert denied.returncode != 0
    assert "Wrong permissions for operation" in denied.stderr
    # Neither the default key nor the wrap key stays on an oracle.
    shell("delete-object", "-i", "400", "-t", "wrap-key", **backup)
    shell("delete-object", "-i", "1", "-t", "authentication-key", **backup)
    gone = shell.run("list-objects")
    assert gone.returncode != 0
    assert "Object not found" in gone.stderr


@pytest.mark.parametrize("seed", [(), ("--include-seed",)], ids=["short", "with seed"])
def test_a_wrapped_key_comes_back_as_the_same_key(
    shell: Shell, hsm: YubiHsm, seed: tuple[str, ...]
) -> None:
    if seed and "--include-seed" not in shell.program("yubihsm-shell", "--help").stdout:
        pytest.skip("this yubihsm-shell cannot ask for the seed")
    (shell.directory / "wrap.key").write_bytes(SECRET)
    rights = ("-c", "all", "--delegated", "all", "--informat", "binary", "--in", "wrap.key")
    shell("put-wrap-key", "-i", "400", *rights)
    shell("generate-asymmetric-key", "-i", "500", "-c", "all", "-A", "ed25519")
    before = shell.sign(500, b"m")
    which = ("--wrap-id", "400", "-i", "500", "-t", "asymmetric-key")
    shell("get-wrapped", *which, *seed, "--out", "key.yhw")
    shell("delete-object", "-i", "500", "-t", "asymmetric-key")
    assert shell.run("sign-eddsa", "-i", "500", "-A", "ed25519").returncode != 0
    shell("put-wrapped", "--wrap-id", "400", "--in", "key.yhw")
    assert shell.sign(500, b"m") == before
    assert shell.info(500, "asymmetric-key")["origin"] == "generated:imported_wrapped"
    # python-yubihsm takes it as well.
    session = hsm.create_session_derived(1, PASSWORD)
    AsymmetricKey(session, 500).delete()
    blob = base64.b64decode((shell.directory / "key.yhw").read_text())
    restored = WrapKey(session, 400).import_wrapped(blob)
    assert isinstance(restored, AsymmetricKey)
    assert restored.sign_eddsa(b"m") == before


def test_objects_that_yubihsm_wrap_made_import(shell: Shell, hsm: YubiHsm) -> None:
    session = hsm.create_session_derived(1, PASSWORD)
    everything = CAPABILITY(2**64 - 1)
    WrapKey.put(
        session, 400, "w", EVERYWHERE, everything, ALGORITHM.AES256_CCM_WRAP, everything, SECRET
    )
    (shell.directory / "wrap.key").write_bytes(SECRET)

    def wrap(algorithm: str, object_id: int, content: bytes, *rights: str) -> None:
        (shell.directory / "in").write_bytes(content)
        made = shell.program(
            *("yubihsm-wrap", "-a", algorithm, "-d", "10,11", "-i", str(object_id)),
            *("-l", "made offline", "-k", "wrap.key", "--in", "in", "--out", "out", *rights),
        )
        assert made.returncode == 0, made.stderr
        shell("put-wrapped", "--wrap-id", "400", "--in", "out")

    def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat) -> bytes:
        return key.private_bytes(Encoding.PEM, form, NoEncryption())

    signing = Ed25519PrivateKey.generate()
    wrap("ed25519", 500, pem(signing, PrivateFormat.PKCS8), "-c", "sign-eddsa")
    key = AsymmetricKey(session, 500)
    assert key.sign_eddsa(b"m") == signing.sign(b"m") == shell.sign(500, b"m")
    info = key.get_info()
    assert (info.label, info.domains) == ("made offline", 0b11 << 9)
    assert info.origin == ORIGIN.IMPORTED | ORIGIN.IMPORTED_WRAPPED

    curve = ec.generate_private_key(ec.SECP384R1())
    wrap("ecp384", 501, pem(curve, PrivateFormat.TraditionalOpenSSL), "-c", "sign-ecdsa")
    assert public_key(AsymmetricKey(session, 501)) == curve.public_key()

    wrap("hmac-sha256", 300, b"secret", "-c", "sign-hmac")
    mac = HmacKey(session, 300).sign_hmac(b"m")
    own = HmacKey.put(session, 301, "", 1, CAPABILITY.SIGN_HMAC, b"secret")
    assert mac == own.sign_hmac(b"m")

    rights = ("-c", "get-pseudo-random", "--delegated", "sign-eddsa")
    wrap("aes128-yubico-authentication", 200, b"offline\n", *rights)
    (stored,) = session.list_objects(object_id=200)
    assert stored.get_info().delegated_capabilities == CAPABILITY.SIGN_EDDSA
    with hsm.create_session_derived(200, "offline") as theirs:
        assert len(theirs.get_pseudo_random(4)) == 4


def test_a_wrong_password_and_what_it_leaves(shell: Shell, hsm: YubiHsm) -> None:
    for _ in range(3):
        refused = shell.run("list-objects", password="wrong")
        assert refused.returncode != 0
        assert "Message encryption / verification failed" in refused.stderr
    for _ in range(16):
        hsm.create_session_derived(1, PASSWORD)
    full = shell.run("list-objects")
    assert full.returncode != 0
    assert "All sessions are allocated" in full.stderr


def test_the_log_that_both_read(shell: Shell, hsm: YubiHsm) -> None:
    shell("put-option", "--opt-name", "command-audit", "--opt-value", "46026a02")
    shell("put-option", "--opt-name", "force-audit", "--opt-value", "01")
    assert shell("get-option", "--opt-name", "force-audit").strip().endswith("01")
    shell("generate-asymmetric-key", "-i", "500", "-c", "sign-eddsa", "-A", "ed25519")
    shell.sign(500, b"m")
    lines = re.findall(
        r"item: +(\d+) -- cmd: 0x(\w+) .* target key: 0x(\w+) .* hash: (\w+)", shell("get-logs")
    )
    session = hsm.create_session_derived(1, PASSWORD)
    entries = session.get_log_entries().entries
    assert [(int(n), int(c, 16), int(t, 16), h) for n, c, t, h in lines] == [
        (e.number, e.command, e.target_key, e.digest.hex()) for e in entries
    ]
    assert [e.command for e in entries[2:]] == [
        COMMAND.GENERATE_ASYMMETRIC_KEY,
        COMMAND.SIGN_EDDSA,
    ]
    shell("set-log-index", "--log-index", str(entries[-1].number))
    assert session.get_log_entries().entries == []


def test_what_the_device_says_of_itself(shell: Shell) -> None:
    said = shell("get-device-info")
    assert re.search(r"Version number:\s+2\.4\.0", said)
    assert re.search(r"Serial number:\s+90000001", said)
    assert re.search(r"Log used:\s+2/62", said)
    assert "ed25519" in said
    storage = "free records: 255/256, free pages: 1023/1024 page size: 126 bytes"
    assert storage in shell.run("get-storage-info").stderr


def test_an_attestation_that_openssl_verifies(shell: Shell) -> None:
    shell("generate-asymmetric-key", "-i", "500", "-A", "ed25519")
    attest = ("-i", "500", "--attestation-id", "0", "--out", "attestation.pem")
    shell("sign-attestation-certificate", *attest)
    shell("get-opaque", "-i", "0", "--outformat", "PEM", "--out", "factory.pem")
    verified = shell.program("openssl", "verify", "-CAfile", "factory.pem", "attestation.pem")
    assert verified.stdout.strip() == "attestation.pem: OK"
    text = shell.program("openssl", "x509", "-in", "attestation.pem", "-noout", "-subject")
    assert "YubiHSM rehearsal device" in text.stdout


def test_reset(shell: Shell, hsm: YubiHsm) -> None:
    shell("generate-asymmetric-key", "-i", "500", "-A", "ed25519")
    shell("blink", "--duration", "1")
    assert "successfully reset" in shell("reset")
    session = hsm.create_session_derived(1, PASSWORD)
    assert [(o.id, o.object_type) for o in session.list_objects()] == [
        (1, OBJECT.AUTHENTICATION_KEY)
    ]
