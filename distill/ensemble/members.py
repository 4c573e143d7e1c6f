"""Members of an ensemble: validation of weights, loading one at a time, and sharing of equal matrices."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from crosstok.distill.models.weights import load_model, rows
from crosstok.distill.sources.models import fetch, member_source
from crosstok.distill.sources.tokenizers import read_tokenizer
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError


def check_shares(weights: Sequence[float], members: int) -> list[float]:
    """Return ``weights``. Raises UserError unless there are at least two members with a positive weight each."""
    if members < 2:
        raise UserError("An ensemble needs at least two members.", hint="Name another model.")
    if len(weights) != members or min(weights) <= 0 or not math.isfinite(sum(weights)):
        raise UserError(f"An ensemble of {members} members needs {members} positive weights, not {list(weights)}.")
    return list(weights)


Named = dict[str, Any]
"""A member's entry in the config: its ``source``, ``weight`` and the fingerprint of its ``tokenizer``."""


def load_members(folder: Path, config: Any, dtype: torch.dtype | str) -> Iterator[tuple[Named, PreTrainedModel]]:
    """Yield each member's entry in ``config.members`` and its model.

    Matrices shared with earlier members are dropped as soon as a member is loaded, so peak memory is that of the
    ensemble plus one member. Raises UserError for a member whose tokenizer has changed since the ensemble was saved, or
    has ids beyond the rows of its matrix; padding rows are accepted.
    """
    known = SharedWeights()
    for named in config.members or []:
        model = _load_member(folder, named, dtype)
        known.share(model)
        yield named, model


def _load_member(folder: Path, member: Named, dtype: torch.dtype | str) -> PreTrainedModel:
    path = fetch(member_source(folder, member["source"]))
    tokens = TokenBytes.from_tokenizer(read_tokenizer(path))
    if tokens.fingerprint != member["tokenizer"]:
        raise UserError(
            f"The tokenizer of {member['source']} has changed since the ensemble in {folder} was created.",
            hint="Restore it, or create the ensemble again.",
        )
    model = load_model(path, dtype)
    if rows(model) < tokens.size:
        raise UserError(
            f"The tokenizer of {member['source']} has ids up to {tokens.size - 1}, its matrix {rows(model)} rows.",
            hint="Remove the tokens without a row from its tokenizer.json, or resize the model's embeddings.",
        )
    return model


class SharedWeights:
    """Index of the matrices of the loaded models, by content."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], list[nn.Parameter]] = {}

    def share(self, model: PreTrainedModel) -> int:
        """Replace matrices of ``model`` by known ones and index the others; return the bytes saved."""
        saved = 0
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.dim() < 2:  # untrained norms are equal by chance, and small
                    continue
                key = (weight.shape, weight.dtype, weight.device, float(weight.detach().float().sum()))
                of_key = self._known.setdefault(key, [])
                twin = next((one for one in of_key if one is weight or torch.equal(one, weight)), None)
                if twin is None:
                    of_key.append(weight)
                elif twin is not weight:
                    setattr(module, name, twin)
                    saved += weight.numel() * weight.element_size()
        return saved
