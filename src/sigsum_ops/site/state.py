"""Where a controller keeps what must outlive a run: labs, journals, tree heads that it has seen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """This project's directory, by the XDG base directory specification; it may not exist yet."""
    base = environ.get("XDG_STATE_HOME") or Path(environ["HOME"]) / ".local/state"
    return Path(base) / "sigsum-ops"
