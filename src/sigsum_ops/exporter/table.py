"""Every metric of this project, by its name: the contract with alert rules and dashboards.

``OWN`` are the exporter's. ``PASSED`` are written to files by the services themselves, and passed
on as they are. docs/metrics.md is made of this (``python -m sigsum_ops.exporter.table FILE``).
Names stay, whatever log-go and Trillian call what is beneath. Times are Unix seconds, sizes are
numbers of leaves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROLES = ("primary", "secondary", "witness", "bastion")


@dataclass(frozen=True)
class Metric:
    """Its name, what it says, its labels, and whether it only grows."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    kind: str = "gauge"


OWN = (
    Metric(
        "sigsum_machine_role", "1 for each part that the machine plays by its units.", ("role",)
    ),
    Metric("sigsum_machine_fenced", "1 if a procedure has fenced the machine."),
    Metric("sigsum_machine_quarantined", "1 if it was restored, and that is not settled."),
    Metric("sigsum_machine_reboot_required", "1 if the machine waits for a reboot."),
    Metric("sigsum_log_tree_size", "Size of the tree in the machine's Trillian."),
    Metric(
        "sigsum_log_answers", "1 if the machine's log shows a tree head that the log has signed."
    ),
    Metric("sigsum_log_published_size", "Size of the tree head that the log publishes."),
    Metric("sigsum_log_pending_leaves", "Leaves in the tree, and not published."),
    Metric(
        "sigsum_log_consistent",
        "1 if the machine's tree extends the tree head that its log publishes, 0 if it does not.",
    ),
    Metric("sigsum_log_quorum", "1 if the published tree head is cosigned as the policy wants it."),
    Metric(
        "sigsum_log_cosigned_timestamp_seconds",
        "When the published tree head had its quorum; where the policy wants none, when its last"
        " witness cosigned it.",
    ),
    Metric(
        "sigsum_log_cosignature_timestamp_seconds",
        "When a witness cosigned the published tree head, 0 where it did not.",
        ("witness",),
    ),
    Metric("sigsum_log_rate_limited", "1 if the log has a file of rate limits that is not empty."),
    Metric(
        "sigsum_certificate_end_timestamp_seconds",
        "When the certificate ends that is served at a name.",
        ("name",),
    ),
    Metric(
        "sigsum_exporter_source_failed",
        "1 if a source could not be read; what it would have told is absent.",
        ("source",),
    ),
    Metric("sigsum_exporter_source_seconds", "How long it took to read a source.", ("source",)),
    Metric(
        "sigsum_exporter_file_timestamp_seconds",
        "When a service last wrote its metrics.",
        ("file",),
    ),
    Metric("sigsum_ops_info", "1, with the version of our package.", ("version",)),
)

# Where the services write them.
TEXTFILES = (
    "/run/sigsum-archive/metrics.prom",
    "/run/sigsum-bastion/metrics.prom",
    "/var/lib/sigsum-backup/*.prom",
    "/var/lib/sigsum-hsm/*.prom",
    "/var/lib/sigsum-log/guard.prom",
    "/var/lib/sigsum-oracle/metrics.prom",
)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, text, labels, "counter")


PASSED = (
    _counter("sigsum_oracle_requests_total", "Requests to sign, by what came of them.", "outcome"),
    _counter("sigsum_oracle_seconds_total", "Time spent in a stage of signing.", "stage"),
    _counter("sigsum_oracle_stages_total", "How often a stage of signing was entered.", "stage"),
    Metric("sigsum_oracle_ready", "1 once the pinned key was proven."),
    Metric("sigsum_oracle_latched", "1 if nothing is signed until a person has looked."),
    Metric(
        "sigsum_oracle_ungated",
        "1 while the log is permitted to go on without its secondary.",
    ),
    Metric(
        "sigsum_oracle_ungated_until_seconds",
        "When the permit to go on without a secondary ends, or has ended (Unix time).",
    ),
    _counter(
        "sigsum_oracle_sessions_opened_total",
        "Sessions opened with the device; more than one means that one was lost or idle.",
    ),
    _counter(
        "sigsum_oracle_device_signatures_total",
        "Commands to sign that were sent to the device, answered or not.",
    ),
    Metric(
        "sigsum_oracle_last_signed_timestamp_seconds",
        "When a signature was last given, 0 for never.",
    ),
    Metric("sigsum_oracle_start_time_seconds", "When the oracle started."),
    Metric("sigsum_oracle_journal_records", "Tree heads in the journal."),
    Metric("sigsum_oracle_journal_size", "Size of the last journaled tree head."),
    Metric("sigsum_guard_refused", "1 if the start guard refused the last start of the log."),
    Metric("sigsum_guard_last_run_timestamp_seconds", "When the start guard last decided."),
    Metric("sigsum_guard_proven_size", "Size of the largest tree proven at a start."),
    Metric("sigsum_head_archive_heads", "Tree heads in the archive."),
    Metric("sigsum_head_archive_last_size", "Size of the largest tree head in the archive."),
    Metric(
        "sigsum_head_archive_last_seen_timestamp_seconds",
        "When a machine last showed the largest tree head of the archive, 0 for never.",
    ),
    Metric(
        "sigsum_head_archive_unproven",
        "Signed tree heads of which nobody has shown whether they go with the archive.",
    ),
    Metric(
        "sigsum_head_archive_split_view",
        "1 if evidence of a split view is beside the archive.",
    ),
    Metric(
        "sigsum_hsm_check_state",
        "1 for what the last check of the device with its health key has shown.",
        ("state",),
    ),
    Metric("sigsum_hsm_check_timestamp_seconds", "When the device was last checked."),
    Metric("sigsum_hsm_check_signature_seconds", "Time that the device took to sign."),
    Metric("sigsum_hsm_audit_state", "1 for what is to be thought of the device.", ("state",)),
    Metric("sigsum_hsm_audit_findings", "Findings that nobody acknowledged.", ("kind",)),
    _counter("sigsum_hsm_audit_findings_total", "Findings, also acknowledged ones."),
    _counter("sigsum_hsm_audit_entries_total", "Entries in the archive."),
    _counter("sigsum_hsm_audit_signatures_total", "Signatures by the signing key in the archive."),
    Metric("sigsum_hsm_audit_timestamp_seconds", "When the device was last looked at."),
    _counter(
        "sigsum_hsm_audit_lost_total",
        "The oracle's commands to sign that got no answer: each may hide one signature.",
    ),
    Metric("sigsum_backup_last_success_timestamp_seconds", "When a backup last succeeded."),
    Metric("sigsum_backup_last_success_bytes", "What it holds, unpacked."),
    Metric("sigsum_backup_last_success_added_bytes", "What it added to the repository."),
    Metric("sigsum_backup_last_success_seconds", "How long it took."),
    *(
        metric
        for what in ("run", "check")
        for metric in (
            Metric(f"sigsum_backup_{what}_failed", f"1 if the last {what} failed."),
            Metric(f"sigsum_backup_{what}_timestamp_seconds", f"When the last {what} ended."),
        )
    ),
    Metric("sigsum_bastion_probe_timestamp_seconds", "When the witnesses were asked (Unix time)."),
    Metric(
        "sigsum_bastion_backend_reached",
        "1 if the witness itself answered through the bastion.",
        ("name", "key_hash"),
    ),
    Metric("sigsum_bastion_backend_seconds", "How long the answer took.", ("name", "key_hash")),
    Metric(
        "sigsum_bastion_backend_last_reached_timestamp_seconds",
        "When the witness last answered (Unix time), 0 for never.",
        ("name", "key_hash"),
    ),
    Metric(
        "sigsum_bastion_certificate_end_timestamp_seconds",
        "When the bastion's certificate ends (Unix time).",
    ),
)


def lines() -> Iterator[str]:
    """docs/metrics.md."""
    yield "# Metrics"
    yield ""
    yield "What a machine of a site tells of itself at `/metrics` of its exporter (role"
    yield "`site_exporter`). Names stay, whatever the programs beneath call it. Times are Unix"
    yield "seconds, sizes numbers of leaves. What is not known is absent, never 0: each source has"
    yield "`sigsum_exporter_source_failed`. Made by `make docs`."
    for title, metrics in (
        ("What the exporter finds out", OWN),
        ("What the services write", PASSED),
    ):
        yield from ("", f"## {title}", "", "| name | labels | what |", "| --- | --- | --- |")
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            yield f"| `{metric.name}` | {labels} | {metric.text} |"


def main(arguments: list[str]) -> int:
    """Write the file, or with ``--check`` say whether it is as it would be written."""
    path, text = Path(arguments[0]), "".join(f"{line}\n" for line in lines())
    if "--check" not in arguments:
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        print(f"{path} is not what `make docs` writes")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
