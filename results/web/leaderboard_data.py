"""The board: every model of a store on every task of it, over all runs, ready for the leaderboard.

A model is known by its fingerprint and stands once, under its name in the latest run; the same name for another model
gets its run added. A task is known by its name, and the cell of the baseline (else of the first model that has one)
sets what the others are held against: another version, other settings or another kind of verdict is shown with its
reason, is never the best, and is compared with nothing.
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
class Entrant:
    """A model on the board."""

    name: str
    side: Side
    """Its cells over all runs; where a task was measured twice under one name, those of the later run."""
    model: Model | None
    """None where it was planned and never made."""
    fingerprint: str


@dataclass(frozen=True)
class Place:
    """One entrant on one task."""

    entrant: Entrant
    cell: Cell
    estimate: Estimate | None
    difference: Difference | None
    """From the baseline; None for itself and where they cannot be compared."""
    standing: str
    """``best``, ``not told from best`` or nothing."""
    remarks: tuple[str, ...]
    """What a reader must know: incomplete, not comparable."""
    comparable: bool
    cost: dict[str, Any] = field(default_factory=dict)
    """Columns of ``crosstok.results.tables.frame.comparison_frame`` that say what it took."""

    @property
    def ranked(self) -> bool:
        """Whether it has a score that may be ranked and averaged: comparable and complete."""
        scored = self.estimate is not None and not np.isnan(self.estimate.value)
        return scored and self.comparable and is_complete(self.cell)


@dataclass(frozen=True)
class Column:
    """A task of the board with the places on it, by name of the entrant."""

    task: Task
    headline: Headline
    places: dict[str, Place]


@dataclass(frozen=True)
class Board:
    """What a leaderboard shows."""

    runs: tuple[Run, ...]
    baseline: str
    entrants: tuple[Entrant, ...]
    columns: tuple[Column, ...]

    @functools.cached_property
    def means(self) -> list[Mean]:
        """Means over tasks of one metric, of the entrants that have all of them complete and comparable."""
        by_name = {column.task.name: column for column in self.columns}
        found = []
        for headline, names in groups({name: column.headline for name, column in by_name.items()}).items():
            places = {one.name: [by_name[name].places.get(one.name) for name in names] for one in self.entrants}
            of_model = {
                name: mean_of([place.estimate for place in known if place and place.estimate])
                for name, known in places.items()
                if all(place and place.ranked for place in known)
            }
            if of_model:
                found.append(Mean(headline, names, of_model, {}))
        return found


def board(store: Store, runs: Sequence[str] = (), baseline: str | None = None) -> Board:
    """Return the board of the named runs (default: all); the baseline is by default the first model of the latest.

    Raises:
        UserError: a run or the baseline is unknown, or nothing was measured.

    """
    chosen = [store.run(name) for name in runs] if runs else store.runs()
    entrants = _entrants(store, chosen)
    if not entrants:
        raise UserError(f"The store {store.name} holds no result.", hint="Start with `crosstok run SUITE`.")
    names = [entrant.name for entrant in entrants]
    if baseline is not None and baseline not in names:
        raise unknown_name("model", baseline, names)
    first = next(entrant for entrant in entrants if baseline in (None, entrant.name))
    against = contrast([(first.side, other.side) for other in entrants if other is not first])
    by_place = {(one.model.name, one.task): one for one in against}
    costs = _costs(store, chosen)
    tasks = list(dict.fromkeys(task for entrant in entrants for task in entrant.side.cells))
    return Board(
        tuple(chosen),
        first.name,
        tuple(entrants),
        tuple(_column(task, first, entrants, by_place, costs) for task in tasks),
    )


def _entrants(store: Store, runs: Sequence[Run]) -> list[Entrant]:
    found: dict[str, Entrant] = {}
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
                found[fingerprint] = replace(known, side=merged, model=known.model or models.get(name))
                continue
            shown = name if name not in taken else f"{name} ({run.id})"
            taken.add(shown)
            found[fingerprint] = Entrant(shown, replace(one, name=shown), models.get(name), fingerprint)
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
    baseline: Entrant,
    entrants: Sequence[Entrant],
    against: dict[tuple[str, str], Contrast],
    costs: dict[str, dict[str, Any]],
) -> Column:
    measured = [entrant for entrant in entrants if task in entrant.side.cells]
    reference = baseline if baseline in measured else measured[0]
    record = reference.side.tasks[task]
    headline = Headline.of(record)
    places: dict[str, Place] = {}
    for entrant in measured:
        one = against.get((entrant.name, task))
        reasons, remark = _unlike(reference, entrant, task)
        answers = entrant.side.answers(task, headline.name)
        cell = entrant.side.cells[task]
        problem = entrant.side.problem(task).partition(": ")[2]
        remarks = [problem, f"not comparable with {reference.name}: {reasons}" if reasons else "", remark]
        places[entrant.name] = Place(
            entrant=entrant,
            cell=cell,
            estimate=answers.estimate(headline) if answers else None,
            difference=one.difference if one else None,
            standing="",
            remarks=tuple(text for text in remarks if text),
            comparable=not reasons,
            cost=_with_flops(costs.get(cell.fingerprint, {}), entrant.model),
        )
    return Column(record, headline, _with_standings(task, headline, places))


def _with_flops(cost: dict[str, Any], model: Model | None) -> dict[str, Any]:
    per_token = cost.get("bytes_per_token")
    return {**cost, "flops_per_byte": flops_per_byte(model.compute, per_token) if model else None}


def _unlike(reference: Entrant, entrant: Entrant, task: str) -> tuple[str, str]:
    if entrant is reference:
        return "", ""
    return mismatch(reference.side.measurement(task), entrant.side.measurement(task))


def _with_standings(task: str, headline: Headline, places: dict[str, Place]) -> dict[str, Place]:
    """Mark the best of the comparable places, and those that are not told from it (Holm over the task)."""
    sign = 1 if headline.higher_is_better else -1
    rivals = {
        name: sign * place.estimate.value
        for name, place in places.items()
        if place.comparable and place.estimate and not np.isnan(place.estimate.value)
    }
    if len(set(rivals.values())) < 2:
        return places
    best = max(rivals, key=lambda name: rivals[name])
    top = places[best].entrant.side.answers(task, headline.name)
    p_values: dict[str, float] = {}
    for name, value in rivals.items():
        answers = places[name].entrant.side.answers(task, headline.name)
        if top and answers and value < rivals[best]:
            p_values[name] = top.difference(answers).p
    tied = {
        name
        for name, p in zip(p_values, statistics.holm(list(p_values.values())), strict=True)
        if p >= SIGNIFICANT
    }  # fmt: skip
    standing = {name: "best" if rivals[name] == rivals[best] else "" for name in rivals}
    standing |= dict.fromkeys(tied, "not told from best")
    return {name: replace(place, standing=standing.get(name, "")) for name, place in places.items()}
