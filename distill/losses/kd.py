"""KD: knowledge distillation between models with the same vocabulary, with any divergence of ``distributions``.

Hinton et al., arXiv 1503.02531; in nats per token. Positions are paired through the alignment, so a BOS on one side
shifts nothing. Models whose ids differ in meaning are rejected: programs that compare only the vocabulary sizes, or
nothing, train on meaningless targets here.

With ``top`` = k, both distributions are compared over k + 1 classes: the teacher's k most likely tokens and all others
as one class. Merging classes cannot increase a divergence, so the value is a lower bound of the full one. Unlike
renormalising the k tokens, it is 0 only if the student assigns them the same probabilities. These readings fit into the
teacher cache.
"""

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from crosstok.distill.losses.distribution_loss import DistributionLoss
from crosstok.distill.losses.loss import LossTerm
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading, others
from crosstok.distill.readings.positions import one_to_one, predictions, touch
from crosstok.distill.tokenizers.tokenbytes import first_differences
from crosstok.errors import UserError


class KD(DistributionLoss):
    """Divergence of the next-token distributions over the common vocabulary, in nats per token."""

    name: ClassVar[str] = "kd"

    top: int | None = Field(default=None, ge=1)
    """Compare only this many of the teacher's most likely tokens, and all others together as one class."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.top is not None and self.temperature != 1:
            raise ValueError("top requires temperature: 1, as a class of several tokens has no logit")
        return self

    @property
    def of_student(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The logits, or only the ``top`` most likely tokens."""
        return frozenset({"logits"}) if self.top is None else frozenset({"top", "rest"})

    @property
    def teacher_top(self) -> int:
        """The value of ``top``."""
        return self.top or 0

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Raise UserError unless every id has the same meaning for both models."""
        if self.top is not None and self.top >= teacher.valid_rows:
            raise UserError(
                f"The loss kd cannot use the top {self.top} of {teacher.valid_rows} tokens.",
                hint="Decrease top, or leave it out.",
            )
        differences = first_differences(teacher.tokens, student.tokens, 1)
        if differences or student.valid_rows != teacher.valid_rows:
            token, there, here = (*differences, (student.valid_rows, "unused", "unused"))[0]
            raise UserError(
                f"The loss kd needs a common vocabulary, but id {token} is {there} in the teacher and {here} in the "
                f"student.",
                hint="Use a loss across tokenizers: strict, alm, bpm, gold, mined, uld or dskd.",
            )

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of tokens compared."""
        return float(len(one_to_one(batch)))

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the divergence summed over tokens."""
        places = one_to_one(batch)
        ours = predictions(student, places.rows, places.student)
        if self.top is None:
            theirs = predictions(teacher, places.rows, places.teacher)
        else:
            ids = teacher.top[places.rows, places.teacher - 1][:, : self.top]
            theirs = merged_rest(teacher.rest[places.rows, places.teacher - 1], self.top)
            ours = torch.cat([ours.gather(1, ids), others(ours, ids)], dim=1)
        values = self.compare(theirs, ours)
        return LossTerm(values.sum() + touch(student), self.count(batch, teacher))


def merged_rest(rest: Tensor, top: int) -> Tensor:
    """Return ``rest [p, k + 1]`` with all classes after the first ``top`` merged into one: ``[p, top + 1]``."""
    return torch.cat([rest[:, :top], rest[:, top:].logsumexp(dim=1, keepdim=True)], dim=1)
