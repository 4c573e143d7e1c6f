"""The logit lens: what every layer would say if it were the last one (nostalgebraist, "interpreting GPT", 2020).

The state of a layer is put through the model's own last norm and output head. Early layers are read in a coordinate
system that is not theirs, so a lens shows when something becomes *readable*, not when it is first there.

The last norm has a different name in every architecture, and no library says which it is. It is found by what it does:
it is the module whose output is the last of the hidden states. Where there is none (a model that does something behind
it), there is no lens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crosstok.distill.models.output_head import head_of


@dataclass(frozen=True, eq=False)
class Seen:
    """A text as all layers see it."""

    states: Tensor
    """``[layers + 1, tokens, d]``: the embedding first, every layer behind the last norm."""
    logs: Tensor
    """Log-probabilities of the next token, ``[layers + 1, tokens, ids]``, float32."""


class Lens:
    """Looks into one model; ``ids`` is how many of its rows mean something."""

    def __init__(self, model: Any, ids: int) -> None:
        self._model = model
        self._ids = ids
        self._head = head_of(model)
        self._norm = _last_norm(model)

    @property
    def fits(self) -> bool:
        """Whether the model's last norm and head were found."""
        return self._head is not None and self._norm is not None

    @torch.inference_mode()
    def look(self, ids: list[int], positions: list[int]) -> Seen:
        """Return states and predictions at ``positions`` of the text ``ids``."""
        if self._head is None or self._norm is None:
            raise ValueError("the lens does not fit this model")
        hidden = self._model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        layers = torch.stack([layer[0, positions] for layer in hidden])
        states = torch.cat([self._norm(layers[:-1]), layers[-1:]])
        logits = self._head.logits(states.flatten(0, 1))[..., : self._ids].float()
        return Seen(states.float(), logits.log_softmax(dim=-1).reshape(*states.shape[:2], -1))


@torch.inference_mode()
def _last_norm(model: Any) -> nn.Module | None:
    """Return the module whose output is the last hidden state, the outermost that has weights of one dimension only."""
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
