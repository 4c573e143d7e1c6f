"""Hidden-state distillation: matches the student's hidden states to the teacher's at the end of each chunk.

ALM, arXiv 2503.20083, section 3.3, where its gain is small for transfers between subword tokenizers and large for
transfers to bytes. At the last token of each aligned chunk (without merging) both models have read the same bytes. With
``h_T [d_T]`` and ``h_S`` there, and ``v`` the mean of ``h_T**2`` over the chunks, per channel::

    L = mean over channels of (W h_S - h_T)^2 / (v + 1e-8)

averaged over chunks, without a unit. W is the identity if the widths are equal, else a linear map that is trained with
the student. The states are those that the output head reads. With ``layers``, earlier layers are included, and the loss
is the mean over the pairs of layers. ``norm: none`` omits the division.

``v`` is computed per window. Computed over the batch, as in the published code, the loss of a window would depend on
the other windows, and a step on how it is split into micro-batches.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import touch
from crosstok.errors import UserError


class Hidden(Loss):
    """Squared distance of hidden states at chunk ends, relative to the teacher's mean square per channel."""

    name: ClassVar[str] = "hidden"
    packs: ClassVar[bool] = False  # the mean square of a channel covers the whole row

    norm: Literal["channel", "none"] = "channel"
    """Divide each channel by the teacher's mean square, or not."""
    layers: Literal["last", "all"] | tuple[tuple[int, int], ...] = "last"
    """Layers to compare: last, all (each layer of the student with the teacher's at the same relative depth), or pairs
    [student, teacher], counted from 1.
    """
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the projections, if there are any."""

    _pairs: tuple[tuple[int, int], ...] = PrivateAttr(default=())
    _projections: nn.ModuleList | None = PrivateAttr(default=None)

    @property
    def of_student(self) -> frozenset[Reading]:
        """The hidden states, of the last layer or of all layers."""
        return frozenset({"hidden" if self.layers == "last" else "layers"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The same as the student's."""
        return self.of_student

    @property
    def learned(self) -> nn.Module | None:
        """The projections, one per pair of layers; None if both widths are equal."""
        return self._projections

    @property
    def learned_lr(self) -> float:
        """Peak learning rate of the projections."""
        return self.lr

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Pair the layers and create the projections, if needed. Raises UserError for layers that do not exist."""
        self._pairs = self.pairs(student.depth, teacher.depth)
        if student.width != teacher.width:
            maps = [nn.Linear(student.width, teacher.width, bias=False) for _ in self._pairs]
            self._projections = nn.ModuleList(maps)

    def pairs(self, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
        """Return the pairs of layers (from 1) for models with these numbers of layers."""
        if self.layers == "last":
            return ((student, teacher),)
        if self.layers == "all":  # rounded half up, at least 1
            return tuple((i, max(1, (2 * i * teacher + student) // (2 * student))) for i in range(1, student + 1))
        wrong = [pair for pair in self.layers if not (1 <= pair[0] <= student and 1 <= pair[1] <= teacher)]
        if wrong or not self.layers:
            raise UserError(
                f"The loss hidden cannot compare the layers {list(wrong)}: the student has {student}, the teacher"
                f" {teacher}.",
                hint="Name pairs [student, teacher], counted from 1, or all.",
            )
        return self.layers

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of scored chunks."""
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the distance summed over chunks."""
        rows, chunks = batch.scored.nonzero(as_tuple=True)
        ends = [side.chunk_ends(batch.count)[rows, chunks] for side in (batch.teacher, batch.student)]
        height = len(batch.student.ids)
        parts = []
        for place, (layer, taught) in enumerate(self._pairs):
            ours = self._states(student, layer)[rows, ends[1]]
            if self._projections is not None:
                ours = self._projections[place](ours)
            theirs = self._states(teacher, taught)[rows, ends[0]].detach()
            parts.append(self._distance(ours, theirs, rows, height))
        return LossTerm(torch.stack(parts).mean() + touch(student), float(len(rows)))

    def _states(self, outputs: Outputs, layer: int) -> Tensor:
        return outputs.hidden if self.layers == "last" else outputs.layers[:, :, layer - 1]

    def _distance(self, ours: Tensor, theirs: Tensor, rows: Tensor, height: int) -> Tensor:
        """Return the sum of the distances between states ``[p, d]`` at the chunk ends of ``rows [p]``."""
        square = (ours - theirs) ** 2
        if self.norm == "channel":
            sums = theirs.new_zeros(height, theirs.shape[1]).index_add(0, rows, theirs**2)
            chunks_of_row = torch.bincount(rows, minlength=height).clamp(min=1)
            square = square / ((sums / chunks_of_row[:, None])[rows] + 1e-8)
        return square.mean(dim=1).sum()
