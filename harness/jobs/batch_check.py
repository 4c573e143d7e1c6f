"""Check that greedy answers do not depend on the batch size.

In float32 they should not. In bfloat16 they do in every engine: another batch size selects other kernels, rounding
differs in the last bit, and a near tie between the two most probable tokens flips. The report gives the number of equal
answers, the position of each difference, and the gap between the two tokens there; a gap of whole logits is a defect
and not rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from crosstok.errors import UserError
from crosstok.harness.generation.answers import Generation
from crosstok.harness.generation.generator import Generator
from crosstok.harness.generation.prompts import encode_prompt
from crosstok.harness.jobs.run import pick_device
from crosstok.harness.jobs.students import Students
from crosstok.harness.measure.pending_requests import cell_requests, pending_requests
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.planned import Plan
from crosstok.harness.plan.suite import Suite
from crosstok.progress import Advance, ProgressCallback, Reporter
from crosstok.tasks.task import Generate, Sampling

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

_SECONDS_PER_ANSWER = 1.0  # initial estimate for progress


@dataclass(frozen=True, slots=True)
class Difference:
    """One answer that differs."""

    index: int
    """Index of the request."""
    byte: int
    """Offset of the first differing byte."""
    token: int
    """Position of the first differing token id."""
    gap: float
    """Difference between the two largest logits there, at batch size 1."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Comparison of greedy answers at batch size 1 and at batch size ``rows``."""

    rows: int
    dtype: str
    answers: int
    """Number of requests whose prompts the tokenizer can encode."""
    equal: int
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        lines = [f"{self.equal} of {self.answers} answers are equal at batch 1 and batch {self.rows} ({self.dtype})."]
        lines += [
            f"Answer {each.index} differs from byte {each.byte} on (token {each.token}, top-2 gap {each.gap:.4g})."
            for each in self.differences
        ]
        return "\n".join(lines)


def batch_reports(
    suite: Suite, rows: int, *, progress: ProgressCallback | None = None, data: Path | None = None
) -> Iterator[tuple[str, BatchReport]]:
    """Check every model of ``suite`` on every task; yield a title and a report for each.

    Students that do not exist are made; nothing is stored.

    Raises:
        UserError: before any model is loaded: ``rows`` is less than 2, a model is behind a server, which decides on its
            own batches, or a task does not generate answers.

    """
    if rows < 2:
        raise UserError(
            f"The batch size to compare with is {rows}; it must be at least 2.", hint="Write --check-batch 8."
        )
    plan = make_plan(suite, data=data)
    _require_checkable(plan)
    with Reporter(progress) as reporter:
        students = Students(plan, reporter, data, pick_device(suite.device))
        for name in plan.models:
            checkpoint = students.load(name)
            for cell in plan.cells_of(name):
                requests = [one.request for one in pending_requests(cell_requests(cell))]
                title = f"{name} on {cell.task.name}"
                with reporter.stage(title, 2 * len(requests), 2 * _SECONDS_PER_ANSWER * len(requests)) as advance:
                    report = check_batch(checkpoint, requests, rows, advance=advance)
                yield title, report


def _require_checkable(plan: Plan) -> None:
    for model in plan.models.values():
        if model.served is not None:
            raise UserError(
                f"The model {model.name!r} is behind a server, which decides on its own batches.",
                hint="Load the model from its weights.",
            )
    for task in plan.tasks:
        if Generate not in task.request_types:
            raise UserError(
                f"The task {task.name!r} does not generate answers.",
                hint="Name a task that does, such as humaneval or gsm8k.",
            )


def check_batch(
    checkpoint: "Checkpoint",
    requests: Sequence[Generate],
    rows: int,
    *,
    max_tokens: int | None = None,
    advance: Advance = lambda _amount, _state: None,
) -> BatchReport:
    """Generate greedy answers to ``requests`` at batch size 1 and ``rows``, and compare them.

    Raises :class:`UserError` for what :class:`Generator` refuses.
    """
    asked = [replace(request, sampling=Sampling(), seeds=(0,)) for request in requests]

    def answers(many: int) -> dict[int, Generation]:
        found = {}
        for answer in Generator(checkpoint, max_batch_rows=many, max_tokens=max_tokens).generate(asked):
            advance(1, f"batch {many}")
            if answer.stop_reason != "refused":
                found[answer.index] = answer
        return found

    alone, together = answers(1), answers(rows)
    differences = tuple(
        _difference(checkpoint, asked[index], alone[index], together[index])
        for index in sorted(alone)
        if alone[index].ids != together[index].ids
    )
    dtype = str(checkpoint.model.dtype).removeprefix("torch.")
    return BatchReport(rows, dtype, len(alone), len(alone) - len(differences), differences)


def _difference(checkpoint: "Checkpoint", request: Generate, left: Generation, right: Generation) -> Difference:
    token = _first_difference(left.ids, right.ids)
    gap = _gap(checkpoint, [*encode_prompt(checkpoint, request).ids, *left.ids[:token]])
    return Difference(left.index, _first_difference(left.data, right.data), token, gap)


def _first_difference(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(left), len(right)))


@torch.inference_mode()
def _gap(checkpoint: "Checkpoint", ids: list[int]) -> float:
    """Return the difference between the two largest logits after ``ids``."""
    inputs = torch.tensor([ids], device=checkpoint.model.device)
    logits = checkpoint.model(input_ids=inputs, use_cache=False).logits[0, -1, : checkpoint.valid_rows].float()
    first, second = logits.topk(2).values.tolist()
    return float(first - second)
