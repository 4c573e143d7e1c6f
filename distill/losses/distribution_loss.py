"""Divergences between two distributions over the same vocabulary, and the options of the losses that use them.

With teacher P, student Q, ``lam`` = ``skew``:

| name | value, summed over the vocabulary |
|---|---|
| ``kl`` | KL(P, Q) |
| ``reverse_kl`` | KL(Q, P) |
| ``jsd`` | beta KL(P, M) + (1 - beta) KL(Q, M), M = beta P + (1 - beta) Q |
| ``skewed_kl`` | KL(P, lam P + (1 - lam) Q) (DistiLLM, arXiv 2402.03898) |
| ``skewed_reverse_kl`` | KL(Q, (1 - lam) P + lam Q) (same) |
| ``adaptive_kl`` | KL(P, Q) and KL(Q, P), weighted by the gap abs(P - Q) on P's head and tail (arXiv 2404.02657) |
| ``tvd`` | half the sum of abs(P - Q) |

All are in nats except ``tvd``. The tail of ``adaptive_kl`` is the set of P's smallest entries whose sum is below
``tail``; no gradient flows through its two weights. ``temperature`` divides the logits of both sides. ``square``
multiplies the result by the squared temperature, so that the gradient keeps the magnitude that it has at temperature 1
(Hinton et al., arXiv 1503.02531).
"""

import math
from abc import ABC
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from crosstok.distill.losses.loss import Loss

if TYPE_CHECKING:
    from collections.abc import Callable

DistributionDivergence = Literal["kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl", "adaptive_kl", "tvd"]


class DistributionLoss(Loss, ABC):
    """Base class of losses that compare whole distributions, ``[p, V]`` against ``[p, V]``."""

    f: DistributionDivergence = "kl"
    """Divergence between teacher and student."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Temperature that divides the logits of both sides."""
    square: bool = False
    """Multiply the loss by the squared temperature."""
    beta: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture of ``jsd``."""
    skew: float = Field(default=0.1, gt=0, lt=1)
    """Weight of the first distribution in the mixture of ``skewed_kl`` and ``skewed_reverse_kl``."""
    tail: float = Field(default=0.5, gt=0, lt=1)
    """Probability mass of the teacher's tail in ``adaptive_kl``."""

    def compare(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the divergence of each row, ``[p]``, from logits ``[p, V]``; the teacher receives no gradient."""
        p = (teacher.detach() / self.temperature).log_softmax(dim=-1)
        q = (student / self.temperature).log_softmax(dim=-1)
        factor = self.temperature**2 if self.square else 1.0
        return factor * self._divergence(p, q)

    def _divergence(self, p: Tensor, q: Tensor) -> Tensor:
        forms: dict[DistributionDivergence, Callable[[Tensor, Tensor], Tensor]] = {
            "kl": kl,
            "reverse_kl": lambda p, q: kl(q, p),
            "jsd": self._jsd,
            "skewed_kl": lambda p, q: kl(p, mixture(p, q, self.skew)),
            "skewed_reverse_kl": lambda p, q: kl(q, mixture(q, p, self.skew)),
            "adaptive_kl": self._adaptive,
            "tvd": lambda p, q: (p.exp() - q.exp()).abs().sum(dim=-1) / 2,
        }
        return forms[self.f](p, q)

    def _jsd(self, p: Tensor, q: Tensor) -> Tensor:
        mixed = mixture(p, q, self.beta)
        return self.beta * kl(p, mixed) + (1 - self.beta) * kl(q, mixed)

    def _adaptive(self, p: Tensor, q: Tensor) -> Tensor:
        gap = (p.exp() - q.detach().exp()).abs()
        rising, order = p.exp().sort(dim=-1)
        is_tail = torch.zeros_like(rising, dtype=torch.bool).scatter(-1, order, rising.cumsum(dim=-1) < self.tail)
        tail = (gap * is_tail).sum(dim=-1)
        head = (gap * ~is_tail).sum(dim=-1)
        share = head / (head + tail).clamp(min=torch.finfo(gap.dtype).tiny)
        return share * kl(p, q) + (1 - share) * kl(q, p)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(P || Q) over the last dimension, from log-probabilities; entries with zero mass in P contribute 0."""
    return torch.where(p > -math.inf, p.exp() * (p - q), 0.0).sum(dim=-1)


def mixture(p: Tensor, q: Tensor, share: float) -> Tensor:
    """Return the log-probabilities of ``share`` P + (1 - ``share``) Q."""
    return torch.logaddexp(p + math.log(share), q + math.log1p(-share))
