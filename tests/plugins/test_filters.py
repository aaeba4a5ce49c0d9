"""What all filters have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILTERS = sorted((ROOT / "plugins" / "filter").glob("*.py"))
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
    """Without the callback quick_workers, each of Ansible's workers loads every filter.

    An HTTP client among the imports was a third of the processor time of a converge.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, FILTERS)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(HEAVY) & set(done.stdout.splitlines()) == set()


PRELOAD = """
import sys
from ansible.plugins.loader import callback_loader, init_plugin_loader
init_plugin_loader()
from ansible import constants
(name,) = constants.config.get_config_value("CALLBACKS_ENABLED")
callback_loader.get(name).v2_playbook_on_start(None)
print(*sys.modules, sep="\\n")
"""


def test_the_controller_has_loaded_all_before_it_forks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELOAD], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition(".")[2] for line in done.stdout.splitlines() if ".filter." in line}
    assert {path.stem for path in FILTERS} <= loaded
