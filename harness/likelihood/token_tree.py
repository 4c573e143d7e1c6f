"""Token trees: sequences with common prefixes, arranged so that each shared token is computed once.

The choices of a question share the question, and answers often share their first words. Laid out depth-first in one
row, with every token attending only to its ancestors, a tree gives each sequence the log-probabilities that it has by
itself, and each shared token is computed once:

    Q u e s t i o n  A n s w e r :  y e s  n o          row
    0 1 2 3 4 5 6 7  8 ...      14  15..17 15 16         position = depth

Sharing is determined by ids, not by text: two encodings that merge differently across the end of the common text
diverge where their ids do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Path:
    """A token sequence that is scored from token ``scored`` (at least 1) on."""

    ids: tuple[int, ...]
    scored: int
    endings: "NDArray[np.int64] | None" = None
    """Alternative next ids; the log of their total probability is added to the score."""

    @property
    def read(self) -> tuple[int, ...]:
        """Input of the model: without the last token, which is only predicted, unless ``endings`` follow it."""
        return self.ids if self.endings is not None else self.ids[:-1] or self.ids


@dataclass(frozen=True, slots=True)
class Tree:
    """Several paths after a cached prefix, laid out in one row of ``len(tokens)`` columns."""

    tokens: "NDArray[np.int64]"
    depths: "NDArray[np.int64]"
    """Position of each token in its sequence, prefix included."""
    visible: "NDArray[np.bool_]"
    """``[columns, columns]``: whether a column attends to another; true for itself and its ancestors."""
    columns: tuple["NDArray[np.int64]", ...]
    """Columns of the input tokens of each path after the prefix, in order."""
    prefix_length: int
    """Number of tokens of the prefix."""

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.tokens)


def build_tree(paths: Sequence[Path], prefix_length: int = 0) -> Tree:
    """Return the tree of ``paths``; their first ``prefix_length`` ids are equal and cached elsewhere."""
    children: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    columns: list[NDArray[np.int64]] = []
    for path in paths:
        column, own = -1, []
        for depth, token in enumerate(path.read[prefix_length:], start=prefix_length):
            if (column, token) not in children:
                children[column, token] = len(tokens)
                tokens.append(token)
                parents.append(column)
                depths.append(depth)
            column = children[column, token]
            own.append(column)
        columns.append(np.array(own, dtype=np.int64))
    visible = np.eye(len(tokens), dtype=np.bool_)
    for column, parent in enumerate(parents):  # a parent always precedes its children
        if parent >= 0:
            visible[column] |= visible[parent]
    return Tree(np.array(tokens, np.int64), np.array(depths, np.int64), visible, tuple(columns), prefix_length)


def shareable_prefix(paths: Sequence[Path]) -> tuple[int, ...]:
    """Return the common prefix of all paths that can be cached: it is not scored, and leaves at least one column."""
    first, last = min(path.ids for path in paths), max(path.ids for path in paths)
    room = min(path.scored for path in paths) - 1
    return first[: min(common_prefix_length(first, last), room)]


def common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
