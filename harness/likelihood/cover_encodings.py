"""Cover encodings: token sequences whose probabilities sum to the probability of a byte string.

The probability that a text begins with the bytes x is the sum over its *cover encodings*, in which all tokens except
the last lie inside x and the last one reaches the end of x or beyond (Phan et al. 2024, arXiv 2410.09303; Hayase et al.
2025, arXiv 2506.14123). For each cut j of x, the tokens before the last one are the encoding of x[:j], and the last one
is any token that begins with x[j:]. Only those tokens count that the tokenizer itself would produce there: its
canonical encoding of each text is taken for the only one that the model has met.

A cut inside a character is considered only if the encoding of the text has a boundary there, because the remaining
bytes are not a text that could be encoded. For the same reason, a last token that ends inside a character counts
without this check.
"""

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from crosstok.distill.tokenizers.tokenbytes import Encoding, RoundTripError, TokenBytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOW_BYTES = 48  # bytes of text before a cut that are encoded together with a candidate token


@dataclass(frozen=True, slots=True)
class Cover:
    """``ids`` followed by any one of ``endings``; None for the empty text."""

    ids: tuple[int, ...]
    endings: "NDArray[np.int64] | None"


class CoverEncodings:
    """Computes cover encodings under one tokenizer."""

    def __init__(self, tokenbytes: TokenBytes) -> None:
        self._tokenbytes = tokenbytes

    def of(self, text: str) -> list[Cover]:
        """Return the cover encodings of ``text``. Raises RoundTripError if it cannot be encoded losslessly."""
        data = text.encode()
        whole = self._tokenbytes.encode(text)
        if not data:
            return [Cover((), None)]
        boundaries = set(whole.ends.tolist())
        covers = []
        for cut in range(len(data) - 1, max(-1, len(data) - 1 - self._longest), -1):
            endings = self._beginning_with(data[cut:])
            inside = data[cut] & 0xC0 == 0x80
            if not endings or (inside and cut not in boundaries):
                continue
            before = whole.ids[: np.searchsorted(whole.ends, cut, side="right")] if inside else self._encode(data[:cut])
            if before is None:
                continue
            possible = self._possible(data[:cut], before, endings)
            if len(possible):
                covers.append(Cover(tuple(before.tolist()), possible))
        return covers

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((data, index) for index, data in enumerate(self._tokenbytes.table) if data)

    @cached_property
    def _longest(self) -> int:
        return max(len(data) for data, _ in self._sorted)

    def _beginning_with(self, start: bytes) -> list[tuple[bytes, int]]:
        first = bisect_left(self._sorted, (start, -1))
        return list(takewhile(lambda entry: entry[0].startswith(start), self._sorted[first:]))

    def _encode(self, data: bytes) -> "NDArray[np.int32] | None":
        found = self._tokenbytes.try_encode_many([data.decode()])[0]
        return found.ids if isinstance(found, Encoding) else None

    def _possible(
        self, before: bytes, ids: "NDArray[np.int32]", endings: list[tuple[bytes, int]]
    ) -> "NDArray[np.int64]":
        """Return the ids among ``endings`` that the tokenizer itself would produce after ``before``."""
        window, known = self._window(before, ids)
        texts, asked, kept = [], [], []
        for data, index in endings:
            try:
                texts.append((window + data).decode())
                asked.append(index)
            except UnicodeDecodeError:
                kept.append(index)
        for index, found in zip(asked, self._tokenbytes.try_encode_many(texts), strict=True):
            if not isinstance(found, RoundTripError) and found.ids.tolist() == [*known, index]:
                kept.append(index)
        return np.array(sorted(kept), dtype=np.int64)

    def _window(self, before: bytes, ids: "NDArray[np.int32]") -> tuple[bytes, list[int]]:
        """Return a suffix of ``before`` and its ids, whose encoding does not depend on the text before it."""
        ends = np.cumsum(self._tokenbytes.lengths[ids])
        for number in range(len(ids) - 1, 0, -1):
            window = before[int(ends[number - 1]) :]
            if len(window) >= _WINDOW_BYTES and window[:1] and window[0] & 0xC0 != 0x80:
                found = self._encode(window) if _is_text(window) else None
                if found is not None and found.tolist() == ids[number:].tolist():
                    return window, found.tolist()
                break
        return before, ids.tolist()


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
