"""What the tables of a run show, before any format: blocks of entries out of the comparison frame."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]

ABSENT = "-"
_SHORT_UNIT = {"fraction": "%"}


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


def layout(frame: "pd.DataFrame") -> Layout:
    """Return what is to be shown of a comparison frame."""
    rows: Rows = frame.to_dict("records")  # type: ignore[assignment]  # keys are the column names, all of them text
    numbers: dict[str, int] = {}
    for row in rows:
        if row["note"]:
            numbers.setdefault(row["note"], len(numbers) + 1)
    grids = [_scores(rows, numbers), *_generation(rows), _likelihood(rows), _models(rows)]
    return Layout(
        frame.attrs.get("title", ""),
        [block for block in grids if block],
        list(frame.attrs.get("findings", ())),
        list(frame.attrs.get("notes", ())),
        list(numbers),
    )


def _scores(rows: Rows, numbers: dict[str, int]) -> Block:
    header, columns = ["model"], [[Entry(name) for name in _names(rows)]]
    for task, of_task in _by_task(rows).items():
        sizes = {row["n"] for row in of_task if row["n"]}
        size = max(sizes, default=0)
        first = of_task[0]
        unit = _SHORT_UNIT.get(first["unit"], first["unit"])
        metric = unit if first["unit"] == "bits/byte" else f"{first['metric']} {unit}"
        header.append(f"{task}, {metric} (n={size})")
        columns.append([_score(row, size, numbers) for row in of_task])
    return Block("", header, [list(row) for row in zip(*columns, strict=True)])


def _score(row: dict[str, Any], size: int, numbers: dict[str, int]) -> Entry:
    note = numbers.get(row["note"])
    if _absent(row["value"]):
        return Entry(ABSENT, note=note)
    scale, digits = (100, 1) if row["unit"] == "fraction" else (1, 4)
    text = f"{scale * row['value']:.{digits}f}"
    if not _absent(row["low"]):
        text += f" [{scale * row['low']:.{digits}f}, {scale * row['high']:.{digits}f}]"
    if row["n"] != size:
        text += f" n={row['n']}"
    return Entry(text, row["standing"] == "best", row["standing"] == "not told from best", note)


def _generation(rows: Rows) -> list[Block]:
    """Return one block per task whose answers are generated."""
    blocks = []
    for task, of_task in _by_task(rows).items():
        if not any(row["stops"] for row in of_task):
            continue
        header = ["model", "bytes/token", "bytes/s", "seconds", "ended by", "verdicts"]
        body = [
            [
                Entry(row["model"]),
                *_cost(row),
                Entry(row["stops"] or ABSENT),
                Entry(row["verdicts"] or ABSENT),
            ]
            for row in of_task
        ]
        blocks.append(Block(f"{task}: what it took", header, body, frozenset({4, 5})))
    return blocks


def _likelihood(rows: Rows) -> Block | None:
    """Return one block for all tasks whose texts are scored."""
    header, columns = ["model"], [[Entry(name) for name in _names(rows)]]
    for task, of_task in _by_task(rows).items():
        if any(row["stops"] for row in of_task) or all(_absent(row["seconds"]) for row in of_task):
            continue
        header += [f"{task}: bytes/token", "bytes/s", "seconds"]
        columns += [list(column) for column in zip(*(_cost(row) for row in of_task), strict=True)]
    if len(header) == 1:
        return None
    return Block("texts: what it took", header, [list(row) for row in zip(*columns, strict=True)], together=3)


def _cost(row: dict[str, Any]) -> list[Entry]:
    return [
        Entry(_number(row["bytes_per_token"], "{:.2f}".format)),
        Entry(_number(row["bytes_per_s"], "{:,.0f}".format)),
        Entry(_number(row["seconds"], "{:.1f}".format)),
    ]


def _models(rows: Rows) -> Block:
    body = []
    for name in _names(rows):
        row = next(row for row in rows if row["model"] == name)
        body.append(
            [
                Entry(name),
                Entry(row["label"] or ABSENT),
                Entry(_number(row["parameters"], lambda value: f"{value / 1e6:.1f}")),
                Entry(_number(row["vocabulary"], "{:,.0f}".format)),
                Entry(_number(row["build_s"], lambda value: f"{value:.1f}" if value else ABSENT)),
            ]
        )
    header = ["model", "what it is", "parameters, 1e6", "vocabulary", "seconds to make"]
    return Block("models", header, body, frozenset({1}))


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def _by_task(rows: Rows) -> dict[str, Rows]:
    tasks: dict[str, Rows] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    return tasks


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any, shown: Callable[[Any], str]) -> str:
    return ABSENT if _absent(value) else shown(value)
