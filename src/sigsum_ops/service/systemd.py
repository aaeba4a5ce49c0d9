"""What systemd gives to a service, and wants to hear from it."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from sigsum_ops.errors import OpsError


def credential(name: str) -> str:
    """A passphrase that systemd hands over (systemd.exec(5), LoadCredential=), and nobody else.

    One newline at its end is not part of it.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise OpsError(
            f"no credential {name}: CREDENTIALS_DIRECTORY is not set",
            hint="A service gets its passphrase from systemd: start its unit.",
        )
    path = Path(directory, name)
    try:
        passphrase = path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OpsError(f"{path}: the passphrase cannot be read") from error
    if not passphrase:
        raise OpsError(f"{path}: the passphrase is empty")
    return passphrase


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing where there is none that wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
