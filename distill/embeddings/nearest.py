"""Nearest-neighbour initialisation: a new row is a weighted mean of the nearest shared tokens in a donor's space.

mergekit's ``common_interpolation``. Among the donor's rows of the shared tokens, the k nearest to the new token's row
are selected, by Euclidean or cosine distance (1 - cos). The source's rows of these tokens are averaged with normalised
weights ``1/distance``. A shared row at distance 0 gets all the weight.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from crosstok.distill.embeddings.donor import DonorInitialiser
from crosstok.errors import UserError

_BLOCK = 1024  # tokens per distance matrix


class Nearest(DonorInitialiser):
    """Weighted mean of the nearest shared tokens in a donor's space."""

    name: ClassVar[str] = "nearest"

    k: int = Field(default=8, ge=1)
    """Number of neighbours per new row."""
    distance: Literal["euclidean", "cosine"] = "cosine"
    """Distance between rows."""

    def combine(self, atoms: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the k nearest atoms and their normalised weights. Raises UserError if there are fewer than k."""
        if self.k > len(atoms):
            raise UserError(
                f"nearest needs k = {self.k} shared tokens, but only {len(atoms)} are shared with {self.donor}.",
                hint=f"Set k to at most {len(atoms)}.",
            )
        parts = [self._nearest(atoms, block) for block in torch.split(wanted, _BLOCK)]
        return torch.cat([indices for indices, _ in parts]), torch.cat([weights for _, weights in parts])

    def _nearest(self, atoms: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        if self.distance == "cosine":
            unit = torch.nn.functional.normalize
            distances = (1 - unit(wanted, dim=1) @ unit(atoms, dim=1).T).clamp(min=0)
        else:
            distances = torch.cdist(wanted, atoms, compute_mode="donot_use_mm_for_euclid_dist")
        near, indices = distances.topk(self.k, dim=1, largest=False)
        inverse = 1 / near.clamp(min=1e-12)  # a distance of 0 outweighs all others
        return indices, inverse / inverse.sum(dim=1, keepdim=True)
