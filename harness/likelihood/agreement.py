"""Agreement of a model with a teacher on text, measured independently of the tokenizers.

Both models read the same windows of bytes, which begin and end at offsets where *both* tokenizations have a token
boundary, so neither model sees a byte that the other does not. At every such common boundary except the start of the
text (where each model is conditioned on special tokens of its own), they are compared in five ways, each directed from
teacher to model:

- ``byte_kl``: KL divergence of the next-*byte* distributions, in nats. The distribution of a model is the sum over its
  tokens by first byte, with one additional outcome for tokens without bytes. It needs no common vocabulary and loses no
  information about the next byte.
- ``top1``: whether the most probable next bytes under these distributions are equal.
- ``text``: whether one of the two most probable next *tokens* is a prefix of the other (equal, for identical
  vocabularies). Two tokens without bytes agree.
- ``chunk_kl``: KL divergence in nats of a binary outcome: the text up to the next common boundary, or anything else.
  This is the ALM loss (arXiv 2503.20083, section 3.1, at temperature 1), with the likelihood of a chunk computed from
  each model's own tokens. It ignores which alternatives a longer chunk could have had, so it is a lower bound of any
  finer KL divergence.
- ``token_kl``: KL divergence of the next-token distributions in nats, for identical vocabularies only.

All are stored as sums over a document, together with the number of common boundaries, ``boundaries``, and the ``bytes``
of the chunks between them; tables divide. The set of common boundaries depends on the pair of tokenizers: a byte-level
model is compared at every token boundary of the teacher, two large vocabularies perhaps at every word. Figures of
models with different tokenizers thus refer to different positions, which is why tables show the bytes per boundary too.

The measure needs one additional pass of both models over the text, one window at a time.
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
"""Outcome of the next byte for tokens without bytes, mainly the end of the text."""


@dataclass(frozen=True, slots=True)
class _WindowScores:
    """States and likelihoods of one model for the chunks of a window, one entry per compared boundary."""

    states: Tensor
    """Hidden states before each chunk, ``[n, width]``."""
    chunk_nats: Tensor
    """Negative log-likelihood of each chunk in nats, fp64 ``[n]``."""


class _Side:
    """One of the two compared models."""

    def __init__(self, checkpoint: "Checkpoint") -> None:
        self.tokenbytes = checkpoint.tokenbytes
        self.rows = checkpoint.valid_rows
        self.next = NextToken(checkpoint)
        self._first = first_id(checkpoint)
        self._context = context_tokens(checkpoint)
        table = [self.spelling(number) for number in range(self.rows)]
        self._first_bytes = torch.tensor([data[0] if data else NO_TEXT for data in table])

    def spelling(self, number: int) -> bytes:
        """Return the bytes of an id; empty for tokens without bytes."""
        return (self.tokenbytes.table[number] if number < self.tokenbytes.size else None) or b""

    def read(self, ids: np.ndarray, chunks: np.ndarray, first_chunk: int, count: int) -> _WindowScores:
        """Run the model on a window; return scores for ``count`` chunks from ``first_chunk`` on.

        ``chunks`` ``[n]`` holds the chunk of each of the tokens ``ids`` ``[n]``.
        """
        if self._context is not None and len(ids) + 1 > self._context:
            raise UserError(
                f"A window of this text has {len(ids) + 1} tokens; the context of a model is {self._context}.",
                hint="Reduce window_bytes of the task, for all models.",
            )
        sequence = torch.tensor([[self._first, *ids.tolist()]])
        mask = torch.ones_like(sequence, device=self.next.model.device)
        states = self.next.states(sequence, attention_mask=mask)[0, :-1]  # state i precedes token i of the window
        wanted = np.flatnonzero((chunks >= first_chunk) & (chunks < first_chunk + count))
        place = torch.from_numpy(chunks[wanted].astype(np.int64) - first_chunk)
        targets = torch.from_numpy(ids[wanted].astype(np.int64))
        nats = self.next.score(states[torch.from_numpy(wanted).to(states.device)], targets).nats.double()
        openings = np.searchsorted(chunks[wanted], np.arange(first_chunk, first_chunk + count))
        fronts = torch.from_numpy(wanted[openings]).to(states.device)
        return _WindowScores(states[fronts], torch.zeros(count, dtype=torch.float64).index_add_(0, place, nats))

    def next_bytes(self, logs: Tensor) -> Tensor:
        """Return next-byte log-probabilities ``[n, 257]`` from next-token log-probabilities ``[n, V]``."""
        mass = torch.zeros(len(logs), NO_TEXT + 1, dtype=torch.float64)
        return mass.index_add_(1, self._first_bytes, logs.double().exp()).log()


class Agreement:
    """Compares one model with a teacher."""

    def __init__(self, model: "Checkpoint", teacher: "Checkpoint") -> None:
        self._model, self._teacher = _Side(model), _Side(teacher)
        same = model.tokenbytes.fingerprint == teacher.tokenbytes.fingerprint
        self._same = same and self._model.rows == self._teacher.rows

    @torch.inference_mode()
    def of(self, request: Rolling) -> dict[str, float]:
        """Return the sums over one text; empty if one of the tokenizers cannot encode it losslessly.

        Raises :class:`UserError` for a window that exceeds the context of one of the models.
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
            scored = max(window.scored, 1)  # the first chunk of a text follows special tokens
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

    def _compare(self, sums: dict[str, float], teacher: _WindowScores, model: _WindowScores) -> None:
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
    """Return whether one of two next tokens is a prefix of the other, or with ``exact``, whether they are equal."""
    if exact or not one or not other:
        return one == other
    return one.startswith(other) or other.startswith(one)


def kl(of: Tensor, to: Tensor) -> Tensor:
    """Return KL(of || to) in nats, ``[n]``, of log-probabilities ``[n, outcomes]``, with 0 log 0 = 0."""
    terms = of.exp() * (of - to)
    return torch.where(of.isneginf(), torch.zeros_like(terms), terms).sum(-1).clamp(min=0)


def binary_kl(of: Tensor, to: Tensor) -> Tensor:
    """Return the KL divergence in nats of binary outcomes with the given log-probabilities, in fp64.

    1 - p is computed as -expm1(log p), which is accurate for p near 0 and near 1. p is clamped to at most 1 - 1e-12, so
    that the result is finite.
    """
    p, q = of.double().clamp(max=-1e-12), to.double().clamp(max=-1e-12)
    rest_p, rest_q = torch.log(-torch.expm1(p)), torch.log(-torch.expm1(q))
    return (p.exp() * (p - q) + rest_p.exp() * (rest_p - rest_q)).clamp(min=0)


def facts_of(agreement: Agreement, teacher: str, request: Rolling) -> dict[str, Any]:
    """Return the facts stored with the likelihood of one document."""
    return {"agreement": {"with": teacher, **agreement.of(request)}}
