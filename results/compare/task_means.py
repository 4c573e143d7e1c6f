"""Means over tasks that share a metric, unit and direction, for models that have results on all of them.

A mean over different metrics would be dominated by the metric with the widest scale, and a mean over the tasks that a
model happens to have would compare models by what they skipped. Tasks are therefore grouped by metric, unit and
direction, and a model has no mean if a task of the group is missing, incomplete or not comparable. Tasks have equal
weight.

Tasks share no documents, so the errors of their intervals are combined by squares, separately for the two sides (Zou
and Donner, Statistics in Medicine 27, 2008).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crosstok.results.compare.answers import Headline
from crosstok.results.compare.comparison import Comparison, TaskComparison, is_complete
from crosstok.results.compare.statistics import Difference, Estimate

METHOD = "combined from the intervals of the tasks"


@dataclass(frozen=True)
class Mean:
    """Mean of a metric over tasks."""

    headline: Headline
    tasks: tuple[str, ...]
    of_model: Mapping[str, Estimate]
    """Means by model, in the order of the table; ``n`` is the number of tasks."""
    standings: Mapping[str, str]
    """``best`` or ``tied`` (not significantly different from the best), by model."""


def groups(tasks: Mapping[str, Headline]) -> dict[Headline, tuple[str, ...]]:
    """Return the groups of at least two tasks with the same metric, unit and direction."""
    found: dict[Headline, list[str]] = {}
    for task, headline in tasks.items():
        found.setdefault(headline, []).append(task)
    return {headline: tuple(names) for headline, names in found.items() if len(names) > 1}


def mean_of(parts: Sequence[Estimate] | Sequence[Difference]) -> Estimate:
    """Return the mean of estimates or differences of different tasks, with equal weights."""
    size = len(parts)
    value = sum(part.value for part in parts) / size
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / size
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / size
    return Estimate(value, value - below, value + above, size, METHOD)


def means(comparison: Comparison) -> list[Mean]:
    """Return the means of a run, one per metric that at least two of its tasks share."""
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
        elif not _differ(tasks, best, model, values):
            standings[model] = "tied"
    return standings


def _differ(tasks: Sequence[TaskComparison], best: str, model: str, values: Mapping[str, Estimate]) -> bool:
    """Return whether the interval of the mean difference excludes 0, or, if pairs are missing, the intervals differ."""
    pairs = [task.between(best, model) for task in tasks]
    known = [pair for pair in pairs if pair is not None and not math.isnan(pair.low)]
    if len(known) == len(tasks):
        between = mean_of(known)
        return between.low > 0 or between.high < 0
    return values[best].low > values[model].high or values[best].high < values[model].low
