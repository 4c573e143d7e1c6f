"""Data of a leaderboard: every model of a store on every task, over all runs.

A model is identified by its fingerprint and appears once, under its name in the latest run; if that name is taken by
another model, the run is appended. A task is identified by its name. The cell of the baseline (or of the first model
that has one) is the reference: results with another task version, other settings or another kind of verdict are shown
with the reason, are never the best, and are not compared.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crosstok.errors import UserError, unknown_name
from crosstok.results.compare import statistics
from crosstok.results.compare.answers import Headline
from crosstok.results.compare.comparability import mismatch
from crosstok.results.compare.comparison import is_complete
from crosstok.results.compare.contrast import Contrast, Side, contrast, sides
from crosstok.results.compare.statistics import SIGNIFICANT, Difference, Estimate
from crosstok.results.compare.task_means import Mean, groups, mean_of
from crosstok.results.store.records import Cell, Model, Run, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.costs import flops_per_byte
from crosstok.results.tables.frame import sample_columns, verdict_columns


@dataclass(frozen=True)
class RankedModel:
    """A model of the leaderboard."""

    name: str
    side: Side
    """Its cells over all runs; the later run wins where a task was measured twice."""
    record: Model | None
    """None where the model was planned and never made."""
    fingerprint: str


@dataclass(frozen=True)
class Result:
    """Result of a model on a task."""

    model: RankedModel
    cell: Cell
    estimate: Estimate | None
    difference: Difference | None
    """Difference from the baseline; None for the baseline itself and where the two are not comparable."""
    standing: str
    """``best``, ``tied`` (not significantly different from the best) or empty."""
    remarks: tuple[str, ...]
    """Why it is incomplete or not comparable."""
    comparable: bool
    cost: dict[str, Any] = field(default_factory=dict)
    """Cost columns of ``crosstok.results.tables.frame.comparison_frame``."""

    @property
    def ranked(self) -> bool:
        """Whether its score may be ranked and averaged: comparable and complete."""
        scored = self.estimate is not None and not np.isnan(self.estimate.value)
        return scored and self.comparable and is_complete(self.cell)


@dataclass(frozen=True)
class Column:
    """A task and its results by name of the model."""

    task: Task
    headline: Headline
    results: dict[str, Result]


@dataclass(frozen=True)
class Leaderboard:
    """Everything that a leaderboard shows."""

    runs: tuple[Run, ...]
    baseline: str
    models: tuple[RankedModel, ...]
    columns: tuple[Column, ...]

    @functools.cached_property
    def means(self) -> list[Mean]:
        """Means over tasks with the same metric, of models with complete, comparable results on all of them."""
        by_name = {column.task.name: column for column in self.columns}
        found = []
        for headline, names in groups({name: column.headline for name, column in by_name.items()}).items():
            results = {one.name: [by_name[name].results.get(one.name) for name in names] for one in self.models}
            of_model = {
                name: mean_of([result.estimate for result in known if result and result.estimate])
                for name, known in results.items()
                if all(result and result.ranked for result in known)
            }
            if of_model:
                found.append(Mean(headline, names, of_model, {}))
        return found


def load_leaderboard(store: Store, runs: Sequence[str] = (), baseline: str | None = None) -> Leaderboard:
    """Return the leaderboard of the named runs (default: all).

    The default baseline is the first model of the latest run.

    Raises:
        UserError: a run or the baseline is unknown, or nothing was measured.

    """
    chosen = [store.run(name) for name in runs] if runs else store.runs()
    models = _ranked_models(store, chosen)
    if not models:
        raise UserError(f"The store {store.name} has no results.", hint="Start a run with `crosstok run SUITE`.")
    names = [ranked_model.name for ranked_model in models]
    if baseline is not None and baseline not in names:
        raise unknown_name("model", baseline, names)
    first = next(ranked_model for ranked_model in models if baseline in (None, ranked_model.name))
    against = contrast([(first.side, other.side) for other in models if other is not first])
    by_result = {(one.model.name, one.task): one for one in against}
    costs = _costs(store, chosen)
    tasks = list(dict.fromkeys(task for ranked_model in models for task in ranked_model.side.cells))
    return Leaderboard(
        tuple(chosen),
        first.name,
        tuple(models),
        tuple(_column(task, first, models, by_result, costs) for task in tasks),
    )


def _ranked_models(store: Store, runs: Sequence[Run]) -> list[RankedModel]:
    found: dict[str, RankedModel] = {}
    taken: set[str] = set()
    for run in runs:  # the latest first
        models = store.models(run.id)
        for name, one in sides(store, run).items():
            fingerprint = next(iter(one.cells.values())).model
            known = found.get(fingerprint)
            if known:
                merged = replace(
                    known.side,
                    cells={**one.cells, **known.side.cells},
                    tasks={**one.tasks, **known.side.tasks},
                    scores={**one.scores, **known.side.scores},
                    verdicts={**one.verdicts, **known.side.verdicts},
                )
                found[fingerprint] = replace(known, side=merged, record=known.record or models.get(name))
                continue
            shown = name if name not in taken else f"{name} ({run.id})"
            taken.add(shown)
            found[fingerprint] = RankedModel(shown, replace(one, name=shown), models.get(name), fingerprint)
    return list(found.values())


def _costs(store: Store, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    costs: dict[str, dict[str, Any]] = {}
    for run in runs:
        for cell, samples in store.sample_facts(run.id).items():
            costs.setdefault(cell, {}).update(sample_columns(samples))
        for cell, verdicts in store.verdict_facts(run.id).items():
            costs.setdefault(cell, {}).update(verdict_columns(verdicts))
    return costs


def _column(
    task: str,
    baseline: RankedModel,
    models: Sequence[RankedModel],
    against: dict[tuple[str, str], Contrast],
    costs: dict[str, dict[str, Any]],
) -> Column:
    measured = [ranked_model for ranked_model in models if task in ranked_model.side.cells]
    reference = baseline if baseline in measured else measured[0]
    record = reference.side.tasks[task]
    headline = Headline.of(record)
    results: dict[str, Result] = {}
    for ranked_model in measured:
        one = against.get((ranked_model.name, task))
        reasons, remark = _unlike(reference, ranked_model, task)
        answers = ranked_model.side.answers(task, headline.name)
        cell = ranked_model.side.cells[task]
        problem = ranked_model.side.problem(task).partition(": ")[2]
        remarks = [problem, f"not comparable with {reference.name}: {reasons}" if reasons else "", remark]
        results[ranked_model.name] = Result(
            model=ranked_model,
            cell=cell,
            estimate=answers.estimate(headline) if answers else None,
            difference=one.difference if one else None,
            standing="",
            remarks=tuple(text for text in remarks if text),
            comparable=not reasons,
            cost=_with_flops(costs.get(cell.fingerprint, {}), ranked_model.record),
        )
    return Column(record, headline, _with_standings(task, headline, results))


def _with_flops(cost: dict[str, Any], model: Model | None) -> dict[str, Any]:
    per_token = cost.get("bytes_per_token")
    return {**cost, "flops_per_byte": flops_per_byte(model.compute, per_token) if model else None}


def _unlike(reference: RankedModel, ranked_model: RankedModel, task: str) -> tuple[str, str]:
    if ranked_model is reference:
        return "", ""
    return mismatch(reference.side.measurement(task), ranked_model.side.measurement(task))


def _with_standings(task: str, headline: Headline, results: dict[str, Result]) -> dict[str, Result]:
    """Mark the best comparable result and those tied with it (Holm-adjusted over the task)."""
    sign = 1 if headline.higher_is_better else -1
    rivals = {
        name: sign * result.estimate.value
        for name, result in results.items()
        if result.comparable and result.estimate and not np.isnan(result.estimate.value)
    }
    if len(set(rivals.values())) < 2:
        return results
    best = max(rivals, key=lambda name: rivals[name])
    top = results[best].model.side.answers(task, headline.name)
    p_values: dict[str, float] = {}
    for name, value in rivals.items():
        answers = results[name].model.side.answers(task, headline.name)
        if top and answers and value < rivals[best]:
            p_values[name] = top.difference(answers).p
    tied = {
        name
        for name, p in zip(p_values, statistics.holm(list(p_values.values())), strict=True)
        if p >= SIGNIFICANT
    }  # fmt: skip
    standing = {name: "best" if rivals[name] == rivals[best] else "" for name in rivals}
    standing |= dict.fromkeys(tied, "tied")
    return {name: replace(result, standing=standing.get(name, "")) for name, result in results.items()}
