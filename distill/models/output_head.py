"""Output heads: the map from last hidden states to logits, so that losses can compute only the logits that they need.

The transformations after the product (a scale, Gemma 2's soft cap) are read from the model's configuration and
verified: if the logits of :class:`Head` differ from the model's own on two tokens, full logits are used and this is
logged. Products use the type that the model would use, bf16 under autocast; everything after them is fp32.
"""

import inspect
import logging
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

NEW_ROWS = "new_rows"
"""Attribute of a layer whose last rows are trained while its matrix is frozen; see ``expansion.new_rows``."""

_PROBE_ERROR = 1e-2  # maximum relative difference to the model's own logits; bf16 weights give 3 digits


@dataclass(frozen=True)
class Head:
    """The map from last hidden states to logits: ``cap tanh(scale (W h + bias) / cap)``."""

    layer: nn.Module
    """Holds ``weight [rows, d]`` and optionally ``bias [rows]``; read at each use, as training replaces values."""
    scale: float = 1.0
    cap: float | None = None

    @property
    def weight(self) -> Tensor:
        """Output matrix ``[rows, d]``."""
        weight: Any = self.layer.weight
        return weight  # type: ignore[no-any-return]  # a parameter

    @property
    def bias(self) -> Tensor | None:
        """Bias ``[rows]``; None for most models."""
        bias: Any = getattr(self.layer, "bias", None)
        return bias  # type: ignore[no-any-return]  # a parameter

    @property
    def new_rows(self) -> Tensor | None:
        """The last rows of the matrix, ``[k, d]``, if they alone are trained; None for most models."""
        rows: Any = getattr(self.layer, NEW_ROWS, None)
        return rows  # type: ignore[no-any-return]  # a parameter

    def logits_of_new(self, hidden: Tensor) -> Tensor:
        """Return fp32 logits ``[p, k]`` of states ``[p, d]`` for :attr:`new_rows`, with a gradient to these rows."""
        rows = self.new_rows
        if rows is None:
            raise ValueError("this head has no new rows")
        return transform(product(hidden, rows, None, product_type(hidden)), self.scale, self.cap)

    def logits(self, hidden: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return fp32 logits ``[p, len(rows)]`` of states ``[p, d]`` for some rows of the matrix."""
        bias = None if self.bias is None else self.bias[rows]
        return transform(product(hidden, self.weight[rows], bias, product_type(hidden)), self.scale, self.cap)


_KNOWN: "WeakKeyDictionary[nn.Module, Head | None]" = WeakKeyDictionary()


def head_of(model: nn.Module) -> Head | None:
    """Return the output head of a Hugging Face causal language model; None if its logits are computed differently."""
    if model not in _KNOWN:
        head = _read_head(model)
        if head is not None and not _agrees(model, head):
            head = None
        if head is None:
            log.info("%s has an unknown output head: full logits are computed", type(model).__name__)
        _KNOWN[model] = head
    return _KNOWN[model]


def _read_head(model: Any) -> Head | None:
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(layer, nn.Linear) or model.base_model is model:
        return None
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return None
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(layer, scale, None if cap is None else float(cap))


def _agrees(model: Any, head: Head) -> bool:
    """Compare the head with the model's own logits, without changing the model's mode or the random state."""
    ids = torch.arange(2, device=head.weight.device)[None]
    with torch.random.fork_rng(), torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
        answer = model(input_ids=ids, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    own, ours = answer.logits[0, -1].float(), head.logits(answer.hidden_states[-1][0, -1:])[0]
    return bool((own - ours).abs().max() <= _PROBE_ERROR * own.abs().max().clamp(min=1e-3))


def product_type(hidden: Tensor) -> torch.dtype:
    """Return the type in which a product with these states is computed here."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def product(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the product of ``hidden [p, d]`` with rows ``[k, d]``, computed in ``dtype``, as fp32 ``[p, k]``."""
    part = None if bias is None else bias.to(dtype)
    return nn.functional.linear(hidden.to(dtype), weight.to(dtype), part).float()


def transform(raw: Tensor, scale: float, cap: float | None) -> Tensor:
    """Return the logits for a raw product: scale, then soft cap."""
    scaled = raw if scale == 1.0 else raw * scale
    return scaled if cap is None else cap * (scaled / cap).tanh()
