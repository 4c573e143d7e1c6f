"""What one token costs a model, counted from its weights and configuration.

Counted are the multiplications of matrices; norms, rotations and activations are hundreds of times smaller. Of experts
only those that a token visits count. An ensemble costs what its members cost together. Where the cost of a token is not
decided by the model alone (members of other tokenizers, who read the text in tokens of their own), nothing is stated
rather than a guess; tables add up the members instead, each by its own tokens.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from crosstok.distill.ensemble import EnsembleForCausalLM, OwnTokensEnsemble


def compute_of(model: PreTrainedModel) -> dict[str, int]:
    """Return operations per token by part (``body``, ``head``, ``context``), {} if unknown."""
    if isinstance(model, OwnTokensEnsemble) and model.config.tokens != "shared":
        return {}
    if isinstance(model, EnsembleForCausalLM):
        parts = [compute_of(member) for member in model.members]  # type: ignore[arg-type]  # a ModuleList has no type
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
    """Return the share of the experts that one token visits."""
    experts = next(
        (found for name in ("num_local_experts", "num_experts", "n_routed_experts") if (found := _get(config, name))), 0
    )
    chosen = _get(config, "num_experts_per_tok")
    return chosen / experts if experts and chosen else 1.0


def _attention_width(config: Any) -> int:
    """Return layers times width of their queries: what a token does with each token in view, twice."""
    layers, heads = _get(config, "num_hidden_layers"), _get(config, "num_attention_heads")
    if not layers or not heads:
        return 0
    width = _get(config, "head_dim") or _get(config, "hidden_size") // heads
    return layers * heads * width


def _get(config: Any, name: str) -> int:
    """Return a number of the configuration, of the part for text where there are several; 0 where it has none."""
    found = getattr(config.get_text_config(), name, None)
    return found if isinstance(found, int) else 0
