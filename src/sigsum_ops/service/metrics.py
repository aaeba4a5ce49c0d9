"""Prometheus's text format (version 0.0.4), for a file that the exporter passes on."""

from __future__ import annotations

from collections.abc import Iterator


def family(name: str, kind: str, text: str, *samples: tuple[str, float]) -> Iterator[str]:
    """The lines of one metric; a sample is its labels in braces, or "", and its value."""
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield from (f"{name}{labels} {value}" for labels, value in samples)
