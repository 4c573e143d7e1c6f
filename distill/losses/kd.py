"""KD: knowledge distillation between models with one vocabulary, by any divergence of ``distributions``.

Hinton et al., arXiv 1503.02531. Unit: nats per token. Positions are paired through the alignment, so a BOS on one side
shifts nothing. A pair of models whose ids mean different things is refused: programs that compare the sizes of the two
vocabularies, or nothing at all, have trained on nonsense here.

With ``top`` = k the teacher is known by its k likeliest tokens at each position, and both distributions are compared
over k + 1 classes: those, and all other tokens together. Merging classes cannot raise a divergence, so the value bounds
the full one from below; unlike renormalising the k tokens it is 0 only where the student gives them their very
probabilities. That is what fits into the teacher cache.
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
    """Divergence of next-token distributions over the common vocabulary."""

    name: ClassVar[str] = "kd"

    top: int | None = Field(default=None, ge=1)
    """Tell only this many of the teacher's likeliest tokens apart, and all others together as one more class."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.top is not None and self.temperature != 1:
            raise ValueError("top needs temperature 1: a class of many tokens has no logit to divide")
        return self

    @property
    def of_student(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The logits, or only the largest."""
        return frozenset({"logits"}) if self.top is None else frozenset({"top", "rest"})

    @property
    def teacher_top(self) -> int:
        """The number of tokens told apart."""
        return self.top or 0

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Raise UserError unless every id means the same to both models."""
        if self.top is not None and self.top >= teacher.valid_rows:
            raise UserError(
                f"The loss kd cannot tell {self.top} of {teacher.valid_rows} tokens apart from the others.",
                hint="Lower top, or leave it out.",
            )
        differences = first_differences(teacher.tokens, student.tokens, 1)
        if differences or student.valid_rows != teacher.valid_rows:
            token, there, here = (*differences, (student.valid_rows, "unused", "unused"))[0]
            raise UserError(
                f"The loss kd needs one vocabulary; id {token} is {there} to the teacher and {here} to the student.",
                hint="Take a loss across tokenizers: strict, alm, bpm, gold, mined, uld or dskd.",
            )

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:  # noqa: ARG002  (the protocol of all losses)
        """Return the number of tokens compared."""
        return float(len(one_to_one(batch)))

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the summed divergence."""
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
    """Return ``rest [p, k + 1]`` with the log-probabilities after the first ``top`` as one: ``[p, top + 1]``."""
    return torch.cat([rest[:, :top], rest[:, top:].logsumexp(dim=1, keepdim=True)], dim=1)
