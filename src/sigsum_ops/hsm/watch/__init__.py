"""Watching a YubiHSM beside whoever works with it: its inventory, its health, its own log.

None of it needs the passphrase of a signing key, and all of it runs on a log machine, which has
Debian's python3-yubihsm and nothing that speaks HTTP for it.
"""

from __future__ import annotations

PROCEDURE = "docs/bcp/hsm-watch.md"

# Exit codes of the verbs, beside 0 (good) and 2 (usage).
BAD = 1
UNKNOWN = 3
