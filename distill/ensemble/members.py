"""The members of an ensemble: how many and how heavy, loaded one after the other, equal matrices in memory once."""

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
    """Return ``weights``. Raises UserError unless there are two members or more and a positive weight of each."""
    if members < 2:
        raise UserError("An ensemble needs at least two members.", hint="Name another model.")
    if len(weights) != members or min(weights) <= 0 or not math.isfinite(sum(weights)):
        raise UserError(f"An ensemble of {members} members needs as many positive weights, not {list(weights)}.")
    return list(weights)


Named = dict[str, Any]
"""An entry in the config of an ensemble: a member's ``source``, ``weight`` and fingerprint of its ``tokenizer``."""


def load_members(folder: Path, config: Any, dtype: torch.dtype | str) -> Iterator[tuple[Named, PreTrainedModel]]:
    """Yield the entry in ``config.members`` and the model of each member.

    What a member has in common with those before it is dropped as soon as it is loaded, so memory peaks at what all
    of them need and one member more. Raises UserError for a member whose tokenizer was changed since the ensemble was
    saved, or has ids that its matrix has no rows for; padding beyond is fine.
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
            f"The tokenizer of {member['source']} is not the one that the ensemble in {folder} was made with.",
            hint="Restore it, or make the ensemble again.",
        )
    model = load_model(path, dtype)
    if rows(model) < tokens.size:
        raise UserError(
            f"The tokenizer of {member['source']} has ids up to {tokens.size - 1}, its matrix {rows(model)} rows.",
            hint="Take the tokens without a row out of its tokenizer.json, or resize the model's embeddings.",
        )
    return model


class SharedWeights:
    """Matrices of models that were seen, by their content."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], list[nn.Parameter]] = {}

    def share(self, model: PreTrainedModel) -> int:
        """Let ``model`` use matrices that are known, and know its others; return the bytes that this saves."""
        saved = 0
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.dim() < 2:  # fresh norms are equal by chance, and small
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
