"""Sampling of next tokens, such that an answer depends on its seed and on nothing else.

Each row has its own stream of uniform numbers, generated from its seed (PCG64, whose raw output numpy keeps stable);
the n-th token uses the n-th number. Results therefore do not depend on batch size, order, other rows, devices, or
repeated prefills after an out-of-memory error.

A number selects a token by inversion of the cumulative distribution *in the order of ids*. In the order of
probabilities, two tokens swapped by rounding would change the answer; in the order of ids, rounding matters only if a
number falls within about 1e-7 of a boundary.

Temperature is applied first, then top-k, then top-p, as in transformers and vLLM. Both filters are thresholds on the
logits, so tokens tied with the last kept one are kept too. The distribution is computed in fp32 over the valid rows of
the vocabulary, and accumulated in fp64.
"""

from collections.abc import Sequence

import numpy as np
import torch

from crosstok.tasks.task import Sampling

_INITIAL_SORTED = 256  # tokens sorted for top-p at first; sorting a whole vocabulary costs more than a step
_MIN_TEMPERATURE = 1e-30  # avoids overflow; far above this the most probable token is already certain
_BLOCK = 64


class Uniforms:
    """Stream of uniform numbers in [0, 1) for one seed, addressed by position."""

    __slots__ = ("_bits", "_known")

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)
        self._known: list[float] = []

    def at(self, position: int) -> float:
        """Return number ``position`` of the stream."""
        while position >= len(self._known):
            self._known.extend(((self._bits.random_raw(_BLOCK) >> np.uint64(11)) * 2.0**-53).tolist())
        return self._known[position]


def draw(logits: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """Return the next id of every row, greedy or sampled; ``uniforms`` are ignored for greedy rows.

    ``logits`` ``[rows, V]`` must cover valid ids only; minus infinity excludes an id.
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
    return (logits - logits.amax(dim=-1, keepdim=True)) / max(sampling.temperature, _MIN_TEMPERATURE)


def keep(scaled: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return ``scaled`` ``[rows, V]`` with minus infinity for every token that top-k and top-p exclude."""
    size = scaled.shape[-1]
    if 0 < sampling.top_k < size:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    if sampling.top_p < 1:
        scaled = scaled.masked_fill(scaled < _nucleus_threshold(scaled, sampling.top_p), -torch.inf)
    return scaled


def _nucleus_threshold(scaled: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the smallest logit ``[rows, 1]`` in the smallest set of tokens whose probability reaches ``top_p``."""
    size = scaled.shape[-1]
    total = scaled.exp().sum(dim=-1, keepdim=True, dtype=torch.float64)
    considered = min(_INITIAL_SORTED, size)
    while True:
        largest = scaled.topk(considered, dim=-1).values
        reached = largest.exp().cumsum(dim=-1, dtype=torch.float64) >= top_p * total
        if considered == size or bool(reached[:, -1].all()):
            break
        considered = min(8 * considered, size)
    # The first token that reaches top_p; the last one if rounding prevents that.
    threshold = torch.where(reached.any(dim=-1), reached.int().argmax(dim=-1), considered - 1)
    return largest.gather(1, threshold[:, None])


def _invert(kept: torch.Tensor, uniforms: Sequence[float]) -> list[int]:
    """Return, per row, the first id at which the cumulative distribution exceeds the row's uniform number."""
    cumulative = kept.exp().cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:].contiguous()
    wanted = torch.tensor(uniforms, dtype=torch.float64, device=kept.device)[:, None] * total
    # A number that rounds up to the total selects the last id with nonzero probability.
    last = torch.searchsorted(cumulative, total)
    found: list[int] = torch.minimum(torch.searchsorted(cumulative, wanted, right=True), last)[:, 0].tolist()
    return found
