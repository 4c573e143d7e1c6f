"""Readings of a forward pass: the named quantities that losses may request, in fp32 and without padded vocabulary rows.

A loss declares the readings that it needs from the student and from the teacher. The declaration determines whether the
teacher runs at all, whether full logits are computed (``fused_scoring`` avoids them), and whether the teacher cache can
replace the forward pass (``teacher_cache``).
"""

import dataclasses
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crosstok.distill.models.fused_scoring import Order, score
from crosstok.distill.models.head_gradient import HeadGradient
from crosstok.distill.models.output_head import Head, head_of
from crosstok.distill.readings.batch import Side
from crosstok.distill.tokenizers.tokenbytes import TokenBytes

Reading = Literal["gold", "boundary", "logits", "top", "rest", "hidden", "layers", "embedded", "head"]

_BOUNDARY_BYTES = frozenset(b" \t\n")
_TOP_TOKENS = 64  # tokens per block of logits for the readings top and rest


@dataclass(frozen=True)
class Reader:
    """Computes readings of a model; ``valid_rows`` is the number of ids that may carry probability."""

    valid_rows: int
    boundary: Tensor
    """``[valid_rows]`` bool: ids that begin a pretoken (they start with a space, tab or newline, or are special)."""
    top: int = 0
    """Number of most likely tokens in the readings ``top`` and ``rest``."""
    fused: bool = True
    """Compute scores from hidden states if no loss needs logits; False exists for comparisons."""

    @classmethod
    def of(cls, tokens: TokenBytes, valid_rows: int) -> "Reader":
        """Return the reader of a model with this tokenizer."""
        boundary = torch.zeros(valid_rows, dtype=torch.bool)
        for token, data in enumerate(tokens.table[:valid_rows]):
            if data:
                boundary[token] = data[0] in _BOUNDARY_BYTES
        boundary[[token for token in tokens.special_ids if token < valid_rows]] = True
        return cls(valid_rows, boundary)

    def with_top(self, top: int) -> "Reader":
        """Return a reader whose readings ``top`` and ``rest`` hold the ``top`` most likely tokens."""
        return dataclasses.replace(self, top=top)

    @cached_property
    def order(self) -> Order:
        """The ids in the order of scoring."""
        return Order.of(self.boundary)

    def read(self, model: nn.Module, side: Side, needs: AbstractSet[Reading]) -> "Outputs":
        """Run ``model`` on one side of a batch and return the readings in ``needs``, with gradients if enabled.

        Everything from the log-softmax on is fp32, whatever the model's type. Full logits are computed only if they are
        requested or if the model's output head is unknown (see ``output_head``).
        """
        if not needs:
            return Outputs({})
        bare: Any = getattr(model, "module", model)  # unwraps DistributedDataParallel
        head = head_of(bare) if self.fused and "logits" not in needs else None
        if head is None:
            readings = self._from_logits(model, side, needs)
        else:
            readings = self._from_states(model, bare, head, side, needs)
        if "embedded" in needs:
            readings["embedded"] = bare.get_input_embeddings()(side.ids).detach().float()
        if "head" in needs:
            readings["head"] = bare.get_output_embeddings().weight.detach()[: self.valid_rows].float()
        return Outputs(readings)

    def _from_logits(self, model: nn.Module, side: Side, needs: AbstractSet[Reading]) -> dict[Reading, Tensor]:
        layers = not needs.isdisjoint({"hidden", "layers"})
        answer: Any = model(**side.inputs, use_cache=False, output_hidden_states=layers)
        logits = answer.logits[..., : self.valid_rows].float()
        readings: dict[Reading, Tensor] = _states(answer.hidden_states, needs) if layers else {}
        if not needs.isdisjoint({"gold", "boundary"}):
            norm = logits.logsumexp(dim=-1)
        if "gold" in needs:
            chosen = logits[:, :-1].gather(-1, side.ids[:, 1:, None]).squeeze(-1)
            gold = (chosen - norm[:, :-1]).clamp(max=0)
            readings["gold"] = torch.cat([gold.new_zeros(gold.shape[0], 1), gold], dim=1)
        if "boundary" in needs:
            outside = ~self.boundary[: logits.shape[-1]].to(logits.device)
            inside = logits.masked_fill(outside, float("-inf"))
            readings["boundary"] = (inside.logsumexp(dim=-1) - norm).clamp(max=0)
        if "logits" in needs:
            readings["logits"] = logits
        if "top" in needs:
            readings["top"], readings["rest"] = likeliest(logits, self.top)
        return readings

    def _from_states(
        self, model: nn.Module, bare: Any, head: Head, side: Side, needs: AbstractSet[Reading]
    ) -> dict[Reading, Tensor]:
        body: Any = bare.base_model
        with HeadGradient(bare.get_input_embeddings(), head) as gradient:
            if bare is model:
                answer: Any = body(**side.inputs, use_cache=False, output_hidden_states="layers" in needs)
                last = answer.last_hidden_state
            else:  # DistributedDataParallel must see the forward pass
                answer = model(**side.inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1)
                last = answer.hidden_states[-1]
        readings: dict[Reading, Tensor] = _states((*(answer.hidden_states or ())[:-1], last), needs)
        real = side.attention.bool()
        if not needs.isdisjoint({"gold", "boundary"}):
            following = torch.cat([side.ids[:, 1:], torch.full_like(side.ids[:, :1], -1)], dim=1)
            following[:, :-1][~real[:, 1:]] = -1
            scores = score(last[real], following[real], head, self.order, gradient)
            empty = last.new_zeros(real.shape, dtype=torch.float32)
            if "gold" in needs:
                gold = empty.masked_scatter(real, scores[0])[:, :-1]
                readings["gold"] = torch.cat([gold.new_zeros(gold.shape[0], 1), gold], dim=1)
            if "boundary" in needs:
                readings["boundary"] = empty.masked_scatter(real, scores[1])
        if "top" in needs:
            blocks = torch.split(last.flatten(0, 1), _TOP_TOKENS)
            parts = [likeliest(head.logits(block)[:, : self.valid_rows], self.top) for block in blocks]
            readings["top"] = torch.cat([ids for ids, _ in parts]).reshape(*real.shape, -1)
            readings["rest"] = torch.cat([rest for _, rest in parts]).reshape(*real.shape, -1)
        return readings


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` most likely ids and their log-probabilities, with all other ids as one class.

    Args:
        logits: ``[..., V]``.
        count: Number of ids to return.

    Returns:
        Ids, int64 ``[..., count]``, and log-probabilities (nats) ``[..., count + 1]``. The last one is that of all
        other ids: a log-sum-exp over them, because 1 minus the sum has no precision left if the model is confident.
    """
    norm = logits.logsumexp(dim=-1, keepdim=True)
    values, ids = logits.topk(count, dim=-1)
    return ids, torch.cat([values, others(logits, ids)], dim=-1) - norm


def others(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-sum-exp ``[..., 1]`` of all ``logits [..., V]`` but those at ``ids [..., k]``."""
    return logits.scatter(-1, ids, float("-inf")).logsumexp(dim=-1, keepdim=True)


def _states(layers: tuple[Tensor, ...], needs: AbstractSet[Reading]) -> dict[Reading, Tensor]:
    found: dict[Reading, Tensor] = {}
    if "hidden" in needs:
        found["hidden"] = layers[-1].float()
    if "layers" in needs:
        found["layers"] = torch.stack([layer.float() for layer in layers[1:]], dim=2)
    return found


@dataclass(frozen=True)
class Outputs:
    """The requested readings; accessing another one raises KeyError, as the loss has not declared it."""

    readings: dict[Reading, Tensor] = field(default_factory=dict)

    @property
    def gold(self) -> Tensor:
        """``[b, n]`` log-probability (nats) of each token given the preceding ones; 0 at the first position."""
        return self.readings["gold"]

    @property
    def boundary(self) -> Tensor:
        """``[b, n]`` log-probability (nats) that the token *after* each position begins a pretoken."""
        return self.readings["boundary"]

    @property
    def logits(self) -> Tensor:
        """``[b, n, valid_rows]`` logits; those at position i predict token i + 1."""
        return self.readings["logits"]

    @property
    def top(self) -> Tensor:
        """``[b, n, k]`` int64: most likely ids *after* each position, in descending order of probability."""
        return self.readings["top"]

    @property
    def rest(self) -> Tensor:
        """``[b, n, k + 1]`` log-probabilities (nats) of :attr:`top` and, last, of all other ids together."""
        return self.readings["rest"]

    @property
    def hidden(self) -> Tensor:
        """``[b, n, d]`` last hidden states, the input of the output head."""
        return self.readings["hidden"]

    @property
    def layers(self) -> Tensor:
        """``[b, n, L, d]`` states after each of the L layers; the last layer's are :attr:`hidden`."""
        return self.readings["layers"]

    @property
    def embedded(self) -> Tensor:
        """``[b, n, d]`` input embeddings of the tokens, detached."""
        return self.readings["embedded"]

    @property
    def head(self) -> Tensor:
        """``[valid_rows, d]`` output matrix, detached."""
        return self.readings["head"]
