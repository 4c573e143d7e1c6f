"""Sequences that begin alike as one tree of tokens, so that what they share is read once.

The choices of a question share the question; its answers often share their first words. Laid out depth first in one
row, with every token seeing its ancestors alone, a tree gives each sequence the log-probabilities that it has by
itself, and each shared token is computed once:

    Q u e s t i o n  A n s w e r :  y e s  n o          row
    0 1 2 3 4 5 6 7  8 ...      14  15..17 15 16         position = depth

What is shared is decided by ids and never by text: two encodings that merge differently across the end of the common
text part ways where their ids do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Path:
    """A sequence of tokens, of which those from ``scored`` (at least 1) on are scored."""

    ids: tuple[int, ...]
    scored: int
    endings: "NDArray[np.int64] | None" = None
    """Ids any of which may follow: the log of their joint probability is added."""

    @property
    def read(self) -> tuple[int, ...]:
        """The tokens that the model has to read: the last one is only predicted, unless something follows it."""
        return self.ids if self.endings is not None else self.ids[:-1] or self.ids


@dataclass(frozen=True, slots=True)
class Tree:
    """Several paths behind a prefix that is held elsewhere, laid out in one row of ``len(tokens)`` columns."""

    tokens: "NDArray[np.int64]"
    depths: "NDArray[np.int64]"
    """Position of each token in its sequence, the prefix counted."""
    sees: "NDArray[np.bool_]"
    """``[columns, columns]``: which columns each one attends to, itself and its ancestors."""
    columns: tuple["NDArray[np.int64]", ...]
    """For each path, the columns of the tokens that it reads behind the prefix, in order."""
    skipped: int
    """Tokens of the prefix."""

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.tokens)


def grow(paths: Sequence[Path], skipped: int = 0) -> Tree:
    """Return the tree of ``paths`` whose first ``skipped`` ids, the same for all, are held elsewhere."""
    children: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    columns: list[NDArray[np.int64]] = []
    for path in paths:
        column, own = -1, []
        for depth, token in enumerate(path.read[skipped:], start=skipped):
            if (column, token) not in children:
                children[column, token] = len(tokens)
                tokens.append(token)
                parents.append(column)
                depths.append(depth)
            column = children[column, token]
            own.append(column)
        columns.append(np.array(own, dtype=np.int64))
    sees = np.eye(len(tokens), dtype=np.bool_)
    for column, parent in enumerate(parents):  # a parent always stands in front of its children
        if parent >= 0:
            sees[column] |= sees[parent]
    return Tree(np.array(tokens, np.int64), np.array(depths, np.int64), sees, tuple(columns), skipped)


def stem(paths: Sequence[Path]) -> tuple[int, ...]:
    """Return the ids that all paths begin with and that can be held elsewhere: none is scored, one column is left."""
    first, last = min(path.ids for path in paths), max(path.ids for path in paths)
    room = min(path.scored for path in paths) - 1
    return first[: min(shared(first, last), room)]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many ids two sequences have in common from their beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
