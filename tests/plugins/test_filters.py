"""What all filters have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILTERS = Path(__file__).parents[2] / "plugins" / "filter"
HEAVY = ("aiohttp", "asyncio", "cryptography.x509", "dns", "rich", "typer")
LOAD = """
import runpy, sys
# What Ansible itself has in its workers.
import ansible.executor.task_executor, ansible.vars.hostvars
had = set(sys.modules)
for path in sys.argv[1:]:
    runpy.run_path(path)
print(*sorted(set(sys.modules) - had), sep="\\n")
"""


def test_none_imports_what_few_tasks_need() -> None:
    """A worker, one for each task on each machine, loads every filter where it uses any of them.

    An HTTP client among the imports was a third of the processor time of a converge.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, sorted(FILTERS.glob("*.py")))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(HEAVY) & set(done.stdout.splitlines()) == set()
