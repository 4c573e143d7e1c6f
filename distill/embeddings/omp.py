"""OMP: a new row is the sparse combination of shared rows that orthogonal matching pursuit finds in a donor's space.

Goddard and Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit", arXiv 2506.06607;
the default method of mergekit's tokensurgeon. For the donor row ``y`` of a new token and the donor rows ``a_j`` of the
shared tokens, k times: take the unused ``a_j`` with the largest ``|<residual, a_j>|`` and fit ``y`` by least squares to
all that are taken, ``y ≈ sum_j c_j a_j``. The new row is ``sum_j c_j b_j`` with the source's rows ``b_j``.

The atoms are not normalised, as in the original: long rows are taken first. All tokens of a block go through the steps
together. The fit is kept as a QR factorisation that grows by one column per step, each made orthogonal twice, so it
does not drift and needs no repair in between.

The cost is in the products of residuals with atoms, ``2 d n`` operations per token and step. As ``<residual, a_j> =
<y, a_j> - sum_i c_i <a_i, a_j>``, they are also a sum of as many rows of the atoms' Gram matrix as atoms were taken so
far, which is several times cheaper in the first steps and no cheaper after some forty, where the product takes over.
The Gram matrix is made once for all tokens, if it is not too large (then products do it all).
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from crosstok.distill.embeddings.donor import Donated
from crosstok.errors import UserError

_BLOCK = 256  # tokens per product: larger ones fall out of the processor's cache
_GRAM_STEPS = 40  # up to which rows of the Gram matrix are added up
_GRAM_SIZE = 1 << 29  # entries of it, at most: 2 GB
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
        gram = atoms @ atoms.T if len(atoms) ** 2 <= _GRAM_SIZE and len(wanted) > _BLOCK else None
        parts = [matching_pursuit(atoms, block, self.k, gram) for block in torch.split(wanted, _BLOCK)]
        return torch.cat([indices for indices, _ in parts]), torch.cat([found for _, found in parts])


def matching_pursuit(atoms: Tensor, wanted: Tensor, k: int, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return indices and coefficients, both ``[t, k]``, for ``wanted [t, d]`` over ``atoms [n, d]``.

    ``gram`` is ``atoms @ atoms.T``, if it is at hand. Once a row is matched exactly, further atoms get coefficient 0.
    """
    count, width = wanted.shape
    rows = torch.arange(count, device=wanted.device)
    basis = wanted.new_zeros(count, k, width)  # orthonormal, or zero where an atom added nothing
    factor = torch.eye(k, dtype=wanted.dtype, device=wanted.device).repeat(count, 1, 1)
    inner = wanted.new_zeros(count, k)  # <basis, wanted>
    indices = torch.zeros(count, k, dtype=torch.int64, device=wanted.device)
    residual = wanted.clone()
    lengths = wanted.norm(dim=1)
    first = wanted @ atoms.T
    for step in range(k):
        taken, known = indices[:, :step], basis[:, :step]
        if gram is None or step >= _GRAM_STEPS:
            scores = residual @ atoms.T
        elif step:
            fit = _solve(factor[:, :step, :step], inner[:, :step])
            scores = first - nn.functional.embedding_bag(taken, gram, per_sample_weights=fit, mode="sum")
        else:
            scores = first.clone()
        best = scores.abs_().scatter_(1, taken, -1.0).argmax(dim=1)
        indices[rows, step] = best
        atom = atoms[best]
        rest, along = atom, wanted.new_zeros(count, step)
        for _ in range(2):
            part = torch.einsum("tkd,td->tk", known, rest)
            rest = rest - torch.einsum("tk,tkd->td", part, known)
            along = along + part
        length = rest.norm(dim=1)
        useful = (length > _NOTHING * atom.norm(dim=1)) & (residual.norm(dim=1) > _NOTHING * lengths)
        basis[:, step] = torch.where(useful[:, None], rest / length.clamp(min=1e-30)[:, None], 0.0)
        factor[:, :step, step] = along
        factor[:, step, step] = torch.where(useful, length, 1.0)
        inner[:, step] = (basis[:, step] * residual).sum(dim=1)
        residual = residual - inner[:, step, None] * basis[:, step]
    return indices, _solve(factor, inner)


def _solve(factor: Tensor, inner: Tensor) -> Tensor:
    """Return the coefficients of a fit ``[t, k]`` from its QR factorisation."""
    found: Tensor = torch.linalg.solve_triangular(factor, inner[:, :, None], upper=True)
    return found[:, :, 0]
