"""Deferred gradient of the output matrix, computed once at the end of the backward pass.

The gradient is as large as the matrix, and the backward pass starts with it, so it would occupy memory together with
the activations of all layers. With tied embeddings, the input side produces a second gradient of that size, zero except
for a few rows, only for the two to be added. Both are avoided with an operation that takes the matrix as input and is
recorded first in the forward pass. Autograd runs the most recently recorded operation first, so this one runs after the
backward pass of all layers. The embeddings look up their rows in its output, with sparse gradients, and scoring leaves
it a task that computes its share.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from crosstok.distill.models.output_head import Head

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Gradients of a head's weight, bias and new rows."""

Task = Callable[[], Gradients]


class HeadGradient:
    """Context manager around a forward pass whose states go through ``head``; a no-op if the head is not trained."""

    def __init__(self, embeddings: nn.Module, head: Head) -> None:
        self.trigger: Tensor | None = None
        """A zero tensor. An operation that takes it as input and returns a gradient for it triggers :attr:`tasks`."""
        self.tasks: list[Task] = []
        """Computes a share of the gradients after the backward pass of all layers; holds at most one task."""
        self._embeddings, self._head = embeddings, head
        self._own: nn.Parameter | None = None

    def __enter__(self) -> Self:
        head, embeddings = self._head, self._embeddings
        trigger, matrix = _Matrix.apply(head.weight, head.bias, head.new_rows, self.tasks)  # type: ignore[no-untyped-call]  # torch's own
        if not trigger.requires_grad:  # nothing is trained, or gradients are disabled
            return self
        self.trigger = trigger
        plain = isinstance(embeddings, nn.Embedding) and embeddings.max_norm is None and not embeddings.sparse
        if plain and head.weight.requires_grad and embeddings.weight is head.weight:
            self._replace(matrix)
        return self

    def _replace(self, matrix: Tensor | None) -> None:
        """Let the embedding layer look up rows in ``matrix``, or in its own weight again for None."""
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
    """Returns a zero tensor that triggers the tasks in the backward pass, and a view of the matrix."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,  # noqa: ARG004  (an input, so that it receives a gradient)
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
            rows = looked_up.coalesce()  # sums the gradients of repeated tokens in a deterministic order
            weight = torch.zeros(rows.shape, dtype=rows.dtype, device=rows.device) if weight is None else weight
            weight[rows.indices()[0]] += rows.values()
        return weight, bias, new_rows, None
