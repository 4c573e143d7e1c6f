"""ULD: the distance between two sorted distributions, regardless of which token has which probability.

Boizard et al., "Towards Cross-Tokenizer Distillation", arXiv 2402.12030. With both distributions sorted in descending
order and the shorter one padded with zeros, the loss of a position is ``sum_k |P_S(k) - P_T(k)|``: the Wasserstein-1
distance if all tokens are equidistant. The unit is probability per position, from 0 to 2. The paper adds it to
cross-entropy with factor 1.5: list ``sft`` as a second loss. A student that assigns the right probabilities to the
wrong tokens has loss 0.

Positions (``pairing``): the paper pairs the i-th tokens of both sides, which read different text as soon as one
tokenizer has produced more tokens than the other. ``chunks``, the default, compares the distributions at the start of
each chunk, where both models have read the same bytes; ``index`` is the published pairing, up to the end of the shorter
side.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import Places, predictions, starts, touch


class ULD(Loss):
    """L1 distance of sorted distributions, per position."""

    name: ClassVar[str] = "uld"

    pairing: Literal["chunks", "index"] = "chunks"
    """Positions to compare: chunk starts, or the i-th tokens of both sides."""

    @property
    def of_student(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    def _places(self, batch: AlignedBatch) -> Places:
        return starts(batch) if self.pairing == "chunks" else by_index(batch)

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of positions compared."""
        return float(len(self._places(batch)))

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the distance summed over positions."""
        places = self._places(batch)
        theirs = predictions(teacher, places.rows, places.teacher).softmax(dim=-1).detach()
        ours = predictions(student, places.rows, places.student).softmax(dim=-1)
        return LossTerm(sorted_distance(theirs, ours).sum() + touch(student), float(len(places)))


def sorted_distance(p: Tensor, q: Tensor) -> Tensor:
    """Return the L1 distance of the sorted rows of ``p [n, V]`` and ``q [n, W]``, ``[n]``."""
    p, q = (part.sort(dim=-1, descending=True).values for part in (p, q))
    wider = max(p.shape[-1], q.shape[-1])
    return (pad(p, (0, wider - p.shape[-1])) - pad(q, (0, wider - q.shape[-1]))).abs().sum(dim=-1)


def by_index(batch: AlignedBatch) -> Places:
    """Pair the i-th predicted tokens of both sides, in each row up to the end of the shorter side."""
    rows, teacher, student = [], [], []
    for row in range(len(batch.student.ids)):
        here, there = (_predicted(side, row) for side in (batch.student, batch.teacher))
        shorter = min(len(here), len(there))
        rows.append(torch.full((shorter,), row, device=here.device))
        teacher.append(there[:shorter])
        student.append(here[:shorter])
    joined = [torch.cat(parts) for parts in (rows, teacher, student)]
    return Places(joined[0], joined[0].new_full((len(joined[0]),), -1), joined[1], joined[2])


def _predicted(side: Side, row: int) -> Tensor:
    return side.predicted[row].nonzero()[:, 0]
