"""Training losses, one class in one file each, found by name.

A loss of another package registers itself under the entry point group ``crosstok.losses``.
"""

from distill.losses.batch import AlignedBatch, Side
from distill.losses.loss import Loss, LossTerm, Party
from distill.losses.outputs import Outputs, Reader, Reading
from distill.registry import Registry

LOSSES: Registry[Loss] = Registry(
    "loss",
    "crosstok.losses",
    Loss,  # type: ignore[type-abstract]  # only ever a base to compare with
    {
        "sft": "distill.losses.sft:SFT",
        "alm": "distill.losses.alm:ALM",
        "hidden": "distill.losses.hidden:Hidden",
        "kd": "distill.losses.kd:KD",
        "strict": "distill.losses.strict:Strict",
        "bpm": "distill.losses.bpm:BPM",
        "uld": "distill.losses.uld:ULD",
        "gold": "distill.losses.gold:GOLD",
        "mined": "distill.losses.mined:MinED",
        "dskd": "distill.losses.dskd:DSKD",
        "kl": "distill.losses.expansion_kl:ExpansionKL",
    },
)

__all__ = ["LOSSES", "AlignedBatch", "Loss", "LossTerm", "Outputs", "Party", "Reader", "Reading", "Side"]
