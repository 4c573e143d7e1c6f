"""Attention over rows of unlike length that reads little of their padding.

The rows of a running batch end in the same column and begin wherever their text does
(``crosstok.harness.generation.key_value_cache``). Masked attention reads every row from the first column of the
longest, and on a CPU reading keys is what a step with long texts costs: of the columns read for 138 Exercism answers
side by side more than half were padding. Rows that stand together are therefore attended together only where they are
of like length:

    row 0   p p p p p p p g g |  run 0, read from column 0
    row 1   p p p p p p g g g |
    row 2   . . . . . p p g g |  run 1, read from column 5
    row 3   . . . . . . p p g |

Masked columns weigh nothing, so leaving them out changes no result (beyond the order of a sum). Each run is one more
call in every layer, and a run is split only where that reads enough columns less. On an accelerator, where a call costs
as much as reading many columns and nothing was measured, models attend as they always do.

Where no row is padded the mask is written out all the same: without one, transformers lets query heads that share a key
head read it one after the other, which in bfloat16 takes five times as long (one row of 2000 columns: 1.1 milliseconds
a layer against 0.2).

Covered: models that attend through transformers' ``sdpa``, alone or as members of an ensemble that share a tokenizer.
Not covered: other implementations (``eager``, flash attention) and members that read the text in their own tokens; both
run as they are.
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

_NAME = "crosstok_runs"
_SDPA = "sdpa"

CALL = 100_000
"""Keys, in elements of one layer, whose reading takes as long as one call more (bf16 on two cores: 50 microseconds)."""


class Run(NamedTuple):
    """Rows ``first`` to ``end``, which have nothing in the columns before ``start``."""

    first: int
    end: int
    start: int


def runs_of(lengths: Sequence[int], call: float) -> list[Run]:
    """Cut rows of these ``lengths``, in columns, into runs that begin in one column each.

    A run is cut where that saves the most columns, summed over its rows, as long as it saves more than ``call``. The
    rows are best sorted by length.
    """
    columns = max(lengths, default=0)

    def cut(first: int, end: int) -> list[Run]:
        before = list(accumulate(lengths[first:end], max))
        behind = list(accumulate(reversed(lengths[first:end]), max))[::-1]
        longest = before[-1]
        saved = [
            rows * (longest - before[rows - 1]) + (end - first - rows) * (longest - behind[rows])
            for rows in range(1, end - first)
        ]
        most = max(saved, default=0)
        if most <= call:
            return [Run(first, end, columns - longest)]
        middle = first + 1 + saved.index(most)
        return [*cut(first, middle), *cut(middle, end)]

    return cut(0, len(lengths)) if lengths else []


_runs: ContextVar[Sequence[Run]] = ContextVar("runs")


@contextmanager
def attention_in(runs: Sequence[Run], model: torch.nn.Module, cache: Any) -> Iterator[None]:
    """Let the model, or each member of an ensemble, attend to the keys in ``cache`` by runs, which cover all its rows.

    When the block ends, the model is as it was before.
    """
    configs = _attending(model, cache)
    token = _runs.set(runs)
    _use(_NAME, configs)
    try:
        yield
    finally:
        _use(_SDPA, configs)
        _runs.reset(token)


def _attending(model: Any, cache: Any) -> list[Any]:
    """Return the configs of the models that attend to these keys themselves.

    Members that read the text in their own tokens keep their own keys, of other rows and columns: they are left alone.
    """
    if hasattr(cache, "members"):
        pairs = zip(model.members, cache.members, strict=True)
        return [config for member, own in pairs for config in _attending(member, own)]
    config = model.config.get_text_config(decoder=True)
    here = model.device.type == "cpu" and config._attn_implementation == _SDPA  # noqa: SLF001  (as below)
    return [config] if here else []


def _use(name: str, configs: Sequence[Any]) -> None:
    # The public way goes through every module and its checks, which at each step would cost more than it saves.
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
    """Attend run by run: ``query`` is ``[rows, heads, 1, width]``, ``key`` ``[rows, key heads, columns, width]``."""
    if attention_mask is None:  # without one, query heads that share a key head would each read it for themselves
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
        for first, end, start in _runs.get()
    ]
    return torch.cat(found), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
