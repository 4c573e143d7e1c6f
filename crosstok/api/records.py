"""Records that the public functions return: plain, immutable and typed, without torch or pandas."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crosstok.errors import unknown_name

Status = Literal["running", "complete", "partial", "failed"]


@dataclass(frozen=True, slots=True)
class TaskScore:
    """Score of one model on one task, by one metric."""

    model: str
    """Name of the model in tables."""
    method: str
    """Name of the model in the suite, the same for all seeds."""
    seed: int | None
    """Seed of a student that is made once per seed; None for any other model."""
    task: str
    """Name of the task in the tables."""
    metric: str
    """Such as ``pass@1``; the first metric of a task is its headline."""
    unit: str
    """``fraction`` (0 to 1), ``bits/byte``, ``nats`` or ``nats/word``."""
    higher_is_better: bool
    """Direction of the metric."""
    value: float
    """The score; NaN where nothing was measured."""
    low: float
    """Lower end of the 95 % interval; NaN where there are too few documents."""
    high: float
    """Upper end of the 95 % interval; NaN where there are too few documents."""
    n: int
    """Documents measured."""
    documents: int
    """Documents of the task."""
    status: Status
    """``complete`` where every document is measured and judged."""
    problem: str
    """Why the task is not complete; empty where it is."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """Outcome of :func:`crosstok.run` or :func:`crosstok.evaluate`."""

    run: str
    """Id of the run in the store: ``crosstok.table(result.run)`` shows it."""
    status: Status
    """``complete`` where every model is measured on every task."""
    seconds: float
    """Wall time of this call."""
    store: str
    """Path or address of the store, without password."""
    scores: tuple[TaskScore, ...]
    """Every metric of every model on every task, in the order of the suite."""

    @property
    def complete(self) -> bool:
        """Whether every model is measured on every task."""
        return self.status == "complete"

    def score(self, task: str | None = None, *, model: str | None = None, metric: str | None = None) -> TaskScore:
        """Return one score: the first that matches, by default the headline metric of the first task and model.

        Raises:
            UserError: no score has that task, model or metric.

        """
        found = self.scores
        wanted = {"task": task, "model": model, "metric": metric}
        for what, name in wanted.items():
            known = {getattr(score, what) for score in found}
            if name is not None and name not in known:
                raise unknown_name(f"{what} of run {self.run}", name, known)
            found = tuple(score for score in found if name in (None, getattr(score, what)))
        if not found:
            raise unknown_name("score of run", self.run, ())
        return found[0]


@dataclass(frozen=True, slots=True)
class Student:
    """A model that was made: a Hugging Face folder with a ``provenance.json``. Any function takes it as a source."""

    folder: Path
    """Where it is saved."""
    fingerprint: str
    """Of its weights, configuration and tokenizer: 16 hex digits."""
    provenance: Mapping[str, Any]
    """How it was made: content of ``provenance.json``, figures before and after training included."""

    def __fspath__(self) -> str:
        """Return the folder as a path."""
        return os.fspath(self.folder)

    def __str__(self) -> str:
        """Return the folder as a source."""
        return str(self.folder)


@dataclass(frozen=True, slots=True)
class ModelDifference:
    """Difference of one model from the baseline on one task, on the documents that both answered."""

    task: str
    metric: str
    unit: str
    """``fraction`` (0 to 1), ``bits/byte``, ``nats`` or ``nats/word``."""
    baseline: str
    baseline_run: str
    model: str
    model_run: str
    before: float
    """Score of the baseline; NaN where it was not measured."""
    after: float
    """Score of the model; NaN where it was not measured."""
    difference: float
    """Model minus baseline on common documents; NaN where the two cannot be compared."""
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    """Upper end of the 95 % interval of the difference."""
    p: float
    """Two-sided, Holm-adjusted over everything that one call compares; NaN where the two cannot be compared."""
    n: int
    """Common documents."""
    detectable: float
    """Minimum detectable effect: the smallest true difference that ``n`` documents show at p < 0.05 with power 0.8."""
    outcome: str
    """``better``, ``worse``, ``not significant``, or why the two cannot be compared."""
    remark: str
    """What else differs between the two measurements."""
