"""docs/alerts.md, made from the alert rules, so that the two cannot differ.

``python -m sigsum_ops.monitoring.alertdocs RULES FILE`` writes it; with ``--check`` it writes
nothing, and exits 1 if anything would change.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# What Prometheus fills in: a label is named, a value or a query is not.
_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")
_WITH = re.compile(r"\{\{ with .*?\{\{ end \}\}")
_QUERY = re.compile(r"\s*\{\{-? range .*?\{\{ end \}\}")
_OTHER = re.compile(r"\{\{.*?\}\}")


def lines(groups: list[dict[str, Any]]) -> Iterator[str]:
    """The page's, from the file's ``groups``."""
    yield "# Alerts"
    yield ""
    yield "What wakes somebody (*page*) or waits for a working day (*ticket*). The rules are in"
    yield "`roles/monitoring/files/rules`, and `inhibit.yml` beside them says which alert hides"
    yield "which, so that one cause wakes somebody once. *After* is for how long it must be so,"
    yield "beyond the window that a rule looks at. Made by `make docs`."
    for group in groups:
        alerts = [rule for rule in group["rules"] if "alert" in rule]
        if alerts:
            title = group["name"].removeprefix("sigsum_").capitalize()
            yield from ("", f"## {title}", "", "| alert | severity | what | after | page |")
            yield "| --- | --- | --- | --- | --- |"
            yield from map(_row, alerts)


def _row(rule: dict[str, Any]) -> str:
    page = rule["annotations"]["runbook"].removeprefix("docs/")
    name = page.partition("#")[0]
    cells = (
        f"`{rule['alert']}`",
        rule["labels"]["severity"],
        _said(rule["annotations"]["summary"]),
        rule.get("for", "at once"),
        f"[{name}]({page})",
    )
    return f"| {' | '.join(cells)} |"


def _said(summary: str) -> str:
    """A summary without what only Prometheus knows."""
    text = _LABEL.sub(r"*\1*", _QUERY.sub(" …", _WITH.sub("", summary)))
    return _OTHER.sub("…", text)


def main(arguments: list[str]) -> int:
    """Write or check the page; see the module's description."""
    rules, page = map(Path, arguments[:2])
    groups = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"]
    text = "".join(f"{line}\n" for line in lines(groups))
    if "--check" not in arguments:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        print(f"{page} is not what `make docs` writes")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
