"""What a log without guard and oracle is given, a plain ssh-agent; and openssl as the judge."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from sigsum_ops.hsm.rehearsal.state import State
from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.keys import PublicKey
from sigsum_ops.log.treehead import SignedTreeHead

AGENT = "/run/plain-agent/agent.sock"


@contextmanager
def plain_agent(lab: Lab, name: str, key: PublicKey) -> Iterator[None]:
    """OpenSSH's agent on a machine, beside the oracle, with the log's key."""
    lab.exec(
        name,
        [
            "sh",
            "-ec",
            "systemd-run --quiet --collect --unit=plain-agent --property=User=sigsum-log"
            f" --property=RuntimeDirectory=plain-agent ssh-agent -D -a {AGENT};"
            f" until test -S {AGENT}; do sleep 0.1; done",
        ],
        check=True,
    )
    pem = log_private_key(lab, key).private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    add = ["env", f"SSH_AUTH_SOCK={AGENT}", "ssh-add", "-q", "-"]
    lab.exec(name, add, stdin=pem.decode(), check=True)
    yield
    lab.exec(name, ["systemctl", "stop", "plain-agent"], check=True)


def log_private_key(lab: Lab, key: PublicKey) -> Ed25519PrivateKey:
    """The log's key, from the memory of the rehearsal device that made it."""
    for path in (lab.state / "ceremony/devices").glob("*.json"):
        for item in State.from_json(path.read_bytes()).store:
            seed = item.body[:32]
            if item.body.endswith(key.raw) and len(item.body) == 4 * len(seed):
                return Ed25519PrivateKey.from_private_bytes(seed)
    raise AssertionError("no device has made the log's key")


def openssl_verifies(key: PublicKey, signed: SignedTreeHead, directory: Path) -> None:
    """Check the signature with a program that is not ours."""
    public, body, signature = (directory / name for name in ("key.pem", "body", "signature"))
    public.write_bytes(
        Ed25519PublicKey.from_public_bytes(key.raw).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
    )
    body.write_bytes(signed.head.checkpoint(key))
    signature.write_bytes(signed.signature)
    files = ("-inkey", public, "-in", body, "-sigfile", signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-rawin", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
