"""Scores of tokens without their logits: log-probability and boundary mass straight from hidden states.

ALM and SFT need two numbers per token, but the usual way to them leads over logits of every token for the whole
vocabulary: 512 tokens over 262,144 ids are 537 MB in fp32, a few times over with log-softmax and gradients. Here the
output matrix is gone through in blocks of rows. A block's logits are folded into running log-sum-exps and forgotten;
the backward pass computes them again, which costs one more product with the matrix and saves the rest::

    gold = z[t] - norm                  norm = ln sum_v e^z[v]
    mass = inside - norm                inside = ln sum_{v begins a pretoken} e^z[v]
    dL/dz[v] = g_gold ([v = t] - e^(z[v] - norm)) + g_mass ([v inside] e^(z[v] - inside) - e^(z[v] - norm))

Ids that begin a pretoken come first in the order of the blocks, so that each block belongs to one sum. Everything after
the product is fp32. The product itself is in the type that the model would compute it in: under autocast bf16, and so
are the two products of its gradient.

What a model does to its logits after the product (a scale, Gemma 2's soft cap) is read from its configuration and then
tried: a model whose own logits for two tokens are not those of :class:`Head` is read densely, which is logged.
"""

import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

NEW_ROWS = "new_rows"
"""Attribute of a layer whose last rows learn while its matrix is frozen: see ``expansion.new_rows``."""

_BLOCK = 1 << 23  # logits held at a time: 32 MB in fp32
_LEAST_ROWS = 256  # of the output matrix in a block, however many tokens there are
_PROBE_ERROR = 1e-2  # largest relative difference to the model's own logits; those of bf16 weights have 3 digits


@dataclass(frozen=True)
class Head:
    """How a model makes logits of its last hidden states: ``cap tanh(scale (W h + bias) / cap)``."""

    layer: nn.Module
    """Holds ``weight [rows, d]`` and maybe ``bias [rows]``; read anew at each use, as training replaces its values."""
    scale: float = 1.0
    cap: float | None = None

    @property
    def weight(self) -> Tensor:
        """``[rows, d]``."""
        weight: Any = self.layer.weight
        return weight  # type: ignore[no-any-return]  # a parameter

    @property
    def bias(self) -> Tensor | None:
        """``[rows]``, None in most models."""
        bias: Any = getattr(self.layer, "bias", None)
        return bias  # type: ignore[no-any-return]  # a parameter

    @property
    def new_rows(self) -> Tensor | None:
        """``[k, d]``, the last rows of the matrix where they learn alone; None in most models."""
        rows: Any = getattr(self.layer, NEW_ROWS, None)
        return rows  # type: ignore[no-any-return]  # a parameter

    def logits_of_new(self, hidden: Tensor) -> Tensor:
        """Return fp32 logits ``[p, k]`` of states ``[p, d]`` for :attr:`new_rows`, with a gradient into these."""
        rows = self.new_rows
        if rows is None:
            raise ValueError("no rows of this head learn alone")
        return _transform(_product(hidden, rows, None, _product_type(hidden)), self.scale, self.cap)

    def logits(self, hidden: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return fp32 logits ``[p, len(rows)]`` of states ``[p, d]``, for some rows of the matrix."""
        bias = None if self.bias is None else self.bias[rows]
        return _transform(_product(hidden, self.weight[rows], bias, _product_type(hidden)), self.scale, self.cap)


_KNOWN: "WeakKeyDictionary[nn.Module, Head | None]" = WeakKeyDictionary()


def head_of(model: nn.Module) -> Head | None:
    """Return the output head of a Hugging Face causal language model, None if its logits are something else."""
    if model not in _KNOWN:
        head = _read_head(model)
        if head is not None and not _agrees(model, head):
            head = None
        if head is None:
            log.info("%s makes its logits in a way of its own: they are held in full", type(model).__name__)
        _KNOWN[model] = head
    return _KNOWN[model]


def _read_head(model: Any) -> Head | None:
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if not isinstance(layer, nn.Linear) or model.base_model is model:
        return None
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return None
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(layer, scale, None if cap is None else float(cap))


def _agrees(model: Any, head: Head) -> bool:
    """Compare the head with the model's own logits, without touching its mode or the state of random numbers."""
    ids = torch.arange(2, device=head.weight.device)[None]
    with torch.random.fork_rng(), torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
        answer = model(input_ids=ids, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    own, ours = answer.logits[0, -1].float(), head.logits(answer.hidden_states[-1][0, -1:])[0]
    return bool((own - ours).abs().max() <= _PROBE_ERROR * own.abs().max().clamp(min=1e-3))


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


def score(hidden: Tensor, targets: Tensor, head: Head, order: Order) -> tuple[Tensor, Tensor]:
    """Return the log-probability of ``targets [p]`` and the log boundary mass after states ``[p, d]``, ``[p]`` each.

    A target of -1 is no token: its log-probability is 0. Both are fp32 nats, at most 0, with gradients into the states
    and into the head's parameters.
    """
    wanted = order.to(hidden.device)
    plan = _Plan(wanted, targets, head.scale, head.cap, _product_type(hidden))
    gold, mass = _Scores.apply(hidden, head.weight, head.bias, head.new_rows, plan)  # type: ignore[no-untyped-call]  # torch's own
    return gold.clamp(max=0), mass.clamp(max=0)


@dataclass(frozen=True)
class _Plan:
    """What stays the same between the forward and the backward pass."""

    order: Order
    targets: Tensor
    scale: float
    cap: float | None
    dtype: torch.dtype

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
        part = None if bias is None else bias[ids]
        return _transform(_product(hidden, weight[ids], part, self.dtype), self.scale, self.cap)

    def hits(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return which tokens have their target in a block, and its column there."""
        places = torch.where(self.targets >= 0, self.order.places[self.targets.clamp(min=0)], -1)
        tokens = ((places >= first) & (places < stop)).nonzero()[:, 0]
        return tokens, places[tokens] - first


class _Scores(torch.autograd.Function):
    """The two scores; logits exist for one block at a time, in either direction."""

    @staticmethod
    def forward(  # noqa: PLR0917  (apply passes positions)
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, new_rows: Tensor | None, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        tokens = hidden.shape[0]
        sums = {inside: hidden.new_full((tokens,), -torch.inf, dtype=torch.float32) for inside in (True, False)}
        chosen = hidden.new_zeros(tokens, dtype=torch.float32)
        for first, stop, inside in plan.order.blocks(tokens):
            logits = plan.logits(hidden, weight, bias, plan.order.ids[first:stop])
            sums[inside] = torch.logaddexp(sums[inside], logits.logsumexp(dim=1))
            rows, columns = plan.hits(first, stop)
            chosen[rows] = logits[rows, columns]
        norm = torch.logaddexp(sums[True], sums[False])
        ctx.plan = plan
        ctx.new_rows = 0 if new_rows is None else new_rows.shape[0]
        ctx.save_for_backward(hidden, weight, bias, norm, sums[True])
        return torch.where(plan.targets >= 0, chosen - norm, 0.0), sums[True] - norm

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_gold: Tensor, of_mass: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, None]:
        hidden, weight, bias, norm, inner = ctx.saved_tensors
        plan: _Plan = ctx.plan
        of_gold = torch.where(plan.targets >= 0, of_gold, 0.0)
        pull = -(of_gold + of_mass)  # of every id, in proportion to its probability
        # e^(z - inner) (of_mass + pull e^(inner - norm)) is the pull on an id inside; both exponents are at most 0.
        inner_pull = of_mass + pull * (inner - norm).exp()
        to_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        to_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        first_new = weight.shape[0] - ctx.new_rows
        to_new = torch.zeros_like(weight[first_new:]) if ctx.new_rows else None
        with torch.autocast(hidden.device.type, enabled=False):
            for first, stop, inside in plan.order.blocks(hidden.shape[0]):
                ids = plan.order.ids[first:stop]
                logits = plan.logits(hidden, weight, bias, ids)
                base, factor = (inner, inner_pull) if inside else (norm, pull)
                slope = (logits - base[:, None]).exp_().mul_(factor[:, None])
                rows, columns = plan.hits(first, stop)
                slope[rows, columns] += of_gold[rows]
                if plan.cap is not None:
                    slope *= 1 - (logits / plan.cap) ** 2
                slope = slope.mul_(plan.scale).to(plan.dtype)
                if to_hidden is not None:
                    to_hidden += slope @ weight[ids].to(plan.dtype)
                if to_weight is not None:
                    to_weight[ids] = (slope.T @ hidden.to(plan.dtype)).to(weight.dtype)
                if to_bias is not None:
                    to_bias[ids] = slope.sum(dim=0).to(to_bias.dtype)
                if to_new is not None and bool((new := ids >= first_new).any()):
                    to_new[ids[new] - first_new] = (slope[:, new].T @ hidden.to(plan.dtype)).to(weight.dtype)
        return None if to_hidden is None else to_hidden.to(hidden.dtype), to_weight, to_bias, to_new, None


def _product_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    part = None if bias is None else bias.to(dtype)
    return nn.functional.linear(hidden.to(dtype), weight.to(dtype), part).float()


def _transform(raw: Tensor, scale: float, cap: float | None) -> Tensor:
    scaled = raw if scale == 1.0 else raw * scale
    return scaled if cap is None else cap * (scaled / cap).tanh()
