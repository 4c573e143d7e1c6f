"""The protocol of a training loss.

A loss never divides. It returns a sum and the count that the sum is to be divided by, both of which are added over
micro-batches and processes first; otherwise a step would depend on how its batch was cut up. The count is also asked
for on its own, before the student runs, because the gradient of several losses can only be accumulated when the
divisor of each is known.
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
"""A figure to report, as numerator and denominator, so that it too can be added up before it is divided."""


@dataclass(frozen=True)
class LossTerm:
    """The loss of one micro-batch."""

    sum: Tensor
    """Scalar with gradient, in the unit that the loss documents."""
    count: float
    """What the sum is an average over; 0 if nothing could be scored, and then the sum is exactly 0."""
    metrics: Mapping[str, Ratio] = field(default_factory=dict)


class Loss(Method, ABC):
    """One training objective. Its options are its fields."""

    packs: ClassVar[bool] = True
    """Whether the loss of a window stays the same where several windows share a row."""

    weight: float = Field(default=1.0, gt=0)
    """Factor of this loss where several are added up."""

    @property
    def of_student(self) -> frozenset[Reading]:
        """The readings of the student that the loss uses."""
        return frozenset({"gold"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The readings of the teacher that the loss uses; if no loss uses any, the teacher never runs."""
        return frozenset()

    @property
    def teacher_top(self) -> int:
        """How many of the teacher's likeliest tokens the readings ``top`` and ``rest`` have to tell apart."""
        return 0

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Get ready for these two models: called once, before the first step.

        Vocabularies are compared and maps between them made here. Raises UserError for a pair that the loss is not for.
        """

    @property
    def learned(self) -> nn.Module | None:
        """What the loss itself has to learn (projections between hidden states), after :meth:`prepare`.

        The loop trains it at the rate ``learned_lr``, saves it with its states, and drops it at the end.
        """
        return None

    @property
    def learned_lr(self) -> float:
        """Peak learning rate of :attr:`learned`."""
        return 1e-3

    @abstractmethod
    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return what the loss of ``batch`` is an average over."""

    @abstractmethod
    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the summed loss of ``batch``, with a gradient path into ``student`` even where nothing is scored."""
