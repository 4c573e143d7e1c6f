"""Facts about single answers that explain scores across tokenizers; stored with every sample.

None of them enters a score. They reveal, for example, a byte-fallback vocabulary that produces broken characters, a
model that repeats itself until its budget is spent, a prompt whose end would have formed one token with the beginning
of the answer, or new tokens that the model never uses.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from crosstok.distill.tokenizers.tokenbytes import Encoding
from crosstok.harness.generation.answers import Generation

if TYPE_CHECKING:
    from crosstok.distill.tokenizers.tokenbytes import TokenBytes

LOOP_REPEATS, LOOP_BYTES = 3, 64
"""An answer ends in a loop if at least ``LOOP_BYTES`` final bytes repeat one unit at least ``LOOP_REPEATS`` times."""
_BOUNDARY_CHARACTERS = 64  # characters encoded together on each side of the boundary between prompt and answer


class AnswerFacts:
    """Computes facts of one model's answers; ``new_ids`` are the ids of tokens that its source model does not have."""

    def __init__(self, tokenbytes: "TokenBytes | None", new_ids: Collection[int] | None = None) -> None:
        self._tokenbytes = tokenbytes
        self._new_ids = frozenset(new_ids) if new_ids is not None else None

    def of(self, answer: Generation) -> dict[str, Any]:
        """Return the facts of ``answer`` by name; without a tokenizer (a server), only those about bytes."""
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
    """Return the ids of ``tokenbytes`` whose bytes are no token of ``source``; special tokens are excluded."""
    known = {data for data in source.table if data is not None}
    return frozenset(number for number, data in enumerate(tokenbytes.table) if data is not None and data not in known)


def straddled(tokenbytes: "TokenBytes", prompt: str, answer: str) -> bool | None:
    """Return whether a token would straddle the boundary if prompt and answer were encoded as one text.

    None if the tokenizer cannot encode the text.
    """
    before, after = prompt[-_BOUNDARY_CHARACTERS:], answer[:_BOUNDARY_CHARACTERS]
    encoding = tokenbytes.try_encode_many([before + after])[0]
    if not isinstance(encoding, Encoding):
        return None
    boundary = len(before.encode())
    return bool(boundary) and boundary not in encoding.ends.tolist()


def invalid_utf8_bytes(data: bytes) -> int:
    """Return the number of bytes that are not part of a valid UTF-8 character."""
    return len(data) - len(data.decode(errors="ignore").encode())


def loop_bytes(data: bytes) -> int:
    """Return the length in bytes of the longest suffix that repeats one unit (see ``LOOP_REPEATS``), or 0.

    The shortest period of every suffix follows from the prefix function of the reversed bytes, in linear time (Knuth,
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
