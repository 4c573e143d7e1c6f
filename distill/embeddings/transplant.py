"""Vocabulary replacement: new rows, resized matrices, and consistent tying and configuration.

Whether input and output matrix are tied is determined from the tensors, not from the configuration, and is preserved.
Rows are raw parameters: Gemma's scale of input embeddings and Gemma 2's soft cap are applied by the model afterwards.
Replacing a vocabulary by itself leaves the model bit-identical, including padding rows.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from crosstok.distill.embeddings.initialiser import Initialiser, Kind, Rows, SourceModel
from crosstok.distill.models.weights import is_tied
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

log = logging.getLogger(__name__)


def special_rows(
    source: TokenBytes, target: TokenBytes, source_roles: Mapping[str, int], target_roles: Mapping[str, int]
) -> dict[int, int]:
    """Map special target ids to source ids with the same role.

    Equal strings are the same token. A string that the source lacks is matched by role (``bos``, ``eos``, ``eot``,
    ``pad``, …). For a token with several roles, the first of ``target_roles`` that the source has decides.
    """
    ids = {name: token for token, name in source.specials.items()}
    rows = {token: ids[name] for token, name in target.specials.items() if name in ids}
    for role, token in target_roles.items():
        if token not in rows and role in source_roles:
            rows[token] = source_roles[role]
    return rows


def special_ids(model: PreTrainedModel, specials: Mapping[int, int]) -> None:
    """Replace the special ids in the configurations of ``model`` by those of the target, in place.

    ``specials`` maps target ids to source ids. An id without a counterpart becomes None, or is removed from a list.
    """
    here = {source: target for target, source in sorted(specials.items(), reverse=True)}
    configs = {id(config): config for config in (model.config, model.config.get_text_config(), model.generation_config)}
    for config in configs.values():  # a set: for a text-only model, config and text config are the same object
        for role in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
            value = getattr(config, role, None)
            if isinstance(value, int):
                setattr(config, role, here.get(value))
            elif isinstance(value, list):
                setattr(config, role, [here[token] for token in value if token in here])


def transplant(
    model: PreTrainedModel,
    initialiser: Initialiser,
    source: TokenBytes,
    target: TokenBytes,
    specials: Mapping[int, int],
    *,
    multiple: int = 1,
    source_model: SourceModel | None = None,
) -> Rows:
    """Replace the vocabulary of ``model`` by ``target`` in place, and return the new rows with their origins.

    Args:
        model: The source model.
        initialiser: Makes the rows.
        source: Token bytes of the model's current tokenizer.
        target: Token bytes of the new tokenizer.
        specials: Maps target ids to source ids (see :func:`special_rows`).
        multiple: The number of rows is padded with zero rows to a multiple of this; padding is masked everywhere.
        source_model: Model and text, for an initialiser that reads text.

    Raises UserError for a model with per-token parameters other than its two matrices.
    """
    tied = is_tied(model)
    matrices = _matrices(model, tied=tied)
    if source.fingerprint == target.fingerprint and multiple == 1:
        identity = initialiser.rows(matrices, source, target, specials)
        return Rows(matrices, identity.origins)
    rows = initialiser.rows(matrices, source, target, specials)
    if source_model is not None:
        rows = initialiser.refine(rows, source_model, source, target)
    log.info("initialised %d rows: %s", target.size, rows.counts())
    padded = {kind: _pad(matrix, multiple) for kind, matrix in rows.matrices.items()}
    inputs, outputs = _layers(model)
    _replace(inputs, padded["input"])
    if tied:
        outputs.weight = inputs.weight
        _resize(outputs, padded["input"].shape[0])
    elif "output" in padded:
        _replace(outputs, padded["output"])
    model.config.get_text_config().vocab_size = padded["input"].shape[0]
    if hasattr(model, "vocab_size"):
        model.vocab_size = padded["input"].shape[0]  # a copy that some architectures keep
    return rows


def _layers(model: Any) -> tuple[Any, Any]:
    """Return the layers of the input and the output matrix, the latter None if there is none."""
    return model.get_input_embeddings(), model.get_output_embeddings()


def _matrices(model: PreTrainedModel, *, tied: bool) -> dict[Kind, Tensor]:
    inputs, outputs = _layers(model)
    if getattr(outputs, "bias", None) is not None:
        raise UserError(
            f"The output layer of {type(model).__name__} has a bias per token, which cannot be transferred.",
            hint="Use a model without an output bias.",
        )
    found: dict[Kind, Tensor] = {"input": inputs.weight.detach()}
    if outputs is not None and not tied:
        found["output"] = outputs.weight.detach()
    return found


def _pad(matrix: Tensor, multiple: int) -> Tensor:
    missing = -matrix.shape[0] % multiple
    return torch.cat([matrix, matrix.new_zeros(missing, matrix.shape[1])]) if missing else matrix


def _replace(layer: Any, matrix: Tensor) -> None:
    old = layer.weight
    layer.weight = nn.Parameter(matrix.to(old.device), requires_grad=old.requires_grad)
    _resize(layer, matrix.shape[0])


def _resize(layer: nn.Module, size: int) -> None:
    """Update the sizes stored in a layer, and remove its padding id, which refers to the old vocabulary."""
    if isinstance(layer, nn.Embedding):
        layer.num_embeddings = size
        layer.padding_idx = None
    elif isinstance(layer, nn.Linear):
        layer.out_features = size
