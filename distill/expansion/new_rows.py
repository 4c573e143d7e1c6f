"""Training of new embedding rows with all other parameters bit-identical: stage 1 of a vocabulary expansion.

The usual approaches keep the whole matrix trainable and undo the updates of old rows. Zeroed gradients do not stop
weight decay or momentum, restoring rows costs a copy per step, and either way the gradient of every row is computed
only to be discarded. Here the matrix is frozen, and its last rows are additionally exposed as a leaf over the same
memory::

    weight    [V, d]  frozen, used by the layers
    new_rows  [k, d]  the parameter; the same memory as weight[V - k:]

The optimizer only knows ``new_rows``, so weight decay and momentum cannot affect other rows, and its updates appear in
the matrix without a copy. Two hooks provide the gradients. After the input layer, the vectors of new ids are looked up
in ``new_rows``. After the output layer, an identity operation on the logits credits their gradient to ``new_rows``;
``fused_scoring`` does the same without logits. With tied embeddings, both gradients go to one parameter, otherwise
there are two.

The backward pass still runs through the whole network, because input rows affect later positions only, but it computes
no gradients of other weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crosstok.distill.models.lora import embedding_matrices
from crosstok.distill.models.output_head import NEW_ROWS

_HOOK = "new_rows_hook"


def train_new_rows(model: Any, first: int) -> list[nn.Parameter]:
    """Freeze ``model`` in place except for the rows from ``first`` on, and return them: one tensor if tied, else two.

    :func:`restore` undoes this. Raises ValueError if the input layer transforms its rows in an unknown way.
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
    """Return the rows that are trained alone; an empty list without :func:`train_new_rows`."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    found = [getattr(layer, NEW_ROWS) for layer in layers if hasattr(layer, NEW_ROWS)]
    return list({id(rows): rows for rows in found}.values())


def restore(model: Any) -> None:
    """Undo :func:`train_new_rows`. The rows keep their trained values, and no parameter is trainable."""
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
    """Return the forward hook of the input layer."""

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        new = arguments[0] >= first
        rows: Any = getattr(layer, NEW_ROWS)
        vectors = nn.functional.embedding(arguments[0][new] - first, rows)
        scale = getattr(layer, "embed_scale", None)  # Gemma scales its input embeddings
        if isinstance(scale, Tensor):
            vectors = vectors * scale.to(vectors.dtype)
        elif scale is not None:
            vectors = vectors * scale
        return output.masked_scatter(new[..., None].expand_as(output), vectors.to(output.dtype))

    return hook


def _crediting(first: int) -> Hook:
    """Return the forward hook of the output layer."""

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        credited: Tensor = _Credit.apply(output, arguments[0], getattr(layer, NEW_ROWS), first)  # type: ignore[no-untyped-call]  # torch's own
        return credited

    return hook


class _Credit(torch.autograd.Function):
    """Identity on logits ``[.., V]`` of states ``[.., d]`` that also passes the gradient to the last rows."""

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
    """Raise ValueError if the hook does not reproduce the layer's own output for the first new id."""
    weight: Any = inputs.weight
    ids = torch.tensor([[first]], device=weight.device)
    if not torch.equal(inputs(ids), inputs.forward(ids)):  # forward() bypasses the hook
        raise ValueError(f"{type(inputs).__name__} transforms its rows in an unknown way")
