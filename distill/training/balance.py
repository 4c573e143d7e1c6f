"""Weights of several losses, so that none drowns the others.

Losses of different methods have gradients of quite different size (ALM's falls as 1/temperature), and a fixed sum
trains on the largest alone: in the ablation of ALM (arXiv 2503.20083) ALM + SFT with any fixed factor scores as SFT
does, and gains three to four points once gradients are balanced. Three ways:

- ``fixed``: the losses' own ``weight``.
- ``gradmag``: with ``g_i`` the gradient of loss i, ``w_i = (1/|g_i|) / sum_j (1/|g_j|)``. All weighted gradients are
  equally long, and the weights add up to 1 (ALM, section 4).
- ``gradnorm`` (Chen et al. 2018, arXiv 1711.02257): the weights are learnt, a step of Adam per optimizer step, towards
  gradients whose length is the mean one times ``r_i^alpha``, where ``r_i`` says how far loss i has fallen compared to
  the others: a loss that lags behind gets more. The weights stay positive and add up to the number of losses.

The last two weigh each loss as it is, so a loss's own ``weight`` would cancel out and is not used. Gradients are
measured on the last transformer layer's trainable weights only, which is cheap and where all losses meet. They are
those of the whole optimizer step, all micro-batches and processes added up, before their length is taken: the weights
do not depend on how the step was cut up. That takes a forward pass of its own per micro-batch. A loss without gradient
gets weight 0 from ``gradmag`` and leaves the others as they were.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

BalanceName = Literal["fixed", "gradmag", "gradnorm"]

_ALPHA, _RATE = 0.12, 2.5e-2  # of GradNorm, as in the paper's and ALM's runs
_LEAST = 1e-3  # smallest weight that GradNorm may give


class Balance(ABC):
    """A way of weighting losses; its state is saved and restored with the run."""

    measures: bool = True
    """Whether :meth:`weights` looks at the figures, which cost a forward pass."""

    @abstractmethod
    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:
        """Return the weight of each loss at this step.

        ``norms`` are the lengths of the losses' gradients, ``losses`` their values, both unweighted.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (most have no state)
        """Continue from a saved state."""


class Fixed(Balance):
    """The same weights at every step."""

    measures = False

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = list(weights)

    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:  # noqa: ARG002  (protocol)
        """Return the weights."""
        return list(self._weights)


class GradMag(Balance):
    """Weights inverse to the length of the gradient, adding up to 1."""

    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:  # noqa: ARG002  (protocol)
        """Return the weights; all 0 where no loss has a gradient."""
        inverse = [1 / norm if norm > 0 else 0.0 for norm in norms]
        total = sum(inverse)
        return [part / total if total else 0.0 for part in inverse]


class GradNorm(Balance):
    """Learnt weights that let all losses fall at a similar rate."""

    def __init__(self, count: int) -> None:
        self._first: Tensor = torch.zeros(0, dtype=torch.float64)
        self._current = torch.ones(count, dtype=torch.float64)
        self._optimizer = torch.optim.Adam([self._current], lr=_RATE)

    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:
        """Take a step towards balance and return the weights."""
        lengths, values = (torch.tensor(list(part), dtype=torch.float64) for part in (norms, losses))
        if not len(self._first):
            self._first = values
        progress = (values / self._first.clamp(min=1e-12)).clamp(min=1e-12)
        weighted = self._current * lengths
        target = weighted.mean() * (progress / progress.mean()) ** _ALPHA
        self._current.grad = (weighted - target).sign() * lengths  # of sum_i |w_i |g_i| - target_i|, targets constant
        self._optimizer.step()
        self._current.clamp_(min=_LEAST)
        self._current.mul_(len(self._current) / self._current.sum())
        return [float(weight) for weight in self._current]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, first losses and the optimizer's moments."""
        return {"first": self._first, "current": self._current, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._first = state["first"].clone()
        self._current.copy_(state["current"])
        self._optimizer.load_state_dict(state["optimizer"])


def balance(name: BalanceName, weights: Sequence[float]) -> Balance:
    """Return the balance called ``name``; ``weights`` are the losses' own, one per loss."""
    if name == "fixed":
        return Fixed(weights)
    return GradMag() if name == "gradmag" else GradNorm(len(weights))


def last_layer(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of the last transformer layer.

    The layers are the longest list of modules in the model. Where the last one is frozen (only embeddings are trained)
    all trainable parameters are taken instead, which is logged.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    longest = max(stacks, key=len, default=None)
    found = [] if longest is None else [weight for weight in longest[-1].parameters() if weight.requires_grad]
    if not found:
        log.info("the last layer is not trained: gradients are balanced on all that is")
        found = [weight for weight in model.parameters() if weight.requires_grad]
    return found


def gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradient of each scalar loss as one fp32 vector; the graph is used up."""
    vectors = []
    for place, loss in enumerate(losses):
        parts = torch.autograd.grad(loss, parameters, retain_graph=place + 1 < len(losses), allow_unused=True)
        flat = [
            torch.zeros(parameter.numel(), device=parameter.device) if part is None else part.float().flatten()
            for part, parameter in zip(parts, parameters, strict=True)
        ]
        vectors.append(torch.cat(flat))
    return vectors
