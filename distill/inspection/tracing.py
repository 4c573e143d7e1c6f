"""Layer-wise comparison of a new token in the student with its old spelling in the parent.

The student reads a text that ends with the new token, the parent the same bytes ending with the old spelling. As both
have then read the same text, their states and next-token predictions can be compared layer by layer. One position
earlier, the token itself is predicted: by the student at once, by the parent piece by piece.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstok.corpora import Texts
from crosstok.distill.inspection.geometry import cosine
from crosstok.distill.inspection.lens import Lens, LensView
from crosstok.distill.inspection.records import Guess, Layer, Trace
from crosstok.distill.inspection.tokens import VocabularyComparison, printable
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.tokenizers.tokenbytes import Encoding, TokenBytes

_READ_BYTES = 400_000
"""Bytes of the corpus to search for new tokens."""
_CONTEXT_TOKENS = 48
_GUESSES = 3


@dataclass(frozen=True)
class Occurrence:
    """An occurrence of a new token in a text."""

    times: int
    context: str
    """The preceding text, in whole characters."""


def occurrences(texts: Texts, tokens: TokenBytes, ids: frozenset[int]) -> dict[int, Occurrence]:
    """Return the tokens of ``ids`` that occur in the corpus, most frequent first."""
    counts: Counter[int] = Counter()
    contexts: dict[int, str] = {}
    read = 0
    for document in texts.documents:
        part = document.text[: _READ_BYTES - read]
        encoding = tokens.try_encode_many([part])[0]
        if isinstance(encoding, Encoding):
            for place, token in enumerate(encoding.ids.tolist()):
                if token not in ids:
                    continue
                counts[token] += 1
                if place and (token not in contexts or not contexts[token].strip()):
                    before = encoding.ids[max(0, place - _CONTEXT_TOKENS) : place]
                    contexts[token] = tokens.decode(before.tolist()).decode(errors="ignore")
        read += len(part)
        if read >= _READ_BYTES:
            break
    return {token: Occurrence(times, contexts.get(token, "")) for token, times in counts.most_common()}


class Tracer:
    """Compares tokens of ``student`` with their spelling in ``parent``."""

    def __init__(self, student: Checkpoint, parent: Checkpoint, vocabulary: VocabularyComparison) -> None:
        self._student, self._parent = student, parent
        self._lenses = (
            Lens(student.model, student.valid_rows),
            Lens(parent.model, parent.valid_rows),
        )
        self._common = torch.tensor(vocabulary.old), torch.tensor(vocabulary.old_in_parent)

    @property
    def fits(self) -> bool:
        """Whether the logit lens supports both models."""
        return all(lens.fits for lens in self._lenses)

    def trace(self, token: int, pieces: list[int], context: str) -> Trace:
        """Return the trace of ``token``, which the parent spells ``pieces``, after ``context``."""
        before = [self._encoded(side, context) for side in (self._student, self._parent)]
        ours = self._lenses[0].look([*before[0], token], [len(before[0]) - 1, len(before[0])])
        places = list(range(len(before[1]) - 1, len(before[1]) + len(pieces)))
        theirs = self._lenses[1].look([*before[1], *pieces], places)
        return Trace(
            id=token,
            text=printable(self._student.tokenbytes.table[token]),
            pieces=[printable(self._parent.tokenbytes.table[piece]) for piece in pieces],
            context=context,
            layers=list(self._layers(ours, theirs, token, pieces)),
        )

    def _encoded(self, side: Checkpoint, context: str) -> list[int]:
        """Return ``context`` as ids of one model, preceded by its BOS or end-of-text token."""
        first = side.bos_id if side.bos_id is not None else side.roles.end_of_text
        ids: list[int] = side.tokenbytes.encode(context).ids.tolist() if context else []
        return ids if first is None and ids else [first or 0, *ids]

    def _layers(self, ours: LensView, theirs: LensView, token: int, pieces: list[int]) -> Iterator[Layer]:
        chain = torch.tensor(pieces)
        old = theirs.logs[:, :-1].gather(-1, chain[None, :, None].expand(len(theirs.logs), -1, 1)).sum(dim=(1, 2))
        alike = cosine(ours.states[:, -1], theirs.states[:, -1])
        here = ours.logs[:, -1][:, self._common[0]].log_softmax(dim=-1)
        there = theirs.logs[:, -1][:, self._common[1]].log_softmax(dim=-1)
        apart = (there.exp() * (there - here)).sum(dim=-1)
        for layer in range(len(ours.logs)):
            yield Layer(
                layer=layer,
                cosine=float(alike[layer]),
                kl=max(0.0, float(apart[layer])),
                log_new=float(ours.logs[layer, 0, token]),
                log_old=float(old[layer]),
                student=_guesses(ours.logs[layer, -1], self._student.tokenbytes),
                parent=_guesses(theirs.logs[layer, -1], self._parent.tokenbytes),
            )


def _guesses(logs: Tensor, tokens: TokenBytes) -> list[Guess]:
    best = logs.topk(_GUESSES)
    return [
        Guess(text=tokens.specials.get(index) or printable(tokens.table[index]), probability=probability)
        for index, probability in zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)
    ]
