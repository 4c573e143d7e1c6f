"""Sampling options of generative benchmarks: number of answers per document, decoding parameters and pass@k.

Every answer has a seed of its own, so the first ten of twenty answers equal those of a run with ten. The store keeps
one score per answer, whose mean is pass@1. For larger k, pass@k is an unbiased estimate per document, computed once all
of its answers are judged (``crosstok.results.compare.statistics.pass_at_k``).
"""

from typing import Any

from pydantic import Field, field_validator, model_validator

from crosstok.tasks.task import PASS_AT_1, Metric, Sampling, Task, TaskOptions


class SampledOptions(TaskOptions):
    """Options of every generative benchmark."""

    n: int = Field(default=1, ge=1, le=10_000, description="Answers per document.")
    k: tuple[int, ...] = Field(default=(1,), min_length=1, description="Report pass@k for these k, the headline first.")
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the most probable tokens up to this mass.")
    top_k: int = Field(default=0, ge=0, description="Keep this many most probable tokens; 0 keeps all.")

    @field_validator("k", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _adds_up(self) -> "SampledOptions":
        if min(self.k) < 1 or len(set(self.k)) < len(self.k):
            raise ValueError(f"k is {list(self.k)}; give distinct numbers of at least 1")
        if max(self.k) > self.n:
            raise ValueError(
                f"n is smaller than k: pass@{max(self.k)} needs at least {max(self.k)} answers, not {self.n}"
            )
        if self.n > 1 and not self.temperature:
            raise ValueError(f"{self.n} greedy answers would all be equal; set temperature, or leave out n")
        if not self.temperature and (self.top_p < 1 or self.top_k):
            raise ValueError("top_p and top_k have no effect without a temperature above 0")
        return self

    @property
    def sampling(self) -> Sampling:
        """Decoding parameters."""
        return Sampling(self.temperature, self.top_p, self.top_k)


def sampling_of(task: Task) -> SampledOptions:
    """Return the sampling options of ``task``; one greedy answer if it has none."""
    return task.options if isinstance(task.options, SampledOptions) else SampledOptions()


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return the metrics to report for ``task``, the headline first: its own ones, and pass@k for the chosen k.

    A benchmark of programs reports pass@k alone. Any other keeps its own headline, the mean over all answers.
    """
    chosen = tuple(Metric(pass_at(k), "fraction", higher_is_better=True) for k in sampling_of(task).k)
    if task.needs_sandbox:
        return chosen
    return (*task.metrics, *(metric for metric in chosen if metric.name != PASS_AT_1.name))


def pass_at(k: int) -> str:
    """Return the name of the metric pass@k."""
    return f"pass@{k}"
