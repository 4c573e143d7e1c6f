"""Means over tasks: of one metric in one unit and direction, over models that have all of it.

A mean over unlike metrics ranks models by the metric with the widest scale, and a mean over the tasks that a model
happens to have compares models by what they skipped. So tasks are grouped by metric, unit and direction, and a model
that lacks a task of the group, has it incomplete, or has it measured otherwise, has no mean. Every task counts alike.

Tasks have no documents in common, so what their intervals miss adds up in squares, each side for itself (Zou and
Donner, Statistics in Medicine 27, 2008).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crosstok.results.compare.answers import Headline
from crosstok.results.compare.comparison import Comparison, TaskComparison, is_complete
from crosstok.results.compare.statistics import Difference, Estimate

METHOD = "squares of the tasks' intervals"


@dataclass(frozen=True)
class Mean:
    """The mean of one metric over tasks."""

    headline: Headline
    tasks: tuple[str, ...]
    of_model: Mapping[str, Estimate]
    """By model, in the order of the table; ``n`` is the number of tasks."""
    standings: Mapping[str, str]
    """``best`` or ``tied``."""


def groups(tasks: Mapping[str, Headline]) -> dict[Headline, tuple[str, ...]]:
    """Return the tasks that have metric, unit and direction in common, where at least two do."""
    found: dict[Headline, list[str]] = {}
    for task, headline in tasks.items():
        found.setdefault(headline, []).append(task)
    return {headline: tuple(names) for headline, names in found.items() if len(names) > 1}


def mean_of(parts: Sequence[Estimate] | Sequence[Difference]) -> Estimate:
    """Return the mean of estimates, or of differences, of different tasks; every task counts alike."""
    size = len(parts)
    value = sum(part.value for part in parts) / size
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / size
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / size
    return Estimate(value, value - below, value + above, size, METHOD)


def means(comparison: Comparison) -> list[Mean]:
    """Return the means of a run, one per metric that at least two of its tasks have."""
    by_name = {task.task.name: task for task in comparison.tasks}
    found = []
    for headline, names in groups({name: task.headline for name, task in by_name.items()}).items():
        tasks = [by_name[name] for name in names]
        values = {
            model: mean_of([task.estimates[model] for task in tasks])
            for model in comparison.models
            if all(model in task.rivals and is_complete(task.cells[model]) for task in tasks)
        }
        if values:
            found.append(Mean(headline, names, values, _standings(headline, tasks, values)))
    return found


def _standings(headline: Headline, tasks: Sequence[TaskComparison], values: Mapping[str, Estimate]) -> dict[str, str]:
    if len({found.value for found in values.values()}) < 2:
        return {}
    sign = 1 if headline.higher_is_better else -1
    best = max(values, key=lambda model: sign * values[model].value)
    standings = {}
    for model, found in values.items():
        if found.value == values[best].value:
            standings[model] = "best"
        elif not _told_apart(tasks, best, model, values):
            standings[model] = "tied"
    return standings


def _told_apart(tasks: Sequence[TaskComparison], best: str, model: str, values: Mapping[str, Estimate]) -> bool:
    """Return whether the mean of the paired differences lies off zero; of pairs that were not made, the intervals."""
    pairs = [task.between(best, model) for task in tasks]
    known = [pair for pair in pairs if pair is not None and not math.isnan(pair.low)]
    if len(known) == len(tasks):
        between = mean_of(known)
        return between.low > 0 or between.high < 0
    return values[best].low > values[model].high or values[best].high < values[model].low
