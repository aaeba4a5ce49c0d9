"""The signing oracle: an ssh-agent that signs tree heads of one log, and never a split view."""

from __future__ import annotations

PROCEDURE = "docs/bcp/oracle-latched.md"
