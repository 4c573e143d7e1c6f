"""Strict positions: a divergence over the shared vocabulary where both sides cut out the same single token.

"Strict-position on-policy distillation", arXiv 2610.08448: the cheapest baseline across tokenizers, and a strong one.
Compared are the chunks of one token on both sides; both distributions are restricted to the tokens that both
vocabularies have and renormalised. The paper uses the reverse KL and, as an option, only the student's ``top`` shared
tokens. Unit: nats per such position; ``coverage`` reports how many of the student's tokens they are.

Shared means equal bytes (and specials of the same name), not equal strings of the vocabulary files.
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
    """Divergence over shared tokens at positions that match one to one."""

    name: ClassVar[str] = "strict"

    f: DistributionDivergence = "reverse_kl"
    """The divergence."""
    top: int | None = Field(default=None, ge=2)
    """Compare only this many shared tokens, those that the student finds most likely."""

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
        """Find the shared tokens. Raises UserError where there are fewer than two."""
        self._shared = shared_ids(student, teacher)
        if len(self._shared[0]) < 2:
            raise UserError("The loss strict needs shared tokens, and these vocabularies have none.")

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:  # noqa: ARG002  (the protocol of all losses)
        """Return the number of positions compared."""
        return float(len(one_to_one(batch)))

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the summed divergence."""
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
