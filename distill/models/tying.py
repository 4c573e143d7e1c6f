"""Tying and untying of a model's input and output embeddings.

With a small vocabulary a second matrix costs little, and input and output rows of a byte serve different purposes, so
byte-level students train better untied (arXiv 2503.20083, appendix, table 12). Some architectures and programs require
tied embeddings. Tensors, configuration and transformers' list of tied weights are updated together, so that saving and
loading agree.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from crosstok.distill.models.weights import input_weight, is_tied
from crosstok.errors import UserError


def untie(model: PreTrainedModel) -> None:
    """Give the output head its own copy of the input matrix, if the two are tied."""
    if is_tied(model):
        _head(model).weight = nn.Parameter(input_weight(model).detach().clone())
        _tell(model, tied=False)


def tie(model: PreTrainedModel) -> None:
    """Use the input matrix as the output matrix. Raises UserError if their shapes differ."""
    head, matrix = _head(model), input_weight(model)
    if head.weight.shape != matrix.shape:
        raise UserError(
            f"Embeddings of shapes {tuple(matrix.shape)} and {tuple(head.weight.shape)} cannot be tied.",
            hint="Remove the option `embeddings`.",
        )
    head.weight = matrix
    _tell(model, tied=True)


def _head(model: PreTrainedModel) -> Any:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    if head is None:
        raise UserError(f"{type(model).__name__} has no output embeddings.", hint="Remove the option `embeddings`.")
    return head


def _tell(model: Any, *, tied: bool) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
