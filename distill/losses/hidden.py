"""Hidden-state distillation: the student's last hidden state at the end of each chunk is pulled to the teacher's.

ALM, arXiv 2503.20083, section 3.3; a small loss for moves between subword tokenizers and a large gain for moves to
bytes. At the last token of each aligned chunk (not merged) both models have read the same bytes. With ``h_T [d_T]``
and ``h_S`` there, and ``v`` the mean of ``h_T**2`` over the chunks, per channel::

    L = mean over channels of (W h_S - h_T)^2 / (v + 1e-8)

averaged over chunks; no unit. W is the identity where the widths agree, else a linear map that is learnt beside the
student. States are those that the output head reads. ``norm: none`` leaves the division out.

``v`` is taken over each window of text by itself. Over the whole batch, as the published code has it, the loss of a
window would depend on the windows that happen to be beside it, and a step on how it is cut into micro-batches.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import nn

from distill.losses.batch import AlignedBatch
from distill.losses.loss import Loss, LossTerm, Party
from distill.losses.outputs import Outputs, Reading
from distill.losses.positions import touch


class Hidden(Loss):
    """Squared distance of hidden states at chunk ends, relative to the teacher's channels."""

    name: ClassVar[str] = "hidden"

    norm: Literal["channel", "none"] = "channel"
    """Divide each channel by the teacher's mean square of it."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak rate of the projection, where there is one."""

    _projection: nn.Module | None = PrivateAttr(default=None)

    @property
    def of_student(self) -> frozenset[Reading]:
        """The hidden states."""
        return frozenset({"hidden"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The hidden states."""
        return frozenset({"hidden"})

    @property
    def learned(self) -> nn.Module | None:
        """The projection; None where both widths are equal."""
        return self._projection

    @property
    def learned_lr(self) -> float:
        """Peak rate of the projection."""
        return self.lr

    def prepare(self, student: Party, teacher: Party) -> None:
        """Make the projection if one is needed."""
        same = student.width == teacher.width
        self._projection = None if same else nn.Linear(student.width, teacher.width, bias=False)

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:  # noqa: ARG002  (the protocol of all losses)
        """Return the number of chunks."""
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the distance summed over chunks."""
        rows, chunks = batch.scored.nonzero(as_tuple=True)
        ends = [side.chunk_ends(batch.count)[rows, chunks] for side in (batch.teacher, batch.student)]
        theirs, ours = teacher.hidden[rows, ends[0]].detach(), student.hidden[rows, ends[1]]
        if self._projection is not None:
            ours = self._projection(ours)
        square = (ours - theirs) ** 2
        if self.norm == "channel":
            height = len(batch.student.ids)
            sums = theirs.new_zeros(height, theirs.shape[1]).index_add(0, rows, theirs**2)
            chunks_of_row = torch.bincount(rows, minlength=height).clamp(min=1)
            square = square / ((sums / chunks_of_row[:, None])[rows] + 1e-8)
        return LossTerm(square.mean(dim=1).sum() + touch(student), float(len(rows)))
