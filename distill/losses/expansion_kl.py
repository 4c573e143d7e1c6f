"""KL between a model and itself with a larger vocabulary: self-distillation for vocabulary expansion.

After Rehman Linder, "Vocabulary Expansion of Large Language Models via Kullback-Leibler-Based Self-Distillation"
(arXiv 2508.15807), of which the idea and the claims are public; the derivation is not, and what follows is our
reconstruction.

The student's vocabulary is the teacher's and new tokens W behind it; each w in W stands for old tokens t1 .. tk in a
row. Both read the same text, and at the beginning of every chunk both have read the same bytes. Unit: nats per such
position. ``target`` says what the student is compared with there.

``classes``: the student's tokens are merged by their first old token, ``p'(a) = p(a) + sum_{w: t1(w) = a} p(w)``, and
the divergence to the teacher's ``p_T`` is taken over the old vocabulary. It needs one pass of each model, sees the
whole distribution, and since merging outcomes cannot raise a divergence, it is a lower bound of the one between what
the two models say of the text that follows. It cannot tell w from its first token, so where the text has w a chunk term
is added, the binary divergence between ``prod_i p_T(t_i)`` and ``p(w)``, ``chunk_weight`` times (ALM with w as chunk).

``cover``: the teacher's distribution is carried over to the student's vocabulary as far as the text tells (see
``cover_target``), and the divergence over all outcomes that are told apart takes the place of both terms.

Gradients: output rows of W learn where w is predicted, input rows only through what comes after w. The teacher gets
none. Distributions are gone through in blocks of positions, and the gradient of each block is taken at once, so logits
of the whole batch never exist, and nothing is computed twice.
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
from crosstok.distill.readings.cover_target import BLOCK, CoverTarget, Taught
from crosstok.distill.readings.divergences import ForwardKL, ReverseKL
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import Places, starts, token_counts, touch
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.token_cover import Cover
from crosstok.distill.tokenizers.tokenbytes import first_differences
from crosstok.errors import UserError

_EPS = 1e-6  # nats; keeps probabilities off 1, where the other outcome has no logarithm


class ExpansionKL(DistributionLoss):
    """Divergence of a model with more tokens from the same model without them."""

    name: ClassVar[str] = "kl"

    target: Literal["classes", "cover"] = "classes"
    """What the student is compared with: merged classes and a chunk term, or the distribution carried over."""
    chunk_weight: float = Field(default=1.0, ge=0)
    """Of the chunk term beside the classes."""

    _first: int = PrivateAttr(default=0)
    _classes: Tensor = PrivateAttr()
    _cover: Cover = PrivateAttr()
    _heads: tuple[Head, Head] = PrivateAttr()

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.target == "cover" and (self.f != "kl" or self.temperature != 1):
            raise ValueError("the target cover needs f kl and temperature 1: no other divergence adds up over classes")
        return self

    @property
    def of_student(self) -> frozenset[Reading]:
        """The last hidden states."""
        return frozenset({"hidden"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The same."""
        return frozenset({"hidden"})

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Read the spellings of the new tokens.

        Raises UserError unless the student's vocabulary is the teacher's and merges of it behind, and for a model whose
        output head is not known.
        """
        first = teacher.tokens.size
        for token, there, here in first_differences(teacher.tokens, student.tokens, 1):
            if token < first:
                raise UserError(
                    f"The loss kl needs a student whose vocabulary continues the teacher's; id {token} is {there} to "
                    f"the teacher and {here} to the student.",
                    hint="Make it with `crosstok expand`; between other vocabularies take alm, bpm or strict.",
                )
        spelt = spellings(student.tokens, first)
        heads = [head_of(model.network) for model in (student, teacher)]
        if heads[0] is None or heads[1] is None:
            raise UserError(
                f"The loss kl does not know how {type(teacher.network).__name__} makes its logits.",
                hint="Take a model whose output layer is one linear map.",
            )
        self._first, self._heads = first, (heads[0], heads[1])
        self._classes = torch.tensor([spelling[0] for spelling in spelt], dtype=torch.int64)
        self._cover = Cover(spelt, first)

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:  # noqa: ARG002  (the protocol of all losses)
        """Return the number of positions compared."""
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the summed divergence."""
        places = starts(batch)
        ours, theirs = self._heads
        states = student.hidden[places.rows, places.student - 1]
        taught = teacher.hidden[places.rows, places.teacher - 1].detach()
        new = batch.student.ids[places.rows, places.student] - self._first
        new = new.where(token_counts(batch.student, batch.count)[places.rows, places.chunks] == 1, -1)
        told = Taught(teacher.hidden.detach(), theirs, self._first)
        spelt = _spelling(batch, places, new, told)
        refined = CoverTarget.of(self._cover, batch, places, told) if self.target == "cover" else None
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
        """Return the student's logits of old and of new tokens."""
        count = len(self._classes)
        old = head.logits(states, slice(0, self._first))
        if head.new_rows is not None:
            return old, head.logits_of_new(states)[:, :count]
        return old, head.logits(states, slice(self._first, self._first + count))


def merged(old: Tensor, new: Tensor, classes: Tensor) -> Tensor:
    """Return log-sum-exps ``[p, V]``: each old token with the new ones of its class.

    ``old [p, V]`` and ``new [p, k]`` are logits, ``classes [k]`` the old token of each new one.
    """
    if not len(classes):
        return old
    affected, place = torch.unique(classes, return_inverse=True)
    own = old[:, affected]
    highest = own.detach().scatter_reduce(1, place.expand(len(new), -1), new.detach(), "amax")
    total = (own - highest).exp().index_add(1, place, (new - highest[:, place]).exp())
    return old.index_copy(1, affected, highest + total.log())


def _spelling(batch: AlignedBatch, places: Places, new: Tensor, taught: Taught) -> Tensor:
    """Return the teacher's log-probability ``[p]`` of the old spelling where a new token stands, 0 elsewhere."""
    side = batch.teacher
    wanted = torch.zeros(len(side.ids), batch.count + 1, dtype=torch.bool, device=side.ids.device)
    wanted[places.rows, places.chunks] = new >= 0
    rows, tokens = (wanted.gather(1, side.chunks.clamp(min=0)) & (side.chunks >= 0)).nonzero(as_tuple=True)
    gold = taught.states.new_zeros(side.ids.shape)
    gold[rows, tokens] = taught.log_probabilities(rows, tokens - 1, side.ids[rows, tokens])
    return side.sum_by_chunk(gold, batch.count)[places.rows, places.chunks]
