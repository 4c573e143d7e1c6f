"""Held-out evaluation of a student, on the same windows before and after training.

Two figures are computed on the held-out part of the corpus and stored in the provenance: bits per byte, which needs no
teacher, and the mean binary KL per aligned chunk (ALM's divergence at temperature 1, without merging and debiasing),
which measures the distance to the teacher. They are a sanity check and not a benchmark: there are few windows and no
intervals (use the task ``text_bpb``).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from crosstok.corpora import load_texts
from crosstok.distill.losses import AlignedBatch, Outputs
from crosstok.distill.registry import LOSSES
from crosstok.distill.training.loop import Model
from crosstok.distill.training.windows import Encoder, Windows
from crosstok.errors import UserError

log = logging.getLogger(__name__)

_WINDOWS = 16
_WINDOW_BYTES = 512
_AT_ONCE = 4


@dataclass(frozen=True)
class HeldOut:
    """A few windows of held-out text with the teacher's outputs."""

    batches: Sequence[tuple[AlignedBatch, Outputs | None]]
    """Each batch with the teacher's outputs; None without a teacher."""

    @classmethod
    def of(cls, corpus: str, data: Path | None, encoders: tuple[Encoder, Encoder], teacher: Model | None) -> "HeldOut":
        """Read windows from the held-out part of ``corpus``.

        ``encoders`` are the teacher's and the student's. If the corpus has no held-out part, the result is empty and a
        warning is logged.
        """
        try:
            windows = Windows(load_texts(corpus, "heldout", data), *encoders, size=_WINDOW_BYTES, seed=0)
        except UserError as error:
            log.warning("held-out evaluation is skipped: %s", error)
            return cls(())
        chosen = windows.at_step(0, min(_WINDOWS, len(windows)))
        batches = [windows.batch(chosen[first : first + _AT_ONCE]) for first in range(0, len(chosen), _AT_ONCE)]
        if teacher is None:
            return cls([(batch, None) for batch in batches])
        with _evaluation_mode(teacher.network):
            return cls([(batch, teacher.reader.read(teacher.network, batch.teacher, {"gold"})) for batch in batches])

    def figures(self, student: Model) -> dict[str, float]:
        """Return ``bits_per_byte`` of the student and, with a teacher, ``chunk_kl`` (nats per chunk)."""
        sft, alm = LOSSES.create("sft"), LOSSES.create({"name": "alm", "tau": 1, "gamma": 0, "debias": False})
        sums: dict[str, tuple[float, float]] = {}
        with _evaluation_mode(student.network):
            for batch, taught in self.batches:
                read = student.reader.read(student.network, batch.student, {"gold"})
                found = {"bits_per_byte": sft(batch, read, Outputs()).metrics["bits_per_byte"]}
                if taught is not None:
                    term = alm(batch, read, taught)
                    found["chunk_kl"] = float(term.sum), term.count
                for name, (numerator, denominator) in found.items():
                    before = sums.get(name, (0.0, 0.0))
                    sums[name] = before[0] + numerator, before[1] + denominator
        return {name: round(numerator / count, 4) for name, (numerator, count) in sums.items() if count}


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Switch a model to eval mode without gradients, and restore its mode afterwards."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)
