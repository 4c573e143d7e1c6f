"""MinED: maps the teacher's distribution to the student's tokens by minimum edit distance.

FuseLLM, arXiv 2401.10491. Every student token is mapped to the teacher token at the smallest edit distance in bytes
(see ``vocabulary_map``); tokens with equal bytes map to each other, special tokens by name. If a chunk is one token on
both sides, the target is ``softmax(z_T[map] / T)``, where several student tokens may use the same teacher logit. At all
other student tokens, the target is one-hot at the actual token. The loss is ``KL(target, softmax(z_S / T))`` in nats
per student token, with T = 2 by default. The papers add cross-entropy: list ``sft`` as a second loss.

Sequences are aligned by bytes, as for all losses here, instead of by dynamic time warping over tokens. tokenkit's
implementation divides by too many positions, because it counts empty chunks as one-to-one, so its MinED values are
lower than those of this loss. Student ids without a counterpart (special tokens that the teacher lacks) are excluded on
both sides. Building the map for two real vocabularies takes minutes; it is stored in the cache folder.
"""

import logging
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from crosstok.distill.losses.distribution_loss import kl
from crosstok.distill.losses.loss import Loss, LossTerm
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.readings.outputs import Outputs, Reading
from crosstok.distill.readings.positions import one_to_one, predictions, touch
from crosstok.distill.tokenizers.matching import match
from crosstok.distill.tokenizers.vocabulary_map import nearest_tokens
from crosstok.errors import UserError
from crosstok.folders import cache_folder

log = logging.getLogger(__name__)

_WORTH_KEEPING = 1000  # minimum number of tokens to search for, to store the map on disk


class MinED(Loss):
    """KL divergence to the teacher's distribution under the nearest-token map, in nats per student token."""

    name: ClassVar[str] = "mined"

    temperature: float = Field(default=2.0, gt=0, allow_inf_nan=False)
    """Temperature that divides the logits of both sides."""

    _map: Tensor = PrivateAttr()

    @property
    def of_student(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    @property
    def of_teacher(self) -> frozenset[Reading]:
        """The logits."""
        return frozenset({"logits"})

    def prepare(self, student: ModelInfo, teacher: ModelInfo) -> None:
        """Build the map, or read it from the cache."""
        self._map = nearest_map(student, teacher)

    def count(self, batch: AlignedBatch, teacher: Outputs) -> float:
        """Return the number of predicted student tokens that have bytes."""
        return float(_tokens(batch).sum())

    def __call__(self, batch: AlignedBatch, student: Outputs, teacher: Outputs) -> LossTerm:
        """Return the KL summed over student tokens."""
        mapped = self._map.to(batch.student.ids.device)
        columns = (mapped >= 0).nonzero()[:, 0]
        places = one_to_one(batch)
        ours = predictions(student, places.rows, places.student)[:, columns] / self.temperature
        theirs = predictions(teacher, places.rows, places.teacher).detach()[:, mapped[columns]] / self.temperature
        paired = kl(theirs.log_softmax(dim=1), ours.log_softmax(dim=1)).sum()

        elsewhere = _tokens(batch)
        elsewhere[places.rows, places.student] = False
        rows, tokens = elsewhere.nonzero(as_tuple=True)
        alone = predictions(student, rows, tokens) / self.temperature
        gold = alone.gather(1, batch.student.ids[rows, tokens][:, None])[:, 0]
        certain = (alone[:, columns].logsumexp(dim=1) - gold).sum()
        total = self.count(batch, teacher)
        return LossTerm(paired + certain + touch(student), total, {"one_to_one": (float(len(places)), total)})


def _tokens(batch: AlignedBatch) -> Tensor:
    return batch.student.predicted & (batch.student.lengths > 0)


def nearest_map(student: ModelInfo, teacher: ModelInfo) -> Tensor:
    """Return for each student id the teacher id that it maps to, ``[valid_rows]`` int64; -1 for none."""
    names = {name: token for token, name in teacher.tokens.specials.items()}
    specials = {token: names[name] for token, name in student.tokens.specials.items() if name in names}
    found, _ = match(teacher.tokens, student.tokens, specials)
    found = found[: student.valid_rows]
    found[found >= teacher.valid_rows] = -1
    missing = [token for token in range(len(found)) if found[token] < 0 and student.tokens.table[token]]
    known = [token for token, data in enumerate(teacher.tokens.table[: teacher.valid_rows]) if data]
    if not known:
        raise UserError(
            "The loss mined needs a teacher with tokens that have bytes, but its vocabulary has only special tokens."
        )
    path = cache_folder() / "nearest-tokens" / f"{student.tokens.fingerprint}-{teacher.tokens.fingerprint}.npy"
    if path.exists() and len(kept := np.load(path)) == len(found):
        return torch.from_numpy(kept)
    if missing:
        log.info("searching %d tokens for the nearest to each of %d", len(known), len(missing))
        nearest, _ = nearest_tokens(
            [student.tokens.table[token] or b"" for token in missing],
            [teacher.tokens.table[token] or b"" for token in known],
        )
        found[missing] = np.array(known)[nearest]
    if len(missing) >= _WORTH_KEEPING:
        _keep(path, found)
    return torch.from_numpy(found)


def _keep(path: Path, found: npt.NDArray[np.int64]) -> None:
    pending = path.with_suffix(f".{os.getpid()}.npy")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(pending, found)
        pending.rename(path)
    except OSError as error:
        log.warning("the token map cannot be stored in %s and will be rebuilt next time: %s", path.parent, error)
