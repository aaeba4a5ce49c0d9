"""Backups of a log machine, and why one of them is never started again by itself.

A log's database from yesterday signs a second root for each size that was published since. So what
is restored is data on a machine in quarantine, until it is proven ahead of all that was published:
docs/backups.md.
"""

from __future__ import annotations

PROCEDURE = "docs/backups.md"
