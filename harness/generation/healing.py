"""Token healing: the model regenerates the end of the prompt in tokens of its own choice.

A prompt that ends inside a word or a run of spaces is encoded with a token boundary that does not occur in training
data: after ``"return x."``, a model with a token ``".append"`` never generates it. Healing removes the last tokens of
the prompt and constrains the model to begin with exactly the removed bytes; any bytes beyond them begin the answer. The
bytes of prompt and answer stay comparable across tokenizers; only their division into tokens changes.

How many tokens to remove follows from the vocabulary: up to the earliest of the last few token boundaries from which
some token extends beyond the end of the prompt. If there is none, nothing is removed. Tokens that a chat template adds
after the last message are never removed, because models are trained on exactly these tokens.

Healing changes the model's input, so it is off by default, and every answer records the number of healed bytes.
Sources: "token healing" in the guidance project; Vieira et al. 2024, arXiv 2412.03719, on the prompt boundary problem.
"""

from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from crosstok.tasks.task import Generate

if TYPE_CHECKING:
    from crosstok.distill.tokenizers.tokenbytes import TokenBytes

_MAX_BOUNDARIES = 4  # token boundaries considered; tokens that span more are rare


class Healer:
    """Index of a vocabulary by byte prefix; sorts the vocabulary on first use."""

    def __init__(self, tokenbytes: "TokenBytes") -> None:
        self._table = tokenbytes.table
        self._dummy_prefix = tokenbytes.dummy_prefix

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((data, number) for number, data in enumerate(self._table) if data)

    def back_up(self, request: Generate, ids: list[int]) -> tuple[list[int], bytes]:
        """Return the remaining ids of the prompt, and the bytes of those removed.

        At least one id remains, and special tokens are never removed.
        """
        if request.messages is not None and request.messages[-1]["role"] != "assistant":
            return ids, b""
        # The first token of SentencePiece may begin with a space that the text does not contain, so keep it.
        least = 1 + sum(self._table[number] is None for number in ids[:1]) * self._dummy_prefix
        tail, found = b"", (ids, b"")
        for end in range(len(ids) - 1, max(least, len(ids) - _MAX_BOUNDARIES) - 1, -1):
            data = self._table[ids[end]]
            if data is None:
                break
            tail = data + tail
            if next(self._longer(tail), None) is not None:
                found = ids[:end], tail
        return found

    def allowed(self, wanted: bytes) -> list[int]:
        """Return the ids allowed next if the text must continue with the bytes ``wanted``.

        A token may cover a prefix of ``wanted`` whose rest other tokens can spell, or all of ``wanted`` and more.
        """
        spellable = [False] * len(wanted) + [True]
        pieces: dict[int, list[int]] = {}
        for start in reversed(range(len(wanted))):
            pieces[start] = [
                number
                for end in range(start + 1, len(wanted) + 1)
                if spellable[end]
                for number in self._exactly(wanted[start:end])
            ]
            spellable[start] = bool(pieces[start]) or next(self._longer(wanted[start:]), None) is not None
        return sorted([*pieces[0], *self._longer(wanted)])

    def _exactly(self, data: bytes) -> Iterator[int]:
        for position in range(bisect_left(self._sorted, (data, -1)), len(self._sorted)):
            found, number = self._sorted[position]
            if found != data:
                return
            yield number

    def _longer(self, data: bytes) -> Iterator[int]:
        """Yield the ids of tokens that begin with ``data`` and are longer."""
        for position in range(bisect_left(self._sorted, (data + b"\0", -1)), len(self._sorted)):
            found, number = self._sorted[position]
            if not found.startswith(data):
                return
            yield number
