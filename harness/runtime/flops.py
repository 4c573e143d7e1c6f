"""Floating-point operations per token, counted from the weights and the configuration of a model.

Only matrix multiplications count; norms, rotary embeddings and activations are smaller by two orders of magnitude. Of a
mixture of experts, the experts that one token visits count. The cost of an ensemble is the sum over its members. It is
undefined for members with different tokenizers, which read the same text in different numbers of tokens: tables then
add up the members, each with its own tokens.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from crosstok.distill.ensemble import EnsembleForCausalLM, OwnTokensEnsemble


def compute_of(model: PreTrainedModel) -> dict[str, int]:
    """Return the operations per token by part; {} if they are unknown.

    ``body`` is all layers, ``head`` the output matrix, and ``context`` the attention per token in view.
    """
    if isinstance(model, OwnTokensEnsemble) and model.config.tokens != "shared":
        return {}
    if isinstance(model, EnsembleForCausalLM):
        parts = [compute_of(member) for member in model.members]  # type: ignore[arg-type]  # ModuleList is not generic
        return {name: sum(part[name] for part in parts) for name in parts[0]} if all(parts) else {}
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    if head is None or getattr(head, "weight", None) is None:
        return {}
    tables = {id(head.weight), *(id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding))}
    share = _visited(model.config)
    body = sum(
        round(weight.numel() * (share if "experts" in name else 1.0))
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and id(weight) not in tables
    )
    return {"body": 2 * body, "head": 2 * head.weight.numel(), "context": 4 * _attention_width(model.config)}


def _visited(config: Any) -> float:
    """Return the fraction of the experts that one token visits."""
    experts = next(
        (found for name in ("num_local_experts", "num_experts", "n_routed_experts") if (found := _get(config, name))), 0
    )
    chosen = _get(config, "num_experts_per_tok")
    return chosen / experts if experts and chosen else 1.0


def _attention_width(config: Any) -> int:
    """Return the number of layers times the width of the queries."""
    layers, heads = _get(config, "num_hidden_layers"), _get(config, "num_attention_heads")
    if not layers or not heads:
        return 0
    width = _get(config, "head_dim") or _get(config, "hidden_size") // heads
    return layers * heads * width


def _get(config: Any, name: str) -> int:
    """Return an integer of the text configuration, 0 if it has no such entry."""
    found = getattr(config.get_text_config(), name, None)
    return found if isinstance(found, int) else 0
