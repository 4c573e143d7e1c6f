"""Normal initialisation: new rows are drawn per dimension with the mean and standard deviation of the source's rows.

This is noise at the scale of real rows. Draws from a standard normal distribution, as in some programs, are ten to a
hundred times longer than the rows of most language models. Dimensions are independent; ``hewitt`` keeps their
covariance.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.initialiser import Kind


class Normal(Approximation):
    """Draws from N(mean, deviation) per dimension; the same seed gives the same rows."""

    name: ClassVar[str] = "normal"

    seed: int = Field(default=0, ge=0)
    """Seed of the draw."""

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the draws."""
        generator = torch.Generator().manual_seed(self.seed)
        made: dict[Kind, Tensor] = {}
        for kind, matrix in matrices.items():
            rows = self.trained(matrix)
            noise = torch.randn(len(missing.tokens), matrix.shape[1], generator=generator)
            made[kind] = rows.mean(dim=0) + rows.std(dim=0, correction=0) * noise.to(matrix.device)
        return made, ["approximated"] * len(missing.tokens)
