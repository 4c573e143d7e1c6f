"""The key-value cache of a batch whose rows come and go.

transformers' dynamic cache copies every key and value of the batch at each step, and again whenever a row leaves. Here
each layer writes into a buffer ``[slots, heads, columns, width]`` that has room to spare, and shows the model the part
that is in use. All rows end in the same column (they are padded on the left, so one step appends one column for all):

    row 0   . . p p p p p g g |          p prompt, g generated, . padding (masked)
    row 1   p p p p p p p g g |          the next step writes at |

New rows are written behind the others. As the longest prompts are read first, rows stand sorted by length, and
attention goes over runs of rows that are of like length (``crosstok.harness.generation.ragged_attention``). A row that
ends is overwritten by the last one of its run, that one by the last of the next run, and so on: runs stay together, and
one row is copied for each. The buffer is copied only when it runs out of columns. The layers replace those that the
model itself made during prefill, so whatever holds them (one model's cache, an ensemble's cache of caches) stays what
its model expects. A prompt is read once and copied into as many rows as answers are wanted.

Sliding-window layers are kept in full, as the attention mask hides what lies outside the window.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from crosstok.errors import UserError
from crosstok.harness.generation.ragged_attention import CALL, Run, runs_of

_GROWTH = 128  # columns; a copy of everything once in this many steps


class _Frame:
    """The part of the buffers in use, the same for all layers: rows ``0..rows``, columns ``start..end``."""

    def __init__(self) -> None:
        self.rows = 0
        self.start = 0
        self.end = 0


class BufferLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # its base has an untyped __init_subclass__
    """One layer's keys and values in a buffer that is larger than what is in use."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, frame: _Frame) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers annotates half of its classes
        self.frame = frame

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one new column for every row and return all columns in use, the new one included."""
        frame = self.frame
        self.keys[: frame.rows, :, frame.end] = key_states[:, :, 0]
        self.values[: frame.rows, :, frame.end] = value_states[:, :, 0]
        used = slice(frame.start, frame.end + 1)
        return self.keys[: frame.rows, :, used], self.values[: frame.rows, :, used]

    def get_seq_length(self) -> int:
        """Return the number of columns that were written before this step."""
        return self.frame.end - self.frame.start


def _layer_lists(cache: Any) -> list[list[Any]]:
    """Return the lists of layers inside a cache, one per member for the cache of an ensemble."""
    if isinstance(getattr(cache, "layers", None), list):
        return [cache.layers]
    return [layers for member in cache.members for layers in _layer_lists(member)]


class ReadPrompts:
    """What a model keeps of prompts that it has just read, padded on the left, until they are copied into rows.

    ``lengths[i]`` is the number of columns that belong to prompt ``i``.
    """

    def __init__(self, cache: Any, lengths: Sequence[int]) -> None:
        self.cache = cache
        self.lengths = list(lengths)
        self.lists = _layer_lists(cache)
        # Layers are replaced when the cache is adopted; what they hold stays reachable from here.
        self.layers = [layer for layers in self.lists for layer in layers]
        if not all(isinstance(layer, DynamicLayer) and layer.is_initialized for layer in self.layers):
            kinds = ", ".join(sorted({type(layer).__name__ for layer in self.layers}))
            raise UserError(f"Generation supports attention caches only, and this model keeps {kinds}.")


class RowCache:
    """The caches of all rows of a running batch.

    ``lengths[i]`` is the number of columns that belong to row ``i``. ``cache`` is what the model is called with, and
    ``runs`` are the rows that it had better attend to together.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.cache: Any = None
        self.lengths: list[int] = []
        self.runs: list[Run] = []
        self._frame = _Frame()
        self._layers: list[BufferLayer] = []

    @property
    def columns(self) -> int:
        """The number of columns in use."""
        return self._frame.end - self._frame.start

    @torch.inference_mode()
    def insert(self, read: ReadPrompts, prompts: Sequence[int]) -> None:
        """Add a row for each of ``prompts``, which are positions in ``read``; one may come many times."""
        if self.cache is None:
            self._adopt(read)
        lengths = [read.lengths[prompt] for prompt in prompts]
        frame, rows = self._frame, len(lengths)
        # What the sliding layers dropped counts as padding: the mask hides it.
        width = max(self.columns, *lengths)
        if frame.end < width or frame.end >= self._layers[0].keys.shape[2]:
            self._move(width)
        for ours, theirs in zip(self._layers, read.layers, strict=True):
            kept = min(theirs.keys.shape[2], width)
            target = (slice(frame.rows, frame.rows + rows), slice(None), slice(frame.end - kept, frame.end))
            ours.keys[target] = theirs.keys[prompts, :, -kept:]
            ours.values[target] = theirs.values[prompts, :, -kept:]
        frame.rows += rows
        self.lengths.extend(lengths)
        self._trim()

    @torch.inference_mode()
    def advance(self) -> None:
        """Count the column that the model has just written; make room for the next one."""
        frame = self._frame
        frame.end += 1
        self.lengths = [length + 1 for length in self.lengths]
        if frame.end == self._layers[0].keys.shape[2]:
            self._move(self.columns)

    @torch.inference_mode()
    def drop(self, row: int) -> list[tuple[int, int]]:
        """Remove a row. Return which rows moved, as pairs ``(to, from)`` in the order in which they did."""
        places = [row, *(run.end - 1 for run in self.runs if run.end - 1 > row)]
        used = slice(self._frame.start, self._frame.end)
        moves = list(pairwise(places))
        for to, origin in moves:
            for layer in self._layers:
                layer.keys[to, :, used] = layer.keys[origin, :, used]
                layer.values[to, :, used] = layer.values[origin, :, used]
            self.lengths[to] = self.lengths[origin]
        self.lengths.pop()
        self._frame.rows -= 1
        self._trim()
        return moves

    def _trim(self) -> None:
        """Leave out the columns in which no row has anything, and see which rows are of like length now."""
        self._frame.start = self._frame.end - max(self.lengths, default=0)
        keys = self._layers[0].keys
        call = CALL / (keys.shape[1] * keys.shape[3]) if keys.device.type == "cpu" else float("inf")
        self.runs = runs_of(self.lengths, call)

    def _adopt(self, read: ReadPrompts) -> None:
        self.cache = read.cache
        for layers in read.lists:
            for index, theirs in enumerate(layers):
                ours = BufferLayer(self._frame)
                ours.lazy_initialization(theirs.keys, theirs.values)
                _, heads, _, width = theirs.keys.shape
                ours.keys = theirs.keys.new_zeros(self.slots, heads, 0, width)
                ours.values = theirs.values.new_zeros(self.slots, heads, 0, theirs.values.shape[3])
                self._layers.append(ours)
                layers[index] = ours

    def _move(self, width: int) -> None:
        """Copy everything into buffers with ``width`` columns up to the end, and room behind it."""
        frame = self._frame
        used = (slice(0, frame.rows), slice(None), slice(frame.start, frame.end))
        target = (used[0], used[1], slice(width - self.columns, width))
        for layer in self._layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros(self.slots, old.shape[1], width + _GROWTH, old.shape[3])
                new[target] = old[used]
                setattr(layer, name, new)
        frame.start, frame.end = width - self.columns, width
