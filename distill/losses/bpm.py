"""BPM: byte-prefix marginalisation of the teacher's distribution onto the student's tokens.

arXiv 2607.22334. Each teacher token is mapped to the longest student token whose bytes are a prefix of its own. At
every position at which both models have read the same bytes, the teacher's mass is summed per student token, ``q(s)``,
and the loss is ``KL(q, p_S)``, in nats per position, one per chunk. The map is static, and it is exact unless the
student's token spans several teacher tokens.

In that case (the first student token of the chunk is longer than the first teacher token), the mass of this one token
follows from the text by the chain rule: the product of the teacher's probabilities of the tokens that cover it, a lower
bound. It is moved to the student token from the class of the first teacher token.

The remaining teacher tokens (special tokens, and tokens that begin with no student token) form one residual class. Its
student counterpart consists of the special tokens and all tokens to which no teacher token is mapped; a student without
such tokens is compared to the teacher without its residual. Special tokens with the same name form classes of their
own.

Known limitation: exact supervision of white space has been reported to degrade generated code in on-policy runs. The
masking that was used against it is not described in enough detail to implement.
"""

from typing import ClassVar

import torch
from pydantic import PrivateAttr
from torch import Tensor

from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch, Side
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import Places, predictions, starts, touch
from crosstok.distill.readings.vocabularies import shared_ids

_NEVER = 1e4  # nats; -_NEVER replaces ln 0 = -inf, so that 0 times it is 0 instead of NaN


class BPM(Loss):
    """KL divergence to the teacher's byte-prefix marginal over the student's tokens, in nats per position."""

    name: ClassVar[str] = "bpm"

    _classes: Tensor = PrivateAttr()

    @property
    def of_student(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The logits, and the log-probabilities of the tokens, for student tokens that span several teacher tokens."""
        return frozenset({"logits", "gold"})

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Build the map of tokens, in O(bytes of the teacher's vocabulary)."""
        self._classes = prefix_map(student, teacher)

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of scored chunks."""
        return float(batch.scored.sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the KL summed over positions."""
        places = starts(batch)
        ours = predictions(student, places.rows, places.student).log_softmax(dim=-1)
        theirs = predictions(teacher, places.rows, places.teacher).detach().softmax(dim=-1)
        classes = self._classes.to(ours.device)
        first = classes[batch.teacher.ids[places.rows, places.teacher]]
        gold = batch.student.ids[places.rows, places.student]
        spanning = spanning_mass(batch, places, teacher.gold.detach())
        target = class_masses(theirs, classes, ours.shape[1])
        target = target.scatter_add(1, first[:, None], -spanning[:, None]).clamp(min=0)
        target = target.scatter_add(1, gold[:, None], spanning[:, None])
        reachable = torch.zeros(ours.shape[1], dtype=torch.bool, device=ours.device)
        reachable[classes[classes < ours.shape[1]]] = True
        return LossTerm(_kl_with_residual(target, ours, reachable).sum() + touch(student), float(len(places)))


def prefix_map(student: ModelInfo, teacher: ModelInfo) -> Tensor:
    """Return, for each teacher id, the student id that receives its mass; ``student.valid_rows`` for the residual."""
    classes = torch.full((teacher.valid_rows,), student.valid_rows, dtype=torch.int64)
    for token, data in enumerate(teacher.tokens.table[: teacher.valid_rows]):
        for stop in range(len(data or b""), 0, -1):
            found = student.tokens.id_of((data or b"")[:stop])
            if found is not None and found < student.valid_rows:
                classes[token] = found
                break
    here, there = shared_ids(student, teacher)  # overrides: special tokens, and ids that share their bytes with others
    classes[there] = here
    return classes


def class_masses(theirs: Tensor, classes: Tensor, size: int) -> Tensor:
    """Return the teacher's mass per student token and, last, of the residual: ``[p, size + 1]``.

    Args:
        theirs: The teacher's probabilities ``[p, V_T]``.
        classes: The class of each teacher id ``[V_T]``.
        size: Number of student ids.
    """
    return theirs.new_zeros(len(theirs), size + 1).index_add(1, classes, theirs)


def spanning_mass(batch: AlignedBatch, places: Places, gold: Tensor) -> Tensor:
    """Return the chain-rule mass ``[p]`` of each student token that is longer than the first teacher token, else 0."""
    length = batch.student.lengths[places.rows, places.student]
    longer = length > batch.teacher.lengths[places.rows, places.teacher]
    side = batch.teacher
    start = _byte_starts(side)
    # Per chunk, the byte at which its first student token ends; teacher tokens that start before it cover the token.
    stop = torch.zeros(len(side.ids), batch.count + 1, dtype=torch.int64, device=side.ids.device)
    stop[places.rows, places.chunks] = start[places.rows, places.teacher] + length
    inside = (side.chunks >= 0) & (start < stop.gather(1, side.chunks.clamp(min=0)))
    mass = side.sum_by_chunk(gold.masked_fill(~inside, 0.0), batch.count)[places.rows, places.chunks]
    return torch.where(longer, mass.exp(), 0.0)


def _byte_starts(side: Side) -> Tensor:
    return side.lengths.cumsum(dim=1) - side.lengths


def _kl_with_residual(target: Tensor, ours: Tensor, reachable: Tensor) -> Tensor:
    """Return the KL ``[p]`` of ``target [p, V_S + 1]`` to log-probabilities ``ours [p, V_S]``.

    The student's residual is the mass of its tokens that are not ``reachable`` and have no mass in the target.
    """
    outside = ~reachable & (target[:, :-1] == 0)
    if not bool(outside.any(dim=1).all()):
        target = target.clone()
        target[~outside.any(dim=1), -1] = 0
        target = target / target.sum(dim=1, keepdim=True).clamp(min=torch.finfo(target.dtype).tiny)
    hidden = torch.where(outside, ours, -_NEVER).logsumexp(dim=1, keepdim=True)
    both = torch.cat([ours, hidden], dim=1)
    entropy: Tensor = torch.special.xlogy(target, target)
    return (entropy - target * both).sum(dim=1)
