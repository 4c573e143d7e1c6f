"""What every initialiser that approximates missing rows has in common.

Such an initialiser differs from the next in one step only: what the row of a token is that the source does not have.
The steps around it stand here once. Special tokens and exact byte strings are copied bit for bit; the rest is
approximated, in fp32; rows of which nothing is known (unused ids, special tokens without a counterpart, tokens that
cannot be approximated) get the mean of the source's rows, because a row of zeros or of noise takes nearly all
probability wherever the other logits are well below zero (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
Language Models").

Input and output matrix are approximated each from its own rows. Where they are tied there is only ``input``, and an
initialiser with one rule for each side uses its input rule.

Norm calibration (``calibrate``) rescales each approximated row to the mean norm of the rows that were copied from exact
matches, per matrix: a mean of several rows is shorter than the rows that it is a mean of. Rows of length 0 stay.

``untrained`` leaves rows out of means, covariances and dictionaries whose norm is below that share of the median norm:
tokens that a tokenizer has and training text had not (Land and Bartolo, "Fishing for Magikarp", arXiv 2405.05417, find
them by several indicators, of which a short row is the one that needs no knowledge of the model). 0, the default, keeps
all. Rows are never left out of copying, so that a model's own tokenizer still gives the model back.
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
    """The tokens to approximate, and what may be used for it."""

    tokens: tuple[int, ...]
    """Target ids, each with bytes and without a row to copy."""
    source: TokenBytes
    target: TokenBytes
    shared: Tensor
    """``[n, 2]`` int64: target id and source id of the tokens with equal bytes (specials left out)."""

    @property
    def data(self) -> list[bytes]:
        """The bytes of each missing token."""
        return [self.target.table[token] or b"" for token in self.tokens]


Approximated = tuple[dict[Kind, Tensor], list[Origin]]
"""Rows ``[len(missing.tokens), d]`` fp32 of each matrix, and their origins; ``fallback`` asks for the mean row."""


class Approximation(Initialiser, ABC):
    """Copies what can be copied and approximates the rest."""

    calibrate: bool = False
    """Rescale each approximated row to the mean norm of the exact rows."""
    untrained: float = Field(default=0.0, ge=0, lt=1)
    """Leave rows with less than this share of the median norm out of all statistics."""

    @abstractmethod
    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return a row per missing token; ``matrices`` are the source's ``[source.size, d]`` in fp32."""

    def rows(
        self, matrices: Mapping[Kind, Tensor], source: TokenBytes, target: TokenBytes, specials: Mapping[int, int]
    ) -> Rows:
        """Return the rows of ``target``."""
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
        """Return the rows of ``matrix`` without those that ``untrained`` leaves out."""
        return matrix[self.is_trained(matrix)]

    def is_trained(self, matrix: Tensor) -> Tensor:
        """Return ``[rows]`` bool: which rows statistics may use."""
        norms: Tensor = matrix.norm(dim=1)
        return norms >= self.untrained * norms.median()


def calibrated(rows: Tensor, norm: float) -> Tensor:
    """Return ``rows`` rescaled to length ``norm`` each; rows of length 0 stay."""
    lengths = rows.norm(dim=1, keepdim=True)
    return torch.where(lengths > 0, rows * (norm / lengths.clamp(min=torch.finfo(rows.dtype).tiny)), rows)
