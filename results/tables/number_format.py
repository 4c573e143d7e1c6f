"""Metrics as text: headings, values, intervals and differences; fractions are shown in percent."""

import math

from crosstok.results.compare.statistics import Difference
from crosstok.results.store.records import FRACTION


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def scale(unit: str) -> float:
    """Return the factor from a stored value to the one that is shown."""
    return 100.0 if unit == FRACTION else 1.0


def heading(metric: str, unit: str) -> str:
    """Return a metric with its unit, as the heading of a column or the label of an axis."""
    if unit == FRACTION:
        return f"{metric} (%)"
    return unit if unit == "bits/byte" else f"{metric} ({unit})"


def difference_unit(unit: str) -> str:
    """Return the unit of differences: percentage points for fractions."""
    return "points" if unit == FRACTION else unit


def amount(unit: str, value: float, sign: str = "") -> str:
    """Return a value or difference as text, without its unit; ``sign`` is that of the format specification."""
    return f"{100 * value:{sign}.1f}" if unit == FRACTION else f"{value:{sign}.4f}"


def value_with_interval(unit: str, value: float, low: float | None, high: float | None) -> str:
    """Return a value followed by its interval, if there is one."""
    if low is None or high is None or math.isnan(low):
        return amount(unit, value)
    return f"{amount(unit, value)} [{amount(unit, low)}, {amount(unit, high)}]"


def with_interval(unit: str, difference: Difference) -> str:
    """Return a difference followed by its interval, all with signs."""
    value, low, high = (amount(unit, figure, "+") for figure in (difference.value, difference.low, difference.high))
    return f"{value} [{low}, {high}]"
