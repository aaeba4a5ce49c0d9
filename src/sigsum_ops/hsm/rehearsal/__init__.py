"""A software YubiHSM 2, to rehearse ceremonies with and to sign in the lab.

It speaks the device's protocol behind the connector's HTTP API, so every client of a YubiHSM works
with it. It protects nothing: its keys lie in a file. It says what it is in its serial number, part
number and attestations, and production refuses it.
"""

from __future__ import annotations

from sigsum_ops.hsm.identity import is_rehearsal
from sigsum_ops.hsm.rehearsal.connector import clear, serve, strike

__all__ = ["clear", "is_rehearsal", "serve", "strike"]
