"""Scores of tokens without their logits: log-probability and boundary mass straight from hidden states.

ALM and SFT need two numbers per token, but the usual way to them leads over logits of every token for the whole
vocabulary: 512 tokens over 262,144 ids are 537 MB in fp32, a few times over with log-softmax and gradients. Here the
output matrix is gone through in blocks of rows. A block's logits are folded into running log-sum-exps::

    gold = z[t] - norm                  norm = ln sum_v e^z[v]
    mass = inside - norm                inside = ln sum_{v begins a pretoken} e^z[v]
    dL/dz[v] = g_gold ([v = t] - e^(z[v] - norm)) + g_mass ([v inside] e^(z[v] - inside) - e^(z[v] - norm))

What then becomes of them depends on what is scarce. Where tokens are many, blocks are forgotten, and the backward pass
computes each again: one more product with the matrix. Where they are few (no more than a row of the matrix has values),
the gradient of the matrix is the largest thing of all; it is made when the layers have had their turn
(:mod:`crosstok.distill.models.head_gradient`), and the logits wait for the backward pass in the memory that it will
need at its end. In place they turn into dL/dz, of which the states' gradient is made first and the matrix's last.

Ids that begin a pretoken come first in the order of the blocks, so that each block belongs to one sum. Everything after
the product is fp32. The product itself is in the type that the model would compute it in: under autocast bf16, and so
are the two products of its gradient.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crosstok.distill.models.head_gradient import Gradients, HeadGradient, Task
from crosstok.distill.models.output_head import Head, product, product_type, transform

_BLOCK = 1 << 23  # logits computed at a time: 32 MB in fp32
_LEAST_ROWS = 256  # of the output matrix in a block, however many tokens there are
_KEPT = 1.0  # bytes of logits that may wait for the backward pass, per byte of the output matrix


@dataclass(frozen=True)
class Order:
    """The ids that may carry probability, those that begin a pretoken first."""

    ids: Tensor
    """``[valid_rows]`` int64."""
    places: Tensor
    """``[valid_rows]`` int64: place of each id in ``ids``."""
    inside: int
    """How many begin a pretoken."""

    @classmethod
    def of(cls, boundary: Tensor) -> "Order":
        """Return the order for the mask ``boundary [valid_rows]``."""
        ids = torch.cat([boundary.nonzero()[:, 0], (~boundary).nonzero()[:, 0]])
        return cls(ids, torch.argsort(ids), int(boundary.sum()))

    def to(self, device: torch.device) -> "Order":
        """Return the same order on another device."""
        return self if self.ids.device == device else Order(self.ids.to(device), self.places.to(device), self.inside)

    def blocks(self, tokens: int) -> Iterator[tuple[int, int, bool]]:
        """Yield first place, last place + 1 and whether the ids between begin a pretoken."""
        size = max(_LEAST_ROWS, _BLOCK // max(1, tokens))
        for start, end, inside in ((0, self.inside, True), (self.inside, len(self.ids), False)):
            for first in range(start, end, size):
                yield first, min(first + size, end), inside


def score(
    hidden: Tensor, targets: Tensor, head: Head, order: Order, last: HeadGradient | None = None
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of ``targets [p]`` and the log boundary mass after states ``[p, d]``, ``[p]`` each.

    A target of -1 is no token: its log-probability is 0. Both are fp32 nats, at most 0, with gradients into the states
    and into the head's parameters; ``last`` has surrounded the pass that made the states.
    """
    order = order.to(hidden.device)
    place, tasks = (None, None) if last is None or last.place is None else (last.place, last.tasks)
    room = _KEPT * head.weight.numel() * head.weight.element_size()
    keeps = place is not None and hidden.requires_grad and 4 * hidden.shape[0] * len(order.ids) <= room
    plan = _Plan(order, targets, head.scale, head.cap, product_type(hidden), keeps)
    scores = _Scores.apply(hidden, head.weight, head.bias, head.new_rows, place, plan, tasks)  # type: ignore[no-untyped-call]  # torch's own
    return scores[0].clamp(max=0), scores[1].clamp(max=0)


@dataclass(frozen=True)
class _Plan:
    """What stays the same between the forward and the backward pass."""

    order: Order
    targets: Tensor
    scale: float
    cap: float | None
    dtype: torch.dtype
    keeps: bool
    """Whether logits wait for the backward pass, and the head for its end."""

    def logits(self, hidden: Tensor, rows: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
        part = None if bias is None else bias[ids]
        return transform(product(hidden, rows, part, self.dtype), self.scale, self.cap)

    def hits(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return which tokens have their target in a block, and its column there."""
        places = torch.where(self.targets >= 0, self.order.places[self.targets.clamp(min=0)], -1)
        tokens = ((places >= first) & (places < stop)).nonzero()[:, 0]
        return tokens, places[tokens] - first


class _Scores(torch.autograd.Function):
    """The two scores of the module's formulas."""

    @staticmethod
    def forward(  # noqa: PLR0917  (apply passes positions)
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        new_rows: Tensor | None,
        place: Tensor | None,  # noqa: ARG004  (an input, so that it can get a gradient)
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
        kept, ctx.kept = ctx.kept, {}  # used up; a second pass through the same graph computes them again
        of_gold = torch.where(plan.targets >= 0, of_gold, 0.0)
        to_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        learns = (*ctx.needs_input_grad[1:3], ctx.new_rows)
        to_head = _ToHead(hidden.detach().to(plan.dtype), weight, bias, learns, plan.order.ids)
        waiting: list[tuple[Tensor, Tensor]] = []
        with torch.autocast(hidden.device.type, enabled=False):
            for first, stop, inside in plan.order.blocks(hidden.shape[0]):
                ids = plan.order.ids[first:stop]
                rows = weight[ids]
                logits = kept.pop(first, None)
                logits = plan.logits(hidden, rows, bias, ids) if logits is None else logits
                base, factor = norm, -(of_gold + of_mass)  # the pull on every id, in proportion to e^(z - base)
                if inside:
                    # That on such an id is e^(z - inner) (of_mass + factor e^(inner - norm)): no exponent is above 0.
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
                    to_head.add(ids, slope)
        message = None
        gradients: Gradients = (None, None, None)
        if ctx.tasks is None:
            gradients = to_head.gradients
        else:
            ctx.tasks[:] = [partial(to_head.finish, waiting)]
            message = norm.new_zeros((), dtype=weight.dtype)
        return None if to_hidden is None else to_hidden.to(hidden.dtype), *gradients, message, None, None


class _ToHead:
    """The gradients of a head out of those of its products with states ``[p, d]``, block by block.

    ``learns`` says it of weight and bias, and how many of the last rows learn alone; ``ids`` are those of all blocks.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, learns: tuple[bool, bool, int], ids: Tensor
    ) -> None:
        self._hidden, self._weight, self._bias, self._learns, self._ids = hidden, weight, bias, learns, ids
        self._first_new = weight.shape[0] - learns[2]
        self._found: Gradients | None = None

    @property
    def gradients(self) -> Gradients:
        """Those of weight, bias and new rows; memory is taken when they are first looked at."""
        if self._found is None:
            weight, bias, new = self._learns
            self._found = (
                self._empty() if weight else None,
                torch.zeros_like(self._bias) if self._bias is not None and bias else None,
                torch.zeros_like(self._weight[self._first_new :]) if new else None,
            )
        return self._found

    def _empty(self) -> Tensor:
        """Return memory for the weight's gradient, zero where no id is: on a CPU it is taken as it is written to."""
        found = torch.empty_like(self._weight)
        spare = torch.ones(len(found), dtype=torch.bool, device=found.device)
        spare[self._ids] = False
        found[spare] = 0
        return found

    def add(self, ids: Tensor, slope: Tensor) -> None:
        """Add what the products ``[p, k]`` with the rows of some ids, each seen once, got as gradient."""
        weight, bias, new = self.gradients
        if weight is not None:
            weight[ids] = (slope.T @ self._hidden).to(weight.dtype)
        if bias is not None:
            bias[ids] = slope.sum(dim=0).to(bias.dtype)
        if new is not None and bool((fresh := ids >= self._first_new).any()):
            new[ids[fresh] - self._first_new] = (slope[:, fresh].T @ self._hidden).to(new.dtype)

    def finish(self, waiting: list[tuple[Tensor, Tensor]]) -> Gradients:
        """Add blocks that have waited, giving their memory back as the gradient's is taken."""
        waiting.sort(key=lambda block: int(block[0][0]), reverse=True)
        with torch.autocast(self._hidden.device.type, enabled=False):
            while waiting:
                self.add(*waiting.pop())
        return self.gradients
