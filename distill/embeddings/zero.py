"""Zero initialisation: every new row is zero, a baseline for what the other initialisers contribute.

A zero output row has logit 0. If the other logits are, say, -20, the new tokens take all but 4e-9 of the probability
(Hewitt 2021), so it is never a default.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.initialiser import Kind


class Zero(Approximation):
    """Rows of zeros, as a baseline."""

    name: ClassVar[str] = "zero"

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return zeros."""
        count = len(missing.tokens)
        return (
            {kind: matrix.new_zeros(count, matrix.shape[1]) for kind, matrix in matrices.items()},
            ["approximated"] * count,
        )
