"""What the tables of a run show, before any format: blocks of entries out of the comparison frame."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crosstok.results.store.records import FRACTION
from crosstok.results.tables.costs import VIEW_BYTES
from crosstok.results.tables.fact_blocks import fact_blocks, fact_legend
from crosstok.results.tables.number_format import value_with_interval
from crosstok.results.tables.table import ABSENT, Block, Entry, Layout, Rows, absent, by_task, names, number

if TYPE_CHECKING:
    import pandas as pd

_COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "bytes_per_token": ("bytes/token", "{:.2f}".format),
    "flops_per_byte": ("MFLOP/byte", lambda value: f"{value / 1e6:,.1f}"),
    "passes_per_byte": ("passes/byte", "{:.3f}".format),
    "bytes_per_s": ("bytes/s", "{:,.0f}".format),
    "seconds": ("seconds", "{:.1f}".format),
    "new_token_share": ("new tokens, %", lambda value: f"{100 * value:.1f}"),
}
"""Heading and form of what a cell cost, by column of the frame."""
_WHERE_KNOWN = frozenset({"flops_per_byte", "passes_per_byte", "new_token_share"})
_SHORT_UNIT = {FRACTION: "%"}


def layout(frame: "pd.DataFrame", *, facts: bool = False) -> Layout:
    """Return what is to be shown of a comparison frame; ``facts`` adds what tokenizers did to the texts."""
    # A frame hands a copy of its attributes to every column that is taken out of it; without any this is quick.
    rows: Rows = type(frame)(frame).to_dict("records")  # type: ignore[assignment]  # keys are the column names, all of them text
    numbers: dict[str, int] = {}
    for row in rows:
        if row["note"]:
            numbers.setdefault(row["note"], len(numbers) + 1)
    grids = [
        _scores(rows, numbers),
        _means(rows, frame.attrs.get("means", ())),
        *_generation(rows),
        _likelihood(rows),
        *fact_blocks(rows, frame.attrs.get("agreement_with", ""), all_facts=facts),
        _models(rows),
    ]
    return Layout(
        frame.attrs.get("title", ""),
        [block for block in grids if block],
        list(frame.attrs.get("findings", ())),
        [*frame.attrs.get("notes", ()), *_legend(rows), *fact_legend(rows, all_facts=facts)],
        list(numbers),
    )


def _legend(rows: Rows) -> list[str]:
    """Return what the columns of costs mean, where they hold something."""
    found = []
    if any(not absent(row["flops_per_byte"]) for row in rows):
        found.append(
            f"MFLOP/byte: millions of operations of the model per byte of the text that was read or scored, "
            f"with {VIEW_BYTES} bytes in view; of an ensemble, of all its members."
        )
    if any(not absent(row["passes_per_byte"]) for row in rows):
        found.append(
            "Passes/byte: forward passes per byte written, that over the prompt included; of an ensemble, of all its "
            "members."
        )
    if any(not absent(row["new_token_share"]) for row in rows):
        found.append("New tokens: of the tokens that were written, those that the model's source does not have.")
    return found


def _scores(rows: Rows, numbers: dict[str, int]) -> Block:
    header, columns = ["model"], [[Entry(name) for name in names(rows)]]
    for task, of_task in by_task(rows).items():
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
    if absent(row["value"]):
        return Entry(ABSENT, note=note)
    text = value_with_interval(row["unit"], row["value"], row["low"], row["high"])
    if row["n"] != size:
        text += f" n={row['n']}"
    return Entry(text, row["standing"] == "best", row["standing"] == "not told from best", note)


def _means(rows: Rows, means: Sequence[Mapping[str, Any]]) -> Block | None:
    """Return the means over tasks, a column per metric; None where no two tasks have a metric in common."""
    if not means:
        return None
    header, columns = ["model"], [[Entry(name) for name in names(rows)]]
    for metric, unit, tasks in dict.fromkeys((row["metric"], row["unit"], tuple(row["tasks"])) for row in means):
        known = {row["model"]: row for row in means if (row["metric"], row["unit"]) == (metric, unit)}
        shown = unit if unit == "bits/byte" else f"{metric} {_SHORT_UNIT.get(unit, unit)}"
        header.append(f"{shown}, mean of {len(tasks)} tasks")
        columns.append([_mean(known.get(name)) for name in names(rows)])
    return Block("means over tasks", header, [list(row) for row in zip(*columns, strict=True)])


def _mean(row: Mapping[str, Any] | None) -> Entry:
    if row is None:
        return Entry(ABSENT)
    text = value_with_interval(row["unit"], row["value"], row["low"], row["high"])
    return Entry(text, row["standing"] == "best", row["standing"] == "not told from best")


def _generation(rows: Rows) -> list[Block]:
    """Return one block per task whose answers are generated."""
    blocks = []
    for task, of_task in by_task(rows).items():
        if not any(row["stops"] for row in of_task):
            continue
        shown = _known_costs(of_task)
        header = ["model", *(_COSTS[name][0] for name in shown), "ended by", "verdicts"]
        body = [
            [
                Entry(row["model"]),
                *_cost(row, shown),
                Entry(row["stops"] or ABSENT),
                Entry(row["verdicts"] or ABSENT),
            ]
            for row in of_task
        ]
        blocks.append(Block(f"{task}: what it took", header, body, frozenset({len(header) - 2, len(header) - 1})))
    return blocks


def _likelihood(rows: Rows) -> Block | None:
    """Return one block for all tasks whose texts are scored."""
    header, columns = ["model"], [[Entry(name) for name in names(rows)]]
    scored = {
        task: of_task
        for task, of_task in by_task(rows).items()
        if not any(row["stops"] for row in of_task) and not all(absent(row["seconds"]) for row in of_task)
    }
    if not scored:
        return None
    shown = _known_costs([row for of_task in scored.values() for row in of_task])
    first, *rest = (_COSTS[name][0] for name in shown)
    for task, of_task in scored.items():
        header += [f"{task}: {first}", *rest]
        columns += [list(column) for column in zip(*(_cost(row, shown) for row in of_task), strict=True)]
    return Block("texts: what it took", header, [list(row) for row in zip(*columns, strict=True)], together=len(shown))


def _known_costs(rows: Rows) -> list[str]:
    """Return the columns of costs to show: those that not every model has, only where one of them has it."""
    return [name for name in _COSTS if name not in _WHERE_KNOWN or any(not absent(row[name]) for row in rows)]


def _cost(row: dict[str, Any], shown: Sequence[str]) -> list[Entry]:
    return [Entry(number(row[name], _COSTS[name][1])) for name in shown]


def _models(rows: Rows) -> Block:
    body = []
    for name in names(rows):
        row = next(row for row in rows if row["model"] == name)
        body.append(
            [
                Entry(name),
                Entry(row["label"] or ABSENT),
                Entry(number(row["parameters"], lambda value: f"{value / 1e6:.1f}")),
                Entry(number(row["vocabulary"], "{:,.0f}".format)),
                Entry(number(row["build_s"], lambda value: f"{value:.1f}" if value else ABSENT)),
            ]
        )
    header = ["model", "what it is", "parameters, 1e6", "vocabulary", "seconds to make"]
    return Block("models", header, body, frozenset({1}))
