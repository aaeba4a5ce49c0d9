"""A second, independent implementation of a witness: transparency-dev's, from its Go module."""

from __future__ import annotations

import base64
import os
import shlex
import subprocess
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from resources.support import EPHEMERAL
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab
from sigsum_ops.log.keys import PublicKey, load_public_key, public_key_of
from sigsum_ops.log.treehead import key_id, log_origin, verifier_key
from sigsum_ops.packages import trillian

# Go checks it by the checksum database.
MODULE = "github.com/transparency-dev/witness/cmd/omniwitness"
VERSION = "v0.0.0-20260720115447-2e1c6971d19e"
HOME = "/root/omniwitness"
KEY = Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32)
BASTION_KEY = Ed25519PrivateKey.from_private_bytes(bytes([4]) * 32)


@dataclass
class Third:
    """The witness on a client's machine. It is known to a bastion by a key of its own."""

    client: Host
    name: str = "example.org/witness3"

    @property
    def key(self) -> PublicKey:
        """With what it cosigns."""
        return public_key_of(KEY)

    @property
    def bastion_key(self) -> PublicKey:
        """With what it connects."""
        return public_key_of(BASTION_KEY)

    @property
    def url(self) -> str:
        return f"https://bastion.example.org/{self.bastion_key.hash}/"

    def install(self, lab: Lab) -> None:
        """Compile it here, and carry it there with all that it is to know."""
        log_key = load_public_key(lab.state / "log-key.pub")
        origin = log_origin(log_key)
        logs = {
            "Origin": origin,
            "URL": "https://log.example.org/",
            "PublicKey": verifier_key(origin, log_key),
            "Feeder": "none",
        }
        text = "Logs:\n" + "\n".join(
            f"  {'-' if number == 0 else ' '} {key}: {value}"
            for number, (key, value) in enumerate(logs.items())
        )
        self._carry("logs.yaml", f"{text}\n".encode())
        self._carry("key", self._note_key().encode())
        self._carry(
            "bastion-key",
            BASTION_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
        self._carry("root.pem", (EPHEMERAL / "root.pem").read_bytes())
        self._carry("omniwitness", _compiled())

    def start(self) -> None:
        """Run it; it connects to the bastion, and asks nobody else."""
        command = [
            f"{HOME}/omniwitness",
            "--listen=127.0.0.1:8080",
            "--metrics_listen=",
            f"--private_key_path={HOME}/key",
            f"--db_file={HOME}/db",
            "--bastion_addr=bastion.example.org:443",
            f"--bastion_key_path={HOME}/bastion-key",
            f"--additional_logs={HOME}/logs.yaml",
        ]
        self.client.check_output(
            f"systemd-run --unit=omniwitness --setenv=SSL_CERT_FILE={HOME}/root.pem"
            f" -- {shlex.join(command)}"
        )

    def _carry(self, name: str, content: bytes) -> None:
        mode = "700" if name == "omniwitness" else "600"
        # What a command line can take is far less than a program.
        subprocess.run(
            [*_ssh(self.client), f"mkdir -p {HOME} && install -m {mode} /dev/stdin {HOME}/{name}"],
            input=content,
            check=True,
        )

    def _note_key(self) -> str:
        """As Go's sumdb/note has a private key."""
        encoded = base64.b64encode(b"\x01" + KEY.private_bytes_raw()).decode()
        return f"PRIVATE+KEY+{self.name}+{key_id(self.name, self.key).hex()}+{encoded}"


def _ssh(host: Host) -> list[str]:
    backend = host.backend
    return ["ssh", "-F", str(backend.ssh_config), f"root@{backend.host.name}"]


def _compiled() -> bytes:
    """The program, compiled as Trillian's are, with nothing of the person's own Go."""
    go = trillian.find_go()
    assert go, "Trillian was compiled on this machine"
    toolchain = trillian.pinned("toolchain", (trillian.PINS / "go.mod").read_text())
    place = EPHEMERAL / "omniwitness"
    settings = trillian.environment(go, toolchain, trillian.own_architecture())
    subprocess.run(
        [go, "install", "-trimpath", "-ldflags=-s -w", f"{MODULE}@{VERSION}"],
        env={**settings, "GOBIN": str(place)},
        check=True,
        cwd=os.path.sep,
    )
    return (place / "omniwitness").read_bytes()
