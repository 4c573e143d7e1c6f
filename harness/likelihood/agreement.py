"""How far a model agrees with a teacher on text, where both have a token end: a measure that no tokenizer decides.

Both models read the same windows of bytes: a window begins and ends where *both* tokenizations have a token end, so
neither sees a byte that the other does not. At every such offset but the first of the text (where each model stands
behind special tokens of its own) they are compared in five ways, all of them from the teacher to the model:

- ``byte_kl``: KL of the distributions of the next *byte*, in nats. A model's is the sum over its tokens by their first
  byte, with one more outcome for tokens that are no text. It needs no common vocabulary and loses nothing of the byte.
- ``top1``: whether the most probable next bytes, by these distributions, are equal.
- ``text``: whether of the two most probable next *tokens* one spells a beginning of the other (equal, where the
  vocabularies are the same). Two tokens that are no text agree.
- ``chunk_kl``: KL in nats of two outcomes, the text up to the next common end or anything else: the loss of ALM (arXiv
  2503.20083, section 3.1, at temperature 1) with a chunk's likelihood out of each model's own tokens. It leaves out
  what a chunk longer than a byte could have been instead, so it is a lower bound of any finer KL.
- ``token_kl``: KL in nats of the distributions of the next token, only where both vocabularies are the same.

All are stored as sums over a document with the number of offsets, ``boundaries``, and the ``bytes`` of the chunks
behind them; tables divide. Which offsets are common depends on the pair of tokenizers: a byte-level model is compared
at every token end of the teacher, two large vocabularies perhaps at every word. So the figures of two models with
different tokenizers are of different places, and bytes per offset stands beside them.

It is a further pass of both models over the text, one window at a time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crosstok.distill.tokenizers.alignment import align
from crosstok.distill.tokenizers.tokenbytes import Encoding
from crosstok.errors import UserError
from crosstok.harness.likelihood.next_token import LOGIT_ELEMENTS, NextToken
from crosstok.harness.likelihood.rolling import cut_windows
from crosstok.harness.runtime.model_input import context_tokens, first_id
from crosstok.tasks.task import Rolling

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

NO_TEXT = 256
"""The outcome of a next byte for tokens that are no text: the end of the text, above all."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one model says of the chunks of a window, one entry per compared offset."""

    states: Tensor
    """In front of each chunk, ``[n, width]``."""
    chunk_nats: Tensor
    """Minus the log-likelihood of each chunk, fp64."""


class _Reader:
    """One side of the comparison."""

    def __init__(self, checkpoint: "Checkpoint") -> None:
        self.tokenbytes = checkpoint.tokenbytes
        self.rows = checkpoint.valid_rows
        self.next = NextToken(checkpoint)
        self._first = first_id(checkpoint)
        self._context = context_tokens(checkpoint)
        table = [self.spelling(number) for number in range(self.rows)]
        self._first_bytes = torch.tensor([data[0] if data else NO_TEXT for data in table])

    def spelling(self, number: int) -> bytes:
        """Return the bytes of an id; none of what is no text."""
        return (self.tokenbytes.table[number] if number < self.tokenbytes.size else None) or b""

    def read(self, ids: np.ndarray, chunks: np.ndarray, first_chunk: int, count: int) -> _Reading:
        """Read one window, whose tokens lie in ``chunks``; asked for are ``count`` chunks from ``first_chunk`` on."""
        if self._context is not None and len(ids) + 1 > self._context:
            raise UserError(
                f"A window of this text takes {len(ids) + 1} tokens, and one of the models can read {self._context}.",
                hint="Lower window_bytes of the task, for all models alike.",
            )
        sequence = torch.tensor([[self._first, *ids.tolist()]])
        mask = torch.ones_like(sequence, device=self.next.model.device)
        states = self.next.states(sequence, attention_mask=mask)[0, :-1]  # state i is in front of token i of the window
        wanted = np.flatnonzero((chunks >= first_chunk) & (chunks < first_chunk + count))
        place = torch.from_numpy(chunks[wanted].astype(np.int64) - first_chunk)
        targets = torch.from_numpy(ids[wanted].astype(np.int64))
        nats = self.next.score(states[torch.from_numpy(wanted).to(states.device)], targets).nats.double()
        openings = np.searchsorted(chunks[wanted], np.arange(first_chunk, first_chunk + count))
        fronts = torch.from_numpy(wanted[openings]).to(states.device)
        return _Reading(states[fronts], torch.zeros(count, dtype=torch.float64).index_add_(0, place, nats))

    def next_bytes(self, logs: Tensor) -> Tensor:
        """Return the log-probabilities of the next byte, ``[n, 257]``, from those of the next token."""
        mass = torch.zeros(len(logs), NO_TEXT + 1, dtype=torch.float64)
        return mass.index_add_(1, self._first_bytes, logs.double().exp()).log()


class Agreement:
    """Compare one model with a teacher."""

    def __init__(self, model: "Checkpoint", teacher: "Checkpoint") -> None:
        self._model, self._teacher = _Reader(model), _Reader(teacher)
        same = model.tokenbytes.fingerprint == teacher.tokenbytes.fingerprint
        self._same = same and self._model.rows == self._teacher.rows

    @torch.inference_mode()
    def of(self, request: Rolling) -> dict[str, float]:
        """Return the sums over one text; empty where one of the tokenizers cannot write it byte for byte.

        Raises :class:`UserError` for a window that is longer than one of the models can read.
        """
        encodings = [side.tokenbytes.try_encode_many([request.text])[0] for side in (self._teacher, self._model)]
        theirs, ours = encodings
        if not isinstance(theirs, Encoding) or not isinstance(ours, Encoding) or not len(ours.ids):
            return {}
        aligned = align(theirs.ends, ours.ends)
        sums = dict.fromkeys(("boundaries", "bytes", "top1", "text", "byte_kl", "chunk_kl"), 0.0)
        if self._same:
            sums["token_kl"] = 0.0
        data = request.text.encode()
        for window in cut_windows(data, aligned.ends, request.window_bytes, request.stride_bytes):
            scored = max(window.scored, 1)  # the first chunk of a text stands behind special tokens
            if scored >= window.end:
                continue
            sides = []
            for side, encoding, chunks in (
                (self._teacher, theirs, aligned.teacher_chunks),
                (self._model, ours, aligned.student_chunks),
            ):
                first, end = np.searchsorted(chunks, [window.first, window.end])
                sides.append(side.read(encoding.ids[first:end], chunks[first:end], scored, window.end - scored))
            self._compare(sums, *sides)
            sums["bytes"] += int(aligned.ends[window.end - 1] - aligned.ends[scored - 1])
        return sums

    def _compare(self, sums: dict[str, float], teacher: _Reading, model: _Reading) -> None:
        sums["boundaries"] += len(teacher.chunk_nats)
        sums["chunk_kl"] += float(binary_kl(-teacher.chunk_nats, -model.chunk_nats).sum())
        size = max(1, LOGIT_ELEMENTS // max(self._teacher.rows, self._model.rows))
        for some, others in zip(torch.split(teacher.states, size), torch.split(model.states, size), strict=True):
            theirs, ours = self._teacher.next.log_probabilities(some), self._model.next.log_probabilities(others)
            their_bytes, our_bytes = self._teacher.next_bytes(theirs), self._model.next_bytes(ours)
            sums["byte_kl"] += float(kl(their_bytes, our_bytes).sum())
            sums["top1"] += int((their_bytes.argmax(-1) == our_bytes.argmax(-1)).sum())
            sums["text"] += sum(
                agree(self._teacher.spelling(one), self._model.spelling(other), exact=self._same)
                for one, other in zip(theirs.argmax(-1).tolist(), ours.argmax(-1).tolist(), strict=True)
            )
            if self._same:
                sums["token_kl"] += float(kl(theirs.double(), ours.double()).sum())


def agree(one: bytes, other: bytes, *, exact: bool) -> bool:
    """Return whether two next tokens agree on all that both of them say; nothing agrees with nothing alone."""
    if exact or not one or not other:
        return one == other
    return one.startswith(other) or other.startswith(one)


def kl(of: Tensor, to: Tensor) -> Tensor:
    """Return KL(of || to) in nats of log-probabilities ``[n, outcomes]``; impossible outcomes of the first count 0."""
    terms = of.exp() * (of - to)
    return torch.where(of.isneginf(), torch.zeros_like(terms), terms).sum(-1).clamp(min=0)


def binary_kl(of: Tensor, to: Tensor) -> Tensor:
    """Return KL in nats of two outcomes whose first one has these log-probabilities, in fp64.

    1 - p is taken as -expm1(log p), which holds for p near 0 and near 1; a certain outcome is kept off by one part in
    1e12, so that the answer is finite.
    """
    p, q = of.double().clamp(max=-1e-12), to.double().clamp(max=-1e-12)
    rest_p, rest_q = torch.log(-torch.expm1(p)), torch.log(-torch.expm1(q))
    return (p.exp() * (p - q) + rest_p.exp() * (rest_p - rest_q)).clamp(min=0)


def facts_of(agreement: Agreement, teacher: str, request: Rolling) -> dict[str, Any]:
    """Return what is stored of one document beside its likelihood."""
    return {"agreement": {"with": teacher, **agreement.of(request)}}
