"""Rolling likelihood of whole texts, with windows measured in bytes.

Windows of a fixed number of tokens give a model with short tokens less text to condition on, which biases comparisons
across tokenizers. Here window and stride are in bytes. With window W and stride S, the first window scores the bytes
[0, W), the following ones [W, W + S), [W + S, W + 2 S) and so on, each with the preceding W - S bytes as context. A
window begins at the last character and token boundary that leaves at least that much context for every byte it scores,
and a token belongs to the window that contains its first byte; every byte is thus scored exactly once, whatever the
tokens.

Each window is conditioned on the same special token (``crosstok.harness.runtime.model_input``), which is never scored
itself; other special tokens do not occur, since text is encoded without parsing them. Padded vocabulary rows are
excluded from the softmax. Log-probabilities are computed in fp32 whatever the dtype of the weights, and summed in fp64.

Next-token probabilities come from :mod:`crosstok.harness.likelihood.next_token`; continuations of a context are scored
by :mod:`crosstok.harness.likelihood.continuations`.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crosstok.distill.tokenizers.tokenbytes import RoundTripError
from crosstok.errors import UserError
from crosstok.harness.likelihood.continuations import ContinuationScore, ContinuationScorer
from crosstok.harness.likelihood.next_token import NextToken
from crosstok.harness.runtime.memory import attempt, too_large
from crosstok.harness.runtime.model_input import context_tokens, first_id
from crosstok.harness.runtime.padding import of_like_length
from crosstok.tasks.task import Continuations, Rolling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crosstok.distill.models.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

_POOLED_BATCHES = 8  # windows are sorted by length within pools of this many batches


@dataclass(frozen=True, slots=True)
class RollingScore:
    """Result of one :class:`Rolling` request."""

    index: int
    """Position of the request in the input."""
    nats: float
    """Negative log-likelihood of the text, in nats."""
    bytes: int
    """Number of scored bytes: all bytes of the text."""
    tokens: int
    """Number of scored tokens; special tokens are not scored."""
    windows: int
    mean_context_bytes: float
    """Bytes of text before a token within its window, averaged over scored bytes."""
    min_context_bytes: int | None
    """Minimum of the same, over bytes that have at least window - stride bytes of text before them."""
    conditioned_on: str
    """Special token before every window."""
    seconds: float
    """Share of this text in the wall time of its batches."""
    refused: str = ""
    """Reason why the text was not scored: the tokenizer cannot encode it losslessly. All numbers are then zero."""

    @property
    def facts(self) -> dict[str, Any]:
        """Facts stored with the likelihood."""
        names = ("windows", "mean_context_bytes", "min_context_bytes", "conditioned_on")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Window:
    """Window over the tokens ``first`` to ``end`` (exclusive) of a text, scored from token ``scored`` on."""

    first: int
    scored: int
    end: int


@dataclass(slots=True)
class _Document:
    """A text whose windows are being scored."""

    index: int
    ids: "NDArray[np.int32]"
    ends: "NDArray[np.int64]"
    windows: list[Window]
    request: Rolling
    nats: float = 0.0
    seconds: float = 0.0
    pending: int = 0


_Item = tuple[_Document, Window]


class Scorer:
    """Scores texts and continuations with one model; ``max_batch_tokens`` bounds the padded tokens of a pass."""

    def __init__(self, checkpoint: "Checkpoint", *, max_batch_tokens: int = 4096) -> None:
        self._checkpoint = checkpoint
        self._first = first_id(checkpoint)
        self._conditioned_on = str(checkpoint.tokenizer.convert_ids_to_tokens(self._first))
        self._context = context_tokens(checkpoint)
        self._next = NextToken(checkpoint)
        self._budget = self._next.affordable(max_batch_tokens)
        self._continuations = ContinuationScorer(checkpoint, self._next, max_batch_tokens=max_batch_tokens)

    def continuations(self, requests: Sequence[Continuations]) -> Iterator[ContinuationScore]:
        """Score the continuations of every request; yields scores in order of completion."""
        return self._continuations.score(requests)

    def rolling(self, requests: Sequence[Rolling]) -> Iterator[RollingScore]:
        """Score every text once; yields scores in order of completion.

        A text that the tokenizer cannot encode losslessly is refused. Raises :class:`UserError`, before anything is
        scored, if a window exceeds the context of the model, because a smaller window for this model alone would not be
        comparable.
        """
        documents: list[_Document] = []
        for index, request in enumerate(requests):
            try:
                encoding = self._checkpoint.tokenbytes.encode(request.text)
            except RoundTripError as error:
                yield RollingScore(index, 0.0, 0, 0, 0, 0.0, None, self._conditioned_on, 0.0, str(error))
                continue
            windows = cut_windows(request.text.encode(), encoding.ends, request.window_bytes, request.stride_bytes)
            documents.append(_Document(index, encoding.ids, encoding.ends, windows, request, pending=len(windows)))
        self._check_context(documents)
        pool: list[_Item] = []
        pooled = 0
        for document in documents:
            if not document.windows:
                yield self._score(document)
                continue
            pool.extend((document, window) for window in document.windows)
            pooled += sum(_width(window) for window in document.windows)
            if pooled >= _POOLED_BATCHES * self._budget:
                yield from self._score_pool(pool)
                pool, pooled = [], 0
        yield from self._score_pool(pool)

    def _check_context(self, documents: Sequence[_Document]) -> None:
        widest = max((_width(window) for document in documents for window in document.windows), default=0)
        if self._context is not None and widest > self._context:
            raise UserError(
                f"A window of this text has {widest} tokens, but the context of the model is {self._context}.",
                hint="Reduce window_bytes of the task, for all models.",
            )

    def _score_pool(self, pool: list[_Item]) -> Iterator[RollingScore]:
        """Score the windows, longest first, in batches of similar length within the budget."""
        pool = sorted(pool, key=lambda item: -_width(item[1]))
        while pool:
            rows = of_like_length((_width(window) for _, window in pool), self._budget)
            batch, pool = pool[:rows], pool[rows:]
            began = time.perf_counter()
            nats = self._score_batch(batch)
            elapsed = time.perf_counter() - began
            total = sum(_width(window) for _, window in batch)
            for (document, window), value in zip(batch, nats, strict=True):
                document.nats += value
                document.seconds += elapsed * _width(window) / total
                document.pending -= 1
                if document.pending == 0:
                    yield self._score(document)

    def _score_batch(self, batch: list[_Item]) -> list[float]:
        """Return the nats of each window; if memory runs out, the batch size is halved permanently."""
        nats = attempt(lambda: self._nats(batch))
        if nats is not None:
            return nats
        if len(batch) == 1:
            raise too_large(f"a single window of {_width(batch[0][1])} tokens", "reduce window_bytes of the task")
        half = (len(batch) + 1) // 2
        self._budget = max(1, half * _width(batch[0][1]))
        logger.warning("Out of memory with %d windows at a time; continuing with %d.", len(batch), half)
        return self._score_batch(batch[:half]) + self._score_batch(batch[half:])

    @torch.inference_mode()
    def _nats(self, batch: list[_Item]) -> list[float]:
        """Return the nats of each window of a batch, padded on the right, which causal attention ignores."""
        width = _width(batch[0][1])
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        rows, columns = [], []
        for number, (document, window) in enumerate(batch):
            length = _width(window)
            ids[number, 0] = self._first
            ids[number, 1:length] = torch.from_numpy(document.ids[window.first : window.end].astype(np.int64))
            mask[number, :length] = 1
            scored = torch.arange(1 + window.scored - window.first, length)
            rows.append(torch.full_like(scored, number))
            columns.append(scored)
        row, column = torch.cat(rows), torch.cat(columns)
        states = self._next.states(ids, attention_mask=mask.to(self._next.model.device))
        losses = self._next.score(states[row.to(states.device), column.to(states.device) - 1], ids[row, column]).nats
        return torch.zeros(len(batch), dtype=torch.float64).index_add_(0, row, losses.double()).tolist()

    def _score(self, document: _Document) -> RollingScore:
        context = np.concatenate(
            [np.zeros(0, np.int64), *(_context_bytes(document, window) for window in document.windows)]
        )
        starts = np.concatenate([[0], document.ends])
        lengths = np.diff(starts)
        total = int(starts[-1])
        full = starts[:-1] >= document.request.window_bytes - document.request.stride_bytes
        return RollingScore(
            index=document.index,
            nats=document.nats,
            bytes=total,
            tokens=len(document.ids),
            windows=len(document.windows),
            mean_context_bytes=float((context * lengths).sum() / total) if total else 0.0,
            min_context_bytes=int(context[full].min()) if full.any() else None,
            conditioned_on=self._conditioned_on,
            seconds=document.seconds,
        )


def cut_windows(data: bytes, ends: "NDArray[np.int64]", window_bytes: int, stride_bytes: int) -> list[Window]:
    """Divide a text into windows; ``ends`` are the byte end offsets of its tokens.

    The scored parts of the windows are adjacent, without gap or overlap. Raises :class:`UserError` unless
    1 <= stride <= window.
    """
    if not 1 <= stride_bytes <= window_bytes:
        raise UserError(f"stride_bytes must be between 1 and window_bytes ({window_bytes}), not {stride_bytes}.")
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
    octets = np.frombuffer(data, dtype=np.uint8)
    # Windows may begin only at tokens that begin at a character boundary.
    starts_of_windows = np.flatnonzero((octets[starts] & 0xC0) != 0x80) if len(starts) else starts
    windows: list[Window] = []
    scored = 0
    boundary = window_bytes
    while scored < len(ends):
        end = int(np.searchsorted(starts, boundary, side="left"))
        if end > scored:
            earliest = max(0, int(starts[scored]) - (window_bytes - stride_bytes))
            opening = int(np.searchsorted(starts[starts_of_windows], earliest, side="right")) - 1
            windows.append(Window(int(starts_of_windows[max(opening, 0)]) if scored else 0, scored, end))
            scored = end
        boundary += stride_bytes
    return windows


def _context_bytes(document: _Document, window: Window) -> "NDArray[np.int64]":
    """Return, for each scored token, the bytes of text before it in the window."""
    starts = np.concatenate([np.zeros(1, np.int64), document.ends])
    context: NDArray[np.int64] = starts[window.scored : window.end] - starts[window.first]
    return context


def _width(window: Window) -> int:
    """Return the number of tokens of a window, its special token included."""
    return 1 + window.end - window.first
