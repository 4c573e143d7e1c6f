"""Stage 1 of an expansion: the rows of new tokens learn, and everything else stands still to the last bit.

The usual ways leave the matrix trainable and take back what the old rows got: zeroed gradients do not stop weight
decay or momentum, restored rows cost a copy per step, and either computes the gradient of every row of the vocabulary
to throw it away. Here no old number is ever a parameter. The matrix is frozen as a whole, and its last rows are looked
at a second time, as a leaf of their own over the same memory::

    weight    [V, d]  frozen, what the layers compute with
    new_rows  [k, d]  the parameter; the same bytes as weight[V - k:]

The optimizer knows ``new_rows`` alone, so decay and momentum cannot reach another row, and a step needs no copying:
what it writes is in the matrix already. Gradients come from two hooks. Behind the input layer the vectors of new ids
are taken from ``new_rows``. Behind the output layer the logits pass through the identity, whose gradient is credited to
``new_rows``; scores that are taken without logits do the same (``fused_scoring``). Where input and output are tied,
both gradients meet in one parameter; where they are not, there are two.

The backward pass still runs through the whole network, since the input rows only show in what comes later, but without
any gradient of its weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crosstok.distill.models.lora import embedding_matrices
from crosstok.distill.models.output_head import NEW_ROWS

_HOOK = "new_rows_hook"


def train_new_rows(model: Any, first: int) -> list[nn.Parameter]:
    """Freeze ``model`` in place but for the rows from ``first`` on; return them: one matrix if they are tied, else two.

    Undo it with :func:`restore`. Raises ValueError if the input layer does something to its rows that is not known.
    """
    for parameter in model.parameters():
        parameter.requires_grad = False
    rows = {id(weight): nn.Parameter(weight.data[first:]) for weight in embedding_matrices(model)}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    _attach(inputs, rows[id(inputs.weight)], _reading(first))
    if outputs is not None:
        _attach(outputs, rows[id(outputs.weight)], _crediting(first))
    _check(inputs, first)
    return list(rows.values())


def trained_rows(model: Any) -> list[nn.Parameter]:
    """Return the rows that learn alone, none if the model was not loosened."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    found = [getattr(layer, NEW_ROWS) for layer in layers if hasattr(layer, NEW_ROWS)]
    return list({id(rows): rows for rows in found}.values())


def restore(model: Any) -> None:
    """Remove what :func:`train_new_rows` added; the rows keep their learnt values, and no parameter is trainable."""
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if hasattr(layer, NEW_ROWS):
            getattr(layer, _HOOK).remove()
            delattr(layer, _HOOK)
            delattr(layer, NEW_ROWS)


Hook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


def _attach(layer: nn.Module, rows: nn.Parameter, hook: Hook) -> None:
    layer.register_parameter(NEW_ROWS, rows)
    setattr(layer, _HOOK, layer.register_forward_hook(hook))


def _reading(first: int) -> Hook:
    """Return the hook of the input layer."""

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        new = arguments[0] >= first
        rows: Any = getattr(layer, NEW_ROWS)
        vectors = nn.functional.embedding(arguments[0][new] - first, rows)
        scale = getattr(layer, "embed_scale", None)  # Gemma's
        if isinstance(scale, Tensor):
            vectors = vectors * scale.to(vectors.dtype)
        elif scale is not None:
            vectors = vectors * scale
        return output.masked_scatter(new[..., None].expand_as(output), vectors.to(output.dtype))

    return hook


def _crediting(first: int) -> Hook:
    """Return the hook of the output layer."""

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        credited: Tensor = _Credit.apply(output, arguments[0], getattr(layer, NEW_ROWS), first)  # type: ignore[no-untyped-call]  # torch's own
        return credited

    return hook


class _Credit(torch.autograd.Function):
    """The identity on logits ``[.., V]`` of states ``[.., d]``; their gradient also goes to the last rows."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, states: Tensor, rows: Tensor, first: int) -> Tensor:  # noqa: ARG004
        ctx.first = first
        ctx.save_for_backward(states)
        return logits.view_as(logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, Tensor, None]:
        (states,) = ctx.saved_tensors
        part = slope[..., ctx.first :].flatten(0, -2).float()
        return slope, None, part.T @ states.flatten(0, -2).float(), None


@torch.no_grad()
def _check(inputs: nn.Module, first: int) -> None:
    """Compare what the hook puts in with what the layer itself makes of the first new id."""
    weight: Any = inputs.weight
    ids = torch.tensor([[first]], device=weight.device)
    if not torch.equal(inputs(ids), inputs.forward(ids)):  # forward is the layer without its hook
        raise ValueError(f"{type(inputs).__name__} does more to its rows than to scale them")
