"""Scores of a model on a task by document, with the estimates and paired differences that follow from them."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from crosstok.errors import unknown_name
from crosstok.results.compare import statistics
from crosstok.results.compare.statistics import Difference, Effect, Estimate, Floats
from crosstok.results.store.aggregates import DocumentScores
from crosstok.results.store.records import FRACTION, Task


@dataclass(frozen=True, slots=True)
class Headline:
    """Headline metric of a task."""

    name: str
    unit: str
    higher_is_better: bool

    @property
    def is_fraction(self) -> bool:
        """Whether it is a share between 0 and 1."""
        return self.unit == FRACTION

    @classmethod
    def of(cls, task: Task, name: str | None = None) -> "Headline":
        """Return the first metric of ``task``, or the one with this name.

        Raises:
            UserError: the task has no such metric.

        """
        found = {metric["name"]: metric for metric in task.metrics}
        if name is not None and name not in found:
            raise unknown_name(f"metric of {task.name}", name, found)
        chosen = found[name] if name else task.metrics[0]
        return cls(chosen["name"], chosen["unit"], chosen["higher_is_better"])


@dataclass(frozen=True, slots=True)
class Answers:
    """Scores of a model on a task by document; all arrays have shape [n] and are ordered by document."""

    documents: npt.NDArray[np.object_]
    value: Floats
    weight: Floats
    single: bool
    """Whether every document has one sample that passed or failed."""
    totals: Floats | None = None
    """Bootstrap sums of value and weight, shape [RESAMPLES, 2], if all models of the task share the draws."""

    def estimate(self, headline: Headline) -> Estimate:
        """Return the metric with its interval."""
        if not headline.is_fraction:
            return statistics.ratio(self.value, self.weight, totals=self.totals)
        if self.single:
            return statistics.fraction(self.value)
        found = statistics.ratio(self.value, self.weight, totals=self.totals)
        if found.low < found.high:
            return found
        # All documents have equal scores, so the bootstrap has no width; fall back to the interval for one sample each.
        low, high = statistics.wilson(found.value * found.n, found.n)
        return replace(found, low=float(low), high=float(high), method="Wilson")

    def effect(self, other: "Answers") -> Effect:
        """Return the effect size of ``other`` relative to self, on the documents that both have."""
        _, mine, theirs = np.intersect1d(self.documents, other.documents, assume_unique=True, return_indices=True)
        if self.single and other.single:
            return statistics.matched_odds(self.value[mine], other.value[theirs])
        return statistics.relative_change(
            (self.value[mine], self.weight[mine]), (other.value[theirs], other.weight[theirs])
        )

    def difference(self, other: "Answers") -> Difference:
        """Return ``other`` minus self on the documents that both have."""
        totals = None
        if self.documents is other.documents or np.array_equal(self.documents, other.documents):
            mine = theirs = np.arange(len(self.documents))
            if self.totals is not None and other.totals is not None:
                totals = np.hstack([self.totals, other.totals])
        else:
            _, mine, theirs = np.intersect1d(self.documents, other.documents, assume_unique=True, return_indices=True)
        if self.single and other.single:
            return statistics.paired_fractions(self.value[mine], other.value[theirs])
        first, second = (self.value[mine], self.weight[mine]), (other.value[theirs], other.weight[theirs])
        return statistics.paired_ratios(first, second, totals=totals)


def answers_of(scores: DocumentScores) -> Answers:
    """Return the answers of a cell from its stored scores."""
    value, weight = scores.value, scores.weight
    passed = ((value == 0) | (value == 1)) & (weight == 1) & (scores.scores == 1)
    return Answers(scores.document, value, weight, bool(passed.all()))
