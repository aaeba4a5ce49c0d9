"""What the exporter finds out, and what it says where it finds nothing."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sigsum_ops.exporter import read, table
from sigsum_ops.exporter.read import Reader, cosigned
from sigsum_ops.exporter.serve import render
from sigsum_ops.exporter.settings import Settings
from sigsum_ops.failover import units
from sigsum_ops.log.policy import parse
from tests.edge.test_quorum import policy_text
from tests.exporter.conftest import LEAVES, TREE, Machine, samples

POLICY = parse(policy_text(2).encode())  # two of three witnesses


async def test_a_primary(machine: Machine) -> None:
    told = await machine.tells()
    assert told[("sigsum_machine_role", "primary")] == 1
    assert told[("sigsum_machine_role", "secondary")] == 0
    assert told[("sigsum_log_answers",)] == 1
    assert told[("sigsum_log_tree_size",)] == 9
    assert told[("sigsum_log_published_size",)] == 7
    assert told[("sigsum_log_pending_leaves",)] == 2
    assert told[("sigsum_log_consistent",)] == 1
    assert told[("sigsum_exporter_source_failed", "log")] == 0


async def test_a_secondary_publishes_nothing(machine: Machine) -> None:
    machine.units["sigsum-log-secondary.service"] = machine.units.pop("sigsum-log-primary.service")
    told = await machine.tells()
    assert told[("sigsum_log_tree_size",)] == 9
    assert not [name for name, *_ in told if "published" in name or "answers" in name]
    assert machine.log.requests == []


async def test_a_part_is_played_by_what_would_run_after_a_boot(machine: Machine) -> None:
    machine.units["sigsum-log-primary.service"]["ActiveState"] = "failed"
    assert (await machine.tells())[("sigsum_machine_role", "primary")] == 1
    machine.units["sigsum-log-primary.service"]["UnitFileState"] = "masked"
    assert (await machine.tells())[("sigsum_machine_role", "primary")] == 0


@pytest.mark.parametrize(
    "leaves",
    [
        [*LEAVES[:3], b"another", *LEAVES[4:]],
        LEAVES[:6],  # smaller than what is published
        [b"other %d" % number for number in range(7)],  # of equal size
    ],
)
async def test_a_tree_that_does_not_extend_what_is_published(
    machine: Machine, leaves: list[bytes]
) -> None:
    machine.trillian.trees[TREE].leaves = list(leaves)
    told = await machine.tells()
    assert told[("sigsum_log_consistent",)] == 0
    assert told[("sigsum_log_pending_leaves",)] == max(0, len(leaves) - 7)


async def test_a_log_that_grows_meanwhile_is_consistent(machine: Machine) -> None:
    """The tree is read after the tree head: the other way round it could be smaller."""
    tree = machine.trillian.trees[TREE]
    tree.leaves = LEAVES[:7]
    machine.log.size = 7

    def grow(_method: str) -> None:
        assert machine.log.requests  # the tree head was asked for before
        tree.leaves = list(LEAVES)

    machine.trillian.before = grow
    assert (await machine.tells())[("sigsum_log_consistent",)] == 1


@pytest.mark.parametrize("text", ["", "size=7\n", "no tree head\n"])
async def test_a_log_that_does_not_answer(machine: Machine, text: str) -> None:
    machine.log.answer = text
    told = await machine.tells()
    assert told[("sigsum_log_answers",)] == 0
    assert told[("sigsum_log_tree_size",)] == 9
    assert ("sigsum_log_published_size",) not in told
    assert ("sigsum_log_consistent",) not in told


async def test_a_tree_head_that_somebody_else_signed_is_no_answer(machine: Machine) -> None:
    machine.log.forge = lambda _size: None
    honest = (await machine.tells())[("sigsum_log_answers",)]
    other = "size=7\nroot_hash=" + "00" * 32 + "\nsignature=" + "00" * 64 + "\n"
    machine.log.answer = other
    assert (honest, (await machine.tells())[("sigsum_log_answers",)]) == (1, 0)


async def test_what_cannot_be_read_is_absent_and_said(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    (machine.root / "var/lib/sigsum-log/tree-id").unlink()
    told = await machine.tells()
    await machine.tells()
    assert len([record for record in caplog.records if "tree-id" in record.message]) == 1
    assert told[("sigsum_exporter_source_failed", "log")] == 1
    assert told[("sigsum_exporter_source_failed", "machine")] == 0
    assert ("sigsum_log_tree_size",) not in told


async def test_a_trillian_that_hangs_takes_nothing_from_the_rest(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "PATIENCE", 0.5)
    machine.trillian.before = lambda _method: time.sleep(1)
    begin = time.monotonic()
    told = await machine.tells()
    assert time.monotonic() - begin < 5
    assert told[("sigsum_exporter_source_failed", "log")] == 1
    assert told[("sigsum_machine_role", "primary")] == 1


async def test_marks_of_a_machine(machine: Machine) -> None:
    names = ("machine_fenced", "machine_quarantined", "machine_reboot_required", "log_rate_limited")
    before = await machine.tells()
    assert [before[(f"sigsum_{name}",)] for name in names] == [0, 0, 0, 0]
    machine.write("etc/sigsum/fenced.json")
    machine.write("etc/sigsum/quarantined.json")
    machine.write("run/reboot-required")
    limits = machine.write("etc/sigsum/rate-limit")
    assert (await machine.tells())[("sigsum_log_rate_limited",)] == 0  # empty
    limits.write_text("public 10\n")
    told = await machine.tells()
    assert [told[(f"sigsum_{name}",)] for name in names] == [1, 1, 1, 1]


async def test_what_services_write_is_passed_on(machine: Machine) -> None:
    path = machine.write(
        "var/lib/sigsum-hsm/audit.prom",
        "# HELP sigsum_hsm_audit_findings Findings that nobody acknowledged.\n"
        "# TYPE sigsum_hsm_audit_findings gauge\n"
        'sigsum_hsm_audit_findings{kind="reset"} 1\n'
        "# HELP sigsum_hsm_audit_findings_total Findings, also acknowledged ones.\n"
        "# TYPE sigsum_hsm_audit_findings_total counter\n"
        "sigsum_hsm_audit_findings_total 3\n"
        "# TYPE secret gauge\nsecret 4\n",
    )
    told = await machine.tells()
    assert told[("sigsum_hsm_audit_findings", "reset")] == 1
    assert told[("sigsum_hsm_audit_findings_total",)] == 3
    file = "/var/lib/sigsum-hsm/audit.prom"
    assert told[("sigsum_exporter_file_timestamp_seconds", file)] == path.stat().st_mtime
    assert told[("sigsum_exporter_source_failed", file)] == 0
    assert ("secret",) not in told  # nothing that the table does not name


async def test_a_file_that_is_no_metrics(machine: Machine) -> None:
    machine.write("var/lib/sigsum-hsm/audit.prom", "sigsum_hsm_audit_findings{kind= 1\n")
    machine.write("var/lib/sigsum-oracle/metrics.prom").write_bytes(b"\xff")
    told = await machine.tells()
    for name in ("/var/lib/sigsum-hsm/audit.prom", "/var/lib/sigsum-oracle/metrics.prom"):
        assert told[("sigsum_exporter_source_failed", name)] == 1
    assert told[("sigsum_log_tree_size",)] == 9


async def test_a_policy_counts(machine: Machine) -> None:
    machine.write("etc/sigsum/policy", policy_text(2))
    told = await machine.tells()
    assert told[("sigsum_log_quorum",)] == 0
    assert told[("sigsum_log_cosigned_timestamp_seconds",)] == 0
    witnesses = [labels for name, *labels in told if "cosignature" in name]
    assert witnesses == [["w0"], ["w1"], ["w2"]]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"w0": None, "w1": None, "w2": None}, 0),
        ({"w0": 50, "w1": None, "w2": None}, 0),
        ({"w0": 50, "w1": 20, "w2": None}, 50),
        ({"w0": 50, "w1": 20, "w2": 30}, 30),  # the second of them made it two
    ],
)
def test_when_a_quorum_had_cosigned(times: dict[str, int | None], expected: int) -> None:
    assert cosigned(POLICY, times) == expected


def test_without_a_quorum_the_last_cosignature_counts() -> None:
    policy = parse(policy_text(2).replace("quorum g", "quorum none").encode())
    assert cosigned(policy, {"w0": 50, "w1": 20, "w2": None}) == 50
    assert cosigned(policy, {}) == 0


async def test_everything_told_is_in_the_table(machine: Machine) -> None:
    known = {metric.name: metric for metric in (*table.OWN, *table.PASSED)}
    for name, *labels in await machine.tells():
        assert len(labels) == len(known[name].labels)


async def test_without_a_policy_no_quorum_is_claimed(machine: Machine) -> None:
    (machine.root / "etc/sigsum/policy").unlink()
    told = await machine.tells()
    assert told[("sigsum_exporter_source_failed", "log")] == 1
    assert ("sigsum_log_quorum",) not in told


async def test_the_units_are_asked_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    there = machine.units

    def show(names: object) -> dict[str, dict[str, str]]:
        asked.append(names)
        return there

    monkeypatch.setattr(units, "show", show)
    await machine.tells()
    assert len(asked) == 1


async def test_the_end_of_the_certificate_that_is_served(machine: Machine) -> None:
    """Not of a file: a service goes on with the one that it has loaded."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "log.example.org")])
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(end - timedelta(days=10))
        .not_valid_after(end)
        .sign(key, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = machine.root / "both.pem"
    path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        ends = {"log.example.org": ("127.0.0.1", port), "gone.example.org": ("127.0.0.1", 1)}
        settings = Settings((("127.0.0.1", 6970),), None, ends)
        told = samples(render(await Reader(settings, machine.root).families()))
    metric = "sigsum_certificate_end_timestamp_seconds"
    assert told[(metric, "log.example.org")] == end.timestamp()
    assert (metric, "gone.example.org") not in told
    assert told[("sigsum_exporter_source_failed", "certificate:gone.example.org")] == 1
