"""The module trillian_tree against Trillian itself: one tree, and never a second one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from resources.support import Ansible, eventually, http
from testinfra.host import Host

LOG = "/root/log"
TREE_ID, STH, STARTUP = f"{LOG}/tree-id", f"{LOG}/sth", f"{LOG}/sth.startup"
Ensure = Callable[..., dict[str, Any]]


@pytest.fixture
def ensure(ansible: Ansible) -> Ensure:
    """The module as the role log_server calls it."""

    def run(tree_type: str = "LOG", *, check: bool = False, **arguments: object) -> dict[str, Any]:
        return ansible.module(
            "log1",
            "sigsum_ops.site.trillian_tree",
            check=check,
            **{"type": tree_type, "tree_id_file": TREE_ID, "sth_file": STH},
            **{"startup_file": STARTUP if tree_type == "LOG" else None},
            **arguments,
        )

    return run


@pytest.fixture(autouse=True)
def _new_machine(log1: Host) -> Iterator[None]:
    """A Trillian without trees, and a log without a past."""
    yield
    log1.check_output(
        "mariadb --execute=%s trillian && rm -rf %s",
        *("DELETE FROM TreeHead; DELETE FROM TreeControl; DELETE FROM Trees", LOG),
    )


@pytest.fixture(autouse=True)
def _state_directory(log1: Host) -> None:
    log1.check_output("mkdir -p %s", LOG)


def trees(host: Host) -> list[str]:
    """The trees in Trillian's database: number, type, state."""
    query = "SELECT TreeId, TreeType, TreeState FROM Trees ORDER BY TreeId"
    rows = host.check_output(
        "mariadb --batch --skip-column-names --execute=%s trillian", query
    ).splitlines()
    return [" ".join(row.split()) for row in rows]


def write(host: Host, path: str, text: str) -> None:
    """Put ``text`` into a file."""
    host.check_output("printf %%s %s > %s", text, path)


def test_check_mode_creates_nothing(log1: Host, ensure: Ensure) -> None:
    would = ensure(check=True)
    assert would["changed"]
    assert would["tree_id"] is None
    assert trees(log1) == []
    assert log1.check_output("ls %s", LOG) == ""


def test_a_new_log_gets_one_tree_and_a_second_run_changes_nothing(
    log1: Host, ensure: Ensure
) -> None:
    made = ensure()
    assert made["changed"]
    assert trees(log1) == [f"{made['tree_id']} LOG ACTIVE"]
    # log-go reads `tree-id=`; its own documentation says `tree_id=`, which it refuses.
    assert log1.file(TREE_ID).content_string == f"tree-id={made['tree_id']}\n"
    assert log1.file(STARTUP).content_string.strip() == "startup=empty"
    again = ensure()
    assert not again["changed"]
    assert again["tree_id"] == made["tree_id"]
    assert len(trees(log1)) == 1


def test_a_secondary_gets_a_preordered_tree_and_no_startup_file(log1: Host, ensure: Ensure) -> None:
    made = ensure("PREORDERED_LOG")
    assert trees(log1) == [f"{made['tree_id']} PREORDERED_LOG ACTIVE"]
    assert not log1.file(STARTUP).exists


@pytest.mark.parametrize("damage", ["rm %s", "truncate --size=0 %s"], ids=["lost", "emptied"])
def test_a_tree_id_file_is_written_again_from_trillian(
    log1: Host, ensure: Ensure, damage: str
) -> None:
    made = ensure()
    log1.check_output(damage, TREE_ID)
    back = ensure()
    assert back["decision"] == "recover"
    assert log1.file(TREE_ID).content_string == f"tree-id={made['tree_id']}\n"
    assert len(trees(log1)) == 1


def test_a_creation_that_was_interrupted_is_finished(log1: Host, ensure: Ensure) -> None:
    begun = log1.check_output(
        "python3 -c %s",
        "from sigsum_ops.log.trillian import Trillian\n"
        "with Trillian('127.0.0.1:8090') as trillian:\n"
        "    print(trillian.create_tree('LOG', 'sigsum-ops').id)",
    )
    finished = ensure()
    assert str(finished["tree_id"]) == begun
    assert finished["size"] == 0
    assert log1.file(TREE_ID).content_string == f"tree-id={begun}\n"
    assert len(trees(log1)) == 1
    assert not ensure()["changed"]


def test_a_tree_that_trillian_does_not_have_is_refused(log1: Host, ensure: Ensure) -> None:
    made = ensure()
    write(log1, TREE_ID, "tree-id=4711\n")
    refused = ensure()
    assert refused["failed"]
    assert "tree 4711" in refused["msg"]
    assert str(made["tree_id"]) in refused["msg"]
    assert log1.file(TREE_ID).content_string == "tree-id=4711\n"
    assert len(trees(log1)) == 1


def test_an_older_database_does_not_get_a_new_tree(log1: Host, ensure: Ensure) -> None:
    write(log1, STH, "size=3\n")
    refused = ensure()
    assert refused["failed"]
    assert STH in refused["msg"]
    assert trees(log1) == []


def test_a_second_tree_is_refused(log1: Host, ensure: Ensure) -> None:
    made = ensure()
    other = log1.check_output("trillian_createtree --admin_server=127.0.0.1:8090")
    for damage in ("true %s", "rm %s"):  # also where no file says which one it is
        log1.check_output(damage, TREE_ID)
        refused = ensure()
        assert refused["failed"]
        assert str(made["tree_id"]) in refused["msg"]
        assert other in refused["msg"]
    assert not log1.file(TREE_ID).exists


def test_a_foreign_tree_is_not_adopted(log1: Host, ensure: Ensure) -> None:
    foreign = log1.check_output("trillian_createtree --admin_server=127.0.0.1:8090")
    refused = ensure()
    assert refused["failed"]
    assert f"tree-id={foreign}" in refused["msg"]
    assert not log1.file(TREE_ID).exists


def test_a_tree_of_the_other_part_is_refused_with_both_facts_and_the_procedure(
    log1: Host, ensure: Ensure
) -> None:
    made = ensure("PREORDERED_LOG")
    refused = ensure("LOG")
    assert refused["failed"]
    assert "a primary, whose tree is of type LOG" in refused["msg"]
    assert f"tree {made['tree_id']} (PREORDERED_LOG" in refused["msg"]
    assert "playbooks/promote.yml" in refused["msg"]
    assert trees(log1) == [f"{made['tree_id']} PREORDERED_LOG ACTIVE"]


def test_a_frozen_tree_is_refused(log1: Host, ensure: Ensure) -> None:
    made = ensure()
    log1.check_output(
        "trillian_updatetree --admin_server=127.0.0.1:8090 --tree_id=%s --tree_state=FROZEN",
        str(made["tree_id"]),
    )
    refused = ensure()
    assert refused["failed"]
    assert "is not active" in refused["msg"]


def test_without_trillian_nothing_is_created_and_the_reason_is_said(
    log1: Host, ensure: Ensure
) -> None:
    log1.check_output("systemctl stop trillian-log-server")
    try:
        refused = ensure(wait_seconds=1)
    finally:
        log1.check_output("systemctl start trillian-log-server")
    assert refused["failed"]
    assert "Trillian at 127.0.0.1:8090" in refused["msg"]
    assert not log1.file(TREE_ID).exists
    eventually(
        lambda: http(log1, "http://127.0.0.1:8091/healthz")[0] == 200, seconds=20, what="Trillian"
    )


def test_the_signer_has_the_metrics_that_alerts_need(log1: Host, ensure: Ensure) -> None:
    tree_id = ensure()["tree_id"]
    wanted = {"is_master", "sequencer_tree_size", "signing_runs"}

    def shown() -> set[str]:
        metrics = http(log1, "http://127.0.0.1:8093/metrics")[1]
        return set(re.findall(rf'^(\w+){{[^}}]*"{tree_id}"', metrics, re.M))

    eventually(lambda: wanted <= shown(), seconds=20, what=f"the signer shows {wanted}")
