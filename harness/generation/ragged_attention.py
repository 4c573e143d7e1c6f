"""Ragged attention: attention over rows of different lengths that reads little of their padding.

The rows of a batch end in the same column and begin wherever their text begins
(``crosstok.harness.generation.key_value_cache``). Masked attention reads every row from the first column of the longest
one, and on a CPU, reading keys dominates the cost of a step over long texts: more than half of the columns read for 138
concurrent Exercism answers were padding. Contiguous rows are therefore attended to in groups of similar length:

    row 0   p p p p p p p g g |  group 0, read from column 0
    row 1   p p p p p p g g g |
    row 2   . . . . . p p g g |  group 1, read from column 5
    row 3   . . . . . . p p g |

Masked columns have zero weight, so omitting them changes no result (except for the order of a sum). Each group costs
one more attention call per layer, so a group is split only where that saves enough columns. On accelerators, where a
call costs as much as reading many columns and which were not measured, attention is unchanged.

A mask is passed even if no row is padded: without one, transformers makes query heads that share a key head read it
separately, which takes five times as long in bfloat16 (one row of 2000 columns: 1.1 milliseconds per layer instead of
0.2).

Applies to models that use the ``sdpa`` attention of transformers, alone or as members of an ensemble that share a
tokenizer. Other implementations (``eager``, flash attention), and members with tokenizers of their own, are unchanged.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "crosstok_grouped"
_SDPA = "sdpa"

CALL_COST = 100_000
"""Cost of one more call, in elements of keys of one layer that can be read meanwhile (bf16, two cores: 50 us)."""


class RowGroup(NamedTuple):
    """Rows ``first`` to ``end`` (exclusive), whose columns before ``start`` are all padding."""

    first: int
    end: int
    start: int


def group_rows(lengths: Sequence[int], call_cost: float) -> list[RowGroup]:
    """Divide rows of the given ``lengths`` (in columns) into contiguous groups.

    A group is split where that saves the most columns, summed over its rows, as long as it saves more than
    ``call_cost``. Works best on rows sorted by length.
    """
    columns = max(lengths, default=0)

    def cut(first: int, end: int) -> list[RowGroup]:
        before = list(accumulate(lengths[first:end], max))
        behind = list(accumulate(reversed(lengths[first:end]), max))[::-1]
        longest = before[-1]
        saved = [
            rows * (longest - before[rows - 1]) + (end - first - rows) * (longest - behind[rows])
            for rows in range(1, end - first)
        ]
        most = max(saved, default=0)
        if most <= call_cost:
            return [RowGroup(first, end, columns - longest)]
        middle = first + 1 + saved.index(most)
        return [*cut(first, middle), *cut(middle, end)]

    return cut(0, len(lengths)) if lengths else []


_groups: ContextVar[Sequence[RowGroup]] = ContextVar("groups")


@contextmanager
def grouped_attention(groups: Sequence[RowGroup], model: torch.nn.Module, cache: Any) -> Iterator[None]:
    """Make the model, or each member of an ensemble, attend to ``cache`` by ``groups`` inside the block.

    ``groups`` must cover all rows of the cache.
    """
    configs = _attending(model, cache)
    token = _groups.set(groups)
    _use(_NAME, configs)
    try:
        yield
    finally:
        _use(_SDPA, configs)
        _groups.reset(token)


def _attending(model: Any, cache: Any) -> list[Any]:
    """Return the configs of the models to which the groups of ``cache`` apply.

    Members with tokenizers of their own are excluded: their caches have other rows and columns.
    """
    if hasattr(cache, "members"):
        pairs = zip(model.members, cache.members, strict=True)
        return [config for member, own in pairs for config in _attending(member, own)]
    config = model.config.get_text_config(decoder=True)
    applicable = model.device.type == "cpu" and config._attn_implementation == _SDPA  # noqa: SLF001  (as below)
    return [config] if applicable else []


def _use(name: str, configs: Sequence[Any]) -> None:
    # The public setter visits every module, which would cost more per step than the groups save.
    for config in configs:
        config._attn_implementation = name  # noqa: SLF001


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend by groups; ``query`` is ``[rows, heads, 1, width]``, ``key`` ``[rows, key heads, columns, width]``."""
    if attention_mask is None:  # without a mask, query heads that share a key head would each read it
        attention_mask = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool, device=key.device)
    masks = attention_mask.expand(len(key), -1, -1, -1)
    found = [
        sdpa_attention_forward(
            module,
            query[first:end],
            key[first:end, :, start:],
            value[first:end, :, start:],
            masks[first:end, ..., start:],
            **options,
        )[0]
        for first, end, start in _groups.get()
    ]
    return torch.cat(found), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
