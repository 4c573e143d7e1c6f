"""OMP: a new row is a sparse combination of shared rows, found by orthogonal matching pursuit in a donor's space.

Goddard and Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit", arXiv 2506.06607;
the default method of mergekit's tokensurgeon. Let ``y`` be the donor's row of a new token and ``a_j`` the donor's rows
of the shared tokens. In each of k steps, select the unused ``a_j`` with the largest ``|<residual, a_j>|`` and refit
``y`` by least squares to all selected rows, ``y ≈ sum_j c_j a_j``. The new row is ``sum_j c_j b_j`` with the source's
rows ``b_j``.

As in the original, atoms are not normalised: long rows are preferred. The tokens of a block are processed together. The
fit is a QR factorisation that grows by one column per step; each column is orthogonalised twice, which keeps it
numerically stable.

The cost is dominated by the products of residuals and atoms, ``2 d n`` operations per token and step. Since
``<residual, a_j> = <y, a_j> - sum_i c_i <a_i, a_j>``, they can also be computed by adding one row of the atoms' Gram
matrix per selected atom. This is several times faster in the first steps and loses its advantage after about forty,
when the product takes over. The Gram matrix is computed once for all tokens, unless it is too large.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from crosstok.distill.embeddings.donor import DonorInitialiser
from crosstok.errors import UserError

_BLOCK = 256  # tokens per product; larger blocks exceed the processor's cache
_GRAM_STEPS = 40  # number of steps that use the Gram matrix
_GRAM_SIZE = 1 << 29  # maximum entries of the Gram matrix: 2 GB
_NOTHING = 1e-6  # relative residual below which an atom or target counts as zero


class OMP(DonorInitialiser):
    """Sparse combination of shared tokens by orthogonal matching pursuit in a donor's space."""

    name: ClassVar[str] = "omp"

    k: int = Field(default=64, ge=1)
    """Maximum number of shared tokens per new row."""

    def combine(self, atoms: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the selected atoms and their least-squares coefficients. Raises UserError if k is too large."""
        if self.k > len(atoms):
            raise UserError(
                f"omp needs k = {self.k} shared tokens, but only {len(atoms)} are shared with {self.donor}.",
                hint=f"Set k to at most {len(atoms)}.",
            )
        gram = atoms @ atoms.T if len(atoms) ** 2 <= _GRAM_SIZE and len(wanted) > _BLOCK else None
        parts = [matching_pursuit(atoms, block, self.k, gram) for block in torch.split(wanted, _BLOCK)]
        return torch.cat([indices for indices, _ in parts]), torch.cat([found for _, found in parts])


def matching_pursuit(atoms: Tensor, wanted: Tensor, k: int, gram: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return indices and coefficients, ``[t, k]`` each, for ``wanted [t, d]`` over ``atoms [n, d]``.

    ``gram`` is ``atoms @ atoms.T``, if available. After an exact fit, further atoms get coefficient 0.
    """
    count, width = wanted.shape
    rows = torch.arange(count, device=wanted.device)
    basis = wanted.new_zeros(count, k, width)  # orthonormal, or zero for atoms that are linearly dependent
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
    """Return the coefficients of a fit, ``[t, k]``, from its QR factorisation."""
    found: Tensor = torch.linalg.solve_triangular(factor, inner[:, :, None], upper=True)
    return found[:, :, 0]
