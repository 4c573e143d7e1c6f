"""Likelihood of continuations of a context, without influence of the token at the boundary.

Context and continuation are encoded as one text, as models met such text in training. A token may then straddle the
boundary: ``"the ans" + "wer is 42"`` contains the single token ``answer``. The common practice of splitting by the
number of context tokens silently drops such bytes from one choice and not from another. Two alternatives are offered:

*Whole* (default). All choices are scored from the same byte on: the last one at or before the boundary that is a token
boundary in the encodings of all choices. They are then compared by the probability of the same bytes, p(tail of the
context + choice | rest of the context). The number of context bytes scored is part of every answer
(``straddled_bytes``); it is 0 if the boundary is a token boundary, and then the result is the usual one.

*Exact*. The probability of the bytes of the continuation given the bytes of the context, summed over the tokens that
may straddle either end (:mod:`crosstok.harness.likelihood.cover_encodings`).

Text is encoded without parsing special tokens, and no special token is scored. The model's BOS comes first if the model
was trained with one; an empty context is replaced by the special token that opens windows
(:mod:`crosstok.harness.runtime.model_input`). A context that exceeds the model's context length is truncated on the
left, by the same number of bytes for all choices (``cut_bytes``). A continuation that does not fit by itself is
refused, and so is a text that the tokenizer cannot encode losslessly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crosstok.distill.tokenizers.tokenbytes import Encoding, RoundTripError
from crosstok.harness.likelihood.cover_encodings import CoverEncodings
from crosstok.harness.likelihood.next_token import NextToken
from crosstok.harness.likelihood.token_tree import Path, common_prefix_length
from crosstok.harness.likelihood.tree_scorer import JobScore, PathScore, TreeScorer
from crosstok.harness.runtime.model_input import context_tokens, first_id
from crosstok.tasks.task import Continuations, Likelihoods

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """Result of one :class:`Continuations` request."""

    index: int
    """Position of the request in the input."""
    likelihoods: Likelihoods
    context_bytes: int
    bytes: tuple[int, ...] = ()
    """Bytes of each continuation, without ``straddled_bytes``."""
    tokens: tuple[int, ...] = ()
    """Scored tokens of each continuation; empty for exact scores, which sum over tokenizations."""
    straddled_bytes: int = 0
    """Bytes at the end of the context that are scored with every continuation."""
    cut_bytes: int = 0
    """Bytes truncated at the beginning of the context."""
    tokens_read: int = 0
    """Tokens processed by the model, after sharing."""
    tokens_shared: int = 0
    """Tokens of the context that were processed once for several requests."""
    unshared: str = ""
    """Reason why the model does not support sharing; empty if it does."""
    seconds: float = 0.0
    """Share of this request in the wall time of its batches."""
    refused: str = ""
    """Reason why nothing was scored."""

    @property
    def facts(self) -> dict[str, Any]:
        """Nonzero facts stored with the scores."""
        names = ("straddled_bytes", "cut_bytes", "tokens_read", "tokens_shared", "unshared", "refused")
        return {name: value for name in names if (value := getattr(self, name))}


@dataclass(slots=True)
class _Job:
    """Token sequences of one request, or of its unconditional part."""

    paths: list[Path] = field(default_factory=list)
    tokens: tuple[int, ...] = ()
    straddled: int = 0
    cut: int = 0
    parts: tuple[slice, ...] = ()
    """For exact scores: the paths of the context, then those of each continuation."""
    refused: str = ""

    def nats(self, scores: Sequence[PathScore]) -> tuple[float, ...]:
        """Return the negative log-likelihood of each continuation in nats."""
        if not self.parts:
            return tuple(score.nats for score in scores)
        context, *continuations = (_total([score.nats for score in scores[part]]) for part in self.parts)
        return tuple(whole - context for whole in continuations)


class ContinuationScorer:
    """Answers :class:`Continuations` requests with one model."""

    def __init__(self, checkpoint: "Checkpoint", source: NextToken, *, max_batch_tokens: int = 4096) -> None:
        self._tokenbytes = checkpoint.tokenbytes
        self._first = first_id(checkpoint)
        self._bos = checkpoint.bos_id is not None
        self._context = context_tokens(checkpoint)
        self._trees = TreeScorer(source, checkpoint.valid_rows, max_batch_tokens=max_batch_tokens)
        self._covers = CoverEncodings(checkpoint.tokenbytes)

    def score(self, requests: Sequence[Continuations]) -> Iterator[ContinuationScore]:
        """Score every request; yields scores in order of completion. Equal unconditional parts are scored once."""
        wanted = {
            (request.unconditional, request.continuations): Continuations(request.unconditional, request.continuations)
            for request in requests
            if request.unconditional is not None
        }
        unconditional: dict[tuple[str | None, tuple[str, ...]], tuple[_Job, tuple[float, ...]]] = {
            key: (job, job.nats(score.paths) if score else ())
            for key, (_, job, score) in zip(wanted, self._in_order(list(wanted.values())), strict=True)
        }
        for index, job, score in self._scored(requests):
            request = requests[index]
            yield self._answer(
                index, request, job, score, unconditional.get((request.unconditional, request.continuations))
            )

    def _in_order(self, requests: Sequence[Continuations]) -> list[tuple[int, _Job, JobScore | None]]:
        return sorted(self._scored(requests), key=lambda found: found[0])

    def _scored(self, requests: Sequence[Continuations]) -> Iterator[tuple[int, _Job, JobScore | None]]:
        """Yield (index, job, score) of every request; the score is None for refused requests."""
        jobs = [self._job(request) for request in requests]
        for index, job in enumerate(jobs):
            if job.refused or not job.paths:
                yield index, job, None
        asked = [index for index, job in enumerate(jobs) if job.paths and not job.refused]
        for score in self._trees.score([jobs[index].paths for index in asked]):
            yield asked[score.index], jobs[asked[score.index]], score

    def _answer(
        self,
        index: int,
        request: Continuations,
        job: _Job,
        score: JobScore | None,
        unconditional: tuple[_Job, tuple[float, ...]] | None,
    ) -> ContinuationScore:
        context_bytes = len(request.context.encode())
        refused = job.refused or (unconditional[0].refused if unconditional else "")
        if score is None or refused:
            return ContinuationScore(index, Likelihoods((), ()), context_bytes, refused=refused or "no continuations")
        greedy = () if job.parts else tuple(path.greedy for path in score.paths)
        return ContinuationScore(
            index=index,
            likelihoods=Likelihoods(job.nats(score.paths), greedy, unconditional[1] if unconditional else None),
            context_bytes=context_bytes,
            bytes=tuple(len(text.encode()) for text in request.continuations),
            tokens=job.tokens,
            straddled_bytes=job.straddled,
            cut_bytes=job.cut,
            tokens_read=score.tokens_read,
            tokens_shared=score.tokens_shared,
            unshared=self._trees.unshareable,
            seconds=score.seconds,
        )

    def _job(self, request: Continuations) -> _Job:
        try:
            return self._exact(request) if request.exact else self._whole(request)
        except RoundTripError as error:
            return _Job(refused=str(error))

    def _whole(self, request: Continuations) -> _Job:
        texts = [request.context + continuation for continuation in request.continuations]
        encodings = self._tokenbytes.encode_many(texts)
        size = len(request.context.encode())
        boundary = _common_boundary(encodings, size)
        scored = [
            int(np.searchsorted(encoding.ends, boundary, side="right")) if boundary else 0 for encoding in encodings
        ]
        cut = self._cut(encodings, scored, boundary)
        if cut is None:
            return _Job(refused=f"a continuation exceeds the context of {self._context} tokens")
        job = _Job(straddled=size - boundary, cut=cut)
        for encoding, number in zip(encodings, scored, strict=True):
            kept = int(np.searchsorted(_starts(encoding), cut, side="left")) if cut else 0
            ids = tuple(encoding.ids[kept:].tolist())
            prefix = (self._first,) if self._bos or number == kept else ()
            job.paths.append(Path((*prefix, *ids), len(prefix) + number - kept))
        job.tokens = tuple(len(path.ids) - path.scored for path in job.paths)
        return job

    def _cut(self, encodings: Sequence[Encoding], scored: Sequence[int], boundary: int) -> int | None:
        """Return the bytes to truncate at the beginning of the context; None if a continuation does not fit at all."""
        if self._context is None:
            return 0
        cut = 0
        for encoding, number in zip(encodings, scored, strict=True):
            spare = self._context - 1  # one is reserved for the special token
            beyond = len(encoding.ids) - spare
            if beyond > number or len(encoding.ids) - number > spare:
                return None
            if beyond > 0:
                cut = max(cut, int(_starts(encoding)[beyond]) if beyond < len(encoding.ids) else boundary)
        return cut

    def _exact(self, request: Continuations) -> _Job:
        """Return the cover encodings of the context and of each whole text, scored after their common prefix."""
        texts = [request.context, *(request.context + continuation for continuation in request.continuations)]
        covers = [self._covers.of(text) for text in texts]
        everything = [cover for found in covers for cover in found]
        lowest, highest = min(cover.ids for cover in everything), max(cover.ids for cover in everything)
        known = common_prefix_length(lowest, highest)
        prefix = (self._first,) if self._bos or known == 0 else ()
        job, begin = _Job(), 0
        parts = []
        for found in covers:
            parts.append(slice(begin, begin + len(found)))
            begin += len(found)
        job.paths = [Path((*prefix, *cover.ids), len(prefix) + known, cover.endings) for cover in everything]
        job.parts = tuple(parts)
        if self._context is not None and max(len(path.ids) for path in job.paths) > self._context:
            job.refused = f"the text exceeds the context of {self._context} tokens"
        return job


def _common_boundary(encodings: Sequence[Encoding], boundary: int) -> int:
    """Return the last offset up to ``boundary`` at which a token ends in every encoding, or 0."""
    common = {int(end) for end in encodings[0].ends if end <= boundary} if encodings else set()
    for encoding in encodings[1:]:
        common &= set(encoding.ends.tolist())
    return max(common, default=0)


def _starts(encoding: Encoding) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([np.zeros(1, np.int64), encoding.ends[:-1]])[: len(encoding.ends)]


def _total(nats: Sequence[float]) -> float:
    """Return the negative log of a sum of probabilities given as negative logs."""
    return -float(np.logaddexp.reduce(-np.array(nats, dtype=np.float64)))
