"""OMP: a new row is the sparse combination of shared rows that orthogonal matching pursuit finds in a donor's space.

Goddard and Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit", arXiv 2506.06607;
the default method of mergekit's tokensurgeon. For the donor row ``y`` of a new token and the donor rows ``a_j`` of the
shared tokens, k times: take the unused ``a_j`` with the largest ``|<residual, a_j>|`` and fit ``y`` by least squares to
all that are taken, ``y ≈ sum_j c_j a_j``. The new row is ``sum_j c_j b_j`` with the source's rows ``b_j``.

The atoms are not normalised, as in the original: long rows are taken first. All tokens of a block go through the steps
together (cost per step: one product ``[block, d] x [d, n]``). The fit is kept as a QR factorisation that grows by one
column per step, each made orthogonal twice, so it does not drift and needs no repair in between.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from crosstok.errors import UserError
from distill.embeddings.donor import Donated

_BLOCK = 1024  # tokens per product
_NOTHING = 1e-6  # share of an atom or of a target below which what is left of it is rounding


class OMP(Donated):
    """Sparse reconstruction in the donor's space."""

    name: ClassVar[str] = "omp"

    k: int = Field(default=64, ge=1)
    """Shared tokens per new row, at most."""

    def combine(self, atoms: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the atoms taken and their least-squares coefficients. Raises UserError if k exceeds their number."""
        if self.k > len(atoms):
            raise UserError(
                f"omp is to use k = {self.k} shared tokens, but only {len(atoms)} are shared with {self.donor}.",
                hint=f"Set k to at most {len(atoms)}.",
            )
        parts = [matching_pursuit(atoms, block, self.k) for block in torch.split(wanted, _BLOCK)]
        return torch.cat([indices for indices, _ in parts]), torch.cat([found for _, found in parts])


def matching_pursuit(atoms: Tensor, wanted: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return indices and coefficients, both ``[t, k]``, for ``wanted [t, d]`` over ``atoms [n, d]``.

    Once a row is matched exactly, further atoms get the coefficient 0.
    """
    count, width = wanted.shape
    rows = torch.arange(count, device=wanted.device)
    basis = wanted.new_zeros(count, k, width)  # orthonormal, or zero where an atom added nothing
    factor = torch.eye(k, dtype=wanted.dtype, device=wanted.device).repeat(count, 1, 1)
    inner = wanted.new_zeros(count, k)  # <basis, wanted>
    indices = torch.zeros(count, k, dtype=torch.int64, device=wanted.device)
    used = torch.zeros(count, len(atoms), dtype=torch.bool, device=wanted.device)
    residual = wanted.clone()
    lengths = wanted.norm(dim=1)
    for step in range(k):
        scores = (residual @ atoms.T).abs_().masked_fill_(used, -1.0)
        best = scores.argmax(dim=1)
        indices[:, step] = best
        used[rows, best] = True
        atom = atoms[best]
        rest, taken = atom, wanted.new_zeros(count, k)
        for _ in range(2):
            along = torch.einsum("tkd,td->tk", basis, rest)
            rest = rest - torch.einsum("tk,tkd->td", along, basis)
            taken = taken + along
        length = rest.norm(dim=1)
        useful = (length > _NOTHING * atom.norm(dim=1)) & (residual.norm(dim=1) > _NOTHING * lengths)
        basis[:, step] = torch.where(useful[:, None], rest / length.clamp(min=1e-30)[:, None], 0.0)
        factor[:, :step, step] = taken[:, :step]
        factor[:, step, step] = torch.where(useful, length, 1.0)
        inner[:, step] = (basis[:, step] * residual).sum(dim=1)
        residual = residual - inner[:, step, None] * basis[:, step]
    found: Tensor = torch.linalg.solve_triangular(factor, inner[:, :, None], upper=True)
    return indices, found[:, :, 0]
