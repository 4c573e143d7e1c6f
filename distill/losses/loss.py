"""Base class of training losses.

A loss never divides. It returns a sum and the count to divide it by. Sums and counts are added over micro-batches and
processes first, so a step does not depend on how its batch is split. The count is also requested separately before the
student runs, because the gradients of several losses can be accumulated only if the divisor of each is known.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from crosstok.distill.method import Method
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading

Ratio = tuple[float, float]
"""A reported figure as numerator and denominator, which are added up before the division."""


@dataclass(frozen=True)
class LossTerm:
    """Loss of one micro-batch."""

    sum: Tensor
    """Scalar with a gradient, in the unit that the loss documents."""
    count: float
    """Divisor of the sum; 0 if nothing was scored, in which case the sum is exactly 0."""
    metrics: Mapping[str, Ratio] = field(default_factory=dict)
    """Further figures for the training log."""


class Loss(Method, ABC):
    """Base class of training losses; options are pydantic fields."""

    packs: ClassVar[bool] = True
    """Whether the loss of a window is unchanged if several windows share a row."""

    weight: float = Field(default=1.0, gt=0)
    """Factor of this loss in a sum of several losses."""

    @property
    def of_student(self) -> frozenset[Reading]:
        """Readings of the student that the loss uses."""
        return frozenset({"gold"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """Readings of the teacher that the loss uses; the teacher runs only if some loss uses one."""
        return frozenset()

    @property
    def teacher_top(self) -> int:
        """Number of the teacher's most likely tokens in the readings ``top`` and ``rest``."""
        return 0

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Prepare for two models, for example by building maps between their vocabularies.

        Called once before the first step. Raises UserError for a pair of models that the loss does not support.
        """

    @property
    def learned(self) -> nn.Module | None:
        """Module that the loss trains itself, such as a projection between hidden states; made in :meth:`prepare`.

        The training loop trains it at the rate :attr:`learned_lr` and saves it with the training state. It is not part
        of the student.
        """
        return None

    @property
    def learned_lr(self) -> float:
        """Peak learning rate of :attr:`learned`."""
        return 1e-3

    @abstractmethod
    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the divisor of the summed loss of ``batch``."""

    @abstractmethod
    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the summed loss of ``batch``, with a gradient path into ``student`` even if nothing is scored."""
