"""The failovers of a drill as a picture, SVG: what users saw, from a primary's death on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

# From one moment to the next: its name in the result, what users see until then, and the colour.
PHASES = (
    ("seconds_to_detect", "dead, nobody knows", "#8c2d04"),
    ("seconds_to_decide", "being checked", "#d94801"),
    ("seconds_to_sign", "being promoted", "#fd8d3c"),
    ("seconds_to_pair", "reads; leaves get 202", "#9ecae1"),
    ("seconds_to_acknowledge", "until the first 200", "#4292c6"),
)
LANE, LEFT, WIDTH, TOP = 22, 250, 700, 56
STEPS = (5, 10, 15, 30, 60, 120, 300, 600)  # seconds between two lines of the scale


def draw(runs: Sequence[Mapping[str, Any]]) -> str:
    """One lane for each run, as ``drill.Run`` has them; a picture that needs nothing else."""
    longest = max([1.0, *(run[name] or 0.0 for run in runs for name, *_ in PHASES)])
    scale = WIDTH / longest
    step = next((each for each in STEPS if longest / each <= 12), STEPS[-1])
    height = TOP + LANE * len(runs) + 24
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}"'
            f' height="{height}" font-family="sans-serif" font-size="12">',
            "<title>Failovers, in seconds from the death of the primary</title>",
            '<rect width="100%" height="100%" fill="white"/>',
            *_legend(),
            *_scale(step, longest, scale, height),
            *(line for number, run in enumerate(runs) for line in _lane(number, run, scale)),
            "</svg>",
            "",
        ]
    )


def _legend() -> Iterator[str]:
    for number, (_, said, colour) in enumerate(PHASES):
        x = 10 + number * 165
        yield f'<rect x="{x}" y="10" width="12" height="12" fill="{colour}"/>'
        yield f'<text x="{x + 17}" y="21">{said}</text>'


def _scale(step: int, longest: float, scale: float, height: int) -> Iterator[str]:
    for second in range(0, int(longest) + 1, step):
        x = LEFT + second * scale
        yield f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 20}" stroke="#ccc"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 10}" text-anchor="middle">{second} s</text>'


def _lane(number: int, run: Mapping[str, Any], scale: float) -> Iterator[str]:
    y, begun = TOP + number * LANE, 0.0
    again = "".join(f"; {what}" for what in run["struck"])
    yield f"<g><title>{escape(run['old'])}: {escape(run['death'] + again)}</title>"
    said = run["death"] + (" +" if again else "")
    yield f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(said)}</text>'
    for name, _, colour in PHASES:
        ended = run[name]
        if ended is not None and ended > begun:
            yield (
                f'<rect x="{LEFT + begun * scale:.1f}" y="{y + 2}"'
                f' width="{(ended - begun) * scale:.1f}" height="{LANE - 6}" fill="{colour}"/>'
            )
            begun = ended
    yield f'<text x="{LEFT + begun * scale + 4:.1f}" y="{y + 14}">{begun:.0f} s</text></g>'
