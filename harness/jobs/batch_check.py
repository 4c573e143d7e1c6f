"""Whether a model's greedy answers depend on how many rows run side by side, and by how little where they do.

In fp32 they should not. In bf16 they do for everybody: other batch sizes take other paths through the matrix products,
rounding differs in the last bit, and where the two most probable tokens all but tie, the answer turns. Nothing can be
done about it in bf16, so it is measured: how many answers are equal, where the others part, and how far apart the two
tokens were there (a gap of whole logits would be a defect, not rounding).
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

_SECONDS_PER_ANSWER = 1.0  # for the estimate of the time left; the bar corrects it


@dataclass(frozen=True, slots=True)
class Difference:
    """One answer that came out differently."""

    index: int
    """Position of the request."""
    byte: int
    """Offset in the answer of the first byte that differs."""
    token: int
    """Position of the first id that differs."""
    gap: float
    """Logits between the two most probable tokens there, when the row runs alone."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Greedy answers of one row at a time against ``rows`` at a time."""

    rows: int
    dtype: str
    answers: int
    """Requests whose prompts the tokenizer can write."""
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
    """Check every model of ``suite`` on every task; yield what was checked and its report.

    The models are made where they do not exist yet; nothing is stored. Raises :class:`UserError`, before any model is
    loaded, for fewer than two rows, for a model behind a server (its batches are its own) and for a task that asks for
    no answers.
    """
    if rows < 2:
        raise UserError(f"A batch of {rows} is no company.", hint="Compare with 2 rows or more.")
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
                f"The model {model.name!r} is behind a server, whose batches nobody outside decides.",
                hint="Check it from its weights.",
            )
    for task in plan.tasks:
        if Generate not in task.request_types:
            raise UserError(
                f"The task {task.name!r} asks for no answers whose batches could be compared.",
                hint="Name a task that generates, like humaneval or gsm8k.",
            )


def check_batch(
    checkpoint: "Checkpoint",
    requests: Sequence[Generate],
    rows: int,
    *,
    max_tokens: int | None = None,
    advance: Advance = lambda _amount, _state: None,
) -> BatchReport:
    """Answer ``requests`` greedily one at a time and ``rows`` at a time, and compare; see :class:`BatchReport`.

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
    """Return the distance of the two largest logits behind ``ids``."""
    inputs = torch.tensor([ids], device=checkpoint.model.device)
    logits = checkpoint.model(input_ids=inputs, use_cache=False).logits[0, -1, : checkpoint.valid_rows].float()
    first, second = logits.topk(2).values.tolist()
    return float(first - second)
