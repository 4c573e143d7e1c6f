"""KL self-distillation for vocabulary expansion: a model with a larger vocabulary learns from itself without it.

After Rehman Linder, "Vocabulary Expansion of Large Language Models via Kullback-Leibler-Based Self-Distillation"
(arXiv 2508.15807). The idea and the claims are public but not the derivation; what follows is our reconstruction.

The student's vocabulary is the teacher's followed by new tokens W; each w in W stands for a sequence of old tokens
t1 .. tk. Both models read the same text, and at the start of every chunk both have read the same bytes. The loss is in
nats per such position. ``target`` selects what the student is compared with.

``classes``: student tokens are merged by their first old token, ``p'(a) = p(a) + sum_{w: t1(w) = a} p(w)``, and
compared with the teacher's ``p_T`` over the old vocabulary. This takes one forward pass per model and covers the whole
distribution. As merging outcomes cannot increase a divergence, it is a lower bound of the divergence between the
models' distributions over continuations. It cannot distinguish w from its first token, so where the text has w a chunk
term is added with weight ``chunk_weight``: the binary divergence between ``prod_i p_T(t_i)`` and ``p(w)`` (ALM with w
as the chunk).

``cover``: the teacher's distribution is mapped to the student's vocabulary as far as the text determines it (see
``cover_target``), and the divergence over all distinguished outcomes replaces both terms.

Gradients: output rows of W are trained where w is predicted, input rows only through what follows w. The teacher gets
no gradient. Positions are processed in blocks, and the gradient of each block is computed with its value, so full
logits never exist and nothing is computed twice.
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from crosstok.distill.losses.distribution_loss import DistributionLoss
from crosstok.distill.losses.loss import LossTerm
from crosstok.distill.models.output_head import Head, head_of
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.blocks import by_blocks
from crosstok.distill.readings.cover_target import BLOCK, CoverTarget, TeacherStates
from crosstok.distill.readings.divergences import ForwardKL, ReverseKL
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import Places, starts, token_counts, touch
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.token_cover import TokenCover
from crosstok.distill.tokenizers.tokenbytes import first_differences
from crosstok.errors import UserError

_EPS = 1e-6  # nats; keeps probabilities below 1, so that the other outcome has a logarithm


class ExpansionKL(DistributionLoss):
    """Divergence of a model with an expanded vocabulary from the original model, in nats per position."""

    name: ClassVar[str] = "kl"

    target: Literal["classes", "cover"] = "classes"
    """Compare merged classes plus a chunk term, or the teacher's distribution over the larger vocabulary."""
    chunk_weight: float = Field(default=1.0, ge=0)
    """Weight of the chunk term of the target ``classes``."""

    _first: int = PrivateAttr(default=0)
    _classes: Tensor = PrivateAttr()
    _cover: TokenCover = PrivateAttr()
    _heads: tuple[Head, Head] = PrivateAttr()

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.target == "cover" and (self.f != "kl" or self.temperature != 1):
            raise ValueError(
                "target: cover requires f: kl and temperature: 1, as no other divergence is additive over classes"
            )
        return self

    @property
    def of_student(self) -> frozenset[Reading]:
        """The last hidden states."""
        return frozenset({"hidden"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The last hidden states."""
        return frozenset({"hidden"})

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Read the spellings of the new tokens.

        Raises UserError unless the student's vocabulary is the teacher's followed by merges of it, and for a model with
        an unknown output head.
        """
        first = teacher.tokens.size
        for token, there, here in first_differences(teacher.tokens, student.tokens, 1):
            if token < first:
                raise UserError(
                    f"The loss kl needs a student whose vocabulary extends the teacher's, but id {token} is {there} in "
                    f"the teacher and {here} in the student.",
                    hint="Create the student with `crosstok expand`, or use alm, bpm or strict.",
                )
        spelt = spellings(student.tokens, first)
        heads = [head_of(model.network) for model in (student, teacher)]
        if heads[0] is None or heads[1] is None:
            raise UserError(
                f"The loss kl does not support the output head of {type(teacher.network).__name__}.",
                hint="Use a model whose output head is a single linear layer.",
            )
        self._first, self._heads = first, (heads[0], heads[1])
        self._classes = torch.tensor([spelling[0] for spelling in spelt], dtype=torch.int64)
        self._cover = TokenCover(spelt, first)

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of positions compared."""
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the divergence summed over positions."""
        places = starts(batch)
        ours, theirs = self._heads
        states = student.hidden[places.rows, places.student - 1]
        taught = teacher.hidden[places.rows, places.teacher - 1].detach()
        new = batch.student.ids[places.rows, places.student] - self._first
        new = new.where(token_counts(batch.student, batch.count)[places.rows, places.chunks] == 1, -1)
        teacher_states = TeacherStates(teacher.hidden.detach(), theirs, self._first)
        spelt = _spelling(batch, places, new, teacher_states)
        refined = CoverTarget.of(self._cover, batch, places, teacher_states) if self.target == "cover" else None
        sums = {"classes": 0.0, "p_new": 0.0}

        def block(states: Tensor, part: slice) -> Tensor:
            old, fresh = self._logits(ours, states)
            p = theirs.logits(taught[part], slice(0, self._first)) / self.temperature
            q = merged(old / self.temperature, fresh / self.temperature, self._classes.to(old.device))
            classes = self._divergence(p.log_softmax(dim=-1), q.log_softmax(dim=-1))
            total = classes.sum() * (self.temperature**2 if self.square else 1.0)
            here = (new[part] >= 0).nonzero()[:, 0]
            norm = torch.logaddexp(old[here].logsumexp(dim=1), fresh[here].logsumexp(dim=1))
            b = fresh[here, new[part][here]] - norm
            sums["classes"] += float(classes.detach().sum())
            sums["p_new"] += float(b.detach().exp().sum())
            if refined is not None:
                return total + refined.value(p.log_softmax(dim=-1), old, fresh, part)
            measure = ReverseKL() if self.f == "reverse_kl" else ForwardKL()
            a = (spelt[part][here] - _EPS).clamp(max=-_EPS)
            return total + self.chunk_weight * measure.of(a, (b - _EPS).clamp(max=-_EPS), "both").sum()

        size = max(1, BLOCK // max(1, self._first + len(self._classes)))
        total = by_blocks(block, states, ours, size)
        chunks, positions = float((new >= 0).sum()), float(len(places))
        metrics = {
            "classes": (sums["classes"], positions),
            "p_new": (sums["p_new"], chunks),
            "p_spelling": (float(spelt[new >= 0].exp().sum()), chunks),
            "new_tokens": (chunks, positions),
        }
        return LossTerm(total + touch(student), positions, metrics)

    def _logits(self, head: Head, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the student's logits for old and for new tokens."""
        count = len(self._classes)
        old = head.logits(states, slice(0, self._first))
        if head.new_rows is not None:
            return old, head.logits_of_new(states)[:, :count]
        return old, head.logits(states, slice(self._first, self._first + count))


def merged(old: Tensor, new: Tensor, classes: Tensor) -> Tensor:
    """Return log-sum-exps ``[p, V]``: each old token together with the new ones of its class.

    ``old [p, V]`` and ``new [p, k]`` are logits, ``classes [k]`` the old token of each new one.
    """
    if not len(classes):
        return old
    affected, place = torch.unique(classes, return_inverse=True)
    own = old[:, affected]
    highest = own.detach().scatter_reduce(1, place.expand(len(new), -1), new.detach(), "amax")
    total = (own - highest).exp().index_add(1, place, (new - highest[:, place]).exp())
    return old.index_copy(1, affected, highest + total.log())


def _spelling(batch: AlignedBatch, places: Places, new: Tensor, teacher: TeacherStates) -> Tensor:
    """Return the teacher's log-probability ``[p]`` of the old spelling at new tokens, 0 elsewhere."""
    side = batch.teacher
    wanted = torch.zeros(len(side.ids), batch.count + 1, dtype=torch.bool, device=side.ids.device)
    wanted[places.rows, places.chunks] = new >= 0
    rows, tokens = (wanted.gather(1, side.chunks.clamp(min=0)) & (side.chunks >= 0)).nonzero(as_tuple=True)
    gold = teacher.states.new_zeros(side.ids.shape)
    gold[rows, tokens] = teacher.log_probabilities(rows, tokens - 1, side.ids[rows, tokens])
    return side.sum_by_chunk(gold, batch.count)[places.rows, places.chunks]
