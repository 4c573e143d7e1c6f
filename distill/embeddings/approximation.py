"""Base class of the initialisers that approximate missing rows.

Such initialisers differ only in how they make the row of a token that the source lacks. The common steps are
implemented here. Special tokens and exact byte strings are copied bit for bit. The other rows are approximated in fp32.
Rows about which nothing is known (unused ids, special tokens without a counterpart, tokens that cannot be approximated)
get the mean of the source's rows, because rows of zeros or noise take nearly all probability if the other logits are
well below zero (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").

Input and output matrix are approximated separately, each from its own rows. If they are tied there is only ``input``,
and an initialiser with one rule per matrix uses its input rule.

Norm calibration (``calibrate``) rescales each approximated row to the mean norm of the exactly matched rows of its
matrix, because a mean of several rows is shorter than these rows. Zero rows stay zero.

``untrained`` excludes rows whose norm is below this fraction of the median norm from means, covariances and
dictionaries. These are tokens that the tokenizer has but the training text did not (Land and Bartolo, "Fishing for
Magikarp", arXiv 2405.05417, who detect them with several indicators; the norm is the one that needs no knowledge of the
model). The default 0 excludes none. Excluded rows are still copied, so that a model's own tokenizer reproduces the
model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from crosstok.distill.embeddings.initialiser import Initialiser, Kind, Rows
from crosstok.distill.tokenizers.matching import Origin, match
from crosstok.distill.tokenizers.tokenbytes import TokenBytes


@dataclass(frozen=True)
class Missing:
    """The tokens to approximate, and the vocabularies to approximate them from."""

    tokens: tuple[int, ...]
    """Target ids, each with bytes and without a row to copy."""
    source: TokenBytes
    target: TokenBytes
    shared: Tensor
    """``[n, 2]`` int64: target id and source id of the tokens with equal bytes, special tokens excluded."""

    @property
    def data(self) -> list[bytes]:
        """The bytes of each missing token."""
        return [self.target.table[token] or b"" for token in self.tokens]


Approximated = tuple[dict[Kind, Tensor], list[Origin]]
"""Rows ``[len(missing.tokens), d]`` fp32 per matrix, and their origins; ``fallback`` requests the mean row."""


class Approximation(Initialiser, ABC):
    """Copies the rows that the source has and approximates the others."""

    calibrate: bool = False
    """Rescale each approximated row to the mean norm of the exactly matched rows."""
    untrained: float = Field(default=0.0, ge=0, lt=1)
    """Exclude rows whose norm is below this fraction of the median norm from all statistics."""

    @abstractmethod
    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return one row per missing token; ``matrices`` are the source's, ``[source.size, d]`` in fp32."""

    def rows(
        self, matrices: Mapping[Kind, Tensor], source: TokenBytes, target: TokenBytes, specials: Mapping[int, int]
    ) -> Rows:
        """Return the rows of the target vocabulary."""
        copied, origins = match(source, target, specials)
        tokens = tuple(token for token in range(target.size) if copied[token] < 0 and target.table[token])
        known = torch.from_numpy(copied)
        exact = torch.tensor([origin == "exact" for origin in origins], dtype=torch.bool)
        shared = torch.stack([exact.nonzero()[:, 0], known[exact]], dim=1)
        full = {kind: matrix[: source.size].float() for kind, matrix in matrices.items()}
        made, found = self.approximate(full, Missing(tokens, source, target, shared))
        for token, origin in zip(tokens, found, strict=True):
            origins[token] = origin
        approximated = torch.tensor([origin != "fallback" for origin in found], dtype=torch.bool)
        places = torch.tensor(tokens, dtype=torch.int64)[approximated]
        new: dict[Kind, Tensor] = {}
        for kind, matrix in matrices.items():
            fresh = made[kind][approximated]
            if self.calibrate:
                exact_rows = full[kind][known[exact]] if bool(exact.any()) else full[kind]
                fresh = calibrated(fresh, float(exact_rows.norm(dim=1).mean()))
            rows = self.trained(full[kind]).mean(dim=0).to(matrix.dtype).repeat(target.size, 1)
            rows[places] = fresh.to(matrix.dtype)
            rows[known >= 0] = matrix[known[known >= 0]]  # a copy, bit for bit
            new[kind] = rows
        return Rows(new, tuple(origins))

    def trained(self, matrix: Tensor) -> Tensor:
        """Return the rows of ``matrix`` that ``untrained`` does not exclude."""
        return matrix[self.is_trained(matrix)]

    def is_trained(self, matrix: Tensor) -> Tensor:
        """Return ``[rows]`` bool: the rows that statistics may use."""
        norms: Tensor = matrix.norm(dim=1)
        return norms >= self.untrained * norms.median()


def calibrated(rows: Tensor, norm: float) -> Tensor:
    """Return ``rows`` rescaled to norm ``norm``; zero rows stay zero."""
    lengths = rows.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, rows * (norm / lengths.clamp(min=torch.finfo(rows.dtype).tiny)), rows)
