"""Signatures of the participants: made and judged by ssh-keygen, never by code of ours.

The format is OpenSSH's SSHSIG (PROTOCOL.sshsig) in the namespace ``sigsum-ops-ceremony@v1``: a
signature made for anything else, or with the log's key, which signs tree heads only, does not pass.
"""

from __future__ import annotations

import base64
import binascii
import subprocess
from pathlib import Path

from sigsum_ops.errors import OpsError
from sigsum_ops.hsm.ceremony.transcript import NAMESPACE

_HEAD, _FOOT = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_MAGIC = b"SSHSIG" + (1).to_bytes(4, "big")


def sign(message: bytes, key: Path) -> str:
    """The armoured signature by the private key in the file ``key``, or by the ssh-agent's key if
    the file holds a public one. ssh-keygen asks for passphrase or touch on the terminal.

    Raises:
        OpsError: ssh-keygen's own words.
    """
    done = _ssh_keygen(["-Y", "sign", "-n", NAMESPACE, "-f", str(key)], message)
    if done.returncode:
        raise OpsError(
            f"ssh-keygen did not sign with {key}: {_words(done)}",
            hint="Give the file of a private key, or of a public key that an ssh-agent holds.",
        )
    return done.stdout.decode("ascii")


def problem(message: bytes, signature: Path, participant: str, allowed_signers: Path) -> str | None:
    """Why the signature does not count as the participant's; None if it does.

    ``allowed_signers`` (ssh-keygen(1), ALLOWED SIGNERS) says whose key is whose: it is the
    auditor's, and everything rests on it.
    """
    if not signature.is_file():
        return f"{signature} is not there"
    arguments = ["-f", str(allowed_signers), "-I", participant, "-n", NAMESPACE, "-s"]
    done = _ssh_keygen(["-Y", "verify", *arguments, str(signature)], message)
    return _words(done) if done.returncode else None


def public_key(signature: Path) -> bytes:
    """The key that a signature names as its own, in ssh's wire form.

    Meaningful only after ``problem`` found none.

    Raises:
        ValueError: not a signature, or by a certified key: two certificates of one key would look
            like two keys.
    """
    lines = signature.read_text("ascii").split()
    text = " ".join(lines)
    if not (text.startswith(_HEAD) and text.endswith(_FOOT)):
        raise ValueError("not an armoured ssh signature")
    try:
        blob = base64.b64decode(text[len(_HEAD) : -len(_FOOT)].replace(" ", ""), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if not blob.startswith(_MAGIC):
        raise ValueError("not an ssh signature of version 1")
    key = _string(blob[len(_MAGIC) :])
    if _string(key).endswith(b"-cert-v01@openssh.com"):
        raise ValueError("made with a certificate; sign with a plain key")
    return key


def wire(public_key: str) -> bytes:
    """The key of a line ``ssh-ed25519 AAAA… comment`` in the form that ``public_key`` returns."""
    return base64.b64decode(public_key.split()[1])


def allowed_signers_line(participant: str, key: str) -> str:
    """The line that lets the key sign ceremonies as the participant, and nothing else."""
    return f'{participant} namespaces="{NAMESPACE}" {key}\n'


def _string(data: bytes) -> bytes:
    """The first string of ssh's wire form (RFC 4251, section 5)."""
    return data[4 : 4 + int.from_bytes(data[:4], "big")]


def _ssh_keygen(arguments: list[str], message: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *arguments], input=message, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise OpsError("there is no ssh-keygen", hint="Install openssh-client.") from None


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    text = (done.stderr + done.stdout).decode("utf-8", "replace").strip()
    return text.splitlines()[-1] if text else f"ssh-keygen exits with {done.returncode}"
