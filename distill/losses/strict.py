"""Strict positions: divergence over the shared vocabulary at positions that are the same single token on both sides.

"Strict-position on-policy distillation", arXiv 2610.08448: the cheapest baseline across tokenizers, and a strong one.
The loss compares chunks of one token on both sides, with both distributions restricted to the shared tokens and
renormalised. The paper uses the reverse KL and, optionally, only the student's ``top`` shared tokens. In nats per such
position; the metric ``coverage`` is their share of the student's tokens.

Tokens are shared if their bytes are equal, or if they are special tokens with the same name; token strings do not
matter.
"""

from typing import ClassVar

from pydantic import Field, PrivateAttr
from torch import Tensor

from crosstok.distill.losses.distribution_loss import DistributionDivergence, DistributionLoss
from crosstok.distill.losses.loss import LossTerm
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import one_to_one, predictions, touch
from crosstok.distill.readings.vocabularies import shared_ids
from crosstok.errors import UserError


class Strict(DistributionLoss):
    """Divergence over shared tokens at one-to-one positions, in nats per position."""

    name: ClassVar[str] = "strict"

    f: DistributionDivergence = "reverse_kl"
    """Divergence between teacher and student."""
    top: int | None = Field(default=None, ge=2)
    """Compare only this many shared tokens, the most likely ones under the student."""

    _shared: tuple[Tensor, Tensor] = PrivateAttr()

    @property
    def of_student(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Find the shared tokens. Raises UserError if there are fewer than two."""
        self._shared = shared_ids(student, teacher)
        if len(self._shared[0]) < 2:
            raise UserError("The loss strict needs shared tokens, but these vocabularies have fewer than two.")

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of positions compared."""
        return float(len(one_to_one(batch)))

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the divergence summed over positions."""
        places = one_to_one(batch)
        here, there = (ids.to(batch.student.ids.device) for ids in self._shared)
        ours = predictions(student, places.rows, places.student)[:, here]
        theirs = predictions(teacher, places.rows, places.teacher)[:, there]
        if self.top is not None and self.top < len(here):
            chosen = ours.detach().topk(self.top, dim=1).indices
            ours, theirs = ours.gather(1, chosen), theirs.gather(1, chosen)
        total = self.compare(theirs, ours).sum() + touch(student)
        tokens = float(batch.student.predicted.sum())
        return LossTerm(total, float(len(places)), {"coverage": (float(len(places)), tokens)})
