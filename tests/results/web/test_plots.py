"""Plots show what the table has: who is unbeaten, every name once, shares from zero, and what was left out."""

import re

from hypothesis import given
from hypothesis import strategies as st

from crosstok.results.web.plots import Point, Trade, _unbeaten, kinds, pareto, usage

SPEED = Trade("bytes per second", less_cost_is_better=False, value="pass@1, %", higher_is_better=True)
POINTS = [Point("fast", 300, 0.1), Point("good", 100, 0.9), Point("neither", 90, 0.05), Point("twin", 90, 0.05)]


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_only_what_no_other_model_beats_in_both_is_on_the_line() -> None:
    assert [one.name for one in _unbeaten(POINTS, SPEED)] == ["good", "fast"]
    cheap = Trade("operations", less_cost_is_better=True, value="bits/byte", higher_is_better=False)
    assert [one.name for one in _unbeaten(POINTS, cheap)] == ["neither", "twin"]


@given(st.lists(st.builds(Point, st.just("m"), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20))
def test_every_point_is_on_the_line_or_beaten_by_one_that_is(points: list[Point]) -> None:
    line = _unbeaten(points, SPEED)
    for one in points:
        assert one in line or any(other.cost >= one.cost and other.value >= one.value for other in line)


def test_points_are_named_once_and_those_in_one_place_together() -> None:
    shown = words(pareto(POINTS, "t", SPEED, 100))
    assert [text for text in shown if text in ("fast", "good", "neither, twin")] == ["good", "fast", "neither, twin"]


def test_one_model_makes_no_cloud() -> None:
    assert pareto(POINTS[:1], "t", SPEED) == ""


def test_shares_are_drawn_from_zero_and_inside_the_axes() -> None:
    shown = words(usage({"code": {"a": 0.25, "b": 0.24}}, "Use of new tokens"))
    assert "0" in shown
    assert "25" in shown
    assert usage({"code": {"a": 0.0}}, "t")


def test_more_kinds_than_the_eye_can_tell_apart_are_left_out_and_counted() -> None:
    values = {f"kind-{number}": {"a": 1.0 + number, "b": 2.0} for number in range(14)}
    shown = words(kinds(values, "Bits"))
    assert "(first 12 of 14)" in shown
    assert "kind-11" in shown
    assert "kind-12" not in shown
