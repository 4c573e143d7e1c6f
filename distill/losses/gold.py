"""GOLD: generalised JSD on shared tokens and sorted distance on the others, over merged chunks.

TRL's GOLD trainer, an extension of ULD (arXiv 2402.12030). A chunk of several tokens is merged into one unnormalised
vector over the vocabulary per side. On the ids that both vocabularies share, the loss is the generalised JSD of the two
vectors; on all others, the L1 distance of the sorted values. It is per chunk, and mixes nats and probabilities.

``merge``:

- ``chain_rule`` (default): the distribution that predicts the last token of the chunk, times the probabilities of the
  tokens before it, so that the entry of the actual token is the probability of the chunk. TRL calls it bayesian.
- ``observed``: the distribution that predicts the first token, times the probabilities of the tokens after it.
- ``published``: TRL's default at the time of writing. It is intended as ``observed``, but reads the distributions one
  position late, after each token instead of before it. For comparisons only.

``beta`` has TRL's meaning: M = (1 - beta) S + beta T and beta KL(T, M) + (1 - beta) KL(S, M); 0 is KL(T, S), 1 is KL(S,
T). Probabilities are clamped to at least 1e-8. Tokens are shared if their bytes are equal; TRL compares token strings,
of which SentencePiece and byte-level vocabularies have few in common.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.losses.uld import sorted_distance
from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import Places, chunk_starts, starts, touch
from crosstok.distill.readings.vocabularies import shared_ids, without

Merge = Literal["chain_rule", "observed", "published"]

_LEAST = 1e-8


class GOLD(Loss):
    """Generalised JSD on shared tokens plus sorted L1 distance on the others, per merged chunk."""

    name: ClassVar[str] = "gold"

    merge: Merge = "chain_rule"
    """Rule that merges the distributions of a chunk of several tokens into one."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """Weight of the teacher in the mixture of the JSD."""
    shared_weight: float | None = Field(default=None, ge=0, le=1)
    """Weight of the JSD term, the other term having 1 minus it; default: the teacher's share of shared tokens."""

    _shared: tuple[Tensor, Tensor] = PrivateAttr()
    _share: float = PrivateAttr(default=0.0)

    @property
    def of_student(self) -> frozenset[Reading]:
        """Logits and log-probabilities of the tokens."""
        return frozenset({"logits", "gold"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """Logits and log-probabilities of the tokens."""
        return frozenset({"logits", "gold"})

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Find the shared tokens."""
        self._shared = shared_ids(student, teacher)
        self._share = len(self._shared[0]) / teacher.valid_rows

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of scored chunks."""
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the weighted sum of both terms over the scored chunks."""
        places = starts(batch)
        theirs = merged(batch.teacher, teacher, batch.count, places, self.merge).detach()
        ours = merged(batch.student, student, batch.count, places, self.merge)
        here, there = (ids.to(ours.device) for ids in self._shared)
        share = self._share if self.shared_weight is None else self.shared_weight
        matched = generalised_jsd(theirs[:, there], ours[:, here], self.beta)
        rest = sorted_distance(theirs[:, without(there, theirs.shape[1])], ours[:, without(here, ours.shape[1])])
        total = (share * matched + (1 - share) * rest).sum() + touch(student)
        return LossTerm(total, float(len(places)))


def merged(side: Side, outputs: Outputs, count: int, places: Places, how: Merge) -> Tensor:
    """Return one unnormalised vector over the vocabulary per chunk, ``[p, V]``."""
    rows, chunks = places.rows, places.chunks
    first, last = (ends[rows, chunks] for ends in (chunk_starts(side, count), side.chunk_ends(count)))
    if how == "published":
        late = outputs.logits.gather(2, side.ids[:, :, None])[:, :, 0] - outputs.logits.logsumexp(dim=2)
        others = side.sum_by_chunk(late, count)[rows, chunks] - late[rows, first]
        return (outputs.logits[rows, first].log_softmax(dim=1) + others[:, None]).exp()
    own = last if how == "chain_rule" else first
    others = side.sum_by_chunk(outputs.gold, count)[rows, chunks] - outputs.gold[rows, own]
    return (outputs.logits[rows, own - 1].log_softmax(dim=1) + others[:, None]).exp()


def generalised_jsd(theirs: Tensor, ours: Tensor, beta: float) -> Tensor:
    """Return the generalised JSD ``[p]`` of two arrays ``[p, k]`` of probabilities that need not sum to 1."""
    t, s = (part.clamp(min=_LEAST) for part in (theirs, ours))
    if beta in (0.0, 1.0):
        above, below = (t, s) if beta == 0.0 else (s, t)
        return (above * (above / below).log()).sum(dim=1)
    mixed = (1 - beta) * s + beta * t
    to_mixed: list[Tensor] = [(part * (part / mixed).log()).sum(dim=1) for part in (t, s)]
    return torch.stack([beta * to_mixed[0], (1 - beta) * to_mixed[1]]).sum(dim=0)
