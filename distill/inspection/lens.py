"""Logit lens: the predictions of every layer through the model's final norm and output head.

nostalgebraist, "interpreting GPT: the logit lens", 2020. Early layers use other coordinates than the output head, so
the lens shows when information becomes *readable*, not when it is first present.

The final norm has a different name in every architecture. It is found by its effect: it is the module whose output
equals the last hidden states. If there is none (some models transform the states once more), the lens is not available.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crosstok.distill.models.output_head import head_of


@dataclass(frozen=True, eq=False)
class LensView:
    """States and predictions of all layers for a text."""

    states: Tensor
    """``[layers + 1, tokens, d]`` states, starting with the embedding, after the final norm."""
    logs: Tensor
    """Log-probabilities of the next token (nats), ``[layers + 1, tokens, ids]``, float32."""


class Lens:
    """Applies the logit lens to one model; ``ids`` is the number of valid rows."""

    def __init__(self, model: Any, ids: int) -> None:
        self._model = model
        self._ids = ids
        self._head = head_of(model)
        self._norm = _last_norm(model)

    @property
    def fits(self) -> bool:
        """Whether the model's final norm and output head were found."""
        return self._head is not None and self._norm is not None

    @torch.inference_mode()
    def look(self, ids: list[int], positions: list[int]) -> LensView:
        """Return states and predictions at ``positions`` of the text ``ids``."""
        if self._head is None or self._norm is None:
            raise ValueError("the logit lens does not support this model")
        hidden = self._model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        layers = torch.stack([layer[0, positions] for layer in hidden])
        states = torch.cat([self._norm(layers[:-1]), layers[-1:]])
        logits = self._head.logits(states.flatten(0, 1))[..., : self._ids].float()
        return LensView(states.float(), logits.log_softmax(dim=-1).reshape(*states.shape[:2], -1))


@torch.inference_mode()
def _last_norm(model: Any) -> nn.Module | None:
    """Return the outermost module with only 1-D weights whose output equals the last hidden states."""
    outputs: list[tuple[nn.Module, Tensor]] = []
    norms: list[nn.Module] = [
        module
        for module in model.modules()
        if not list(module.children()) and all(weight.dim() < 2 for weight in module.parameters())
    ]
    hooks = [module.register_forward_hook(lambda made, _, output: outputs.append((made, output))) for module in norms]
    try:
        last = model(torch.arange(2)[None], output_hidden_states=True, use_cache=False).hidden_states[-1]
    finally:
        for hook in hooks:
            hook.remove()
    found = [made for made, output in outputs if isinstance(output, Tensor) and torch.equal(output, last)]
    return found[-1] if found and any(True for _ in found[-1].parameters()) else None
