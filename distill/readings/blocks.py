"""Blockwise losses over the whole vocabulary in bounded memory, with gradients computed in the forward pass.

The logits of all positions are the largest tensor of a training step, and checkpointing computes them twice. For a loss
that is a sum over positions, the gradients with respect to states and output matrix are known together with its value,
up to the factor that the backward pass brings. Both are therefore computed in the forward pass, block by block, and the
logits of a block are freed before the next block.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crosstok.distill.models.output_head import Head

Block = Callable[[Tensor, slice], Tensor]
"""Maps states ``[q, d]`` and the slice of positions that they belong to, to a sum over these positions."""


def by_blocks(block: Block, states: Tensor, head: Head, size: int) -> Tensor:
    """Return the sum of ``block`` over the positions of ``states [p, d]``, ``size`` positions at a time.

    Gradients go to the states and to the trained parameters of ``head``; ``block`` must not use any other trained
    parameter.
    """
    weights = [part for part in (head.weight, head.bias, head.new_rows) if part is not None and part.requires_grad]
    learns = torch.is_grad_enabled()
    total: Tensor = _Blocks.apply(block, size, learns, states, *weights)  # type: ignore[no-untyped-call]  # torch's own
    return total


class _Blocks(torch.autograd.Function):
    """Sums over blocks in the forward pass and stores the gradient of the sum."""

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
