"""DSKD-CMA: dual-space distillation, which maps each model's states into the other's space by cross-model attention.

Zhang et al., "Dual-Space Knowledge Distillation", arXiv 2406.17328. Per window, with m student and n teacher positions
(those that predict a counted token), input embeddings ``e``, those of the next token ``e'``, and last states ``h``::

    Q = W_q [e; e']_S           K = [e; e']_T / std            A = Q K' / sqrt(2 d_T)
    to student:  h_ts = softmax(A) W_ts (h_T / std + e'_T / std)     logits with the student's head, without gradient
    to teacher:  h_st = softmax(A') W_st h_S                        logits with the teacher's head

    L = CE(h_ts, actual student tokens)                 trains the projections
      + div(h_ts, student)                              where h_ts predicts the actual token; no gradient into h_ts
      + KL(teacher, h_st)

in nats per student token, with temperature T = 2 in the last two terms. The paper adds cross-entropy with weights 1/2
each: list ``sft`` as a second loss. The projections ``W`` are trained with a learning rate of their own and discarded
after training.

``std`` is taken over the positions and channels of one window. The authors take it over the whole tensor, including
padding and other windows, which makes the loss of a window depend on its batch. Output heads are used as plain
matrices: a soft cap applies only to the models' own distributions.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from crosstok.distill.losses.distribution_loss import DistributionLoss, kl
from crosstok.distill.losses.loss import LossTerm
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import touch

_MASKED = -1e5  # added to masked attention scores; finite, so that a window without positions gives no NaN


class DSKD(DistributionLoss):
    """Dual-space distillation with cross-model attention, in nats per student token."""

    name: ClassVar[str] = "dskd"
    packs: ClassVar[bool] = False  # attention and scale cover the whole row

    temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Temperature that divides the logits of both sides."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of the projections."""

    _projections: nn.ModuleDict | None = PrivateAttr(default=None)

    @property
    def of_student(self) -> frozenset[Reading]:
        """Logits, states, embeddings and the output matrix."""
        return frozenset({"logits", "hidden", "embedded", "head"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """Logits, states, embeddings and the output matrix."""
        return frozenset({"logits", "hidden", "embedded", "head"})

    @property
    def learned(self) -> nn.Module | None:
        """The three projections ``query``, ``to_student`` and ``to_teacher``."""
        return self._projections

    @property
    def learned_lr(self) -> float:
        """Peak learning rate of the projections."""
        return self.lr

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Initialise the projections."""
        self._projections = nn.ModuleDict(
            {
                "query": nn.Linear(2 * student.width, 2 * teacher.width),
                "to_student": nn.Linear(teacher.width, student.width),
                "to_teacher": nn.Linear(student.width, teacher.width),
            }
        )

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of predicted student tokens."""
        return float(batch.student.predicted.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the sum of the three terms."""
        ours, theirs = (side.predicted[:, 1:] for side in (batch.student, batch.teacher))
        to_student, to_teacher = self.crossed(batch, student, teacher)
        gold = batch.student.ids[:, 1:][ours]
        logits = to_student[ours] @ student.head.detach().T
        found = logits.argmax(dim=1) == gold
        projected = cross_entropy(logits, gold, reduction="sum") if len(gold) else logits.sum()
        distilled = self.compare(logits[found], student.logits[:, :-1][ours][found]).sum()
        back = to_teacher[theirs] @ teacher.head.detach().T / self.temperature
        target = teacher.logits[:, :-1][theirs].detach() / self.temperature
        returned = kl(target.log_softmax(dim=1), back.log_softmax(dim=1)).sum()
        tokens = float(len(gold))
        metrics = {"found": (float(found.sum()), tokens), "projected": (float(projected.detach()), tokens)}
        return LossTerm(projected + distilled + returned + touch(student), tokens, metrics)

    def crossed(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
        """Return the teacher's states in the student's space, ``[b, m-1, d_S]``, and vice versa, ``[b, n-1, d_T]``."""
        learned = self._projections
        if learned is None:
            raise RuntimeError("dskd: call prepare() first")
        ours, theirs = (side.predicted[:, 1:] for side in (batch.student, batch.teacher))
        query = learned["query"](_index(student))
        key = _scaled(_index(teacher).detach(), theirs)
        scores = query @ key.transpose(1, 2) / math.sqrt(key.shape[2])
        known = _scaled(teacher.hidden[:, :-1], theirs) + _scaled(teacher.embedded[:, 1:], theirs)
        over_teacher = (scores + _masked(theirs)[:, None, :]).softmax(dim=2)
        over_student = (scores.transpose(1, 2) + _masked(ours)[:, None, :]).softmax(dim=2)
        own = learned["to_teacher"](student.hidden[:, :-1])
        to_student: Tensor = over_teacher @ learned["to_student"](known.detach())
        to_teacher: Tensor = over_student @ own
        return to_student, to_teacher


def _index(outputs: Outputs) -> Tensor:
    """Return the embeddings of each token and of the next one, ``[b, n-1, 2d]``."""
    return torch.cat([outputs.embedded[:, :-1], outputs.embedded[:, 1:]], dim=2)


def _masked(positions: Tensor) -> Tensor:
    return torch.where(positions, 0.0, _MASKED)


def _scaled(values: Tensor, positions: Tensor) -> Tensor:
    """Return ``values [b, n, d]`` divided by their standard deviation over the chosen positions of each row."""
    chosen = positions[:, :, None].to(values.dtype)
    number = (chosen.sum(dim=(1, 2), keepdim=True) * values.shape[2]).clamp(min=1)
    mean = (values * chosen).sum(dim=(1, 2), keepdim=True) / number
    variance = (((values - mean) * chosen) ** 2).sum(dim=(1, 2), keepdim=True) / number
    return values / variance.sqrt().clamp(min=1e-6)
