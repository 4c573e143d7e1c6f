"""The training loop: a student, a frozen teacher, a list of losses, through accelerate.

The unit of everything is the optimizer step. Its windows are a function of its number; its losses are sums divided by
counts taken over all micro-batches and processes; so the step is the same however it is cut into micro-batches and
spread over processes, and a run that is killed continues from its last saved state to the parameters, bit for bit, of
one that was not (same machine, same number of processes).

The teacher reads all micro-batches of a step before the student reads the first one, because the divisors must be known
by then and merging chunks depends on the teacher. What is kept of it is what the losses ask for, for ALM two numbers
per token. If no loss asks for anything, it never runs; where a cache of these numbers is kept (``teacher_cache``), it
runs once per window and never again.
"""

import dataclasses
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from crosstok.distill.expansion.new_rows import restore, train_new_rows, trained_rows
from crosstok.distill.losses import AlignedBatch, Loss, LossTerm, ModelInfo, Outputs, Reader, Reading
from crosstok.distill.models.lora import adapter_weights, attach, embedding_matrices, merge
from crosstok.distill.training.balance import balance, gradients, last_layer
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
"""Called with the steps done and the network, which it must leave as it is."""

LOG = "training.jsonl"

_OF_LOGITS: frozenset[Reading] = frozenset({"gold", "boundary", "logits", "top", "rest"})


@dataclass(frozen=True)
class Model:
    """A model and how it is read."""

    network: nn.Module
    reader: Reader
    fingerprint: str | None = None
    """Of its weights and tokenizer; a teacher without one is not cached."""


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
    """Train ``student`` in place; ``folder`` keeps the log and the state from which a restart continues.

    ``new_from`` is the first id of the rows that ``train: new_rows`` is about (see ``expansion.new_rows``). ``watch``
    is shown the network before the first step and after every one, in the main process. With LoRA the student's frozen
    weights may be the teacher's tensors (``adapters.share``); it gets weights of its own when the adapters are merged
    at the end. Raises UserError if a loss stops being a number (the batch is saved in ``folder`` first), if nothing of
    the first step can be scored, and if a state cannot be saved (the last one stays).
    """
    run = _Run(student, teacher, windows, losses, spec, folder=folder, device=device, new_from=new_from)
    start = run.restore()
    if progress and start:
        progress(start, f"continued at step {start}")
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
            run.save(step + 1)
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
        if spec.train == "lora":
            attach(self.student, spec.lora_rank, spec.lora_alpha or spec.lora_rank)
        if spec.train == "new_rows":
            if new_from is None:
                raise ValueError("train is new_rows, but nobody says which rows are new")
            train_new_rows(self.student, new_from)
        if spec.gradient_checkpointing:
            _checkpoint_activations(self.student, on=True)
        self._prepare(student, teacher)
        groups = [*_groups(self.student, spec), *self._learned_groups()]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=spec.weight_decay)
        self.balance = balance(spec.balance, [loss.weight for loss in losses])
        self.accelerator.register_for_checkpointing(self.balance)
        self.trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.network, self.optimizer = self.accelerator.prepare(self.student, optimizer)
        self.by_window: WindowTeacher | None = None
        if self.of_teacher:
            teacher.network.to(self.device).eval()
            trained = {id(parameter) for parameter in self.trained}
            for parameter in teacher.network.parameters():
                parameter.requires_grad = parameter.requires_grad and id(parameter) in trained
            self._meet_teacher()
        self.seconds_before = 0.0
        self.began = time.monotonic()
        self.first_step = 0

    def _meet_teacher(self) -> None:
        """Decide how the teacher is read: by the window where all that is asked of it is known per token."""
        reader = self.teacher.reader.telling_apart(max(loss.teacher_top for loss in self.losses))
        self.teacher = dataclasses.replace(self.teacher, reader=reader)
        if not self.of_teacher <= SCORES | TOP:
            if self.spec.teacher_cache:
                log.warning("the losses ask the teacher for more than the cache keeps: it is read at every step")
            return
        folder = None
        if self.spec.teacher_cache and self.teacher.fingerprint is not None:
            tokens = self.windows.teacher.tokens.fingerprint
            about = (self.teacher.fingerprint, tokens, reader.valid_rows, self.spec.precision, self.device.type)
            folder = cache_folder() / "teacher" / cache_name(*about)
            log.info("what the teacher says is kept in %s", folder)
        self.by_window = WindowTeacher(
            self.teacher.network, reader, self.of_teacher, precision=self._autocast, folder=folder
        )

    def _prepare(self, student: Model, teacher: Model) -> None:
        """Let the losses see both models; what they learn is drawn from the seed, equally in every process."""
        for loss in self.losses:
            if self.spec.pack and not loss.packs:
                raise UserError(
                    f"The loss {loss.name} reads a whole row at once, so windows cannot share one.",
                    hint="Leave pack out.",
                )
            loss.prepare(
                ModelInfo(self.windows.student.tokens, student.reader.valid_rows, student.network),
                ModelInfo(self.windows.teacher.tokens, teacher.reader.valid_rows, teacher.network),
            )
            if loss.learned is not None:
                self.accelerator.register_for_checkpointing(loss.learned.to(self.device).train())

    def _learned_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups for what the losses learn."""
        return [
            {"params": list(loss.learned.parameters()), "peak": loss.learned_lr}
            for loss in self.losses
            if loss.learned is not None
        ]

    # One step.

    def step(self, step: int) -> dict[str, Any]:
        """Do optimizer step ``step`` and return its line of the log."""
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
                    # Processes wait for a gradient of every parameter, also of those that this part does not depend on.
                    weighted += [parameter.flatten()[:0].sum() for parameter in self.trained]
                # Gradients are averaged over processes, while the divisors are already those of all of them.
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
        """Return this process's part of the step; every process has equally many micro-batches, some maybe empty."""
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
        """Return every loss of one micro-batch, with gradient."""
        with self._autocast():
            read = self.reader.read(network, batch.student, self.of_student)
        return [loss(batch, read, taught) for loss in self.losses]

    def _weights(
        self, batches: Sequence[AlignedBatch], taught: Sequence[Outputs], counts: Sequence[float]
    ) -> list[float]:
        """Return the weights of the losses; where they depend on gradients, from a pass over the whole step."""
        if not self.balance.measures:
            return self.balance.weights([], [])
        parameters = last_layer(self.student)
        size = sum(parameter.numel() for parameter in parameters)
        vectors = [torch.zeros(size, device=self.device) for _ in self.losses]
        values = [0.0] * len(self.losses)
        with torch.random.fork_rng():  # the training pass then draws the same dropout
            for batch, out in zip(batches, taught, strict=True):
                terms = self._terms(self.student, batch, out)
                means = [term.sum / max(count, 1.0) for term, count in zip(terms, counts, strict=True)]
                for place, vector in enumerate(gradients(means, parameters)):
                    vectors[place] += vector
                    values[place] += float(means[place].detach())
        if self.accelerator.num_processes > 1:
            vectors = [self.accelerator.reduce(vector, "sum") for vector in vectors]
        return self.balance.weights([float(vector.norm()) for vector in vectors], self._total(values))

    def _share_learned_gradients(self) -> None:
        """Average the gradients of what the losses learn over processes, as is done with the student's."""
        if self.accelerator.num_processes == 1:
            return
        for group in self._learned_groups():
            for parameter in group["params"]:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.accelerator.reduce(own, "mean")

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bfloat16")

    def _total(self, values: Sequence[float]) -> list[float]:
        """Add ``values`` up over all processes."""
        if self.accelerator.num_processes == 1:
            return list(values)
        added: Tensor = self.accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum")
        return [float(value) for value in added]

    # What ends a run.

    def _require_something(self, step: int, counts: Sequence[float]) -> None:
        if step == 0 and not all(counts):
            idle = ", ".join(loss.name for loss, count in zip(self.losses, counts, strict=True) if not count)
            raise UserError(
                f"Nothing in the first step can be scored by {idle}.",
                hint="Raise window_bytes or batch, or take a longer corpus.",
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
            f"Training stopped at step {step + 1}: {values}, gradient norm {norm:g}; the batch is in {path}.",
            hint="Lower lr, raise warmup, or use precision float32.",
        )

    # Log and state.

    @property
    def seconds(self) -> float:
        """Seconds of training so far, earlier parts of a resumed run included."""
        return self.seconds_before + time.monotonic() - self.began

    def seconds_left(self, step: int) -> float:
        """Return an estimate of the seconds after ``step``, from the pace of this process."""
        pace = (time.monotonic() - self.began) / (step + 1 - self.first_step)
        return pace * (self.spec.steps - step - 1)

    def record(self, line: dict[str, Any]) -> None:
        """Write a line of the log."""
        if self.accelerator.is_main_process:
            append_log(self.folder / LOG, line)

    def save(self, step: int) -> None:
        """Save all that the next steps depend on; the state before is deleted only when this one is complete."""
        pending = self.folder / "state.partial"
        try:
            self.accelerator.save_state(str(pending), safe_serialization=False)  # tied tensors stay tied
        except OSError as error:
            raise UserError(
                f"The training state of step {step} cannot be saved in {self.folder}: {error}.",
                hint="Make room and start again; training continues from the state before.",
            ) from error
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            older = _states(self.folder)
            pending.rename(self.folder / f"state-{step}")
            for state in older.values():
                shutil.rmtree(state)
        self.accelerator.wait_for_everyone()

    def restore(self) -> int:
        """Load the last saved state, if there is one, and return the number of steps done."""
        shutil.rmtree(self.folder / "state.partial", ignore_errors=True)
        states = _states(self.folder)
        if states:
            self.first_step = max(states)
            self.accelerator.load_state(str(states[self.first_step]))
            log.info("training continues at step %d", self.first_step)
        if self.accelerator.is_main_process:
            kept = cut_log(self.folder / LOG, self.first_step)
            self.seconds_before = kept[-1]["seconds"] if kept else 0.0
        self.accelerator.wait_for_everyone()
        return self.first_step

    def finish(self) -> None:
        """Leave the student as it was given, without accelerate's wrappers."""
        self.student.eval()
        self.accelerator.free_memory()
        if self.by_window is not None:
            self.by_window.close()
        if self.spec.gradient_checkpointing:
            _checkpoint_activations(self.student, on=False)
        if self.spec.train == "lora":
            merge(self.student)
        if self.spec.train == "new_rows":
            restore(self.student)


def _states(folder: Path) -> dict[int, Path]:
    return {int(path.name.removeprefix("state-")): path for path in folder.glob("state-*")}


def _union(needs: Iterator[frozenset[Reading]] | Any) -> frozenset[Reading]:
    return frozenset().union(*needs)


def _groups(student: nn.Module, spec: TrainingSpec) -> list[dict[str, Any]]:
    """Return the optimizer's groups: embeddings (input and output) and, if they are trained, all other parameters."""
    if spec.train == "new_rows":
        return [{"params": trained_rows(student), "peak": spec.embedding_lr or spec.lr}]
    embeddings = embedding_matrices(student)
    known = {id(matrix) for matrix in embeddings}
    others = [parameter for parameter in student.parameters() if id(parameter) not in known]
    if spec.train != "full":
        for parameter in others:
            parameter.requires_grad = False
        others = adapter_weights(student)
    for parameter in (*embeddings, *others):
        parameter.requires_grad = True
    groups: list[dict[str, Any]] = [{"params": embeddings, "peak": spec.embedding_lr or spec.lr}]
    return [*groups, {"params": others, "peak": spec.lr}] if others else groups


def _checkpoint_activations(student: Any, *, on: bool) -> None:
    if not getattr(student, "supports_gradient_checkpointing", False):
        raise UserError(
            f"{type(student).__name__} cannot compute its activations again.", hint="Leave gradient_checkpointing out."
        )
    prefix = "activation" if hasattr(student, "activation_checkpointing_enable") else "gradient"  # transformers renames
    if on:
        getattr(student, f"{prefix}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(student, f"{prefix}_checkpointing_disable")()


def _describe(line: dict[str, Any], left: float) -> str:
    losses = ", ".join(f"{name} {value:.4g}" for name, value in line["loss"].items())
    minutes, seconds = divmod(round(left), 60)
    return f"{losses}, {line['bytes'] / 1000:.1f} kB a step, {minutes}:{seconds:02d} left"
