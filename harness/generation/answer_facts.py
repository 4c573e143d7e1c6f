"""What a tokenizer did to one answer, beside the text itself; stored with every sample.

None of it enters a score. It is what explains a score: a byte-fallback vocabulary that writes broken characters, a
model that repeats itself until its room is used up, a prompt whose end would have been one token with the beginning of
the answer, a new vocabulary whose tokens are never written.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from crosstok.distill.tokenizers.tokenbytes import Encoding
from crosstok.harness.generation.answers import Generation

if TYPE_CHECKING:
    from crosstok.distill.tokenizers.tokenbytes import TokenBytes

LOOP_REPEATS, LOOP_BYTES = 3, 64
"""An answer ends in a loop when its last bytes, at least so many, repeat one unit at least so often."""
_BORDER = 64  # characters on either side of the border between prompt and answer that are encoded together


class AnswerFacts:
    """Facts of one model's answers; ``new_ids`` are those that the model it was made from did not have."""

    def __init__(self, tokenbytes: "TokenBytes | None", new_ids: Collection[int] | None = None) -> None:
        self._tokenbytes = tokenbytes
        self._new_ids = frozenset(new_ids) if new_ids is not None else None

    def of(self, answer: Generation) -> dict[str, Any]:
        """Return what is stored beside ``answer``; a server does not tell its tokens, so those facts are left out."""
        found: dict[str, Any] = dict(answer.facts)
        if answer.stop_reason == "refused":
            return found
        found["invalid_utf8_bytes"] = invalid_utf8_bytes(answer.data)
        found["loop_bytes"] = loop_bytes(answer.data)
        if self._tokenbytes is not None:
            found["straddled"] = straddled(self._tokenbytes, answer.prompt_text, answer.text)
        if self._new_ids is not None:
            new = [number for number in answer.ids if number in self._new_ids]
            found["new_tokens"] = len(new)
            found["new_ids"] = sorted(set(new))
            found["new_ids_known"] = len(self._new_ids)
            if self._tokenbytes is not None:
                found["new_bytes"] = sum(int(self._tokenbytes.lengths[number]) for number in new)
        return found


def new_ids(tokenbytes: "TokenBytes", source: "TokenBytes") -> frozenset[int]:
    """Return the ids of ``tokenbytes`` that spell what no token of ``source`` spells; special tokens are none."""
    known = {data for data in source.table if data is not None}
    return frozenset(number for number, data in enumerate(tokenbytes.table) if data is not None and data not in known)


def straddled(tokenbytes: "TokenBytes", prompt: str, answer: str) -> bool | None:
    """Return whether prompt and answer, written as one text, would share a token; None where it cannot be written."""
    before, after = prompt[-_BORDER:], answer[:_BORDER]
    encoding = tokenbytes.try_encode_many([before + after])[0]
    if not isinstance(encoding, Encoding):
        return None
    border = len(before.encode())
    return bool(border) and border not in encoding.ends.tolist()


def invalid_utf8_bytes(data: bytes) -> int:
    """Return how many bytes of ``data`` belong to no character."""
    return len(data) - len(data.decode(errors="ignore").encode())


def loop_bytes(data: bytes) -> int:
    """Return the length of the loop that ``data`` ends in: of the longest ending that repeats one unit, 0 for none.

    The shortest period of every ending follows from the prefix function of the reversed bytes, in linear time (Knuth,
    Morris and Pratt, 1977).
    """
    backwards = data[::-1]
    borders = [0] * len(backwards)
    longest = 0
    for end in range(1, len(backwards)):
        border = borders[end - 1]
        while border and backwards[end] != backwards[border]:
            border = borders[border - 1]
        borders[end] = border + (backwards[end] == backwards[border])
        length = end + 1
        if length >= LOOP_BYTES and length >= LOOP_REPEATS * (length - borders[end]):
            longest = length
    return longest
