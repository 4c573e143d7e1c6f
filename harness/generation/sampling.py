"""Drawing the next token so that an answer depends on its seed and on nothing else.

Every row has a stream of uniform numbers of its own, made from its seed alone (PCG64, whose raw output numpy keeps
stable), and the number for the n-th token is the n-th of the stream. Batch size, order, neighbours, devices and a row
that was read anew after an interruption therefore change nothing.

A number is turned into a token along the cumulative distribution *in the order of ids*. Along the order of
probabilities, two tokens that rounding makes change places would change the answer; along ids, rounding matters only
where a number falls within 1e-7 of a border.

Temperature comes first, then top-k, then top-p, as in transformers and vLLM; the kept set is a threshold on the logits,
so tokens that tie with the last one kept are kept too. The distribution is computed in fp32 over the rows of the
vocabulary that mean something, and summed up in fp64.
"""

from collections.abc import Sequence

import numpy as np
import torch

from crosstok.tasks.task import Sampling

_SORTED_AT_FIRST = 256  # tokens looked at for top-p before all are; one sort of a vocabulary costs more than a step
_COLDEST = 1e-30  # below this a division overflows; the most probable token is certain long before
_BLOCK = 64


class Uniforms:
    """The uniform numbers in [0, 1) of one seed, by position."""

    __slots__ = ("_bits", "_known")

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        self._known: list[float] = []

    def at(self, position: int) -> float:
        """Return number ``position`` of the stream, the same however often it is asked for."""
        while position >= len(self._known):
            self._known.extend(((self._bits.random_raw(_BLOCK) >> np.uint64(11)) * 2.0**-53).tolist())
        return self._known[position]


def draw(logits: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """Return the next id of every row; ``uniforms`` are not looked at for greedy rows.

    ``logits`` ``[rows, V]`` hold only ids that may be drawn, and minus infinity at those that may not.
    """
    logits = logits.float()
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    for sampling in {sampling for sampling in samplings if not sampling.greedy}:
        rows = [row for row, own in enumerate(samplings) if own == sampling]
        scaled = scale(logits if len(rows) == len(samplings) else logits[rows], sampling)
        kept = keep(scaled, sampling)
        for row, number in zip(rows, _invert(kept, [uniforms[row] for row in rows]), strict=True):
            chosen[row] = number
    return chosen


def scale(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return the logits divided by the temperature, shifted so that the largest of each row is 0."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / max(sampling.temperature, _COLDEST)


def keep(scaled: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return ``scaled`` ``[rows, V]`` with minus infinity for every token that top-k and top-p leave out."""
    size = scaled.shape[-1]
    if 0 < sampling.top_k < size:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    if sampling.top_p < 1:
        scaled = scaled.masked_fill(scaled < _nucleus_border(scaled, sampling.top_p), -torch.inf)
    return scaled


def _nucleus_border(scaled: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the smallest logit of the fewest tokens whose probability reaches ``top_p``, ``[rows, 1]``."""
    size = scaled.shape[-1]
    total = scaled.exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
    looked_at = min(_SORTED_AT_FIRST, size)
    while True:
        largest = scaled.topk(looked_at, dim=-1).values
        reached = largest.exp().cumsum(dim=-1, dtype=torch.float64) >= top_p * total
        if looked_at == size or bool(reached[:, -1].all()):
            break
        looked_at = min(8 * looked_at, size)
    # The first token that reaches it; where rounding lets none, the last one.
    border = torch.where(reached.any(dim=-1), reached.int().argmax(dim=-1), looked_at - 1)
    return largest.gather(1, border[:, None])


def _invert(kept: torch.Tensor, uniforms: Sequence[float]) -> list[int]:
    """Return, per row, the first id at which the cumulative distribution exceeds the row's uniform number."""
    cumulative = kept.exp().cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    wanted = torch.tensor(uniforms, dtype=torch.float64, device=kept.device)[:, None] * total
    # A number that rounds up to the total falls behind the last id: it belongs to the last one with any probability.
    last = torch.searchsorted(cumulative, total)
    found: list[int] = torch.minimum(torch.searchsorted(cumulative, wanted, right=True), last)[:, 0].tolist()
    return found
