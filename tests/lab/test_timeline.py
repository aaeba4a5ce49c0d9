"""The picture of a drill."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from xml.etree import ElementTree

from sigsum_ops.lab import timeline
from sigsum_ops.lab.drill import Run

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*runs: Run) -> ElementTree.Element:
    return ElementTree.fromstring(timeline.draw([asdict(run) for run in runs]))  # noqa: S314 - ours


def lanes(picture: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """Begin and width of what is in each lane."""
    return [
        [(float(box.get("x", "")), float(box.get("width", ""))) for box in lane.iter(f"{SVG}rect")]
        for lane in picture.iter(f"{SVG}g")
    ]


def test_a_lane_is_as_long_as_the_failover() -> None:
    half = Run("log1", "log2", death="power cut", seconds_to_detect=1.0, seconds_to_decide=10.0)
    half.seconds_to_sign, half.seconds_to_pair, half.seconds_to_acknowledge = 20.0, 40.0, 50.0
    whole = Run("log2", "log1", death="<cut> & gone", struck=["controller in promote"])
    whole.seconds_to_sign, whole.seconds_to_pair, whole.seconds_to_acknowledge = 30.0, 90.0, 100.0
    first, second = lanes(drawn(half, whole))
    assert (len(first), len(second)) == (5, 3)
    assert sum(width for _, width in first) * 2 == sum(width for _, width in second)
    for lane in (first, second):
        assert lane[0][0] == timeline.LEFT
        for (x, width), (following, _) in pairwise(lane):
            assert abs(x + width - following) < 0.2
    said = [text.text for text in drawn(half, whole).iter(f"{SVG}text")]
    assert "<cut> & gone +" in said
    assert "100 s" in said


def test_nothing_to_draw() -> None:
    assert lanes(drawn()) == []
