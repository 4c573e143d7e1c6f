"""The gradient of the output matrix, made once and last.

It is as large as the matrix, and the backward pass begins there: it would lie beside the activations of all layers
until these are used up. And where the matrix is the embeddings' as well, these make another of that size, all zero but
for the rows of a few tokens, only to be added. Both are avoided by an operation that takes the matrix and is recorded
before anything else of the pass: of what can run, autograd runs what was recorded last, so this one runs when all
layers are through. The embeddings look their rows up in its result, with sparse gradients; what the scores of the
output have to add is left with it as a task.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from crosstok.distill.models.output_head import Head

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of a head's weight, bias and new rows."""

Task = Callable[[], Gradients]


class HeadGradient:
    """Surrounds a forward pass whose states go through ``head``; nothing changes where nothing of the head learns."""

    def __init__(self, embeddings: nn.Module, head: Head) -> None:
        self.place: Tensor | None = None
        """A zero. Whoever takes it as an input and gives it a gradient has :attr:`tasks` done."""
        self.tasks: list[Task] = []
        """What adds to the gradients, called when all layers are through; at most one at a time."""
        self._embeddings, self._head = embeddings, head
        self._own: nn.Parameter | None = None

    def __enter__(self) -> Self:
        head, embeddings = self._head, self._embeddings
        place, matrix = _Matrix.apply(head.weight, head.bias, head.new_rows, self.tasks)  # type: ignore[no-untyped-call]  # torch's own
        if not place.requires_grad:  # nothing learns, or gradients are off
            return self
        self.place = place
        plain = isinstance(embeddings, nn.Embedding) and embeddings.max_norm is None and not embeddings.sparse
        if plain and head.weight.requires_grad and embeddings.weight is head.weight:
            self._replace(matrix)
        return self

    def _replace(self, matrix: Tensor | None) -> None:
        """Let the embeddings look up in ``matrix``, for None in their own again."""
        layer: Any = self._embeddings
        if matrix is not None:
            self._own = layer.weight
        del layer.weight
        layer.weight, layer.sparse = self._own if matrix is None else matrix, matrix is not None

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._replace(None)
            self._own = None


class _Matrix(torch.autograd.Function):
    """Of the parameters of a head: a zero that tasks are told with, and the matrix once more."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG004  (an input, so that it can get a gradient)
        new_rows: Tensor | None,  # noqa: ARG004  (as above)
        tasks: list[Task],
    ) -> tuple[Tensor, Tensor]:
        ctx.tasks = tasks
        ctx.set_materialize_grads(False)
        return weight.new_zeros(()), weight.view_as(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: Tensor | None, looked_up: Tensor | None) -> tuple[Tensor | None, ...]:
        weight, bias, new_rows = ctx.tasks.pop()() if ctx.tasks else (None, None, None)
        if looked_up is not None:
            rows = looked_up.coalesce()  # sums what a token got in several places, in an order that is always the same
            weight = torch.zeros(rows.shape, dtype=rows.dtype, device=rows.device) if weight is None else weight
            weight[rows.indices()[0]] += rows.values()
        return weight, bias, new_rows, None
