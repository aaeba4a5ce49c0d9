"""The business continuity plan of an inventory: complete, with its own names, and fit to print."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sigsum_ops.cli import app
from sigsum_ops.errors import OpsError, UsageError
from sigsum_ops.site.runbook import PAGES, document, facts, pages, write
from sigsum_ops.site.runbook.facts import Site
from sigsum_ops.site.runbook.pages import Page

ROOT = Path(__file__).parents[2]
EXAMPLE, LAB = ROOT / "inventories/example", ROOT / "inventories/lab"
DAY = date(2026, 3, 4)
LOG_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFS4Xtru+fsg3ANtvxPW+4kk1xlLcyyoKdfZWStomsau lab"
YOU = {"name": "operator", "reach": "the bell"}


@pytest.fixture(scope="module")
def example() -> Site:
    return facts.read(EXAMPLE, DAY)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The lab's inventory, which reads the log's key from where a lab leaves it."""
    state = tmp_path_factory.mktemp("state")
    (state / "sigsum-ops/lab/lab").mkdir(parents=True)
    (state / "sigsum-ops/lab/lab/log-key.pub").write_text(f"{LOG_KEY}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        yield facts.read(LAB, DAY)


@pytest.fixture(params=["example", "lab"])
def site(request: pytest.FixtureRequest) -> Site:
    found: Site = request.getfixturevalue(request.param)
    return found


def hosts() -> dict[str, dict[str, Any]]:
    """What Ansible would say of a small site."""
    shared = {
        "log_server_public_key": LOG_KEY,
        "log_url": "https://log.example.org",
        "log_server_policy_file": None,
        "runbook_contacts": {
            "decides": YOU,
            "deputy": YOU,
            "custodians": [YOU, YOU],
            "names": YOU,
            "announce": YOU,
            "witnesses": YOU,
        },
        "runbook_hands": YOU,
        "runbook_place": "a cabinet",
        "runbook_promise": "a day",
        "runbook_hsm_plan": str(EXAMPLE / "hsm-plan.yml"),
    }
    parts = {"log-north": "primary", "log-south": "secondary"}
    machines = {
        name: {
            **copy.deepcopy(shared),
            "log_server_role": role,
            "log_server_internal_address": "192.0.2.1",
            "groups": ["log_machines"],
        }
        for name, role in parts.items()
    }
    return {**machines, "desk": {"groups": ["clients"]}}


def three_machines() -> dict[str, dict[str, Any]]:
    """With a second secondary, which is in no plan of a ceremony."""
    found = hosts()
    return {**found, "third": copy.deepcopy(found["log-south"])}


def small_site(inventory: dict[str, dict[str, Any]], drill: dict[str, Any] | None = None) -> Site:
    values = facts.model(Path("inventory"), inventory, drill)
    return Site(Path("inventory"), "not in git", DAY, values)


class Reader(HTMLParser):
    """Names, links, and what would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names += [name] if (name := given.get("id")) else []
        self.links += [link] if tag == "a" and (link := given.get("href")) else []
        if tag in {"script", "link", "img", "iframe"} or "src" in given or "style" in given:
            self.fetched.append(tag)


# --- rendering ----------------------------------------------------------------------------------


def test_the_whole_plan_is_rendered(site: Site) -> None:
    sources = pages.load()
    text = document.html(sources, site)
    assert not re.search(r"\{\{|\}\}|\{%|\bNone\b(?! of these)|Undefined|Named\(", text)
    for machine in site.values["machines"]:
        for variable in ("name", "ansible_host", "runbook_place", "serial"):
            assert str(machine[variable]) in text
    assert site.values["log"]["key"] in text
    assert DAY.isoformat() in text
    assert text.count("<h1 ") == len(sources) + 1  # and the custody appendix


def test_the_examples_own_names_are_in_its_plan(example: Site) -> None:
    text = document.html(pages.load(), example)
    for own in (
        *("log-north", "192.0.2.10", "fd5a:9c1e:7f00::20", "10000003", "10000004", "Custodian C"),
        *("duty telephone", "https://log.example.org/", "three.example.org/witness"),
        "54b85edaeef9fb20dc036dbf13d6fb8924d7194b732ca829d7d9592b689ac6ae",
        "2 of 3 shares",
    ):
        assert own in text


def test_it_needs_nothing_else_and_its_links_lead_somewhere(site: Site) -> None:
    text = document.html(pages.load(), site)
    page = Reader(text)
    assert page.fetched == []
    assert not re.search(r"@import|url\(", text)
    assert len(page.names) == len(set(page.names))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.names)
    assert [link for link in page.links if not link.startswith(("#", "mailto:", "https:"))] == []


def test_the_decision_tree_has_each_way_out_of_the_list(example: Site) -> None:
    index = (PAGES / "README.md").read_text()
    listed = re.search(r"## The decision tree\n(.*?)\n## ", index, re.S)
    assert listed
    goals = re.findall(r"\]\(([a-z-]+)\.md\)", listed[1])
    tree = re.search(r'<div class="tree">(.*?)\n</div>', document.html(pages.load(), example), re.S)
    assert tree
    assert re.findall(r'class="goal"><a href="#([a-z-]+)"', tree[1]) == goals
    assert tree[1].count('class="ask"') == len(re.findall(r"^\d\. ", listed[1], re.M)) == 7
    assert tree[1].count('class="next"') == 6


def test_values_stay_text() -> None:
    inventory = hosts()
    for machine in inventory.values():
        machine["runbook_place"] = '<b>under</b> & "behind" the stairs'
    text = document.html(pages.load(), small_site(inventory))
    assert "&lt;b&gt;under&lt;/b&gt; &amp; &quot;behind&quot;" in text


@pytest.mark.parametrize("value", ["two\nlines", "a | b", "`x`", "{{ lookup }}"])
def test_a_value_that_would_change_the_page_is_refused(value: str) -> None:
    inventory = hosts()
    inventory["log-south"]["runbook_hands"] = {"name": "operator", "reach": value}
    with pytest.raises(UsageError, match="log-south: runbook_hands: reach: has"):
        small_site(inventory)


# --- what is missing ----------------------------------------------------------------------------


@pytest.mark.parametrize("contact", ["names", "witnesses", "decides"])
def test_a_missing_contact_is_named_with_its_page(contact: str) -> None:
    inventory = hosts()
    del inventory["log-north"]["runbook_contacts"][contact]
    with pytest.raises(UsageError) as refusal:
        document.html(pages.load(), small_site(inventory))
    assert refusal.value.message.startswith("docs/bcp/README.md:")
    assert refusal.value.message.endswith(f"runbook_contacts: {contact} is not set")
    line = int(refusal.value.message.split(":")[1])
    assert f"contacts.{contact}" in (PAGES / "README.md").read_text().splitlines()[line - 1]


def test_a_contact_without_a_telephone_is_missing() -> None:
    inventory = hosts()
    inventory["log-north"]["runbook_contacts"]["deputy"] = {"name": "operator", "reach": ""}
    with pytest.raises(UsageError, match="runbook_contacts: deputy: reach is not set"):
        document.html(pages.load(), small_site(inventory))


@pytest.mark.parametrize(
    "variable", ["runbook_contacts", "runbook_promise", "runbook_hsm_plan", "log_url"]
)
def test_a_missing_variable_is_named(variable: str) -> None:
    inventory = hosts()
    inventory["log-north"][variable] = None
    with pytest.raises(UsageError, match=f"log-north: {variable} is not set"):
        small_site(inventory)


def test_a_machine_that_the_plan_does_not_have_has_no_serial() -> None:
    with pytest.raises(UsageError, match="third: serial is not set"):
        document.html(pages.load(), small_site(three_machines()))


def test_an_undefined_name_in_a_page_is_named(example: Site) -> None:
    page = Page(PAGES / "promote.md", "# One\n\n{{ primray.name }}\n")
    with pytest.raises(UsageError, match=r"docs/bcp/promote.md:3: primray is not defined"):
        pages.fill(page, page.text, example)


def test_a_broken_placeholder_is_named(example: Site) -> None:
    page = Page(PAGES / "promote.md", "# One\n\n{{ primary.name }\n")
    with pytest.raises(UsageError, match=r"docs/bcp/promote.md:3: "):
        pages.fill(page, page.text, example)


@pytest.mark.parametrize("part", ["primary", "secondary", "clients"])
def test_a_site_without_a_part_is_refused(part: str) -> None:
    left = {
        name: its
        for name, its in hosts().items()
        if part not in (its.get("log_server_role"), *its["groups"])
    }
    with pytest.raises(UsageError, match=f"there is no .*{part}"):
        small_site(left)


# --- which secondary ----------------------------------------------------------------------------


def test_the_secondary_is_the_one_that_gates() -> None:
    inventory = three_machines()
    assert small_site(inventory).values["secondary"]["name"] == "log-south"
    inventory["log-north"]["log_server_gating_secondary"] = "third"
    found = small_site(inventory).values
    assert found["secondary"]["name"] == "third"
    assert [machine["name"] for machine in found["machines"]] == ["log-north", "log-south", "third"]


# --- pages, measurements, revision --------------------------------------------------------------


def test_a_page_that_the_index_leaves_out_is_refused(tmp_path: Path) -> None:
    shutil.copytree(PAGES, tmp_path / "bcp")
    (tmp_path / "bcp/forgotten.md").write_text("# Forgotten\n")
    with pytest.raises(OpsError, match=r"forgotten\.md"):
        pages.load(tmp_path / "bcp")


PROCEDURES = (
    *("promote", "reseed", "handover", "upgrade", "restore", "lost-hsm"),
    *("database-primary", "database-secondary", "sites-gone"),
)


@pytest.mark.parametrize("name", PROCEDURES)
def test_a_procedure_says_before_what_success_is_and_how_to_go_back(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.M)
    wanted = ["Before", "Do it", "What success looks like", "How to go back"]
    assert [heading for heading in headings if heading in wanted] == wanted
    assert text.index("**When**") < text.index("## ")


def test_each_refusal_of_a_procedure_is_in_a_page() -> None:
    """The names that promotion and re-seeding refuse with, as their source has them."""
    source = (ROOT / "src/sigsum_ops/failover/judge.py").read_text()
    names = set(re.findall(r'\bProblem\(\s*"([a-z-]+)"', source))
    assert len(names) > 10
    text = (PAGES / "promote.md").read_text() + (PAGES / "reseed.md").read_text()
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_the_newest_drill_is_what_was_measured(tmp_path: Path) -> None:
    assert facts.measured(tmp_path) is None
    seconds = [31.4, None, 12.0, 19.6]
    runs = [{"seconds_to_sign": each} for each in seconds]
    result = {"runs": runs, "split_views": 0, "lost_leaves": 0, "seconds_to_sign": seconds}
    (tmp_path / "drill-2026-01-01-1a2b3c4.json").write_text("{}")
    (tmp_path / "drill-2026-02-01-1a2b3c4.json").write_text(json.dumps(result))
    found = facts.measured(tmp_path)
    assert found is not None
    assert (found["runs"], found["signed"], found["median"], found["slowest"]) == (4, 3, 20, 31)
    text = " ".join(document.html(pages.load(), small_site(hosts(), found)).split())
    assert "as it did in 3 of them: median 20 s, slowest 31 s; 0 split views, 0 leaves lost" in text
    assert "Not measured yet" not in text
    (tmp_path / "drill-2026-03-01-1a2b3c4.json").write_text('{"runs": []}')
    with pytest.raises(OpsError, match=r"drill-2026-03-01-1a2b3c4\.json: not a drill's result"):
        facts.measured(tmp_path)


def test_nothing_measured_is_said_and_not_invented() -> None:
    assert "Not measured yet" in document.html(pages.load(), small_site(hosts()))


def test_the_revision_is_the_inventorys_commit(tmp_path: Path) -> None:
    assert facts.revision(tmp_path) == "not in git"

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "hosts.yml").write_text("all:\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    commit = git("log", "-1", "--format=%h")
    assert facts.revision(tmp_path) == facts.revision(tmp_path / "hosts.yml") == commit
    (tmp_path / "hosts.yml").write_text("all: {}\n")
    assert facts.revision(tmp_path) == f"{commit} with uncommitted changes"


def test_what_ansible_says_is_read_host_by_host() -> None:
    said = 'a | SUCCESS => {\n  "msg": {"x": "b | c"}\n}\nd-1 | SUCCESS => {"msg": {"x": null}}\n'
    assert facts.parse(said) == {"a": {"x": "b | c"}, "d-1": {"x": None}}


def test_an_inventory_that_ansible_cannot_render_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such inventory"):
        facts.read(tmp_path / "nowhere")


# --- files --------------------------------------------------------------------------------------


def _pango() -> str:
    """Why there can be no PDF on this machine; empty where there can."""
    try:
        import weasyprint
    except OSError as error:
        return str(error).splitlines()[0]
    return "" if weasyprint.__version__ else "no version"


@pytest.mark.skipif(bool(_pango()), reason=f"no PDF here: {_pango()}: Debian has packages of it")
def test_the_verb_writes_html_and_a_pdf_with_numbered_pages(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["runbook", "-i", str(EXAMPLE), "--out", str(tmp_path / "out"), "--json"]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["pages"] == len(list(PAGES.glob("*.md")))
    assert said["commands"] > 50
    text = Path(said["html"]).read_text()
    assert text.startswith("<!doctype html>")
    day = re.search(r'created" content="(\d{4}-\d\d-\d\d)"', text)
    assert day
    assert Path(said["pdf"]).read_bytes().startswith(b"%PDF-")
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext (poppler-utils) to read the PDF")
    shown = subprocess.run(
        ["pdftotext", "-layout", said["pdf"], "-"], capture_output=True, check=True, text=True
    )
    sheets = shown.stdout.rstrip("\f").split("\f")
    assert len(sheets) > 20
    for number, sheet in enumerate(sheets, start=1):
        foot = " ".join(sheet.split()[-40:])
        assert f"Printed copies: check the date. Rendered {day[1]} from {EXAMPLE}" in foot
        assert f"{number} / {len(sheets)}" in foot
    # A link on paper says on which page it ends.
    (promote,) = (
        number
        for number, sheet in enumerate(sheets, start=1)
        if sheet.lstrip().startswith("Promote the secondary")
    )
    assert re.search(rf"Promote the secondary\s+\(p\.\s{promote}\)", sheets[0])


@pytest.mark.parametrize("missing", ["package", "library"])
def test_without_what_makes_pdfs_the_html_is_there(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absent:
        """Stands for weasyprint where Pango is not installed."""

        def __getattr__(self, name: str) -> object:
            raise OSError(f"cannot load library 'libpango-1.0-0': for {name}")

    monkeypatch.setitem(sys.modules, "weasyprint", None if missing == "package" else Absent())
    told: list[str] = []
    with pytest.raises(OpsError, match="the HTML is written, the PDF is not") as refusal:
        write(EXAMPLE, tmp_path / "out", say=told.append)
    assert "apt-get install libpango-1.0-0" in str(refusal.value.hint)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["runbook.html"]
    assert len(told) == 1


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OpsError, match="cannot be written"):
        write(EXAMPLE, tmp_path / "file/out", say=lambda _: None)
