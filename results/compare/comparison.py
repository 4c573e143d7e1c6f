"""Comparison of the models of a run: headline metrics with intervals, and paired tests of their differences.

Two models are compared on the documents that both answered. The p values of a run are Holm-adjusted together, because
readers look for anything remarkable in the whole table. Models that were measured differently from the first one are
shown with the reason and not tested. Up to eight models are compared pairwise; with more, each model is compared with
the first one (the baseline) and with the best of each task.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from crosstok.results.compare import statistics
from crosstok.results.compare.answers import Answers, Headline, answers_of
from crosstok.results.compare.comparability import Measurement, mismatch
from crosstok.results.compare.oracles import Oracle, oracles
from crosstok.results.compare.statistics import SIGNIFICANT, Difference, Estimate
from crosstok.results.store.aggregates import VerdictFacts
from crosstok.results.store.model_names import ModelName
from crosstok.results.store.records import Cell, Progress, Run, Task
from crosstok.results.store.store import Store

ALL_PAIRS = 8


@dataclass(frozen=True)
class TaskComparison:
    """All models of a run on a task."""

    task: Task
    headline: Headline
    cells: dict[str, Cell]
    """Cells by name of the model, in the order of the suite; models without a cell were not measured."""
    estimates: dict[str, Estimate]
    mismatches: dict[str, str] = field(default_factory=dict)
    """Reasons why models are not comparable with the first measured one; they are not tested."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Differences from that first one that do not affect the comparison."""
    differences: dict[tuple[str, str], Difference] = field(default_factory=dict)
    """Second minus first, by pair of names; p is Holm-adjusted for all comparisons of the run."""
    oracles: dict[str, Oracle] = field(default_factory=dict)
    """Oracle over the members of each ensemble, by name of the ensemble."""

    @functools.cached_property
    def rivals(self) -> dict[str, Estimate]:
        """Estimates of the models that are comparable and have a score."""
        return {
            name: found
            for name, found in self.estimates.items()
            if name not in self.mismatches and not np.isnan(found.value)
        }

    @functools.cached_property
    def best(self) -> str | None:
        """Name of the best comparable model, None where nothing was measured."""
        sign = 1 if self.headline.higher_is_better else -1
        return max(self.rivals, key=lambda name: sign * self.estimates[name].value, default=None)

    def between(self, first: str, second: str) -> Difference | None:
        """Return second minus first, or None if they were not compared."""
        if (second, first) in self.differences:
            found = self.differences[second, first]
            return replace(found, value=-found.value, low=-found.high, high=-found.low)
        return self.differences.get((first, second))

    def standing(self, model: str) -> str:
        """Return ``best``, ``tied`` (not significantly different from the best) or empty, as where all are equal."""
        best = self.best
        rivals = self.rivals
        if best is None or model not in rivals or len({found.value for found in rivals.values()}) == 1:
            return ""
        if self.estimates[model].value == self.estimates[best].value:
            return "best"
        found = self.between(best, model)
        return "tied" if found and found.p >= SIGNIFICANT else ""


@dataclass(frozen=True)
class Comparison:
    """Comparison of all models of a run on all of its tasks."""

    run: Run
    models: tuple[str, ...]
    """As shown in tables, in the order of the suite."""
    names: Mapping[str, ModelName]
    """Name in the suite and seed of each of ``models``."""
    tasks: tuple[TaskComparison, ...]
    comparisons: int
    """Number of p values that were adjusted together."""
    verdicts: dict[str, list[VerdictFacts]]
    """Verdict counts by fingerprint of the cell."""

    @property
    def baseline(self) -> str:
        """First model of the suite, which the others are compared with."""
        return self.models[0]


def compare(store: Store, run: Run) -> Comparison:
    """Return the comparison of all models of ``run`` on all of its tasks."""
    names = _in_suite_order(run, store.model_names(run.id))
    models = list(names)
    cells: dict[str, dict[str, Cell]] = {}
    for entry in store.cells(run.id):
        cells.setdefault(entry.task, {})[entry.model] = entry.cell
    scores, verdicts = store.document_scores(run.id), store.verdict_facts(run.id)
    tasks = []
    for name, task in store.tasks(run.id).items():
        headline = Headline.of(task)
        measured = {model: cells[name][model] for model in models if model in cells[name]}
        known = {
            model: answers_of(scores[cell.fingerprint, headline.name])
            for model, cell in measured.items()
            if (cell.fingerprint, headline.name) in scores
        }
        known = _resampled_together(known)
        estimates = {model: found.estimate(headline) for model, found in known.items()}
        mismatches, remarks = _unlike_the_first(task, measured, verdicts)
        compared = TaskComparison(
            task,
            headline,
            measured,
            estimates,
            mismatches,
            remarks,
            oracles=oracles(run, headline, known, mismatches, names),
        )
        pairs = _pairs([model for model in known if model not in mismatches], compared.best)
        tasks.append(replace(compared, differences={(a, b): known[a].difference(known[b]) for a, b in pairs}))
    return _corrected(Comparison(run, tuple(models), names, tuple(_task_order(run, tasks)), 0, verdicts))


def _unlike_the_first(
    task: Task, cells: Mapping[str, Cell], verdicts: Mapping[str, list[VerdictFacts]]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return, by model, why it is not comparable with the first of ``cells``, and harmless differences from it."""
    every = {name: Measurement(task, cell, verdicts.get(cell.fingerprint, ())) for name, cell in cells.items()}
    first = next(iter(every.values()), None)
    found = {name: mismatch(first, one) for name, one in every.items()} if first else {}
    return (
        {name: reasons for name, (reasons, _) in found.items() if reasons},
        {name: remark for name, (_, remark) in found.items() if remark},
    )


def _pairs(models: list[str], best: str | None) -> list[tuple[str, str]]:
    if len(models) <= ALL_PAIRS:
        return list(combinations(models, 2))
    centres = {models[0], best}
    return [(a, b) for a, b in combinations(models, 2) if centres & {a, b}]


def _corrected(comparison: Comparison) -> Comparison:
    """Return the comparison with all of its p values adjusted together."""
    every = [difference.p for task in comparison.tasks for difference in task.differences.values()]
    corrected = iter(statistics.holm(every).tolist())
    tasks = [
        replace(task, differences={pair: replace(found, p=next(corrected)) for pair, found in task.differences.items()})
        for task in comparison.tasks
    ]
    return replace(comparison, tasks=tuple(tasks), comparisons=len(every))


def _resampled_together(known: dict[str, Answers]) -> dict[str, Answers]:
    """Resample all models at once if they answered the same documents, which needs one pass over the draws."""
    every = list(known.values())
    if not every or all(found.single for found in every):
        return known
    if not all(np.array_equal(found.documents, every[0].documents) for found in every):
        return known
    totals = statistics.resampled_sums(
        np.column_stack([part for found in every for part in (found.value, found.weight)])
    )
    return {
        name: replace(found, totals=totals[:, 2 * place : 2 * place + 2])
        for place, (name, found) in enumerate(known.items())
    }


def planned_models(run: Run) -> list[str]:
    """Return the names of the models in the suite file."""
    models = run.config.get("models", {})
    return list(models) if isinstance(models, Mapping) else []


def planned_tasks(run: Run) -> list[str]:
    """Return the names of the tasks in the suite file."""
    named = (task.get("name") if isinstance(task, Mapping) else task for task in run.config.get("tasks", ()))
    return [name for name in named if isinstance(name, str)]


def unmeasured_models(run: Run, measured: Iterable[ModelName]) -> list[str]:
    """Return the models of the suite that are not among ``measured`` under any seed."""
    known = {name.model for name in measured}
    return [name for name in planned_models(run) if name not in known]


def _in_suite_order(run: Run, names: Mapping[str, ModelName]) -> dict[str, ModelName]:
    """Return the names in the order of the suite, followed by those of models without a cell."""
    places = {name: place for place, name in enumerate(planned_models(run))}
    found = sorted(names, key=lambda shown: places.get(names[shown].model, len(places)))
    missing = [ModelName(model) for model in unmeasured_models(run, names.values())]
    return {shown: names[shown] for shown in found} | {str(name): name for name in missing}


def _task_order(run: Run, tasks: list[TaskComparison]) -> list[TaskComparison]:
    places = {name: place for place, name in enumerate(planned_tasks(run))}
    return sorted(tasks, key=lambda task: places.get(task.task.name, len(places)))


def is_complete(cell: Cell | None) -> bool:
    """Return whether a cell exists and all of its documents are measured and judged."""
    return cell is not None and cell.status is Progress.COMPLETE
