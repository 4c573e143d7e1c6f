"""Stop strings, followed byte by byte along an answer.

A stop is text, and a tokenizer may spell it in many ways: as one token, as single bytes, as the tail of one token and
the head of the next. Comparing token ids, or decoding a fixed number of last tokens, misses some spellings. The matcher
therefore sees only bytes, keeps the few last ones that a stop could still begin in, and answers the same for every way
of cutting the answer into tokens. It is fed the answer alone, so a stop that begins in the prompt cannot count.
"""

from collections.abc import Iterable
from typing import NamedTuple

from crosstok.errors import UserError


class StopMatch(NamedTuple):
    """Where a stop stands in the answer, in bytes: the answer proper is what comes before ``start``."""

    start: int
    end: int
    stop: bytes


class StopMatcher:
    """Find the stop that is complete first, and among those that end on the same byte the longest.

    One matcher follows one answer. An empty stop raises :class:`UserError`.
    """

    __slots__ = ("_keep", "_seen", "_stops", "_tail")

    def __init__(self, stops: Iterable[str]) -> None:
        # Longest first: of two that end on one byte, the loop below then keeps the one that begins earlier.
        self._stops = sorted({stop.encode() for stop in stops}, key=lambda stop: (-len(stop), stop))
        if self._stops and not self._stops[-1]:
            raise UserError("An empty stop string would end every answer at once.", hint="Remove it from the task.")
        self._keep = len(self._stops[0]) - 1 if self._stops else 0
        self._seen = 0
        self._tail = b""

    def feed(self, data: bytes) -> StopMatch | None:
        """Continue the answer with ``data``; return the first completed stop. Not to be called after a match."""
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
