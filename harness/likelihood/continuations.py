"""How likely each continuation of a context is, without the token at the border deciding it.

Context and continuation are encoded as one text, since that is how a model met such text in training. A token may then
stand across the border: ``"the ans" + "wer is 42"`` holds the one token ``answer``. Cutting by the number of context
tokens, as is common, silently drops such bytes from one choice and not from another. Two ways are offered:

*Whole* (the default). Every choice is charged from the same byte on: the last one at or before the border that is a
token boundary in the encodings of all choices. What they are then compared by is the probability of the same bytes,
p(tail of the context + choice | rest of the context). How many bytes of the context were charged is part of every
answer (``straddled_bytes``), 0 where the border was a boundary anyway, and then this is what everyone computes.

*Exact*. The probability of the continuation's bytes given the context's bytes, summed over the tokens that may stand
across either end (:mod:`crosstok.harness.likelihood.cover_encodings`).

Text is encoded without parsing special tokens; none is scored. The model's BOS stands in front where it was trained
with one; an empty context is the special token that also opens windows (:mod:`crosstok.harness.runtime.model_input`). A
context that is longer than the model can read loses its beginning, the same bytes for all choices, and the answer says
how many (``cut_bytes``); a continuation that does not fit by itself is refused. So is a text that the tokenizer cannot
write.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crosstok.distill.tokenizers.tokenbytes import Encoding, RoundTripError
from crosstok.harness.likelihood.cover_encodings import CoverEncodings
from crosstok.harness.likelihood.next_token import NextToken
from crosstok.harness.likelihood.token_tree import Path, shared
from crosstok.harness.likelihood.tree_scorer import JobScore, PathScore, TreeScorer
from crosstok.harness.runtime.model_input import context_tokens, first_id
from crosstok.tasks.task import Continuations, Likelihoods

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True)
class ContinuationScore:
    """The answer to one :class:`Continuations` request."""

    index: int
    """Position of the request among those that were passed in."""
    likelihoods: Likelihoods
    context_bytes: int
    bytes: tuple[int, ...] = ()
    """Of each continuation, without what straddles."""
    tokens: tuple[int, ...] = ()
    """Charged to each continuation; empty for exact scores, which have no tokens of their own."""
    straddled_bytes: int = 0
    """Bytes at the context's end that are charged to every continuation."""
    cut_bytes: int = 0
    """Bytes at the context's beginning that the model has no room for."""
    tokens_read: int = 0
    """Columns that went through the model, after sharing."""
    tokens_shared: int = 0
    """Tokens of the context that were read once for several requests."""
    unshared: str = ""
    """Why nothing was shared; empty where it was."""
    seconds: float = 0.0
    """This request's share of the wall time of its batches."""
    refused: str = ""
    """Why nothing was scored."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is stored beside the scores: what was read, and whatever is out of the ordinary."""
        names = ("straddled_bytes", "cut_bytes", "tokens_read", "tokens_shared", "unshared", "refused")
        return {name: value for name in names if (value := getattr(self, name))}


@dataclass(slots=True)
class _Job:
    """The paths of one request, or of its unconditional part."""

    paths: list[Path] = field(default_factory=list)
    tokens: tuple[int, ...] = ()
    straddled: int = 0
    cut: int = 0
    parts: tuple[slice, ...] = ()
    """Exact scores: the covers of the context, then those of each continuation."""
    refused: str = ""

    def nats(self, scores: Sequence[PathScore]) -> tuple[float, ...]:
        """Return the nats of each continuation."""
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
        self._room = context_tokens(checkpoint)
        self._trees = TreeScorer(source, checkpoint.valid_rows, max_batch_tokens=max_batch_tokens)
        self._covers = CoverEncodings(checkpoint.tokenbytes)

    def score(self, requests: Sequence[Continuations]) -> Iterator[ContinuationScore]:
        """Score every request, in the order in which the scores are ready; equal unconditional parts only once."""
        wanted = {
            (request.unconditional, request.continuations): Continuations(request.unconditional, request.continuations)
            for request in requests
            if request.unconditional is not None
        }
        beside: dict[tuple[str | None, tuple[str, ...]], tuple[_Job, tuple[float, ...]]] = {
            key: (job, job.nats(score.paths) if score else ())
            for key, (_, job, score) in zip(wanted, self._in_order(list(wanted.values())), strict=True)
        }
        for index, job, score in self._scored(requests):
            request = requests[index]
            yield self._answer(index, request, job, score, beside.get((request.unconditional, request.continuations)))

    def _in_order(self, requests: Sequence[Continuations]) -> list[tuple[int, _Job, JobScore | None]]:
        return sorted(self._scored(requests), key=lambda found: found[0])

    def _scored(self, requests: Sequence[Continuations]) -> Iterator[tuple[int, _Job, JobScore | None]]:
        """Yield (index, job, scores) of every request; no scores for one that is refused."""
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
        beside: tuple[_Job, tuple[float, ...]] | None,
    ) -> ContinuationScore:
        context_bytes = len(request.context.encode())
        refused = job.refused or (beside[0].refused if beside else "")
        if score is None or refused:
            return ContinuationScore(index, Likelihoods((), ()), context_bytes, refused=refused or "no continuations")
        greedy = () if job.parts else tuple(path.greedy for path in score.paths)
        return ContinuationScore(
            index=index,
            likelihoods=Likelihoods(job.nats(score.paths), greedy, beside[1] if beside else None),
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
        border = _common_boundary(encodings, size)
        scored = [int(np.searchsorted(encoding.ends, border, side="right")) if border else 0 for encoding in encodings]
        cut = self._cut(encodings, scored, border)
        if cut is None:
            return _Job(refused=f"a continuation takes more than the {self._room} tokens that the model can read")
        job = _Job(straddled=size - border, cut=cut)
        for encoding, number in zip(encodings, scored, strict=True):
            kept = int(np.searchsorted(_starts(encoding), cut, side="left")) if cut else 0
            ids = tuple(encoding.ids[kept:].tolist())
            opening = (self._first,) if self._bos or number == kept else ()
            job.paths.append(Path((*opening, *ids), len(opening) + number - kept))
        job.tokens = tuple(len(path.ids) - path.scored for path in job.paths)
        return job

    def _cut(self, encodings: Sequence[Encoding], scored: Sequence[int], border: int) -> int | None:
        """Return the bytes to leave out at the context's beginning, None where that is not enough."""
        if self._room is None:
            return 0
        cut = 0
        for encoding, number in zip(encodings, scored, strict=True):
            spare = self._room - 1  # one for the special token
            beyond = len(encoding.ids) - spare
            if beyond > number or len(encoding.ids) - number > spare:
                return None
            if beyond > 0:
                cut = max(cut, int(_starts(encoding)[beyond]) if beyond < len(encoding.ids) else border)
        return cut

    def _exact(self, request: Continuations) -> _Job:
        """Return the covers of the context and of each whole text, scored behind what they all begin with."""
        texts = [request.context, *(request.context + continuation for continuation in request.continuations)]
        covers = [self._covers.of(text) for text in texts]
        everything = [cover for found in covers for cover in found]
        lowest, highest = min(cover.ids for cover in everything), max(cover.ids for cover in everything)
        known = shared(lowest, highest)
        opening = (self._first,) if self._bos or known == 0 else ()
        job, begin = _Job(), 0
        parts = []
        for found in covers:
            parts.append(slice(begin, begin + len(found)))
            begin += len(found)
        job.paths = [Path((*opening, *cover.ids), len(opening) + known, cover.endings) for cover in everything]
        job.parts = tuple(parts)
        if self._room is not None and max(len(path.ids) for path in job.paths) > self._room:
            job.refused = f"the text takes more than the {self._room} tokens that the model can read"
        return job


def _common_boundary(encodings: Sequence[Encoding], border: int) -> int:
    """Return the last byte at or before ``border`` at which a token ends in every encoding, 0 where none does."""
    common = {int(end) for end in encodings[0].ends if end <= border} if encodings else set()
    for encoding in encodings[1:]:
        common &= set(encoding.ends.tolist())
    return max(common, default=0)


def _starts(encoding: Encoding) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([np.zeros(1, np.int64), encoding.ends[:-1]])[: len(encoding.ends)]


def _total(nats: Sequence[float]) -> float:
    """Return minus the log of the sum of probabilities that are given in nats."""
    return -float(np.logaddexp.reduce(-np.array(nats, dtype=np.float64)))
