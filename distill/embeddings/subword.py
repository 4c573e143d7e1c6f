"""Subword initialisation: a new row is a weighted sum of the rows of its pieces, with one rule per matrix.

Let p_1 … p_k be the pieces of the new token under the source tokenizer (by text, else by longest match over bytes; see
``fvt``). Its row is ``sum_i w_i E[p_i]`` with

| rule | w_i | source |
|---|---|---|
| ``mean`` | 1/k | FVT (arXiv 2402.09977) |
| ``sum`` | 1 | mergekit's tokensurgeon |
| ``length`` | bytes of p_i over bytes of the token | arXiv 2608.03494, for output rows |
| ``first`` | 1 for i = 1 | transplant-vocab, for output rows: the model predicts the first piece at this point |
| ``last`` | 1 for i = k | transplant-vocab, for input rows: the next prediction follows the last piece |
| ``decay`` | decay^(i-1), normalised | transplant-vocab, for output rows; decay 0 is ``first`` and 1 is ``mean`` |

The default is the best of twenty combinations in arXiv 2608.03494: the mean for input rows and the length-weighted mean
for output rows (the paper also calibrates norms: set ``calibrate``). tokensurgeon's ``first_last`` is ``input: last,
output: first``.

Differences from published code: lengths are in bytes instead of characters, so that part of a character has a length,
and weights follow the length of a piece, not its position (tokensurgeon's weighted mean gives the first piece of an
input row the largest weight, contrary to its own comment). With ``first``, tokens with the same first piece have the
same output row and share its probability; there is no bias from which ln n could be subtracted.
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
    """Weighted sum of the rows of a token's pieces."""

    name: ClassVar[str] = "subword"

    input: Rule = "mean"
    """Rule for input rows, and for tied matrices."""
    output: Rule = "length"
    """Rule for the rows of an untied output matrix."""
    decay: float = Field(default=0.5, ge=0, le=1)
    """Weight of a piece relative to the previous one, for the rule ``decay``."""

    def approximate(self, matrices: Mapping[Kind, Tensor], missing: Missing) -> Approximated:
        """Return the weighted sums; takes seconds for a vocabulary of 256k tokens."""
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
        """Return the weight of each piece of a token, given the ``lengths`` of the pieces in bytes."""
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
