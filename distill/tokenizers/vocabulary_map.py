"""Exact nearest-token map between two vocabularies by edit distance in bytes (MinED).

FuseLLM (arXiv 2401.10491) maps vocabularies by Levenshtein distance. Comparing 128k tokens with 128k in a loop takes
days, so published maps are approximate or precomputed. This implementation is exact and takes minutes:

1. Tokens with equal bytes (distance 0) are looked up; these are usually more than half of the vocabulary.
2. For any other token x, ``max(|x|, |y|) - |x ∩ y|`` is a lower bound of its distance to y, where common bytes count
   with multiplicity. For all y at once, the bound is a sum of rows of a uint8 table with one row per byte value and
   occurrence: about 10 vector additions.
3. Candidates are compared in order of their bound, one level at a time, until the best distance found is at most the
   next bound. This leaves some hundreds of candidates instead of 128k.
4. The candidates of a level are compared at once: rows of the edit-distance matrix are vectors over candidates and
   columns, and the dependence along a row is a running minimum (``D[j] = min_k≤j (T[k] + j - k)``).

Ties are broken in favour of the candidate with more common bytes (the smaller bound), then of the lowest id.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_OCCURRENCES = 4  # occurrences of a byte in the table; further ones only loosen the bound
_BLOCK = 4096  # candidates per block

Progress = Callable[[int], None]
"""Called with the number of tokens done."""


def nearest_tokens(
    wanted: Sequence[bytes], candidates: Sequence[bytes], progress: Progress | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return the index of the candidate nearest to each of ``wanted`` and its distance in bytes, ``[n]`` each.

    Neither list may contain an empty string. Raises ValueError without candidates.
    """
    if not len(candidates):
        raise ValueError("there are no candidates")
    first: dict[bytes, int] = {}
    for index, data in enumerate(candidates):
        first.setdefault(data, index)
    indices = np.empty(len(wanted), dtype=np.int64)
    distances = np.zeros(len(wanted), dtype=np.int32)
    search = _Search(candidates)
    for place, data in enumerate(wanted):
        known = first.get(data)
        indices[place], distances[place] = (known, 0) if known is not None else search.nearest(data)
        if progress is not None and (place + 1) % 1000 == 0:
            progress(1000)
    return indices, distances


class _Search:
    """The candidates, with a table for lower bounds and buffers for blockwise comparison."""

    def __init__(self, candidates: Sequence[bytes]) -> None:
        self.lengths = np.array([len(data) for data in candidates], dtype=np.int16)
        self.joined = np.frombuffer(b"".join(candidates), dtype=np.uint8)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths[:-1], dtype=np.int64)])
        self.table = _occurrence_table(candidates)

    def nearest(self, data: bytes) -> tuple[int, int]:
        """Return the index and the distance of the nearest candidate."""
        bounds = self._bounds(data)
        best, winner, level = np.iinfo(np.int32).max, 0, int(bounds.min())
        while level < best:
            for block in _blocks(np.flatnonzero(bounds == level)):
                found = self._distances(data, block)
                place = int(found.argmin())
                if found[place] < best:
                    best, winner = int(found[place]), int(block[place])
            level += 1
        return winner, best

    def _bounds(self, data: bytes) -> npt.NDArray[np.int16]:
        """Return a lower bound of the distance to every candidate."""
        common: npt.NDArray[Any] = np.zeros(len(self.lengths), dtype=np.uint8 if len(data) < 256 else np.uint16)
        unseen = 0
        for byte, count in Counter(data).items():
            for occurrence in range(min(count, _OCCURRENCES)):
                row = self.table.get((byte, occurrence))
                if row is not None:
                    common += row
            if (byte, _OCCURRENCES - 1) in self.table:
                unseen += max(0, count - _OCCURRENCES)  # assume that these are common too
        bounds: npt.NDArray[np.int16] = np.maximum(self.lengths, np.int16(len(data)))
        bounds -= common  # no underflow: common bytes never exceed the maximum length
        if unseen:
            bounds -= np.int16(unseen)
            np.maximum(bounds, np.abs(self.lengths - np.int16(len(data))), out=bounds)
        return bounds

    def _distances(self, data: bytes, block: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        """Return the Levenshtein distances of ``data`` to the candidates in ``block``."""
        lengths = self.lengths[block].astype(np.int32)
        width = int(lengths.max())
        columns = np.arange(width + 1, dtype=np.int32)
        inside = columns[:width] < lengths[:, None]
        texts = np.zeros((len(block), width), dtype=np.uint8)
        texts[inside] = self.joined[(self.starts[block][:, None] + columns[:width])[inside]]
        row = np.broadcast_to(columns, (len(block), width + 1)).copy()
        for place, byte in enumerate(data):
            step = np.empty_like(row)
            step[:, 0] = place + 1
            np.minimum(row[:, 1:] + 1, row[:, :-1] + (texts != byte), out=step[:, 1:])
            row = np.minimum.accumulate(step - columns, axis=1) + columns
        found: npt.NDArray[np.int32] = row[np.arange(len(block)), lengths]
        return found


def _blocks(found: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    return [found[first : first + _BLOCK] for first in range(0, len(found), _BLOCK)]


def _occurrence_table(candidates: Sequence[bytes]) -> dict[tuple[int, int], npt.NDArray[np.uint8]]:
    """Return, for (byte, k), a 0/1 vector of the candidates that contain the byte more than k times."""
    table: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
    for index, data in enumerate(candidates):
        for byte, count in Counter(data).items():
            for occurrence in range(min(count, _OCCURRENCES)):
                row = table.get((byte, occurrence))
                if row is None:
                    row = table[byte, occurrence] = np.zeros(len(candidates), dtype=np.uint8)
                row[index] = 1
    return table
