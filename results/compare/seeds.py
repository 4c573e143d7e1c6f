"""Methods over several seeds: one row per method, with an interval over seeds and documents.

A suite with several seeds trains every student once per seed. All of them answer the same documents, so seeds and
documents are crossed random factors. The scores of a method form a table of seeds by documents, and the variance of its
mean has a component from each factor. Each component is estimated by resampling that factor alone; their interaction,
contained in both, is subtracted once, as in a two-way analysis of variance. The interval is Student's t with the
degrees of freedom of Welch and Satterthwaite, because three seeds say little about their spread.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from crosstok.results.compare import statistics
from crosstok.results.compare.answers import Headline
from crosstok.results.compare.comparability import mismatch
from crosstok.results.compare.contrast import Side, sides
from crosstok.results.compare.statistics import LEVEL, SIGNIFICANT, Difference, Estimate, Floats
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store

METHOD = "bootstrap over seeds and documents"


@dataclass(frozen=True)
class Repeats:
    """Scores of a method on a task: rows are seeds, columns are documents."""

    value: Floats
    """Shape [S, n]."""
    weight: Floats
    """Shape [S, n]."""

    @property
    def rate(self) -> float:
        """Metric over all seeds."""
        return float(self.value.sum() / self.weight.sum())

    @property
    def by_seed(self) -> Floats:
        """Metric of each seed, shape [S]."""
        found: Floats = self.value.sum(axis=1) / self.weight.sum(axis=1)
        return found

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the documents."""
        return statistics.freedom(self.weight.sum(axis=0))

    def seed_variance(self) -> float:
        """Return the variance of the metric due to the choice of seeds."""
        seeds = len(self.value)
        sums = statistics.resampled_sums(np.column_stack([self.value.sum(axis=1), self.weight.sum(axis=1)]))
        return float(np.var(sums[:, 0] / sums[:, 1])) * seeds / (seeds - 1)

    def interaction(self) -> float:
        """Return the interaction variance, which both components contain."""
        seeds, documents = self.value.shape
        influence = (self.value - self.rate * self.weight) * self.value.size / self.weight.sum()
        rest = influence - influence.mean(axis=0) - influence.mean(axis=1, keepdims=True) + influence.mean()
        return float((rest**2).sum() / ((seeds - 1) * (documents - 1) * self.value.size))

    def totals(self) -> Floats:
        """Return value and weight of each document over all seeds, shape [n, 2]."""
        return np.column_stack([self.value.sum(axis=0), self.weight.sum(axis=0)])


def estimate(repeats: Repeats, level: float = LEVEL) -> Estimate:
    """Return the metric of a method with an interval over seeds and documents; with one seed, over documents only."""
    seeds, documents = repeats.value.shape
    if seeds < 2 or documents < 2:
        return statistics.ratio(repeats.value.sum(axis=0), repeats.weight.sum(axis=0), level)
    sums = statistics.resampled_sums(repeats.totals())
    by_document = float(np.var(sums[:, 0] / sums[:, 1])) * documents / (documents - 1)
    error, freedom = _combined(
        [(by_document, repeats.freedom), (repeats.seed_variance(), seeds - 1)], by_document, repeats.interaction()
    )
    half = float(special.stdtrit(freedom, 0.5 + level / 2)) * error if error else 0.0
    return Estimate(repeats.rate, repeats.rate - half, repeats.rate + half, documents, METHOD)


def difference(first: Repeats, second: Repeats, level: float = LEVEL) -> Difference:
    """Return second minus first on the same documents; the seeds of the two are independent."""
    documents = first.value.shape[1]
    value = second.rate - first.rate
    if min(len(first.value), len(second.value)) < 2 or documents < 2:
        columns = [part.sum(axis=0) for part in (first.value, first.weight, second.value, second.weight)]
        return statistics.paired_ratios((columns[0], columns[1]), (columns[2], columns[3]), level)
    sums = statistics.resampled_sums(np.hstack([first.totals(), second.totals()]))
    draws = sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1]
    by_document = float(np.var(draws)) * documents / (documents - 1)
    free = min(first.freedom, second.freedom)
    parts = [(by_document, free), *((one.seed_variance(), len(one.value) - 1) for one in (first, second))]
    error, freedom = _combined(parts, by_document, first.interaction() + second.interaction())
    if error <= 1e-12 * abs(first.rate):
        return Difference(value, value, value, float(abs(value) <= 1e-12 * abs(first.rate)), documents, 0.0, METHOD)
    half = float(special.stdtrit(freedom, 0.5 + level / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(value) / error))
    detectable = error * float(special.stdtrit(freedom, 0.5 + level / 2) + special.stdtrit(freedom, statistics.POWER))
    return Difference(value, value - half, value + half, p, documents, detectable, METHOD)


def _combined(parts: Sequence[tuple[float, float]], by_document: float, twice: float) -> tuple[float, float]:
    """Return standard error and degrees of freedom of a sum of variances (Welch and Satterthwaite)."""
    by_seed = sum(variance for variance, _ in parts[1:])
    total = max(by_document + by_seed - twice, by_document, by_seed)
    if total <= 0:
        return 0.0, 1.0
    return math.sqrt(total), total**2 / sum(variance**2 / free for variance, free in parts if variance)


@dataclass(frozen=True)
class MethodRow:
    """Result of a method on a task."""

    method: str
    task: str
    headline: Headline
    seeds: tuple[int | None, ...]
    by_seed: tuple[float, ...]
    estimate: Estimate
    difference: Difference | None
    """Difference from the first method of the task; p is Holm-adjusted for all rows."""
    problems: str
    """What is incomplete or not comparable."""
    standing: str = ""
    """``best``, ``tied`` (not significantly different from the best) or empty."""


def method_rows(store: Store, run: Run) -> list[MethodRow]:
    """Return every method of ``run`` on every task, aggregated over seeds on the documents that all seeds have.

    A seed that was measured differently from the first row of its task is left out and named in ``problems``.
    """
    by_method: dict[str, list[Side]] = {}
    for side in sides(store, run).values():
        by_method.setdefault(side.model, []).append(side)
    rows = []
    for task, record in store.tasks(run.id).items():
        headline = Headline.of(record)
        measured = [side for group in by_method.values() for side in group if side.answers(task, headline.name)]
        scored = {side.name for side in measured}
        unlike = {
            side.name: f"{side.name}: not comparable with {measured[0].name}, left out: {reasons}"
            for side in measured
            if (reasons := mismatch(measured[0].measurement(task), side.measurement(task))[0])
        }
        known = {
            name: [side for side in group if side.name in scored and side.name not in unlike]
            for name, group in by_method.items()
        }
        known = {name: group for name, group in known.items() if group}
        baseline: tuple[list[str], Repeats] | None = None
        of_task: dict[str, tuple[list[str], Repeats]] = {}
        for name, group in known.items():
            documents, repeats = _repeats(group, task, headline.name)
            found = _against(baseline, (documents, repeats)) if baseline else None
            baseline = baseline or (documents, repeats)
            if not documents:
                continue
            of_task[name] = documents, repeats
            problems = "; ".join(
                problem
                for side in by_method[name]
                for problem in (side.problem(task), unlike.get(side.name))
                if problem
            )
            seeds = tuple(side.seed for side in group)
            values = tuple(float(value) for value in repeats.by_seed)
            rows.append(MethodRow(name, task, headline, seeds, values, estimate(repeats), found, problems))
        standings = _standings(of_task, headline)
        rows = [replace(row, standing=standings.get(row.method, "")) if row.task == task else row for row in rows]
    corrected = iter(statistics.holm([row.difference.p for row in rows if row.difference]).tolist())
    return [
        replace(row, difference=replace(row.difference, p=next(corrected))) if row.difference else row for row in rows
    ]


def _standings(known: Mapping[str, tuple[list[str], Repeats]], headline: Headline) -> dict[str, str]:
    """Return which methods are best and which are tied with it (Holm-adjusted over the task)."""
    sign = 1 if headline.higher_is_better else -1
    values = {name: sign * repeats.rate for name, (_, repeats) in known.items()}
    if len(set(values.values())) < 2:
        return {}
    best = max(values, key=lambda name: values[name])
    rest = {
        name: found.p
        for name in known
        if values[name] < values[best] and (found := _against(known[best], known[name]))
    }  # fmt: skip
    corrected = dict(zip(rest, statistics.holm(list(rest.values())).tolist(), strict=True))
    standings = {name: "tied" for name, p in corrected.items() if p >= SIGNIFICANT}
    return standings | {name: "best" for name, value in values.items() if value == values[best]}


def _repeats(group: Sequence[Side], task: str, metric: str) -> tuple[list[str], Repeats]:
    answers = [found for side in group if (found := side.answers(task, metric))]
    common = sorted(set.intersection(*(set(found.documents) for found in answers)))
    at = [{name: place for place, name in enumerate(found.documents)} for found in answers]
    places = [[of[name] for name in common] for of in at]
    value = np.array([found.value[place] for found, place in zip(answers, places, strict=True)])
    weight = np.array([found.weight[place] for found, place in zip(answers, places, strict=True)])
    return common, Repeats(value, weight)


def _against(baseline: tuple[list[str], Repeats], other: tuple[list[str], Repeats]) -> Difference | None:
    common = sorted({*baseline[0]} & {*other[0]})
    if not common:
        return None
    cut = []
    for documents, repeats in (baseline, other):
        of = {name: place for place, name in enumerate(documents)}
        place = [of[name] for name in common]
        cut.append(Repeats(repeats.value[:, place], repeats.weight[:, place]))
    return difference(cut[0], cut[1])
