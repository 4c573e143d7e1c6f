"""Batch sizes for sequences of different lengths, with a limit on padding.

A batch that is filled up to its token budget pads all sequences to the longest one. With the first 32 HumanEval prompts
in one batch, a third of all positions was padding and prefill took 1.5 times as long. A second forward pass costs less,
so a batch is closed when another sequence would exceed the limit on padding. Long lists sorted by length rarely reach
that limit.
"""

from collections.abc import Iterable

MOST_PADDING = 0.1
"""Largest fraction of padded positions in a batch."""


def of_like_length(widths: Iterable[int], budget: int) -> int:
    """Return how many of the sequences of lengths ``widths``, longest first, form one batch: at least one.

    ``budget`` limits the positions of the batch, padding included; :data:`MOST_PADDING` limits the padding among them.
    """
    count = widest = padding = 0
    for width in widths:
        widest = widest or width
        padding += widest - width
        padded = (count + 1) * widest
        if count and (padded > budget or padding > MOST_PADDING * padded):
            break
        count += 1
    return max(count, 1)
