"""Incremental reading of a text in a member's own tokens, with key-value caches that are found by content.

After each token of the ensemble, a member's encoding of the text may change at its end ("wor" + "ld" becomes one
token), so its key-value cache cannot simply be extended. Caches are therefore found by content: a row looks up the
batch in which its history, without the tokens of this pass, was read. The cache is kept up to the first id that
differs, and the rest is read again. Code that moves rows (beam search, finished rows, several samples of one prompt)
need not know of this; a row that is not found is read from its start, which is slower but never wrong.

All rows of a pass read the same number of tokens; rows that need fewer read some again. Padding is then on the left
only, and sliding windows see the same positions as in a row by itself.
"""

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

History = tuple[int, ...]
"""All ids of the ensemble that a row has received."""
_KEPT = 4  # batches whose caches are kept


@dataclass(slots=True)
class _Batch:
    """Rows that were read together; row ``i`` fills the last ``len(own[i])`` columns of every layer."""

    places: dict[History, int]
    own: list[list[int]]
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values of each layer, ``[rows, heads, columns, width]``."""


class IncrementalReader:
    """Reads rows with one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.passes = 0
        """Number of forward passes."""
        self._last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._prompts: deque[_Batch] = deque(maxlen=_KEPT)
        self._running: _Batch | None = None

    def forget(self) -> None:
        """Drop all caches."""
        self._prompts.clear()
        self._running = None

    def whole(self, own: Sequence[list[int]]) -> Tensor:
        """Return the logits after every token, ``[rows, longest, V]``, left-padded."""
        logits, _ = self._read(own, [], 0, everywhere=True)
        return logits

    def last(self, before: Sequence[History], now: Sequence[History], own: Sequence[list[int]]) -> Tensor:
        """Return the logits after the last token of each row, ``[rows, V]``.

        ``before`` and ``now`` are the histories without and with the tokens of this pass; ``own`` are the ids of the
        whole text in the model's own tokens.
        """
        found = [self._find(history) for history in before]
        known = [row for row, place in enumerate(found) if place is not None]
        fresh = [row for row, place in enumerate(found) if place is None]
        logits: dict[int, Tensor] = {}
        if fresh:
            answer, layers = self._read([own[row] for row in fresh], [], 0)
            self._prompts.append(
                _Batch({now[row]: place for place, row in enumerate(fresh)}, [own[row] for row in fresh], layers)
            )
            logits |= dict(zip(fresh, answer[:, -1], strict=True))
        if known:
            sources = [place for place in found if place is not None]
            rows = [own[row] for row in known]
            kept = [_common(batch.own[place], ids) for (batch, place), ids in zip(sources, rows, strict=True)]
            new = max(len(ids) - count for ids, count in zip(rows, kept, strict=True))
            keep = [max(0, len(ids) - new) for ids in rows]
            answer, layers = self._read(rows, _gather(sources, keep), max(keep))
            self._running = _Batch({now[row]: place for place, row in enumerate(known)}, rows, layers)
            logits |= dict(zip(known, answer[:, -1], strict=True))
        return torch.stack([logits[row] for row in range(len(own))])

    def _find(self, history: History) -> tuple[_Batch, int] | None:
        for batch in ([self._running] if self._running else []) + list(self._prompts):
            if history in batch.places:
                return batch, batch.places[history]
        return None

    def _read(
        self,
        own: Sequence[list[int]],
        layers: list[tuple[Tensor, Tensor]],
        columns: int,
        *,
        everywhere: bool = False,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Read the ``columns`` that ``layers`` lack.

        Returns the logits of the last column or of all columns read, and all layers.
        """
        longest = max(len(ids) for ids in own)
        new = longest - columns
        lengths = torch.tensor([len(ids) for ids in own])
        position = torch.arange(longest) - (longest - lengths)[:, None]
        ids = torch.zeros(len(own), longest, dtype=torch.long)
        for row, numbers in enumerate(own):
            ids[row, longest - len(numbers) :] = torch.tensor(numbers)
        cache = DynamicCache()  # full layers only: sliding windows are applied by their masks
        for keys, values in layers:
            layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values  # update() would copy them
            cache.layers.append(layer)
        device = self.model.device
        output: Any = self.model(
            input_ids=ids[:, -new:].to(device),
            attention_mask=(position >= 0).long().to(device),
            position_ids=position[:, -new:].clamp(min=0).to(device),
            past_key_values=cache,
            use_cache=True,
            **({} if everywhere or not self._last_only else {"logits_to_keep": 1}),
        )
        self.passes += 1
        return output.logits, [(layer.keys, layer.values) for layer in output.past_key_values.layers]


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the length of the common prefix, at most all but the last of ``right``."""
    limit = min(len(left), len(right) - 1)
    return next((place for place in range(limit) if left[place] != right[place]), limit)


def _gather(sources: Sequence[tuple[_Batch, int]], keep: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return the layers of the rows ``sources``, the first ``keep[i]`` columns of each, right-aligned."""
    width = max(keep)
    if width == 0:
        return []
    first, rows = sources[0][0], [place for _, place in sources]
    surplus = {len(batch.own[place]) - count for (batch, place), count in zip(sources, keep, strict=True)}
    if all(batch is first for batch, _ in sources) and len(surplus) == 1:
        columns = first.layers[0][0].shape[2]
        end = columns - surplus.pop()
        whole = rows == list(range(len(first.own)))
        return [
            (
                keys[:, :, end - width : end] if whole else keys[rows, :, end - width : end],
                values[:, :, end - width : end] if whole else values[rows, :, end - width : end],
            )
            for keys, values in first.layers
        ]
    return [
        (_aligned(sources, keep, index, 0, width), _aligned(sources, keep, index, 1, width))
        for index in range(len(first.layers))
    ]


def _aligned(sources: Sequence[tuple[_Batch, int]], keep: Sequence[int], layer: int, part: int, width: int) -> Tensor:
    like = sources[0][0].layers[layer][part]
    made = like.new_zeros(len(sources), like.shape[1], width, like.shape[3])
    for row, ((batch, place), count) in enumerate(zip(sources, keep, strict=True)):
        held = batch.layers[layer][part]
        begin = held.shape[2] - len(batch.own[place])
        made[row, :, width - count :] = held[place, :, begin : begin + count]
    return made
