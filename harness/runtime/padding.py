"""How many sequences go through the model side by side, given that the shorter ones are padded.

Filling a pass up to its budget with whatever is left pads short sequences to the longest one: of the first 32 HumanEval
prompts a third of all columns was padding, and reading prompts took half as long again. A second pass costs less than
that, so a pass ends where sequences become too short for it. Where many are sorted by length this is never noticed.
"""

from collections.abc import Iterable

MOST_PADDING = 0.1
"""Of the columns of one pass."""


def of_like_length(widths: Iterable[int], budget: int) -> int:
    """Return how many of ``widths``, the widest first, one pass takes: at least one.

    ``budget`` bounds the padded columns of the pass, :data:`MOST_PADDING` the share of them that is padding.
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
