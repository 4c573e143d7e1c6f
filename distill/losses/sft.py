"""SFT: next-token cross-entropy on the student's own tokens, the baseline that every distillation loss must beat.

In nats per student token. It uses neither the teacher nor the alignment.
"""

import math
from typing import ClassVar

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.outputs import Outputs


class SFT(Loss):
    """Cross-entropy over the student's tokens, in nats per token."""

    name: ClassVar[str] = "sft"

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of student tokens that are predicted and counted."""
        return float(batch.student.predicted.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the summed cross-entropy in nats."""
        predicted = batch.student.predicted
        total = -student.gold.masked_fill(~predicted, 0.0).sum()
        covered = float(batch.student.lengths[predicted].sum())
        bits = float(total.detach()) / math.log(2)
        return LossTerm(total, self.count(batch, teacher), {"bits_per_byte": (bits, covered)})
