"""Placement of point labels without overlaps; coinciding points share a label.

A label is tried at four positions around its point and left out if none is free; the table next to the plot has all
names. Text width is estimated from an average letter, because measuring it would require drawing the figure twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LETTER, LINE = 0.58, 1.25
"""Width of a letter and height of a line, in font sizes."""
TOGETHER = 4.0
"""Points closer than this in both directions, in typographic points, share a label."""
GAP = 4.0
_NAMES = 3
_PLACES: tuple[tuple[Literal["left", "right"], bool], ...] = (
    ("left", True), ("left", False), ("right", True), ("right", False)
)  # fmt: skip
"""Horizontal alignment of the text, and whether it is above the point."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Named point; ``x`` and ``y`` in typographic points from the lower left corner of the axes."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Label:
    """Text at an offset from its point, in typographic points."""

    text: str
    of: int
    """Index of the point."""
    dx: float
    dy: float
    side: Literal["left", "right"]
    """Horizontal alignment: the end of the text that the offset refers to."""


def place(marks: Sequence[Mark], width: float, size: float) -> list[Label]:
    """Return the labels of ``marks`` in order of priority; axes ``width`` and font ``size`` in typographic points."""
    labels: list[Label] = []
    taken: list[tuple[float, float, float, float]] = [(m.x - 2, m.y - 2, m.x + 2, m.y + 2) for m in marks]
    for first, named in _groups(marks):
        mark = marks[first]
        length, height = LETTER * size * len(named), LINE * size
        for side, above in _PLACES:
            start = mark.x + GAP if side == "left" else mark.x - GAP - length
            rise = GAP if above else -GAP - height
            box = (start, mark.y + rise, start + length, mark.y + rise + height)
            if start < 0 or box[2] > width or any(_overlap(box, other) for other in taken):
                continue
            taken.append(box)
            labels.append(Label(named, first, GAP if side == "left" else -GAP, rise, side))
            break
    return labels


def _groups(marks: Sequence[Mark]) -> list[tuple[int, str]]:
    """Return the first point of every group of coinciding points, and their names."""
    groups: list[list[int]] = []
    for number, mark in enumerate(marks):
        for group in groups:
            first = marks[group[0]]
            if abs(first.x - mark.x) < TOGETHER and abs(first.y - mark.y) < TOGETHER:
                group.append(number)
                break
        else:
            groups.append([number])
    found = []
    for group in groups:
        names = [marks[number].name for number in group]
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        found.append((group[0], ", ".join(names[:_NAMES]) + more))
    return found


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
