"""Loss balancing: the weights with which several losses are added.

Gradients of different losses differ widely in norm (ALM's shrinks as 1/temperature), so a fixed sum mostly trains on
the largest one. In the ablation of ALM (arXiv 2503.20083), ALM + SFT with any fixed factor scores like SFT alone, and
gains three to four points once the gradients are balanced. Three strategies:

- ``fixed``: each loss keeps its own ``weight``.
- ``gradmag``: ``w_i = (1/|g_i|) / sum_j (1/|g_j|)``, where ``g_i`` is the gradient of loss i. All weighted gradients
  have the same norm, and the weights sum to 1 (ALM, section 4).
- ``gradnorm`` (Chen et al. 2018, arXiv 1711.02257): the weights are learned, with one Adam step per optimizer step. The
  target norm of gradient i is the mean norm times ``r_i^alpha``, where ``r_i`` is the relative inverse training rate: a
  loss that decreases more slowly than the others gets a larger weight. Weights stay positive and sum to the number of
  losses.

``gradmag`` and ``gradnorm`` balance unweighted losses and ignore ``weight``, which would cancel out. They measure
gradients with respect to the trainable weights of the last transformer layer, which is cheap and shared by all losses.
The gradient of a loss is summed over all micro-batches and processes before its norm is taken, so the weights do not
depend on how the step is split. This costs one extra forward pass per micro-batch. A loss without a gradient gets
weight 0 from ``gradmag`` and does not affect the weights of the others.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstok.distill.training.options import BalanceName

log = logging.getLogger(__name__)

_ALPHA, _RATE = 0.12, 2.5e-2  # GradNorm's exponent and learning rate, as in the paper's and ALM's runs
_LEAST = 1e-3  # lower bound of GradNorm's weights


class Balance(ABC):
    """Base class of the balancing strategies; its state is saved and restored with the training run."""

    measures: bool = True
    """Whether :meth:`weights` needs gradient norms and loss values, which cost an extra forward pass."""

    @abstractmethod
    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:
        """Return one weight per loss for this step.

        Args:
            norms: Gradient norm of each unweighted loss, summed over the step.
            losses: Value of each unweighted loss.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027  (most have no state)
        """Restore a saved state."""


class Fixed(Balance):
    """Constant weights."""

    measures = False

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = list(weights)

    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:
        """Return the constant weights."""
        return list(self._weights)


class GradMag(Balance):
    """Weights inversely proportional to the gradient norms, summing to 1."""

    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:
        """Return the weights; all are 0 if no loss has a gradient."""
        inverse = [1 / norm if norm > 0 else 0.0 for norm in norms]
        total = sum(inverse)
        return [part / total if total else 0.0 for part in inverse]


class GradNorm(Balance):
    """Learned weights that equalise the training rates of the losses."""

    def __init__(self, count: int) -> None:
        self._first: Tensor = torch.zeros(0, dtype=torch.float64)
        self._current = torch.ones(count, dtype=torch.float64)
        self._optimizer = torch.optim.Adam([self._current], lr=_RATE)

    def weights(self, norms: Sequence[float], losses: Sequence[float]) -> list[float]:
        """Take one Adam step on the weights and return them."""
        lengths, values = (torch.tensor(list(part), dtype=torch.float64) for part in (norms, losses))
        if not len(self._first):
            self._first = values
        progress = (values / self._first.clamp(min=1e-12)).clamp(min=1e-12)
        weighted = self._current * lengths
        target = weighted.mean() * (progress / progress.mean()) ** _ALPHA
        self._current.grad = (weighted - target).sign() * lengths  # d/dw of sum_i |w_i |g_i| - target_i|
        self._optimizer.step()
        self._current.clamp_(min=_LEAST)
        self._current.mul_(len(self._current) / self._current.sum())
        return [float(weight) for weight in self._current]

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the initial losses and the state of the Adam optimizer."""
        return {"first": self._first, "current": self._current, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a saved state."""
        self._first = state["first"].clone()
        self._current.copy_(state["current"])
        self._optimizer.load_state_dict(state["optimizer"])


def balance(name: BalanceName, weights: Sequence[float]) -> Balance:
    """Return the strategy called ``name``; ``weights`` are the losses' own weights, used by ``fixed``."""
    if name == "fixed":
        return Fixed(weights)
    return GradMag() if name == "gradmag" else GradNorm(len(weights))


def last_layer(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of the last transformer layer.

    The layers are taken to be the longest ``ModuleList`` of the model. If the last layer is frozen (only embeddings are
    trained), all trainable parameters are returned instead, and this is logged.
    """
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    longest = max(stacks, key=len, default=None)
    found = [] if longest is None else [weight for weight in longest[-1].parameters() if weight.requires_grad]
    if not found:
        log.info("the last layer is frozen: gradients are balanced over all trainable parameters")
        found = [weight for weight in model.parameters() if weight.requires_grad]
    return found


def gradients(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradient of each scalar loss as one flat fp32 vector; frees the graph."""
    vectors = []
    for place, loss in enumerate(losses):
        parts = torch.autograd.grad(loss, parameters, retain_graph=place + 1 < len(losses), allow_unused=True)
        flat = [
            torch.zeros(parameter.numel(), device=parameter.device) if part is None else part.float().flatten()
            for part, parameter in zip(parts, parameters, strict=True)
        ]
        vectors.append(torch.cat(flat))
    return vectors
