"""Mean initialisation: every new row is the mean of all rows of the source.

Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models". The logit of the mean output row is the
mean of the logits, so the log-probability of a new token is at most the mean over the old ones. A zero or random row,
in contrast, takes nearly all probability if most logits are far below 0.
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.initialiser import Kind


class Mean(Approximation):
    """Mean of all rows of the source."""

    name: ClassVar[str] = "mean"

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the mean row, once per token."""
        count = len(missing.tokens)
        return (
            {kind: self.trained(matrix).mean(dim=0).expand(count, -1) for kind, matrix in matrices.items()},
            ["approximated"] * count,
        )
