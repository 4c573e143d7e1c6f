"""Byte-level matching of stop strings in a streamed answer.

A tokenizer can spell a stop in many ways: as one token, as single bytes, as the tail of one token and the head of the
next. Comparing token ids, or decoding a fixed number of final tokens, misses some of them. The matcher sees only bytes,
keeps the last bytes in which a stop could still begin, and gives the same result for every tokenization of the answer.
It is fed the answer alone, so a stop that begins in the prompt does not count.
"""

from collections.abc import Iterable
from typing import NamedTuple

from crosstok.errors import UserError


class StopMatch(NamedTuple):
    """Position of a stop in the answer, in bytes; the answer ends before ``start``."""

    start: int
    end: int
    stop: bytes


class StopMatcher:
    """Finds the first completed stop, and the longest among those that end on the same byte.

    A matcher serves a single answer. Raises :class:`UserError` for an empty stop.
    """

    __slots__ = ("_keep", "_seen", "_stops", "_tail")

    def __init__(self, stops: Iterable[str]) -> None:
        # Longest first: of two stops that end on the same byte, the loop below then keeps the longer one.
        self._stops = sorted({stop.encode() for stop in stops}, key=lambda stop: (-len(stop), stop))
        if self._stops and not self._stops[-1]:
            raise UserError("An empty stop string would end every answer immediately.", hint="Remove it from the task.")
        self._keep = len(self._stops[0]) - 1 if self._stops else 0
        self._seen = 0
        self._tail = b""

    def feed(self, data: bytes) -> StopMatch | None:
        """Append ``data`` to the answer and return the first completed stop. Must not be called after a match."""
        window = self._tail + data
        found, found_end = b"", len(window) + 1
        for stop in self._stops:
            start = window.find(stop)
            if start >= 0 and start + len(stop) < found_end:
                found, found_end = stop, start + len(stop)
        before = self._seen - len(self._tail)
        self._seen += len(data)
        self._tail = window[-self._keep :] if self._keep else b""
        return StopMatch(before + found_end - len(found), before + found_end, found) if found else None
