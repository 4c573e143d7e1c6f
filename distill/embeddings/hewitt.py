"""Hewitt initialisation: new rows are normal draws with the mean and covariance of the source's rows.

Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models". For each matrix with mean ``mu [d]`` and
covariance ``Sigma [d, d]`` of its rows, a new row is ``mu + sqrt(scale) U sqrt(L) z``, where ``Sigma = U L U'`` and z
is standard normal. ``scale`` shrinks the covariance: 1 draws rows as varied as real ones; Hewitt's example uses 1e-5,
next to the mean row, which bounds the change of the model's predictions.

The square root uses eigenvalues instead of a Cholesky decomposition, which fails for the singular covariance of a
vocabulary with fewer rows than dimensions.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.initialiser import Kind


class Hewitt(Approximation):
    """Draws from N(mu, scale * Sigma), the mean and covariance of the rows; the same seed gives the same rows."""

    name: ClassVar[str] = "hewitt"

    scale: float = Field(default=1.0, ge=0)
    """Factor of the covariance."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw."""

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the draws; costs one eigendecomposition of the model's width."""
        generator = torch.Generator().manual_seed(self.seed)
        made: dict[Kind, Tensor] = {}
        for kind, matrix in matrices.items():
            rows = self.trained(matrix)
            values, vectors = torch.linalg.eigh(torch.cov(rows.T, correction=0).reshape(rows.shape[1], -1))
            root = vectors * (self.scale * values.clamp(min=0)).sqrt()
            noise = torch.randn(len(missing.tokens), matrix.shape[1], generator=generator)
            made[kind] = rows.mean(dim=0) + noise.to(matrix.device) @ root.T
        return made, ["approximated"] * len(missing.tokens)
