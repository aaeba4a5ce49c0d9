"""What an upgrade changes, and what it is refused for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from sigsum_ops.site import upgrade
from sigsum_ops.site.runbook import REPOSITORY
from sigsum_ops.site.upgrade import Machine, changes, in_tandem, problems, series, size, text

INSTALLED = {
    "mariadb-server": "1:11.8.6-0+deb13u1",
    "sigsum-log-go": "0.15.2-2+b1",
    "sigsum-ops": "0.1.0+src.830079802862",
    "trillian": "1.7.3-1+so1",
    "torchwood": "0.9.0-6",
}
WANTED = {name: version for name, version in INSTALLED.items() if name != "torchwood"}


def body(leaves: int) -> str:
    return f"size={leaves}\nroot_hash={'00' * 32}\nsignature={'00' * 64}\n"


def machine(part: str, *, head: str = body(7), **wanted: str) -> Machine:
    """A healthy machine, and what is wanted of it by package."""
    names = {name.replace("_", "-"): version for name, version in wanted.items()}
    return Machine(
        part=part,
        parts=[f"sigsum-log-{part}"],
        marks=[],
        installed=INSTALLED,
        wanted={**WANTED, **names},
        schema="aa",
        schema_wanted="aa",
        head=head,
    )


def site(secondary: Machine | None = None, primary: Machine | None = None) -> dict[str, Machine]:
    return {"log1": primary or machine("primary"), "log2": secondary or machine("secondary")}


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("1:11.8.6-0+deb13u1", (11, 8)),
        ("0.15.2-2+b1", (0, 15)),
        ("1.7.3-1+so1", (1, 7)),
        ("2:10.11-1", (10, 11)),
        ("(none)", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_series(version: str, numbers: tuple[int, int]) -> None:
    assert series(version) == numbers


def test_only_what_differs_changes_whichever_way() -> None:
    assert changes(INSTALLED, WANTED) == {}
    assert changes(INSTALLED, {**WANTED, "trillian": "1.7.2-1+so1"}) == {
        "trillian": {"old": "1.7.3-1+so1", "new": "1.7.2-1+so1"}
    }
    assert changes({}, {"trillian": "1"}) == {"trillian": {"old": "none", "new": "1"}}


def test_a_person_reads_what_changes() -> None:
    changed = changes(INSTALLED, {**WANTED, "trillian": "1.7.2", "sigsum-log-go": "0.16"})
    assert text(changed) == "sigsum-log-go 0.15.2-2+b1 -> 0.16; trillian 1.7.3-1+so1 -> 1.7.2"
    assert text({}).startswith("nothing to do")


@pytest.mark.parametrize(
    ("wanted", "together"),
    [
        ({"sigsum-log-go": "0.16.0-1"}, True),
        ({"sigsum-log-go": "0.14.1-1"}, True),
        ({"sigsum-log-go": "0.15.3-1"}, False),
        ({"sigsum-log-go": "0.15.2-3"}, False),
        ({"trillian": "1.8.0-1+so1"}, False),
        ({}, False),
    ],
)
def test_releases_of_log_go_do_not_run_side_by_side(wanted: dict[str, str], together: bool) -> None:
    assert in_tandem(changes(INSTALLED, wanted)) is together


def test_the_size_of_a_tree_head() -> None:
    assert size(body(12)) == 12
    assert size("404 page not found\nsize=\n") == -1


def test_a_healthy_site_is_upgraded_and_rolled_back() -> None:
    assert problems(site()) == []
    newer = {"mariadb_server": "1:11.8.9-0+deb13u1", "trillian": "1.8.0-1+so1"}
    assert problems(site(machine("secondary", **newer), machine("primary", **newer))) == []
    older = {"mariadb_server": "1:11.8.3-0+deb13u1", "sigsum_log_go": "0.15.0-1"}
    assert problems(site(machine("secondary", **older), machine("primary", **older))) == []
    assert problems(site(machine("secondary", mariadb_server="1:12.3.2-1"))) == []


@pytest.mark.parametrize(
    ("secondary", "says"),
    [
        (machine("secondary", mariadb_server="1:11.4.9-1"), "mariadb-downgrade: log2 has MariaDB"),
        (machine("secondary", mariadb_server="1:10.11.9-1"), "mariadb-downgrade: log2"),
        (machine("secondary", mariadb_server="(none)"), "not-offered: apt on log2 knows no mariad"),
        (machine("secondary", mariadb_server=""), "not-offered: apt on log2 knows no mariadb-serv"),
        (
            replace(machine("secondary", trillian="1.9.0-1+so1"), schema_wanted="bb"),
            "trillian-schema: Trillian 1.9.0-1+so1 has another database schema than 1.7.3-1+so1",
        ),
        (
            replace(machine("secondary"), installed={**INSTALLED, "trillian": "1"}, schema=""),
            "trillian-schema: Trillian 1.7.3-1+so1",
        ),
        (
            replace(machine("secondary"), installed={"mariadb-server": WANTED["mariadb-server"]}),
            "not-installed: log2 has no sigsum-log-go",
        ),
        (replace(machine("secondary"), parts=[]), "part: log2 is the secondary in the inventory, "),
        (replace(machine("secondary"), parts=["sigsum-log-primary"]), "runs sigsum-log-primary"),
        (machine("secondary", head=body(6)), "behind: log2 has stored 6 leaves, and 7 are signed"),
        (machine("secondary", head=""), "silent: the log of log2 does not say"),
        *(
            (replace(machine("secondary"), marks=[path]), page)
            for path, page in {
                "/etc/sigsum/fenced.json": "docs/bcp/reseed.md",
                "/etc/sigsum/quarantined.json": "docs/bcp/restore.md",
                "/var/lib/sigsum-oracle/latch": "docs/bcp/oracle-latched.md",
                "/var/lib/sigsum-log/guard-refused.json": "docs/bcp/start-refused.md",
                "/var/lib/sigsum-archive/split-view-3-3-ab.json": "docs/bcp/split-view.md",
            }.items()
        ),
    ],
)
def test_what_is_refused(secondary: Machine, says: str) -> None:
    found = problems(site(secondary))
    assert says in found[0], found


def test_a_secondary_is_behind_only_of_what_is_signed() -> None:
    assert problems(site(machine("secondary", head=body(9)))) == []
    assert problems(site(primary=machine("primary", head="")))[0].startswith("silent: ")


def test_the_pages_of_the_marks_exist() -> None:
    assert [page for page in upgrade.MARKS.values() if not (REPOSITORY / page).is_file()] == []


def test_the_secondary_comes_first() -> None:
    """Whatever the order of the groups; a set of them had the primary upgraded first."""
    plays = yaml.safe_load((REPOSITORY / "playbooks/upgrade.yml").read_text())
    changing = [play for play in plays if "upgrade_order" in play.get("hosts", "")]
    assert [play["name"] for play in changing] == [
        "Bring the packages",
        "See how long leaves are refused",
        "Upgrade",
        "See how long leaves were refused",
    ]
    for play in changing:
        for groups in (
            {"upgrading_primary": ["log1"], "upgrading_secondary": ["log2"]},
            {"upgrading_secondary": ["log2"], "all": []},
        ):
            variables = {
                "ansible_check_mode": False,
                "groups": groups,
                "upgrade_order": play["vars"]["upgrade_order"],
            }
            templar = Templar(loader=DataLoader(), variables=variables)
            expected = [
                name for name in ("upgrading_secondary", "upgrading_primary") if name in groups
            ]
            assert templar.template(trust_as_template(play["hosts"])) == expected
        assert play["vars"]["upgrade_order"] == ["upgrading_secondary", "upgrading_primary"]
    assert changing[2]["serial"] == 1
