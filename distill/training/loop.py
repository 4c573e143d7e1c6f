"""The training loop: one student, one frozen teacher and a list of losses, run with accelerate.

The unit of work is the optimizer step. The windows of a step depend only on the step number. Losses are sums over all
micro-batches and processes, divided by the total count. A step therefore gives the same result however it is split into
micro-batches and processes. A killed run resumes from its last checkpoint and ends with bit-identical parameters, given
the same machine and number of processes.

The teacher reads all micro-batches of a step before the student reads the first one, because the divisors must be known
by then and the merging of chunks depends on the teacher. Only the readings that the losses declare are kept; for ALM
these are two numbers per token. If no loss needs a reading of the teacher, the teacher never runs. With a teacher cache
(``teacher_cache``), it reads each window once.
"""

import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from crosstok.distill.losses import AlignedBatch, Loss, LossTerm, ModelInfo, Outputs, Reader, Reading
from crosstok.distill.training import parameters
from crosstok.distill.training.balance import balance, gradients, last_layer
from crosstok.distill.training.checkpoints import TrainingCheckpoints
from crosstok.distill.training.log import append_log, cut_log
from crosstok.distill.training.options import TrainingSpec, learning_rate
from crosstok.distill.training.teacher_cache import SCORES, TOP, WindowTeacher, cache_name
from crosstok.distill.training.windows import Windows
from crosstok.errors import UserError
from crosstok.folders import cache_folder
from crosstok.progress import Advance

__all__ = ["LOG", "Model", "TrainingSpec", "Watch", "learning_rate", "train"]

log = logging.getLogger(__name__)

Watch = Callable[[int, nn.Module], None]
"""Called with the number of steps done and the network, which it must not modify."""

LOG = "training.jsonl"

_OF_LOGITS: frozenset[Reading] = frozenset({"gold", "boundary", "logits", "top", "rest"})


@dataclass(frozen=True)
class Model:
    """A network, its reader and its identity."""

    network: nn.Module
    reader: Reader
    fingerprint: str | None = None
    """Fingerprint of weights and tokenizer. A teacher without one is not cached."""


def train(
    student: Model,
    teacher: Model,
    windows: Windows,
    losses: Sequence[Loss],
    spec: TrainingSpec,
    *,
    folder: Path,
    device: str = "auto",
    progress: Advance | None = None,
    new_from: int | None = None,
    watch: Watch | None = None,
) -> None:
    """Train ``student`` in place.

    Args:
        student: The model to train.
        teacher: The frozen model to distill from; it runs only if a loss needs it.
        windows: Training windows of the corpus.
        losses: The losses to add; see ``TrainingSpec.balance`` for their weights.
        spec: Training options.
        folder: Holds the log and the checkpoint from which a restart continues.
        device: ``cpu``, or ``auto`` for the device that accelerate selects.
        progress: Called after each step.
        new_from: First id of the rows to train with ``train: new_rows`` (see ``expansion.new_rows``).
        watch: Called on the main process before the first step and after every step.

    With LoRA, the student's frozen weights may share memory with the teacher's (``lora.share``); merging the adapters
    at the end gives the student weights of its own.

    Raises:
        UserError: If a loss or gradient is not finite (the batch is saved to ``folder`` first), if a loss finds nothing
            to score in the first step, or if a checkpoint cannot be saved (the previous one remains).
    """
    run = _Run(student, teacher, windows, losses, spec, folder=folder, device=device, new_from=new_from)
    start = run.restore()
    if progress and start:
        progress(start, f"resumed at step {start}")
    if watch and not start and run.accelerator.is_main_process:
        watch(0, run.student)
    for step in range(start, spec.steps):
        line = run.step(step)
        run.record(line)
        if watch and run.accelerator.is_main_process:
            watch(step + 1, run.student)
        if progress:
            progress(1, _describe(line, run.seconds_left(step)))
        if (step + 1) % spec.save_every == 0 and step + 1 < spec.steps:
            run.checkpoints.save(step + 1)
    run.accelerator.wait_for_everyone()
    run.finish()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        student: Model,
        teacher: Model,
        windows: Windows,
        losses: Sequence[Loss],
        spec: TrainingSpec,
        *,
        folder: Path,
        device: str,
        new_from: int | None = None,
    ) -> None:
        self.spec, self.windows, self.losses, self.folder = spec, windows, losses, folder
        self.reader, self.teacher = student.reader, teacher
        self.of_student = _union(loss.of_student for loss in losses)
        self.of_teacher = _union(loss.of_teacher for loss in losses)
        torch.manual_seed(spec.seed)
        self.accelerator = Accelerator(mixed_precision="no", cpu=device == "cpu")
        self.device = self.accelerator.device
        self.student = student.network.to(self.device).train()
        parameters.prepare(self.student, spec, new_from)
        self._prepare(student, teacher)
        groups = [*parameters.groups(self.student, spec), *self._learned_groups()]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=spec.weight_decay)
        self.balance = balance(spec.balance, [loss.weight for loss in losses])
        self.accelerator.register_for_checkpointing(self.balance)
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.network, self.optimizer = self.accelerator.prepare(self.student, optimizer)
        self.checkpoints = TrainingCheckpoints(self.accelerator, folder)
        self.by_window: WindowTeacher | None = None
        if self.of_teacher:
            teacher.network.to(self.device).eval()
            trained = {id(parameter) for parameter in self.trained}
            for parameter in teacher.network.parameters():
                parameter.requires_grad = parameter.requires_grad and id(parameter) in trained
            self._prepare_teacher()
        self.seconds_before = 0.0
        self.began = time.monotonic()
        self.first_step = 0

    def _prepare_teacher(self) -> None:
        """Choose how the teacher is read: window by window if every required reading is defined per token."""
        reader = self.teacher.reader.with_top(max(loss.teacher_top for loss in self.losses))
        self.teacher = dataclasses.replace(self.teacher, reader=reader)
        if not self.of_teacher <= SCORES | TOP:
            if self.spec.teacher_cache:
                log.warning("teacher_cache is ignored: the losses need readings that cannot be cached")
            return
        folder = None
        if self.spec.teacher_cache and self.teacher.fingerprint is not None:
            tokens = self.windows.teacher.tokens.fingerprint
            about = (self.teacher.fingerprint, tokens, reader.valid_rows, self.spec.precision, self.device.type)
            folder = cache_folder() / "teacher" / cache_name(*about)
            log.info("teacher outputs are cached in %s", folder)
        self.by_window = WindowTeacher(
            self.teacher.network, reader, self.of_teacher, precision=self._autocast, folder=folder
        )

    def _prepare(self, student: Model, teacher: Model) -> None:
        """Call ``prepare`` of every loss; learned parameters are drawn from the seed, so all processes agree."""
        for loss in self.losses:
            if self.spec.pack and not loss.packs:
                raise UserError(
                    f"The loss {loss.name} cannot be used with packing: it needs one window per row.",
                    hint="Set pack: false.",
                )
            loss.prepare(
                ModelInfo(self.windows.student.tokens, student.reader.valid_rows, student.network),
                ModelInfo(self.windows.teacher.tokens, teacher.reader.valid_rows, teacher.network),
            )
            if loss.learned is not None:
                self.accelerator.register_for_checkpointing(loss.learned.to(self.device).train())

    def _learned_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups for the parameters that losses learn."""
        return [
            {"params": list(loss.learned.parameters()), "peak": loss.learned_lr}
            for loss in self.losses
            if loss.learned is not None
        ]

    # Steps

    def step(self, step: int) -> dict[str, Any]:
        """Run optimizer step ``step`` and return its log line."""
        found = self.by_window.found_windows if self.by_window else 0
        factor = learning_rate(step, self.spec)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        refused = self.windows.refused
        batches = [batch.to(self.device) for batch in self._micro_batches(step)]
        taught = [self._read_teacher(batch) for batch in batches]
        own_counts = [
            [loss.count(batch, out) for loss in self.losses] for batch, out in zip(batches, taught, strict=True)
        ]
        counts = self._total([sum(column) for column in zip(*own_counts, strict=True)])
        self._require_something(step, counts)
        weights = self._weights(batches, taught, counts)

        sums = [0.0] * len(self.losses)
        ratios: dict[str, list[float]] = {}
        for index, (batch, out) in enumerate(zip(batches, taught, strict=True)):
            last = index + 1 == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                terms = self._terms(self.network, batch, out)
                weighted = [
                    term.sum * (weight / max(count, 1.0))
                    for term, weight, count in zip(terms, weights, counts, strict=True)
                ]
                if self.accelerator.num_processes > 1 and (
                    not self.of_student & _OF_LOGITS or self.spec.train == "new_rows"
                ):
                    # DDP waits for a gradient of every parameter, including those that this batch does not use.
                    weighted += [parameter.flatten()[:0].sum() for parameter in self.trained]
                # DDP averages gradients over processes, but the divisors are already totals over processes.
                self.accelerator.backward(torch.stack(weighted).sum() * self.accelerator.num_processes)
            for position, (term, loss) in enumerate(zip(terms, self.losses, strict=True)):
                sums[position] += float(term.sum.detach())
                for name, (numerator, denominator) in term.metrics.items():
                    pair = ratios.setdefault(f"{loss.name}.{name}", [0.0, 0.0])
                    pair[0], pair[1] = pair[0] + numerator, pair[1] + denominator
        self._share_learned_gradients()
        norm = float(self.accelerator.clip_grad_norm_(self.trained, self.spec.clip))
        totals = self._total(sums)
        self._require_finite(step, totals, norm, batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        names = sorted(ratios)
        reduced = self._total([value for name in names for value in ratios[name]])
        read = float(sum(int(batch.student.lengths.sum()) for batch in batches))
        found = self.by_window.found_windows - found if self.by_window else 0
        extras = self._total([read, float(self.windows.refused - refused), float(found)])
        return {
            "step": step + 1,
            "loss": {
                loss.name: total / max(count, 1.0)
                for loss, total, count in zip(self.losses, totals, counts, strict=True)
            },
            "count": {loss.name: count for loss, count in zip(self.losses, counts, strict=True)},
            "weight": {loss.name: weight for loss, weight in zip(self.losses, weights, strict=True)},
            "metrics": {name: reduced[2 * i] / max(reduced[2 * i + 1], 1.0) for i, name in enumerate(names)},
            "lr": factor * self.spec.lr,
            "grad_norm": norm,
            "bytes": int(extras[0]),
            "refused_windows": int(extras[1]),
            "cached_windows": int(extras[2]),
            "seconds": round(self.seconds, 3),
        }

    def _micro_batches(self, step: int) -> list[AlignedBatch]:
        """Return this process's share of the step, the same number of micro-batches for all; some may be empty."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        share = -(-self.spec.batch // world)
        size = min(self.spec.micro_batch or share, share)
        mine = self.windows.at_step(step, self.spec.batch)[rank::world]
        return [self.windows.batch(mine[first : first + size]) for first in range(0, share, size)]

    def _read_teacher(self, batch: AlignedBatch) -> Outputs:
        if self.by_window is not None:
            return self.by_window.read(batch.teacher)
        with torch.no_grad(), self._autocast():
            return self.teacher.reader.read(self.teacher.network, batch.teacher, self.of_teacher)

    def _terms(self, network: nn.Module, batch: AlignedBatch, taught: Outputs) -> list[LossTerm]:
        """Return the terms of all losses for one micro-batch, with gradients."""
        with self._autocast():
            read = self.reader.read(network, batch.student, self.of_student)
        return [loss(batch, read, taught) for loss in self.losses]

    def _weights(
        self, batches: Sequence[AlignedBatch], taught: Sequence[Outputs], counts: Sequence[float]
    ) -> list[float]:
        """Return the weights of the losses; strategies that need gradients get those of the whole step."""
        if not self.balance.measures:
            return self.balance.weights([], [])
        layer = last_layer(self.student)
        size = sum(parameter.numel() for parameter in layer)
        vectors = [torch.zeros(size, device=self.device) for _ in self.losses]
        values = [0.0] * len(self.losses)
        with torch.random.fork_rng():  # so that the training pass draws the same dropout
            for batch, out in zip(batches, taught, strict=True):
                terms = self._terms(self.student, batch, out)
                means = [term.sum / max(count, 1.0) for term, count in zip(terms, counts, strict=True)]
                for place, vector in enumerate(gradients(means, layer)):
                    vectors[place] += vector
                    values[place] += float(means[place].detach())
        if self.accelerator.num_processes > 1:
            vectors = [self.accelerator.reduce(vector, "sum") for vector in vectors]
        return self.balance.weights([float(vector.norm()) for vector in vectors], self._total(values))

    def _share_learned_gradients(self) -> None:
        """Average the gradients of the losses' learned parameters over processes, as is done for the student's."""
        if self.accelerator.num_processes == 1:
            return
        for group in self._learned_groups():
            for parameter in group["params"]:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(own, "mean")

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16")

    def _total(self, values: Sequence[float]) -> list[float]:
        """Sum ``values`` over all processes."""
        if self.accelerator.num_processes == 1:
            return list(values)
        added: Tensor = self.accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum")
        return [float(value) for value in added]

    # Failures

    def _require_something(self, step: int, counts: Sequence[float]) -> None:
        if step == 0 and not all(counts):
            idle = ", ".join(loss.name for loss, count in zip(self.losses, counts, strict=True) if not count)
            raise UserError(
                f"The first training step has nothing to score for the loss {idle}.",
                hint="Increase window_bytes or batch, or use a longer corpus.",
            )

    def _require_finite(self, step: int, sums: Sequence[float], norm: float, batches: Sequence[AlignedBatch]) -> None:
        if all(map(math.isfinite, [*sums, norm])):
            return
        path = self.folder / f"failed-step-{step + 1}-process-{self.accelerator.process_index}.json"
        rows = [
            {"text": text, "teacher": batch.teacher.ids[row].tolist(), "student": batch.student.ids[row].tolist()}
            for batch in batches
            for row, text in enumerate(batch.texts)
        ]
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
        values = ", ".join(f"{loss.name} {value:g}" for loss, value in zip(self.losses, sums, strict=True))
        raise UserError(
            f"Training stopped at step {step + 1}: {values}, gradient norm {norm:g}; the batch was saved to {path}.",
            hint="Decrease lr, increase warmup, or use precision: float32.",
        )

    # Log and resumption

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including the earlier parts of a resumed run."""
        return self.seconds_before + time.monotonic() - self.began

    def seconds_left(self, step: int) -> float:
        """Return an estimate of the remaining seconds after ``step``, from the speed of this process."""
        pace = (time.monotonic() - self.began) / (step + 1 - self.first_step)
        return pace * (self.spec.steps - step - 1)

    def record(self, line: dict[str, Any]) -> None:
        """Append a line to the log."""
        if self.accelerator.is_main_process:
            append_log(self.folder / LOG, line)

    def restore(self) -> int:
        """Load the last checkpoint, if there is one, and return its number of steps."""
        self.first_step = self.checkpoints.load()
        if self.first_step:
            log.info("training resumes at step %d", self.first_step)
        if self.accelerator.is_main_process:
            kept = cut_log(self.folder / LOG, self.first_step)
            self.seconds_before = kept[-1]["seconds"] if kept else 0.0
        self.accelerator.wait_for_everyone()
        return self.first_step

    def finish(self) -> None:
        """Restore the student to a plain model: merge adapters and remove accelerate's state."""
        self.student.eval()
        self.accelerator.free_memory()
        if self.by_window is not None:
            self.by_window.close()
        parameters.finish(self.student, self.spec)


def _union(needs: Iterator[frozenset[Reading]] | Any) -> frozenset[Reading]:
    return frozenset().union(*needs)


def _describe(line: dict[str, Any], left: float) -> str:
    losses = ", ".join(f"{name} {value:.4g}" for name, value in line["loss"].items())
    minutes, seconds = divmod(round(left), 60)
    return f"{losses}, {line['bytes'] / 1000:.1f} kB/step, {minutes}:{seconds:02d} left"
