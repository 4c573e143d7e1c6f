"""Training losses, one class in one file each, found by name.

A loss of another package registers itself under the entry point group ``crosstok.losses``.
"""

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reader, Reading
from crosstok.distill.registry import Registry

LOSSES: Registry[Loss] = Registry(
    "loss",
    "crosstok.losses",
    Loss,  # type: ignore[type-abstract]  # only ever a base to compare with
    {
        "sft": "crosstok.distill.losses.sft:SFT",
        "alm": "crosstok.distill.losses.alm:ALM",
        "hidden": "crosstok.distill.losses.hidden:Hidden",
        "kd": "crosstok.distill.losses.kd:KD",
        "strict": "crosstok.distill.losses.strict:Strict",
        "bpm": "crosstok.distill.losses.bpm:BPM",
        "uld": "crosstok.distill.losses.uld:ULD",
        "gold": "crosstok.distill.losses.gold:GOLD",
        "mined": "crosstok.distill.losses.mined:MinED",
        "dskd": "crosstok.distill.losses.dskd:DSKD",
        "kl": "crosstok.distill.losses.expansion_kl:ExpansionKL",
    },
)

__all__ = ["LOSSES", "AlignedBatch", "Loss", "LossTerm", "ModelInfo", "Outputs", "Reader", "Reading", "Side"]
