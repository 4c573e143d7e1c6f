"""Training losses, one class in one file each.

Losses are found by name in :mod:`crosstok.distill.registry`. A loss of another package registers itself under the entry
point group ``crosstok.losses``.
"""

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reader, Reading

__all__ = ["AlignedBatch", "Loss", "LossTerm", "ModelInfo", "Outputs", "Reader", "Reading", "Side"]
