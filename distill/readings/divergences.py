"""Divergences between two binary distributions, given the log-probability of the first outcome of each.

All take ``a = ln p`` (teacher) and ``b = ln q`` (student), fp32, negative, of the same shape, and return nats of that
shape (total variation has no unit). They are finite down to the smallest fp32 probabilities, where the naive form
``ln(1 - exp(z))`` loses all precision at both ends.

A divergence is a class with two methods. ``of`` is the value for two given distributions. ``limit`` is the limit of
``tau`` times the value as the temperature of ``p^(1/tau)`` and ``q^(1/tau)`` goes to infinity; the probabilities of the
first outcome then tend to 1 and those of the second to ``-a/tau`` and ``-b/tau``.

``outcomes`` is ``both`` or ``single``. The sum over both outcomes is 0 if and only if a = b, and never negative.
``single`` keeps the term of the first outcome, "this chunk", only: a cheaper approximation used by some code, for which
the KL may be negative and the Rényi divergence is undefined.

| name | both outcomes, P = (p, 1-p), Q = (q, 1-q) | limit of tau times it |
|---|---|---|
| ``kl`` | KL(P, Q) | ``(a - b) + a ln(b/a)`` |
| ``reverse_kl`` | KL(Q, P) | ``(b - a) + b ln(a/b)`` |
| ``tvd`` | abs(p - q) + abs((1-p) - (1-q)) | ``2 abs(a - b)`` |
| ``renyi`` | ``ln(p^α q^(1-α) + (1-p)^α (1-q)^(1-α)) / (α - 1)`` | ``(x^α y^(1-α) - αx - (1-α)y)/(α-1)``, x=-a, y=-b |

Source: Minixhofer, Vulić, Ponti, arXiv 2503.20083, section 3 and appendix. The limits of the reverse KL and of the
Rényi divergence are our derivation.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Outcomes = Literal["both", "single"]


def log1mexp(z: Tensor) -> Tensor:
    """Return ln(1 - e^z) for z < 0, accurate near 0 and far below (Mächler 2012, "Accurately computing log(1 - e^-a)").

    Each branch is evaluated only in its valid range, so that the infinite slope of the other one never enters a
    gradient.
    """
    near = z > -math.log(2)
    close = torch.where(near, z, -1.0)
    far = torch.where(near, -1.0, z)
    return torch.where(near, (-torch.expm1(close)).log(), torch.log1p(-far.exp()))


def kl(a: Tensor, b: Tensor) -> Tensor:
    """Return KL(p || q), with p = e^a and q = e^b, over both outcomes."""
    return a.exp() * (a - b) - torch.expm1(a) * (log1mexp(a) - log1mexp(b))


class Divergence(ABC):
    """Base class of divergences between two binary distributions."""

    @abstractmethod
    def of(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the divergence at a finite temperature, by which ``a`` and ``b`` are already divided."""

    @abstractmethod
    def limit(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the limit of tau times the divergence as tau goes to infinity; ``a`` and ``b`` are not divided."""


class ForwardKL(Divergence):
    """KL(teacher || student)."""

    def of(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the divergence."""
        return kl(a, b) if outcomes == "both" else a.exp() * (a - b)

    def limit(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the limit."""
        return (a - b) + a * (b / a).log() if outcomes == "both" else a - b


class ReverseKL(Divergence):
    """KL(student || teacher)."""

    def of(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the divergence."""
        return ForwardKL().of(b, a, outcomes)

    def limit(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the limit."""
        return ForwardKL().limit(b, a, outcomes)


class TVD(Divergence):
    """Total variation: the absolute difference of the probabilities, summed over one or both outcomes."""

    def of(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the divergence."""
        upper, lower = torch.maximum(a, b), torch.minimum(a, b)
        gap = -upper.exp() * torch.expm1(lower - upper)  # e^upper - e^lower without cancellation
        return 2 * gap if outcomes == "both" else gap

    def limit(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the limit."""
        return (2 if outcomes == "both" else 1) * (a - b).abs()


@dataclass(frozen=True)
class Renyi(Divergence):
    """Rényi divergence of order ``alpha``, which must not be 1; the limit at 1 is the forward KL."""

    alpha: float

    def of(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the divergence. Raises ValueError for a single outcome."""
        _both_only(outcomes)
        first = self.alpha * a + (1 - self.alpha) * b
        second = self.alpha * log1mexp(a) + (1 - self.alpha) * log1mexp(b)
        return torch.logaddexp(first, second) / (self.alpha - 1)

    def limit(self, a: Tensor, b: Tensor, outcomes: Outcomes) -> Tensor:
        """Return the limit. Raises ValueError for a single outcome."""
        _both_only(outcomes)
        power = (self.alpha * (-a).log() + (1 - self.alpha) * (-b).log()).exp()
        return (power + self.alpha * a + (1 - self.alpha) * b) / (self.alpha - 1)


def _both_only(outcomes: Outcomes) -> None:
    if outcomes != "both":
        raise ValueError("the Rényi divergence needs both outcomes")


def divergence(name: Literal["kl", "reverse_kl", "tvd", "renyi"], alpha: float) -> Divergence:
    """Return the divergence called ``name``; ``alpha`` is the order of ``renyi`` and ignored by the others."""
    if name == "renyi":
        return Renyi(alpha)
    simple: dict[str, Divergence] = {"kl": ForwardKL(), "reverse_kl": ReverseKL(), "tvd": TVD()}
    return simple[name]
