"""The comparison of the log machines as a person runs it: read by Ansible, shown as a table."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.site import ansible
from sigsum_ops.site.diversity import Report, judge

if TYPE_CHECKING:
    from rich.table import Table

PLAYBOOK = "sigsum_ops.site.diversity"

_STYLES = {
    "ok": "green",
    "noted": "dim",
    "excused": "yellow",
    "warning": "bold yellow",
    "failure": "bold red",
}


def run(
    inventory: Path | None = None, recorded: Path | None = None, keep: Path | None = None
) -> Report:
    """Compare the log machines: read them now, or take what was recorded before.

    Args:
        inventory: see :func:`record`.
        recorded: a directory that :func:`record` filled; then no machine is contacted.
        keep: the directory to keep the records in, for later comparisons.

    Raises:
        OpsError: see :func:`record`; UsageError: see :func:`load` and :func:`judge`, and where
            ``recorded`` is combined with another, or ``keep`` holds records of another run.
    """
    if recorded:
        if inventory or keep:
            raise UsageError(
                "--from takes what was recorded: no --inventory and no --record beside it"
            )
        return judge(load(recorded))
    with tempfile.TemporaryDirectory(prefix="sigsum-diversity-") as temporary:
        directory = keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        if list(directory.glob("*.json")):
            # A machine that left the site would go on being compared; digests differ by run, too.
            raise UsageError(f"{directory}: holds records of another run", hint="Name a new one.")
        record(inventory, directory)
        return judge(load(directory))


def record(inventory: Path | None, directory: Path) -> None:
    """Have the playbook read all log machines and write one file HOST.json for each.

    Ansible's own output goes to standard error.

    Args:
        inventory: as for ``ansible-playbook -i``; None for the one that ansible.cfg names.
        directory: exists; gets one file for each machine, readable by the caller only.

    Raises:
        OpsError: a machine could not be read, or Ansible is not installed.
    """
    done = ansible.run(
        "ansible-playbook",
        "--skip-tags=verdict",
        "--extra-vars",
        json.dumps({"diversity_record_dir": str(directory.resolve())}),
        PLAYBOOK,
        inventory=inventory,
        output=sys.stderr,
    )
    if done.returncode != 0:
        raise OpsError(
            "the hardware of the log machines could not be read",
            hint="Ansible's message above says which machine, and why.",
        )


def load(directory: Path) -> dict[str, object]:
    """Read what :func:`record` wrote: by host, a record for :func:`diversity.judge`.

    Raises:
        UsageError: there is none, or one is not JSON.
    """
    records = {}
    for path in sorted(directory.glob("*.json")):
        try:
            records[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: not a readable record: {error}") from error
    if not records:
        raise UsageError(
            f"{directory}: no recorded machine in it",
            hint="Record them with: sigsum-ops diversity --record DIR",
        )
    return records


def table(report: Report, *, ascii_only: bool = False) -> Table:
    """The report side by side: a row for each component, a column for each machine."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.ASCII2 if ascii_only else box.SQUARE, show_lines=True, expand=True)
    made.add_column("Component", no_wrap=True)
    for machine in report.machines:
        made.add_column(machine, ratio=4)
    made.add_column("Verdict", ratio=5)
    for component in report.components:
        verdict = Text(component.verdict, style=_STYLES[component.verdict])
        if component.reason:
            verdict.append(f": {component.reason}", style="not bold")
        # Text, not markup: what firmware says may hold brackets.
        cells = [Text("\n".join(component.values[machine])) for machine in report.machines]
        made.add_row(component.title, *cells, verdict)
    return made


def summary(report: Report) -> str:
    """One line under the table."""
    failures, excused, warnings = (
        ", ".join(c.title for c in report.components if c.verdict == verdict)
        for verdict in ("failure", "excused", "warning")
    )
    if failures:
        return f"The log machines are not diverse: {failures}. See docs/hardware.md for what to do."
    found = "The log machines are as diverse as the site asks for."
    if excused:
        found += f" Excused: {excused}."
    return found + (f" Warnings: {warnings}." if warnings else "")


def plain(report: Report, width: int = 118) -> str:
    """The table as plain text, for Ansible's output."""
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    Console(file=text, width=width, color_system=None).print(table(report, ascii_only=True))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
