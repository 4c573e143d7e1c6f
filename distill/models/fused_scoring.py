"""Fused scoring: log-probability and boundary mass from hidden states, without materialising the logits.

ALM and SFT need two numbers per token. Computing them from logits takes 537 MB in fp32 for 512 tokens over 262,144 ids,
and several times that with log-softmax and gradients. Here the output matrix is processed in blocks of rows, and the
logits of each block are accumulated into running log-sum-exps::

    gold = z[t] - norm                  norm = ln sum_v e^z[v]
    mass = inside - norm                inside = ln sum_{v begins a pretoken} e^z[v]
    dL/dz[v] = g_gold ([v = t] - e^(z[v] - norm)) + g_mass ([v inside] e^(z[v] - inside) - e^(z[v] - norm))

The backward pass depends on what dominates memory. With many tokens, the logits of a block are discarded and recomputed
in the backward pass, at the cost of one more product with the matrix. With few tokens, the largest tensor is the
gradient of the matrix. It is then computed after the backward pass of all layers
(:mod:`crosstok.distill.models.head_gradient`), and the logits are kept in the memory that the gradient will take later.
There they become dL/dz in place; the gradient of the states is computed from it first, that of the matrix last.

Ids that begin a pretoken come first, so that each block contributes to one sum only. Everything after the product is
fp32. The product and the two products of its gradient use the type that the model would use, e.g. bf16 under autocast.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crosstok.distill.models.head_gradient import Gradients, HeadGradient, Task
from crosstok.distill.models.output_head import Head, product, product_type, transform

_BLOCK = 1 << 23  # logits per block: 32 MB in fp32
_LEAST_ROWS = 256  # minimum rows of the output matrix per block
_KEPT = 1.0  # maximum bytes of logits kept for the backward pass, per byte of the output matrix


@dataclass(frozen=True)
class Order:
    """The ids that may carry probability, ordered so that those that begin a pretoken come first."""

    ids: Tensor
    """``[valid_rows]`` int64 ids."""
    places: Tensor
    """``[valid_rows]`` int64: index of each id in ``ids``."""
    inside: int
    """Number of ids that begin a pretoken."""

    @classmethod
    def of(cls, boundary: Tensor) -> "Order":
        """Return the order for the mask ``boundary [valid_rows]``."""
        ids = torch.cat([boundary.nonzero()[:, 0], (~boundary).nonzero()[:, 0]])
        return cls(ids, torch.argsort(ids), int(boundary.sum()))

    def to(self, device: torch.device) -> "Order":
        """Return the order on another device."""
        return self if self.ids.device == device else Order(self.ids.to(device), self.places.to(device), self.inside)

    def blocks(self, tokens: int) -> Iterator[tuple[int, int, bool]]:
        """Yield the first index, the last index + 1 and whether the ids in between begin a pretoken."""
        size = max(_LEAST_ROWS, _BLOCK // max(1, tokens))
        for start, end, inside in ((0, self.inside, True), (self.inside, len(self.ids), False)):
            for first in range(start, end, size):
                yield first, min(first + size, end), inside


def score(
    hidden: Tensor, targets: Tensor, head: Head, order: Order, last: HeadGradient | None = None
) -> tuple[Tensor, Tensor]:
    """Score the next token after each hidden state.

    Args:
        hidden: States ``[p, d]``.
        targets: Next-token ids ``[p]``; -1 for none.
        head: The output head.
        order: The ids that may carry probability.
        last: The context in which the states were computed, which defers the gradient of the matrix.

    Returns:
        The log-probability of each target (0 without a target) and the log boundary mass, ``[p]`` each: fp32 nats, at
        most 0, with gradients to the states and to the parameters of the head.
    """
    order = order.to(hidden.device)
    trigger, tasks = (None, None) if last is None or last.trigger is None else (last.trigger, last.tasks)
    room = _KEPT * head.weight.numel() * head.weight.element_size()
    keeps = trigger is not None and hidden.requires_grad and 4 * hidden.shape[0] * len(order.ids) <= room
    plan = _Plan(order, targets, head.scale, head.cap, product_type(hidden), keeps)
    scores = _Scores.apply(hidden, head.weight, head.bias, head.new_rows, trigger, plan, tasks)  # type: ignore[no-untyped-call]  # torch's own
    return scores[0].clamp(max=0), scores[1].clamp(max=0)


@dataclass(frozen=True)
class _Plan:
    """Values shared by the forward and the backward pass."""

    order: Order
    targets: Tensor
    scale: float
    cap: float | None
    dtype: torch.dtype
    keeps: bool
    """Whether logits are kept for the backward pass, and the gradient of the head is deferred to its end."""

    def logits(self, hidden: Tensor, rows: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
        part = None if bias is None else bias[ids]
        return transform(product(hidden, rows, part, self.dtype), self.scale, self.cap)

    def hits(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the tokens whose target is in a block, and its column there."""
        places = torch.where(self.targets >= 0, self.order.places[self.targets.clamp(min=0)], -1)
        tokens = ((places >= first) & (places < stop)).nonzero()[:, 0]
        return tokens, places[tokens] - first


class _Scores(torch.autograd.Function):
    """Computes the two scores of the module docstring."""

    @staticmethod
    def forward(  # noqa: PLR0917  (apply passes positions)
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        new_rows: Tensor | None,
        trigger: Tensor | None,  # noqa: ARG004  (an input, so that it receives a gradient)
        plan: _Plan,
        tasks: list[Task] | None,
    ) -> tuple[Tensor, Tensor]:
        tokens = hidden.shape[0]
        sums = {inside: hidden.new_full((tokens,), -torch.inf, dtype=torch.float32) for inside in (True, False)}
        chosen = hidden.new_zeros(tokens, dtype=torch.float32)
        kept: dict[int, Tensor] = {}
        for first, stop, inside in plan.order.blocks(tokens):
            ids = plan.order.ids[first:stop]
            logits = plan.logits(hidden, weight[ids], bias, ids)
            sums[inside] = torch.logaddexp(sums[inside], logits.logsumexp(dim=1))
            rows, columns = plan.hits(first, stop)
            chosen[rows] = logits[rows, columns]
            if plan.keeps:
                kept[first] = logits
        norm = torch.logaddexp(sums[True], sums[False])
        ctx.plan, ctx.kept, ctx.tasks = plan, kept, tasks
        ctx.new_rows = 0 if new_rows is None else new_rows.shape[0]
        ctx.save_for_backward(hidden, weight, bias, norm, sums[True])
        return torch.where(plan.targets >= 0, chosen - norm, 0.0), sums[True] - norm

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_gold: Tensor, of_mass: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, norm, inner = ctx.saved_tensors
        plan: _Plan = ctx.plan
        kept, ctx.kept = ctx.kept, {}  # consumed; a second backward pass recomputes them
        of_gold = torch.where(plan.targets >= 0, of_gold, 0.0)
        to_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        learns = (*ctx.needs_input_grad[1:3], ctx.new_rows)
        head_gradients = _HeadGradients(hidden.detach().to(plan.dtype), weight, bias, learns, plan.order.ids)
        waiting: list[tuple[Tensor, Tensor]] = []
        with torch.autocast(hidden.device.type, enabled=False):
            for first, stop, inside in plan.order.blocks(hidden.shape[0]):
                ids = plan.order.ids[first:stop]
                rows = weight[ids]
                logits = kept.pop(first, None)
                logits = plan.logits(hidden, rows, bias, ids) if logits is None else logits
                base, factor = norm, -(of_gold + of_mass)  # dL/dz of every id is factor * e^(z - base)
                if inside:
                    # Rewritten as e^(z - inner) (of_mass + factor e^(inner - norm)), so that no exponent is above 0.
                    base, factor = inner, of_mass + factor * (inner - norm).exp()
                bend = None if plan.cap is None else 1 - (logits / plan.cap) ** 2
                slope = logits.sub_(base[:, None]).exp_().mul_(factor[:, None])
                tokens, columns = plan.hits(first, stop)
                slope[tokens, columns] += of_gold[tokens]
                slope = (slope if bend is None else slope.mul_(bend)).mul_(plan.scale).to(plan.dtype)
                if to_hidden is not None:
                    to_hidden += slope @ rows.to(plan.dtype)
                if plan.keeps:
                    waiting.append((ids, slope))
                else:
                    head_gradients.add(ids, slope)
        message = None
        gradients: Gradients = (None, None, None)
        if ctx.tasks is None:
            gradients = head_gradients.gradients
        else:
            ctx.tasks[:] = [partial(head_gradients.finish, waiting)]
            message = norm.new_zeros((), dtype=weight.dtype)
        return None if to_hidden is None else to_hidden.to(hidden.dtype), *gradients, message, None, None


class _HeadGradients:
    """Accumulates the gradients of a head, block by block, from those of its logits for states ``[p, d]``.

    ``learns`` says whether weight and bias are trained, and how many of the last rows are trained alone; ``ids`` are
    the ids of all blocks.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, learns: tuple[bool, bool, int], ids: Tensor
    ) -> None:
        self._hidden, self._weight, self._bias, self._learns, self._ids = hidden, weight, bias, learns, ids
        self._first_new = weight.shape[0] - learns[2]
        self._found: Gradients | None = None

    @property
    def gradients(self) -> Gradients:
        """Gradients of weight, bias and new rows, allocated on first access."""
        if self._found is None:
            weight, bias, new = self._learns
            self._found = (
                self._empty() if weight else None,
                torch.zeros_like(self._bias) if self._bias is not None and bias else None,
                torch.zeros_like(self._weight[self._first_new :]) if new else None,
            )
        return self._found

    def _empty(self) -> Tensor:
        """Return uninitialised memory for the weight's gradient, with zeros only where no id is written."""
        found = torch.empty_like(self._weight)
        spare = torch.ones(len(found), dtype=torch.bool, device=found.device)
        spare[self._ids] = False
        found[spare] = 0
        return found

    def add(self, ids: Tensor, slope: Tensor) -> None:
        """Add the gradients for some ids (each passed once), given the gradients ``[p, k]`` of their logits."""
        weight, bias, new = self.gradients
        if weight is not None:
            weight[ids] = (slope.T @ self._hidden).to(weight.dtype)
        if bias is not None:
            bias[ids] = slope.sum(dim=0).to(bias.dtype)
        if new is not None and bool((fresh := ids >= self._first_new).any()):
            new[ids[fresh] - self._first_new] = (slope[:, fresh].T @ self._hidden).to(new.dtype)

    def finish(self, waiting: list[tuple[Tensor, Tensor]]) -> Gradients:
        """Add the deferred blocks, freeing each one after use."""
        waiting.sort(key=lambda block: int(block[0][0]), reverse=True)
        with torch.autocast(self._hidden.device.type, enabled=False):
            while waiting:
                self.add(*waiting.pop())
        return self.gradients
