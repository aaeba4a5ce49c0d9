"""Running a witness, and the bastion host through which one is reached."""

from __future__ import annotations

DATABASE = "/var/lib/litewitness/litewitness.db"
PROCEDURE = "docs/witness.md"
