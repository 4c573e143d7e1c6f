"""What a table is made of before any format: entries in blocks, filled from the rows of the comparison frame."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Rows = list[dict[str, Any]]

ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a table."""

    text: str
    best: bool = False
    tied: bool = False
    """Not told from the best."""
    note: int | None = None
    """Number of its footnote."""


@dataclass(frozen=True, slots=True)
class Block:
    """One table. Its first column names the rows and is repeated where the table is too wide and has to be split."""

    title: str
    header: list[str]
    rows: list[list[Entry]]
    prose: frozenset[int] = frozenset()
    """Columns that hold words, which are set flush left."""
    together: int = 1
    """So many neighbouring columns stay together when the table is split."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that a table of a run shows."""

    title: str
    blocks: list[Block]
    findings: list[str]
    notes: list[str]
    footnotes: list[str] = field(default_factory=list)
    """Number 1 first."""


def names(rows: Rows) -> list[str]:
    """Return the names of the models, each once, in their order."""
    return list(dict.fromkeys(row["model"] for row in rows))


def by_task(rows: Rows) -> dict[str, Rows]:
    """Return the rows of each task, in their order."""
    tasks: dict[str, Rows] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return tasks


def absent(value: Any) -> bool:
    """Return whether there is no value: none, or NaN out of a frame."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any, shown: Callable[[Any], str]) -> str:
    """Return a value as it is shown, or the sign for none."""
    return ABSENT if absent(value) else shown(value)
