"""Geometry of embedding rows: norms, cosines, effective rank, principal axes and nearest neighbours.

Everything is computed in float32 or better, and no matrix of rows by rows is materialised.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from crosstok.distill.inspection.records import Group, Spread

_AT_ONCE = 256
"""New rows compared with all old rows per matrix product."""


def spread(values: Tensor | Sequence[float | None]) -> Spread:
    """Return mean and percentiles; None and NaN are ignored."""
    found = np.array([np.nan if value is None else value for value in (
        values.tolist() if isinstance(values, Tensor) else values)], dtype=np.float64)  # fmt: skip
    found = found[~np.isnan(found)]
    if not len(found):
        return Spread(n=0, mean=None, low=None, median=None, high=None)
    low, median, high = np.percentile(found, [5, 50, 95]).tolist()
    return Spread(n=len(found), mean=float(found.mean()), low=low, median=median, high=high)


def unit(rows: Tensor) -> Tensor:
    """Return rows scaled to norm 1; zero rows stay zero, so that their cosine with any row is 0."""
    rows = rows.float()
    lengths: Tensor = rows.norm(dim=-1, keepdim=True)
    return rows / lengths.clamp(min=1e-12)


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine of each row with its counterpart, ``[n]``."""
    return (unit(left) * unit(right)).sum(dim=-1)


def mean_cosine(rows: Tensor) -> float | None:
    """Return the mean cosine over all pairs of different rows; None for fewer than two rows."""
    count = len(rows)
    if count < 2:
        return None
    directions = unit(rows).double()
    return float((directions.sum(dim=0).square().sum() - directions.square().sum()) / (count * (count - 1)))


def effective_rank(rows: Tensor) -> float:
    """Return ``exp(H(s / sum s))``, where s are the singular values of the centred ``rows [n, d]``; 0 for equal rows.

    Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    centred = rows.double() - rows.double().mean(dim=0)
    gram = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    singular = singular[singular > 1e-7 * singular.max().clamp(min=1e-30)]
    if not len(singular):
        return 0.0
    shares = singular / singular.sum()
    return float((-(shares * shares.log()).sum()).exp())


def group(rows: Tensor) -> Group:
    """Return the statistics of a group of rows."""
    return Group(
        norms=spread(rows.float().norm(dim=-1)), effective_rank=effective_rank(rows), mean_cosine=mean_cosine(rows)
    )


class Axes:
    """The two principal axes of some rows: their mean, the directions of largest variance, and the share of each."""

    def __init__(self, rows: Tensor) -> None:
        exact = rows.double()
        self.centre = exact.mean(dim=0)
        centred = exact - self.centre
        variances, directions = torch.linalg.eigh(centred.T @ centred)
        self.directions = directions[:, -2:].flip(-1)
        # The sign of an axis is arbitrary: make its largest entry positive, so that pages are reproducible.
        largest = self.directions.abs().argmax(dim=0)
        self.directions = self.directions * self.directions[largest, torch.arange(2)].sign()
        total = variances.clamp(min=0).sum().clamp(min=1e-30)
        first, second = (variances[-2:].flip(-1).clamp(min=0) / total).tolist()
        self.shares = (first, second)

    def places(self, rows: Tensor) -> list[tuple[float, float]]:
        """Return the coordinates of rows on the axes."""
        found = (rows.double() - self.centre) @ self.directions
        return [(x, y) for x, y in found.tolist()]


def neighbours(new: Tensor, old: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield for each new row its cosines with all old rows, and the ``count`` largest with their indices."""
    directions = unit(old)
    for first in range(0, len(new), _AT_ONCE):
        found = unit(new[first : first + _AT_ONCE]) @ directions.T
        best = found.topk(min(count, len(old)), dim=-1)
        yield from zip(found, best.values, best.indices, strict=True)
