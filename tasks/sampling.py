"""Several answers per document: how many, how they are drawn, and what is reported of them.

An answer is drawn from a seed of its own, so the first ten of twenty samples are the ten that a run of ten has. What is
stored is one score per sample; its mean is pass@1. pass@k for greater k is a number per document, unbiased, made when
all samples of the document are judged (``crosstok.results.compare.statistics.pass_at_k``).
"""

from typing import Any

from pydantic import Field, field_validator, model_validator

from crosstok.tasks.task import AnswerTask, CodeTask, Metric, Sampling, Task, TaskOptions


class SampledOptions(TaskOptions):
    """Options of every benchmark whose answers are generated."""

    n: int = Field(default=1, ge=1, le=10_000, description="Answers per document.")
    k: tuple[int, ...] = Field(default=(1,), min_length=1, description="Report pass@k for these; the first is shown.")
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the fewest tokens that reach this probability.")
    top_k: int = Field(default=0, ge=0, description="Keep so many most probable tokens; 0 keeps all.")

    @field_validator("k", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _adds_up(self) -> "SampledOptions":
        if min(self.k) < 1 or len(set(self.k)) < len(self.k):
            raise ValueError(f"k is {list(self.k)}; it must name different numbers from 1 on")
        if max(self.k) > self.n:
            raise ValueError(
                f"n is smaller than k: pass@{max(self.k)} needs at least {max(self.k)} answers, not {self.n}"
            )
        if self.n > 1 and not self.temperature:
            raise ValueError(f"{self.n} greedy answers would all be the same; set temperature, or leave out n")
        if not self.temperature and (self.top_p < 1 or self.top_k):
            raise ValueError("top_p and top_k change nothing without a temperature above 0")
        return self

    @property
    def sampling(self) -> Sampling:
        """How the next token is drawn."""
        return Sampling(self.temperature, self.top_p, self.top_k)


def sampling_of(task: Task) -> SampledOptions:
    """Return how the answers to ``task`` are drawn: one greedy answer where it has no say in it."""
    return task.options if isinstance(task.options, SampledOptions) else SampledOptions()


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """Return what is reported of ``task``, the headline first: its own metrics, and pass@k for the chosen k.

    A benchmark of programs is known by pass@k alone; one of answers keeps its own headline, the mean over samples.
    """
    if not isinstance(task, CodeTask | AnswerTask):
        return task.metrics
    chosen = tuple(Metric(pass_at(k), "fraction", higher_is_better=True) for k in sampling_of(task).k)
    if isinstance(task, CodeTask):
        return chosen
    return (*task.metrics, *(metric for metric in chosen if metric.name != pass_at(1)))


def pass_at(k: int) -> str:
    """Return the name of a metric."""
    return f"pass@{k}"
