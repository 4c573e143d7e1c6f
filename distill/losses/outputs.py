"""What a loss may ask of a model: named readings of one forward pass, in fp32 and without padded vocabulary rows.

A loss declares the readings that it needs of the student and of the teacher. That declaration decides whether the
teacher runs at all, whether full logits must be kept, and whether a stored reading can stand in for the teacher: the
log-probability of the actual token and the boundary mass are one number per token each.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.losses.batch import Side
from distill.tokenbytes import TokenBytes

Reading = Literal["gold", "boundary", "logits", "hidden", "embedded", "head"]

_BOUNDARY_BYTES = frozenset(b" \t\n")


@dataclass(frozen=True)
class Reader:
    """Reads a model. ``valid_rows`` is the number of ids that may carry probability."""

    valid_rows: int
    boundary: Tensor
    """``[valid_rows]`` bool: the ids that begin a new pretoken (a space, tab or newline first, or a special token)."""

    @classmethod
    def of(cls, tokens: TokenBytes, valid_rows: int) -> "Reader":
        """Return the reader of a model with this tokenizer."""
        boundary = torch.zeros(valid_rows, dtype=torch.bool)
        for token, data in enumerate(tokens.table[:valid_rows]):
            if data:
                boundary[token] = data[0] in _BOUNDARY_BYTES
        boundary[[token for token in tokens.special_ids if token < valid_rows]] = True
        return cls(valid_rows, boundary)

    def read(self, model: nn.Module, side: Side, needs: AbstractSet[Reading]) -> "Outputs":
        """Run ``model`` on one side of a batch and keep the readings named in ``needs``; gradients flow if enabled.

        Everything from the log-softmax on is fp32, whatever the model computes in.
        """
        if not needs:
            return Outputs({})
        wanted = {"output_hidden_states": True} if "hidden" in needs else {}
        answer: Any = model(input_ids=side.ids, attention_mask=side.attention, use_cache=False, **wanted)
        logits = answer.logits[..., : self.valid_rows].float()
        readings: dict[Reading, Tensor] = {}
        if "gold" in needs or "boundary" in needs:
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
        if "hidden" in needs:
            readings["hidden"] = answer.hidden_states[-1].float()
        bare: Any = getattr(model, "module", model)  # without the wrapper of several processes
        if "embedded" in needs:
            readings["embedded"] = bare.get_input_embeddings()(side.ids).detach().float()
        if "head" in needs:
            readings["head"] = bare.get_output_embeddings().weight.detach()[: self.valid_rows].float()
        return Outputs(readings)


@dataclass(frozen=True)
class Outputs:
    """The readings that were asked for; another one raises KeyError, a defect of the loss that did not declare it."""

    readings: dict[Reading, Tensor] = field(default_factory=dict)

    @property
    def gold(self) -> Tensor:
        """``[b, n]`` log-probability (nats) of each token given those before it; 0 at position 0, which has none."""
        return self.readings["gold"]

    @property
    def boundary(self) -> Tensor:
        """``[b, n]`` log of the probability (nats) that the token *after* each position begins a new pretoken."""
        return self.readings["boundary"]

    @property
    def logits(self) -> Tensor:
        """``[b, n, valid_rows]`` logits; those at position i predict token i + 1."""
        return self.readings["logits"]

    @property
    def hidden(self) -> Tensor:
        """``[b, n, d]`` last hidden states, as the output head reads them."""
        return self.readings["hidden"]

    @property
    def embedded(self) -> Tensor:
        """``[b, n, d]`` input embeddings of the tokens, without gradient."""
        return self.readings["embedded"]

    @property
    def head(self) -> Tensor:
        """``[valid_rows, d]`` rows of the output matrix, without gradient."""
        return self.readings["head"]
