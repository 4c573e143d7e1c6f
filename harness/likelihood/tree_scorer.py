"""Tree scorer: scores groups of token sequences, with shared prefixes computed once and batches packed by tokens.

A *job* is the set of sequences of one question. Jobs whose common prefix is long enough share one cached prefix
(:mod:`crosstok.harness.likelihood.prefix_cache`). Each job is one row, a tree of its sequences; rows of similar width
form a batch, as many as the budget of tokens allows. A batch that does not fit into memory is halved, down to single
sequences, with equal scores. A model that does not support sharing is scored with one row per sequence; this is logged
once and recorded in every answer.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from crosstok.harness.likelihood.next_token import NextToken
from crosstok.harness.likelihood.prefix_cache import PrefixCache, shared_prefixes, sharing_error
from crosstok.harness.likelihood.token_tree import Path, Tree, build_tree
from crosstok.harness.runtime.memory import attempt, too_large
from crosstok.harness.runtime.padding import of_like_length

logger = logging.getLogger(__name__)

_MASK_ELEMENTS = 1 << 25  # elements of the mask of one batch: 128 MB in fp32


@dataclass(frozen=True, slots=True)
class PathScore:
    """Score of one sequence."""

    nats: float
    """Negative log-likelihood of its scored tokens, and of its endings if any, in nats."""
    greedy: bool
    """Whether every scored token was the most probable one."""


@dataclass(frozen=True, slots=True)
class JobScore:
    """Scores of the sequences of one job, in order."""

    index: int
    paths: tuple[PathScore, ...]
    tokens_read: int
    """Columns of the job, without the cached prefix."""
    tokens_shared: int
    """Length of the cached prefix in tokens."""
    seconds: float
    """Share of this job in the wall time of its batches."""


@dataclass(frozen=True, slots=True)
class _Row:
    """Part of a job that forms one row of a batch."""

    job: int
    paths: tuple[int, ...]
    tree: Tree


@dataclass(slots=True)
class _PartialScore:
    """Scores of a job that is not complete."""

    scores: dict[int, PathScore]
    read: int = 0
    seconds: float = 0.0


class TreeScorer:
    """Scores jobs with one model; ``max_batch_tokens`` bounds the padded columns of a pass."""

    def __init__(self, source: NextToken, size: int, *, max_batch_tokens: int) -> None:
        self._source = source
        self._size = size
        self._budget = source.affordable(max_batch_tokens)

    @cached_property
    def unshareable(self) -> str:
        """Reason why this model does not support sharing; empty if it does."""
        reason = sharing_error(self._source, self._size)
        if reason:
            logger.warning("Prefixes are not shared and every continuation is processed separately: %s.", reason)
        return reason

    def score(self, jobs: Sequence[Sequence[Path]]) -> Iterator[JobScore]:
        """Score every job; yields scores in order of completion. Raises UserError if one sequence exceeds memory."""
        groups: list[tuple[tuple[int, ...], list[int]]] = [((), list(range(len(jobs))))] if jobs else []
        if jobs and not self.unshareable:
            groups = shared_prefixes(jobs, worth=self._budget // 4)
        for prefix, members in groups:
            cache = attempt(partial(self._read, prefix))
            if cache is None:
                logger.warning(
                    "Out of memory with a cached prefix of %d tokens; processing it with every question instead.",
                    len(prefix),
                )
                cache = PrefixCache(self._source)
            rows = [row for job in members for row in self._rows(jobs, job, cache.length)]
            yield from self._score_group(jobs, cache, sorted(rows, key=lambda row: -row.tree.width))

    @torch.inference_mode()
    def _read(self, prefix: tuple[int, ...]) -> PrefixCache:
        return PrefixCache(self._source, prefix)

    def _rows(self, jobs: Sequence[Sequence[Path]], job: int, prefix_length: int) -> list[_Row]:
        """Return the rows of a job: one, or several if its tree exceeds the budget of a batch."""
        paths = jobs[job]
        if self.unshareable:
            return [_Row(job, (number,), build_tree([path])) for number, path in enumerate(paths)]
        whole = _Row(job, tuple(range(len(paths))), build_tree(paths, prefix_length))
        waiting, rows = [whole], []
        while waiting:
            row = waiting.pop()
            if len(row.paths) > 1 and row.tree.width > self._budget:
                waiting += _halves(jobs, row)
            else:
                rows.append(row)
        return rows

    def _score_group(self, jobs: Sequence[Sequence[Path]], cache: PrefixCache, rows: list[_Row]) -> Iterator[JobScore]:
        partial_scores = {row.job: _PartialScore({}) for row in rows}
        while rows:
            count = self._fitting(rows, cache.length)
            batch, rows = rows[:count], rows[count:]
            began = time.perf_counter()
            found = attempt(partial(self._score_batch, jobs, cache, batch))
            if found is None:
                rows = self._halve_batch(jobs, batch) + rows
                continue
            elapsed = time.perf_counter() - began
            total = sum(row.tree.width for row in batch)
            for row, scores in zip(batch, found, strict=True):
                job = partial_scores[row.job]
                job.scores |= dict(zip(row.paths, scores, strict=True))
                job.read += row.tree.width
                job.seconds += elapsed * row.tree.width / total
                if len(job.scores) == len(jobs[row.job]):
                    ordered = tuple(job.scores[number] for number in range(len(job.scores)))
                    yield JobScore(row.job, ordered, job.read, cache.length, job.seconds)

    def _fitting(self, rows: list[_Row], prefix: int) -> int:
        """Return how many of ``rows``, sorted widest first, form the next batch."""
        width = rows[0].tree.width
        most = max(1, _MASK_ELEMENTS // (width * (prefix + width)))
        return of_like_length((row.tree.width for row in rows[:most]), self._budget)

    def _halve_batch(self, jobs: Sequence[Sequence[Path]], batch: list[_Row]) -> list[_Row]:
        """Halve a batch that exceeded memory: the budget permanently, or the paths of its only row."""
        if len(batch) == 1 and len(batch[0].paths) == 1:
            raise too_large(f"a single text of {batch[0].tree.width} tokens", "leave the longest documents out")
        if len(batch) == 1:
            logger.warning(
                "Out of memory with %d continuations of one context; continuing with half of them.", len(batch[0].paths)
            )
            return _halves(jobs, batch[0])
        half = (len(batch) + 1) // 2
        self._budget = max(1, half * batch[0].tree.width)
        logger.warning("Out of memory with %d contexts at a time; continuing with %d.", len(batch), half)
        return batch

    @torch.inference_mode()
    def _score_batch(
        self, jobs: Sequence[Sequence[Path]], cache: PrefixCache, batch: list[_Row]
    ) -> list[list[PathScore]]:
        """Run one batch and return the scores of the paths of each row."""
        states = self._unshared_states(batch) if self.unshareable else cache.states([row.tree for row in batch])
        rows, columns, targets, owners = [], [], [], []
        endings = []
        places = [(number, place) for number, row in enumerate(batch) for place in range(len(row.paths))]
        for index, (number, place) in enumerate(places):
            tree, job = batch[number].tree, batch[number].job
            path, own = jobs[job][batch[number].paths[place]], torch.from_numpy(tree.columns[place])
            wanted = torch.tensor(path.ids[path.scored :], dtype=torch.long)
            # The state that predicts token i is that of token i - 1.
            first = path.scored - 1 - cache.length
            columns.append(own[first : first + len(wanted)])
            rows.append(torch.full_like(wanted, number))
            targets.append(wanted)
            owners.append(torch.full_like(wanted, index))
            if path.endings is not None:
                endings.append((index, number, int(own[-1]), torch.from_numpy(path.endings)))
        row, column, owner = torch.cat(rows), torch.cat(columns), torch.cat(owners)
        scored = self._source.score(states[row.to(states.device), column.to(states.device)], torch.cat(targets))
        nats = torch.zeros(len(places), dtype=torch.float64).index_add_(0, owner, scored.nats.double())
        missed = torch.zeros(len(places)).index_add_(0, owner, (~scored.greedy).float())
        if endings:
            last = torch.stack([states[number, where] for _, number, where, _ in endings])
            masses = self._source.log_mass(last, [ids for *_, ids in endings])
            nats[torch.tensor([index for index, *_ in endings])] -= masses.double()
        flat = [PathScore(*pair) for pair in zip(nats.tolist(), (missed == 0).tolist(), strict=True)]
        found: list[list[PathScore]] = [[] for _ in batch]
        for (number, _), score in zip(places, flat, strict=True):
            found[number].append(score)
        return found

    def _unshared_states(self, batch: list[_Row]) -> torch.Tensor:
        """Return hidden states of separate sequences, padded on the right, which causal attention ignores."""
        widest = max(row.tree.width for row in batch)
        ids = torch.zeros(len(batch), widest, dtype=torch.long)
        mask = torch.zeros(len(batch), widest, dtype=torch.long)
        for number, row in enumerate(batch):
            ids[number, : row.tree.width] = torch.from_numpy(row.tree.tokens)
            mask[number, : row.tree.width] = 1
        return self._source.states(ids, attention_mask=mask.to(self._source.model.device))


def _halves(jobs: Sequence[Sequence[Path]], row: _Row) -> list[_Row]:
    middle = (len(row.paths) + 1) // 2
    parts = row.paths[:middle], row.paths[middle:]
    return [
        _Row(row.job, part, build_tree([jobs[row.job][number] for number in part], row.tree.prefix_length))
        for part in parts
    ]
