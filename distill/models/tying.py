"""Whether a model's input and output embeddings are one matrix, changed on purpose.

A small vocabulary costs little twice, and the two sides of a byte want different things, so students of bytes train
better untied (arXiv 2503.20083, table 12 of its appendix); some architectures and programs expect one matrix. Tensors,
configuration and the library's own list of tied weights are changed together, so that saving and loading agree.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from crosstok.distill.models.weights import input_weight, is_tied
from crosstok.errors import UserError


def untie(model: PreTrainedModel) -> None:
    """Give the output head a copy of the input matrix, if they are one."""
    if is_tied(model):
        _head(model).weight = nn.Parameter(input_weight(model).detach().clone())
        _tell(model, tied=False)


def tie(model: PreTrainedModel) -> None:
    """Make the input matrix the output matrix too. Raises UserError where their shapes differ."""
    head, matrix = _head(model), input_weight(model)
    if head.weight.shape != matrix.shape:
        raise UserError(
            f"Embeddings of shapes {tuple(matrix.shape)} and {tuple(head.weight.shape)} cannot be tied.",
            hint="Leave `embeddings` as it is.",
        )
    head.weight = matrix
    _tell(model, tied=True)


def _head(model: PreTrainedModel) -> Any:
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    if head is None:
        raise UserError(f"{type(model).__name__} has no output embeddings.", hint="Leave `embeddings` as it is.")
    return head


def _tell(model: Any, *, tied: bool) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = tied
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
