"""Metrics as text: units, amounts, and differences with their intervals."""

from crosstok.results.compare.answers import Headline
from crosstok.results.compare.statistics import Difference


def unit(headline: Headline) -> str:
    """Return the unit of differences: percentage points for fractions."""
    return "points" if headline.unit == "fraction" else headline.unit


def amount(headline: Headline, value: float, sign: str = "") -> str:
    """Return a difference as a figure in :func:`unit`."""
    return f"{100 * value:{sign}.1f}" if headline.unit == "fraction" else f"{value:{sign}.4f}"


def with_interval(headline: Headline, difference: Difference) -> str:
    """Return a difference and its interval with signs."""
    value, low, high = (amount(headline, figure, "+") for figure in (difference.value, difference.low, difference.high))
    return f"{value} [{low}, {high}]"
