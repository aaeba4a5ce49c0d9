"""The alert rules: promtool reads and tries them, and all that they name exists.

Most tests in rules/ have one course: ten minutes in which all is well, with a missed scrape and
then a bad sample, at which the alert must be silent; fifteen in which it is not, with a missed
scrape at which the alert must fire; then all is well again, and it ends.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigsum_ops.exporter.table import OWN, PASSED
from sigsum_ops.monitoring import alertdocs

ROOT = Path(__file__).parents[2]
FILES = ROOT / "roles/monitoring/files"
RULES = FILES / "rules/sigsum.rules.yml"
TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [
    rule for group in GROUPS for rule in group["rules"] if "alert" in rule
]
# What hides nothing from anybody, whatever else there is.
EVIDENCE = {
    *("TreeInconsistent", "SplitViewSeen", "TwoPrimaries", "MarkedPrimary"),
    *("OracleLatched", "HsmAuditFindings"),
}
_METRIC = re.compile(r"(?<![\w:])sigsum_\w+(?![\w:])")


def _name(rule: dict[str, Any]) -> str:
    return f"{rule['alert']}-{rule['labels']['severity']}"


@pytest.fixture(params=ALERTS, ids=_name)
def alert(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_promtool_accepts_the_rules(promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", RULES], check=True)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_promtool_sees_them_fire_and_be_silent(promtool: str, file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [promtool, "test", "rules", _lean(file, tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _lean(file: Path, into: Path) -> Path:
    """The same tests of only those groups that they need: promtool takes a minute for all."""
    text = file.read_text()
    names = set(re.findall(r"alertname: (\w+)", text))
    needed = [
        group
        for group in GROUPS
        if not names or {rule.get("alert") for rule in group["rules"]} & {None, *names}
    ]
    (into / "rules.yml").write_text(yaml.safe_dump({"groups": needed}))
    # As text: what is a series here, such as 0x40, is a number to PyYAML.
    text = re.sub(r"^rule_files:.*$", "rule_files: [rules.yml]", text, flags=re.M)
    (into / "tests.yml").write_text(text)
    return into / "tests.yml"


@cache
def _tried() -> list[tuple[str, list[list[str]]]]:
    """Of each test: the alert, and the severities that it fires with, time by time."""
    found = []
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            checks = test.get("alert_rule_test", [])
            fired = [
                [one["exp_labels"]["severity"] for one in check.get("exp_alerts", [])]
                for check in checks
            ]
            found += [(name, fired) for name in {check["alertname"] for check in checks}]
    return found


def test_each_alert_is_seen_silent_then_firing_then_silent(alert: dict[str, Any]) -> None:
    severity = alert["labels"]["severity"]
    tried = [fired for name, fired in _tried() if name == alert["alert"]]
    if severity == "none":
        assert [["none"]] in tried
        return
    assert any([severity in each for each in fired] == [False, True, False] for fired in tried)


def test_no_test_is_of_what_is_no_alert() -> None:
    assert {name for name, _ in _tried()} == {rule["alert"] for rule in ALERTS}


def test_each_metric_of_ours_exists() -> None:
    used = {name for group in GROUPS for rule in group["rules"] for name in _used(rule)}
    assert used - {metric.name for metric in (*OWN, *PASSED)} == set()
    assert len(used) > 25


def _used(rule: dict[str, Any]) -> list[str]:
    found: list[str] = _METRIC.findall(rule["expr"] + str(rule.get("annotations", "")))
    return found


def test_an_alert_says_how_urgent_it_is_what_is_wrong_and_what_to_do(alert: dict[str, Any]) -> None:
    assert set(alert["labels"]) == {"severity"}
    assert alert["labels"]["severity"] in {"page", "ticket", "none"}
    assert set(alert["annotations"]) == {"summary", "runbook"}
    assert re.fullmatch(r"\S.*[.]", alert["annotations"]["summary"])


def test_its_runbook_has_the_heading(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in _anchors((ROOT / path).read_text())


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_what_hides_another_alert_is_one_and_evidence_is_never_hidden() -> None:
    for rule in yaml.safe_load((FILES / "inhibit.yml").read_text()):
        sources, targets = (_matched(rule[f"{side}_matchers"]) for side in ("source", "target"))
        assert sources
        if sources != targets:  # else it is a page, of the same alert's ticket
            assert targets
            assert targets & EVIDENCE == set()


def _matched(matchers: list[str]) -> set[str]:
    """The alerts that they are about, all of which exist."""
    names = {rule["alert"] for rule in ALERTS}
    found = re.search(r'alertname(=~|!~|=)"([^"]+)"', " ".join(matchers))
    listed = set(found[2].split("|")) if found else names
    assert listed <= names
    return names - listed if found and found[1] == "!~" else listed


def test_the_page_has_each_alert_once() -> None:
    rows = [line for line in alertdocs.lines(GROUPS) if line.startswith("| `")]
    assert len(rows) == len(ALERTS)
    assert not [row for row in rows if re.search(r"\{\{|\}\}|\$|  ", row)]
