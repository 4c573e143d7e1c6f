"""KD: knowledge distillation between models with one vocabulary, by any divergence of ``distributions``.

Hinton et al., arXiv 1503.02531. Unit: nats per token. Positions are paired through the alignment, so a BOS on one side
shifts nothing. A pair of models whose ids mean different things is refused: programs that compare the sizes of the two
vocabularies, or nothing at all, have trained on nonsense here.
"""

from typing import ClassVar

from crosstok.errors import UserError
from distill.losses.batch import AlignedBatch
from distill.losses.distributions import DistributionLoss
from distill.losses.loss import LossTerm, Party
from distill.losses.outputs import Outputs, Reading
from distill.losses.positions import one_to_one, predictions, touch
from distill.tokenbytes import first_differences


class KD(DistributionLoss):
    """Divergence of next-token distributions over the common vocabulary."""

    name: ClassVar[str] = "kd"

    @property
    def of_student(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    def prepare(self, student: Party, teacher: Party) -> None:
        """Raise UserError unless every id means the same to both models."""
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
        values = self.compare(
            predictions(teacher, places.rows, places.teacher), predictions(student, places.rows, places.student)
        )
        return LossTerm(values.sum() + touch(student), self.count(batch, teacher))
