"""ALM: approximate likelihood matching between models with different tokenizers.

Minixhofer, Vulić, Ponti, "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching", arXiv
2503.20083, section 3. Both models assign a log-probability to the same bytes, chunk by chunk: ``LT_c`` and ``LS_c`` are
the sums (nats) over the tokens of chunk c. "This chunk" against "anything else" is an event with two outcomes, and the
loss is the binary divergence between the two models' probabilities after a temperature::

    a = LT_c / tau - eps        b = LS_c / tau - eps
    KL = e^a (a - b) + (1 - e^a) (ln(1 - e^a) - ln(1 - e^b))

Merging outcomes cannot increase a divergence, so the value is a lower bound of that between the full distributions over
continuations. It is 0 if and only if the models agree. The paper's code reports the cross-entropy instead, which
differs by the teacher's entropy and has the same gradient. For other divergences, and the form that keeps the first
outcome only, see ``divergences``.

The value decreases as 1/tau. ``tau: inf`` is the limit of tau times the value, in closed form (for KL ``(LT - LS) +
LT ln(LS / LT)``), which does not vanish.

Chunks (section 3.2). With ``gamma`` 0, a chunk is the shortest span that ends at a token boundary of both tokenizers. A
larger ``gamma`` merges chunks until one ends where the teacher assigns more than ``gamma`` to a pretoken boundary next.
``debias`` multiplies the probability of each chunk by this boundary mass, computed by each model for itself: the
teacher's ``"_Wor"`` excludes ``"_World"``, which the bytes alone do not. The mass is a log-sum-exp over the boundary
ids, because the logarithm of a summed probability underflows to -inf.

A chunk is excluded on both sides if one of its tokens is not predicted, is padding or belongs to a prompt; a merged
chunk is excluded as a whole. The last chunk of a window is kept even if no boundary closed it, so that every byte is
scored. No chunk crosses windows of a packed row. Unlike the published implementation, chunk sums are segment sums by
chunk id in O(n) instead of products with a dense token-by-chunk matrix, and the sum is divided by the total number of
chunks even if chunks are merged.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.readings.divergences import Outcomes, divergence
from crosstok.distill.readings.outputs import Outputs, Reading

_EPS = 1e-6  # nats; keeps both probabilities below 1, so that the second outcome has a logarithm


class ALM(Loss):
    """Binary divergence between the chunk likelihoods of teacher and student, in nats per chunk."""

    name: ClassVar[str] = "alm"

    f: Literal["kl", "reverse_kl", "tvd", "renyi"] = "kl"
    """Divergence between the two binary distributions."""
    alpha: float = Field(default=0.5, gt=0)
    """Order of the Rényi divergence; must not be 1."""
    outcomes: Outcomes = "both"
    """Sum over both outcomes, or keep the term of the chunk only (not for renyi)."""
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["inf"] = 100.0
    """Temperature. The gradient scales with 1/tau: at 100 it is about a hundredth of that at 1. ``inf``: the limit."""
    gamma: float = Field(default=0.1, ge=0, le=1)
    """Merge chunks until the teacher's boundary mass exceeds this; 0 never merges, 1 merges a whole window."""
    debias: bool = True
    """Multiply the probability of each chunk by the mass of a pretoken boundary after it."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.f == "renyi" and (self.alpha == 1 or self.outcomes == "single"):
            raise ValueError("renyi requires alpha != 1 (at 1 it is kl) and outcomes: both")
        return self

    @property
    def _readings(self) -> frozenset[Reading]:
        return frozenset({"gold", "boundary"}) if self.debias else frozenset({"gold"})

    @property
    def of_student(self) -> frozenset[Reading]:
        """The log-probabilities of the tokens, and the boundary mass if ``debias`` is set."""
        return self._readings

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The student's readings, and the boundary mass if chunks are merged."""
        return self._readings | ({"boundary"} if self.gamma > 0 else set())

    def merge(self, batch: AlignedBatch, teacher: Outputs) -> AlignedBatch:
        """Return the batch with its chunks merged as ``gamma`` requires."""
        if self.gamma == 0 or batch.count == 0:
            return batch
        ends = batch.teacher.chunk_ends(batch.count)
        mass = teacher.boundary.detach().gather(1, ends.clamp(min=0))
        closes = ((mass.exp() > self.gamma) & (ends >= 0)) | batch.teacher.window_ends(batch.count)
        return batch.regroup(closes.long().cumsum(dim=1) - closes.long())

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of scored chunks, after merging."""
        return float(self.merge(batch, teacher).scored.sum())

    def _chunk_log_probs(self, side: Side, outputs: Outputs, count: int) -> Tensor:
        """Return the log-probability (nats) of each chunk, ``[b, count]``; undefined for chunks that are not scored."""
        sums = side.sum_by_chunk(outputs.gold, count)
        if self.debias:
            sums = sums + outputs.boundary.gather(1, side.chunk_ends(count).clamp(min=0))
        return sums

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the divergence summed over the scored chunks."""
        merged = self.merge(batch, teacher)
        scored = merged.scored
        of_teacher = self._chunk_log_probs(merged.teacher, teacher, merged.count).detach()
        of_student = self._chunk_log_probs(merged.student, student, merged.count)
        measure = divergence(self.f, self.alpha)
        scale, value = (1.0, measure.limit) if self.tau == "inf" else (self.tau, measure.of)
        a = (of_teacher[scored] / scale - _EPS).clamp(max=-_EPS)
        b = (of_student[scored] / scale - _EPS).clamp(max=-_EPS)
        total = value(a, b, self.outcomes).sum()
        chunks = float(scored.sum())
        lengths = merged.student.sum_by_chunk(merged.student.lengths, merged.count)
        covered = float(lengths[scored].sum())
        return LossTerm(
            total,
            chunks,
            {
                "bytes_per_chunk": (covered, chunks),
                "bytes_covered": (covered, float(batch.student.lengths.sum())),
                "chunks_kept": (chunks, float((batch.student.chunk_ends(batch.count) >= 0).sum())),
                "gap": (float((of_teacher[scored] - of_student[scored]).detach().abs().sum()), chunks),
            },
        )
