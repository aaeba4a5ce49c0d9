"""What a stress run means: its numbers, for machines and for people, and its plot."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigsum_ops.errors import OpsError
from sigsum_ops.log.loadgen import Seen

if TYPE_CHECKING:
    from sigsum_ops.log.stress import Run


def quantiles(values: Iterable[float]) -> dict[str, float] | None:
    """Median, 95th and 99th percentile and maximum, each a value that occurred (nearest rank)."""
    ordered = sorted(values)
    if not ordered:
        return None
    ranks = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[max(math.ceil(share * len(ordered)), 1) - 1], 4)
        for name, share in ranks.items()
    }


def growth(seen: Sequence[Seen], start: float, end: float) -> float | None:
    """Leaves per second between the first and the last change of the tree head in a span of time.

    A log publishes in steps, one for each of its intervals, so only the time from step to step
    counts; with fewer than two steps nothing can be said.
    """
    steps = [head for head in seen if start <= head.at <= end]
    if len(steps) < 2:
        return None
    return (steps[-1].size - steps[0].size) / (steps[-1].at - steps[0].at)


def published_at(seen: Sequence[Seen], index: int) -> float:
    """When the first tree head that has the leaf at ``index`` was seen; ``seen`` must have one."""
    return seen[bisect_right(seen, index, key=lambda head: head.size)].at


def summary(run: Run) -> dict[str, Any]:
    """The result as ``--json`` prints it; docs/performance.md explains each number."""
    span = run.end - run.start
    accepted = run.accepted
    outcomes = Counter(attempt.outcome for attempt in run.attempts.values())
    # A leaf that the log already had (an old seed) was not published by this run.
    instants = {
        i: published_at(run.heads.seen, at) for i, at in run.proven.items() if at >= run.before
    }
    add_leaf = (run.attempts[i].done - run.attempts[i].due for i in accepted)
    published = (instant - run.attempts[i].due for i, instant in instants.items())
    return {
        "passed": run.passed,
        "log": {"url": run.target.url, "key_hash": run.target.key.hash},
        "load": asdict(run.load),
        "began": run.began.isoformat(timespec="seconds"),
        "seconds": round(span, 2),
        "acknowledged_per_s": _per_second(len(accepted), span),
        "replicated_per_s": _rounded(growth(run.heads.seen, run.start, run.end)),
        "published_per_s": _per_second(
            len(instants), max(instants.values(), default=run.start) - run.start
        ),
        "sequenced_per_s": None if run.sequenced is None else _per_second(run.sequenced, span),
        "latency_s": {"add_leaf": quantiles(add_leaf), "published": quantiles(published)},
        "status": {kind: n for kind, n in sorted(outcomes.items()) if kind.isdigit()},
        "errors": {kind: n for kind, n in sorted(outcomes.items()) if not kind.isdigit()},
        "leaves": {
            "submitted": len(run.attempts),
            "accepted": len(accepted),
            "acknowledged_200": len(run.confirmed),
            "proven": len(run.proven),
            "unproven": len(run.unproven),
            "unpublished": len(accepted - run.confirmed),
        },
        "unproven": dict(itertools.islice(sorted(run.unproven.items()), 10)),
        "violations": run.heads.violations,
        "tree_heads": {
            "size_before": run.before,
            "size_after": run.heads.size,
            "changes": len(run.heads.seen) - 1,
            "errors": dict(run.heads.errors),
        },
        "client_cpu_s_per_request": _rounded(run.cpu / max(len(run.attempts), 1), 6),
    }


def lines(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The result for a person: what, and how much."""
    leaves, latency = result["leaves"], result["latency_s"]
    for name in ("acknowledged", "replicated", "published", "sequenced"):
        if (rate := result[f"{name}_per_s"]) is not None:
            yield name, f"{rate} leaves/s"
    for name, title in (("add_leaf", "add-leaf took"), ("published", "published after")):
        if latency[name]:
            yield title, ", ".join(f"{k} {v:.3f} s" for k, v in latency[name].items())
    yield "leaves", ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in leaves.items())
    for name in ("status", "errors"):
        if counts := result[name]:
            yield name, ", ".join(f"{n} of {kind}" for kind, n in counts.items())
    unproven, violations = result["unproven"], result["violations"]
    yield from (("NOT PROVEN", f"leaf {leaf}: {why}") for leaf, why in unproven.items())
    yield from (("VIOLATION", text) for text in violations)
    verdict = "every leaf acknowledged with 200 is proven to be in the published tree"
    yield "verdict", verdict if result["passed"] else "FAILED: see above"


def plot(run: Run, path: Path) -> None:
    """Draw what was accepted and published over time, and how long add-leaf took."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OpsError(
            "matplotlib is not installed", hint="Install sigsum-ops with its extra: controller"
        ) from error
    answers = sorted(
        (attempt.done - run.start, attempt.done - attempt.due)
        for index, attempt in run.attempts.items()
        if index in run.accepted
    )
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.plot([at for at, _ in answers], range(1, len(answers) + 1), label="accepted")
    steps = [(run.start, run.before), *((at, n) for at, n in run.heads.seen if at > run.start)]
    upper.step(
        [at - run.start for at, _ in steps],
        [size - run.before for _, size in steps],
        where="post",
        label="published (signed and replicated)",
    )
    upper.set_ylabel("leaves")
    upper.legend()
    lower.plot([at for at, _ in answers], [1000 * took for _, took in answers], ".", markersize=3)
    lower.set_ylabel("add-leaf, ms")
    lower.set_xlabel("seconds")
    lower.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)


def _per_second(number: float, span: float) -> float:
    return round(number / span, 1) if span > 0 else 0.0


def _rounded(number: float | None, digits: int = 1) -> float | None:
    return None if number is None else round(number, digits)
