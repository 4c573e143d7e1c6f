"""Key-value cache of a batch with rows that come and go.

transformers' ``DynamicCache`` copies all keys and values of the batch at every step, and again whenever a row leaves.
Here each layer writes into a buffer ``[slots, heads, columns, width]`` with spare capacity, and exposes the used part
to the model. All rows end in the same column (they are padded on the left, so a step appends one column to all):

    row 0   . . p p p p p g g |          p prompt, g generated, . padding (masked)
    row 1   p p p p p p p g g |          the next step writes at |

New rows are added at the end. Since the longest prompts are prefilled first, rows are sorted by length, and attention
processes groups of rows of similar length (``crosstok.harness.generation.ragged_attention``). When a row leaves, the
last row of its group takes its place, the last row of the next group takes the place of that one, and so on: groups
stay contiguous, and one row is copied per group. The buffer is reallocated only when it runs out of columns. The layers
replace those that the model created during prefill, so any container (a cache, or an ensemble's cache of caches) stays
what the model expects. A prompt is prefilled once and copied into one row per answer.

Sliding-window layers are stored in full; the attention mask hides what lies outside the window.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from crosstok.errors import UserError
from crosstok.harness.generation.ragged_attention import CALL_COST, RowGroup, group_rows

_GROWTH = 128  # spare columns of a new buffer; it is reallocated once in so many steps


class _UsedRegion:
    """Used part of the buffers of all layers: rows ``0..rows``, columns ``start..end`` (exclusive)."""

    def __init__(self) -> None:
        self.rows = 0
        self.start = 0
        self.end = 0


class BufferLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # untyped __init_subclass__
    """Keys and values of one layer, in buffers with spare rows and columns."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, region: _UsedRegion) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in transformers
        self.region = region

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one column ``[rows, heads, 1, width]`` and return all used columns, the new one included."""
        region = self.region
        self.keys[: region.rows, :, region.end] = key_states[:, :, 0]
        self.values[: region.rows, :, region.end] = value_states[:, :, 0]
        used = slice(region.start, region.end + 1)
        return self.keys[: region.rows, :, used], self.values[: region.rows, :, used]

    def get_seq_length(self) -> int:
        """Return the number of used columns before this step."""
        return self.region.end - self.region.start


def _layer_lists(cache: Any) -> list[list[Any]]:
    """Return the lists of layers of a cache; several for the cache of an ensemble, one per member."""
    if isinstance(getattr(cache, "layers", None), list):
        return [cache.layers]
    return [layers for member in cache.members for layers in _layer_lists(member)]


class PrefilledPrompts:
    """Keys and values of prefilled prompts, padded on the left, until they are copied into rows.

    ``lengths[i]`` is the number of columns of prompt ``i`` without padding. Raises :class:`UserError` for models whose
    cache is not made of attention layers.
    """

    def __init__(self, cache: Any, lengths: Sequence[int]) -> None:
        self.cache = cache
        self.lengths = list(lengths)
        self.lists = _layer_lists(cache)
        # RowCache replaces the layers in these lists; keep a reference to the originals.
        self.layers = [layer for layers in self.lists for layer in layers]
        if not all(isinstance(layer, DynamicLayer) and layer.is_initialized for layer in self.layers):
            kinds = ", ".join(sorted({type(layer).__name__ for layer in self.layers}))
            raise UserError(f"Generation supports attention caches only; this model uses {kinds}.")


class RowCache:
    """Key-value cache of all rows of a running batch.

    ``lengths[i]`` is the number of columns of row ``i`` without padding, ``cache`` is the object to pass to the model,
    and ``groups`` are the groups of rows to attend to together.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.cache: Any = None
        self.lengths: list[int] = []
        self.groups: list[RowGroup] = []
        self._region = _UsedRegion()
        self._layers: list[BufferLayer] = []

    @property
    def columns(self) -> int:
        """Number of used columns."""
        return self._region.end - self._region.start

    @torch.inference_mode()
    def insert(self, read: PrefilledPrompts, prompts: Sequence[int]) -> None:
        """Add a row for each of ``prompts``, which are positions in ``read`` and may repeat."""
        if self.cache is None:
            self._adopt(read)
        lengths = [read.lengths[prompt] for prompt in prompts]
        region, rows = self._region, len(lengths)
        # Columns that sliding-window layers dropped are filled with zeros; the mask hides them.
        width = max(self.columns, *lengths)
        if region.end < width or region.end >= self._layers[0].keys.shape[2]:
            self._move(width)
        for ours, theirs in zip(self._layers, read.layers, strict=True):
            kept = min(theirs.keys.shape[2], width)
            target = (slice(region.rows, region.rows + rows), slice(None), slice(region.end - kept, region.end))
            ours.keys[target] = theirs.keys[prompts, :, -kept:]
            ours.values[target] = theirs.values[prompts, :, -kept:]
        region.rows += rows
        self.lengths.extend(lengths)
        self._trim()

    @torch.inference_mode()
    def advance(self) -> None:
        """Account for the column that the model has just written, and make room for the next one."""
        region = self._region
        region.end += 1
        self.lengths = [length + 1 for length in self.lengths]
        if region.end == self._layers[0].keys.shape[2]:
            self._move(self.columns)

    @torch.inference_mode()
    def drop(self, row: int) -> list[tuple[int, int]]:
        """Remove a row; return the moves of other rows as pairs ``(to, from)``, in order."""
        places = [row, *(group.end - 1 for group in self.groups if group.end - 1 > row)]
        used = slice(self._region.start, self._region.end)
        moves = list(pairwise(places))
        for to, origin in moves:
            for layer in self._layers:
                layer.keys[to, :, used] = layer.keys[origin, :, used]
                layer.values[to, :, used] = layer.values[origin, :, used]
            self.lengths[to] = self.lengths[origin]
        self.lengths.pop()
        self._region.rows -= 1
        self._trim()
        return moves

    def _trim(self) -> None:
        """Drop leading columns that are padding in all rows, and regroup the rows."""
        self._region.start = self._region.end - max(self.lengths, default=0)
        keys = self._layers[0].keys
        call = CALL_COST / (keys.shape[1] * keys.shape[3]) if keys.device.type == "cpu" else float("inf")
        self.groups = group_rows(self.lengths, call)

    def _adopt(self, read: PrefilledPrompts) -> None:
        self.cache = read.cache
        for layers in read.lists:
            for index, theirs in enumerate(layers):
                ours = BufferLayer(self._region)
                ours.lazy_initialization(theirs.keys, theirs.values)
                _, heads, _, width = theirs.keys.shape
                ours.keys = theirs.keys.new_zeros(self.slots, heads, 0, width)
                ours.values = theirs.values.new_zeros(self.slots, heads, 0, theirs.values.shape[3])
                self._layers.append(ours)
                layers[index] = ours

    def _move(self, width: int) -> None:
        """Copy all rows into new buffers with ``width`` columns and spare capacity after them."""
        region = self._region
        used = (slice(0, region.rows), slice(None), slice(region.start, region.end))
        target = (used[0], used[1], slice(width - self.columns, width))
        for layer in self._layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros(self.slots, old.shape[1], width + _GROWTH, old.shape[3])
                new[target] = old[used]
                setattr(layer, name, new)
        region.start, region.end = width - self.columns, width
