"""Rows made of the rows of a token's pieces under the source tokenizer, by a rule for each matrix.

With pieces p_1 … p_k of the new token (by text, else by longest match over bytes: see ``fvt``), the row is ``sum_i w_i
E[p_i]`` with

| rule | w_i | whose |
|---|---|---|
| ``mean`` | 1/k | FVT (arXiv 2402.09977) |
| ``sum`` | 1 | mergekit's tokensurgeon |
| ``length`` | bytes of p_i over bytes of the token | arXiv 2608.03494, for output rows |
| ``first`` | 1 for i = 1 | transplant-vocab, for output rows: the model predicts the first piece at that point |
| ``last`` | 1 for i = k | transplant-vocab, for input rows: a causal model's state after the last piece counts |
| ``decay`` | decay^(i-1), normalised | transplant-vocab, for output rows; decay 0 is ``first`` and 1 is ``mean`` |

The default is what arXiv 2608.03494 found best of twenty: the mean for input rows and the length-weighted mean for
output rows (it also calibrates norms: set ``calibrate``). tokensurgeon's ``first_last`` is ``input: last, output:
first``.

Ours: lengths are bytes rather than characters, so that half a character has one, and the weights run with the length
of the piece, not with its place (tokensurgeon's weighted mean gives the first piece of an input row the most, against
its own comment). Tokens that share their first piece share its whole output row, and with it their probability; there
is no bias to subtract ln n from.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from crosstok.distill.embeddings.approximation import Approximated, Approximation, Missing
from crosstok.distill.embeddings.fvt import constituents, weighted_sums
from crosstok.distill.embeddings.initialiser import Kind

if TYPE_CHECKING:
    from crosstok.distill.tokenizers.matching import Origin

Rule = Literal["mean", "sum", "length", "first", "last", "decay"]


class Subword(Approximation):
    """A weighted sum of constituents."""

    name: ClassVar[str] = "subword"

    input: Rule = "mean"
    """How input rows are made, and those of a tied matrix."""
    output: Rule = "length"
    """How the rows of an untied output matrix are made."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """Weight of a piece relative to the one before it, for the rule ``decay``."""

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the sums; seconds for a vocabulary of 256k tokens."""
        found = constituents(missing.source, missing.data)
        pieces = [ids for ids, _ in found]
        lengths = [[int(missing.source.lengths[piece]) for piece in ids] for ids in pieces]
        rules: dict[Kind, Rule] = {"input": self.input, "output": self.output}
        made: dict[Kind, Tensor] = {}
        for kind, matrix in matrices.items():
            made[kind] = weighted_sums(matrix, pieces, [self.weights(rules[kind], sizes) for sizes in lengths])
        names: dict[Origin, Origin] = {"mean": "approximated"}
        return made, [names.get(origin, origin) for _, origin in found]

    def weights(self, rule: Rule, lengths: list[int]) -> list[float]:
        """Return the weight of each piece of a token; ``lengths`` are those of its pieces in bytes."""
        count = len(lengths)
        if not count:
            return []
        if rule == "sum":
            return [1.0] * count
        if rule == "length":
            parts = [float(length) for length in lengths]
        elif rule == "mean":
            parts = [1.0] * count
        elif rule == "last":
            parts = [float(place == count - 1) for place in range(count)]
        else:
            factor = self.decay if rule == "decay" else 0.0
            parts = [factor**place for place in range(count)]
        return [part / sum(parts) for part in parts]
