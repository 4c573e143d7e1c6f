"""Format-independent tables: layouts of blocks of entries, and accessors for rows of the comparison frame."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Rows = list[dict[str, Any]]

ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell of a table."""

    text: str
    best: bool = False
    tied: bool = False
    """Whether it is not significantly different from the best."""
    note: int | None = None
    """Number of its footnote."""


@dataclass(frozen=True, slots=True)
class Block:
    """One table. Its first column names the rows and is repeated where a table is split because it is too wide."""

    title: str
    header: list[str]
    rows: list[list[Entry]]
    prose: frozenset[int] = frozenset()
    """Columns of text, which are left-aligned."""
    together: int = 1
    """Number of neighbouring columns that stay together when the table is split."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that is shown of a run: blocks, sentences and notes."""

    title: str
    blocks: list[Block]
    findings: list[str]
    notes: list[str]
    footnotes: list[str] = field(default_factory=list)
    """In the order of their numbers, from 1."""


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
    """Return whether a value is missing: None, or NaN from a frame."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any, shown: Callable[[Any], str]) -> str:
    """Return a value as text, or a dash where it is missing."""
    return ABSENT if absent(value) else shown(value)
