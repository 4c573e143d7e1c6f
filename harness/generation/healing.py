"""Token healing: letting the model write the end of the prompt again, in tokens of its own choice.

A prompt that ends inside a word or a run of spaces is encoded with a border where the model would not have put one:
behind ``"return x."`` a model that has a token for ``".append"`` never writes it. Healing backs up over the last tokens
and makes the model begin with exactly the bytes that were taken away; what its tokens say beyond those bytes is the
beginning of the answer. Prompt and answer stay the same bytes for every tokenizer; only the way they are cut changes.

How far to back up follows from the vocabulary: to the earliest of the last few borders from which some token reaches
beyond the end of the prompt. Where none does, nothing is taken away. What a chat template writes behind the last
message is never taken away, as models are trained on exactly those tokens.

Healing changes what the model is asked, so it is off unless chosen, and every answer records the bytes that were healed
("Token healing" of the guidance project; Vieira et al. 2024, arXiv 2412.03719, on the prompt boundary).
"""

from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from crosstok.tasks.task import Generate

if TYPE_CHECKING:
    from crosstok.distill.tokenizers.tokenbytes import TokenBytes

_FURTHEST = 4  # borders looked at: a token that covers more of its left neighbours is rare, and each costs re-reading


class Healer:
    """Knows the tokens of a vocabulary by their first bytes. Building one sorts the vocabulary."""

    def __init__(self, tokenbytes: "TokenBytes") -> None:
        self._table = tokenbytes.table
        self._dummy_prefix = tokenbytes.dummy_prefix

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((data, number) for number, data in enumerate(self._table) if data)

    def back_up(self, request: Generate, ids: list[int]) -> tuple[list[int], bytes]:
        """Return the ids that are left to be read, and the bytes of those taken away.

        At least one id is left, and special tokens are never taken away.
        """
        if request.messages is not None and request.messages[-1]["role"] != "assistant":
            return ids, b""
        # SentencePiece's first token may begin with a space that the text does not have: it stays.
        least = 1 + sum(self._table[number] is None for number in ids[:1]) * self._dummy_prefix
        tail, found = b"", (ids, b"")
        for end in range(len(ids) - 1, max(least, len(ids) - _FURTHEST) - 1, -1):
            data = self._table[ids[end]]
            if data is None:
                break
            tail = data + tail
            if next(self._longer(tail), None) is not None:
                found = ids[:end], tail
        return found

    def allowed(self, wanted: bytes) -> list[int]:
        """Return the ids that may come next where the text goes on with ``wanted``: a piece of it, or all and more.

        A piece is allowed only if the rest can still be spelt.
        """
        spelt_from = [False] * len(wanted) + [True]
        pieces: dict[int, list[int]] = {}
        for start in reversed(range(len(wanted))):
            pieces[start] = [
                number
                for end in range(start + 1, len(wanted) + 1)
                if spelt_from[end]
                for number in self._exactly(wanted[start:end])
            ]
            spelt_from[start] = bool(pieces[start]) or next(self._longer(wanted[start:]), None) is not None
        return sorted([*pieces[0], *self._longer(wanted)])

    def _exactly(self, data: bytes) -> Iterator[int]:
        for position in range(bisect_left(self._sorted, (data, -1)), len(self._sorted)):
            found, number = self._sorted[position]
            if found != data:
                return
            yield number

    def _longer(self, data: bytes) -> Iterator[int]:
        """Yield the ids of tokens that begin with ``data`` and go on."""
        for position in range(bisect_left(self._sorted, (data + b"\0", -1)), len(self._sorted)):
            found, number = self._sorted[position]
            if not found.startswith(data):
                return
            yield number
