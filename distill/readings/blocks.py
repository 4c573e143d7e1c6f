"""A loss over whole vocabularies in bounded memory: value and gradient of one block of positions after the other.

Logits of every position of a batch are the largest thing that a step can hold, and checkpointing computes them twice.
But a loss that is a sum over positions needs no second look: its gradient into the states and into the output matrix is
known as soon as its value is, up to a factor that the backward pass brings. Both are therefore taken in the forward
pass, block by block, and a block's logits are gone before the next one's come.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crosstok.distill.models.output_head import Head

Block = Callable[[Tensor, slice], Tensor]
"""From states ``[q, d]`` and the positions that they are of to a sum over them."""


def by_blocks(block: Block, states: Tensor, head: Head, size: int) -> Tensor:
    """Return the sum of ``block`` over ``size`` positions at a time of ``states [p, d]``.

    Gradients go into the states and into whatever of ``head`` learns; ``block`` must use no other trained parameter.
    """
    weights = [part for part in (head.weight, head.bias, head.new_rows) if part is not None and part.requires_grad]
    learns = torch.is_grad_enabled()
    total: Tensor = _Blocks.apply(block, size, learns, states, *weights)  # type: ignore[no-untyped-call]  # torch's own
    return total


class _Blocks(torch.autograd.Function):
    """Sums blocks in the forward pass, and keeps the gradient of the sum."""

    @staticmethod
    def forward(ctx: Any, block: Block, size: int, learns: bool, states: Tensor, *weights: Tensor) -> Tensor:
        total = states.new_zeros((), dtype=torch.float32)
        slopes = [torch.zeros_like(part) for part in (states, *weights)] if learns else []
        for start in range(0, len(states), size):
            part = slice(start, min(start + size, len(states)))
            with torch.set_grad_enabled(learns):
                piece = states[part].detach().requires_grad_(learns)
                value = block(piece, part)
                if learns:
                    found = torch.autograd.grad(value, [piece, *weights], allow_unused=True)
                    slopes[0][part] = found[0]
                    for place, more in enumerate(found[1:], 1):
                        if more is not None:
                            slopes[place] += more
            total += value.detach()
        ctx.slopes = slopes
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *(slope * factor for slope in ctx.slopes))
