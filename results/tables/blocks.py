"""Layout of a run's tables: blocks of entries made from the comparison frame, independent of the output format."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crosstok.results.tables.costs import VIEW_BYTES
from crosstok.results.tables.fact_blocks import fact_blocks, fact_legend
from crosstok.results.tables.number_format import heading, value_with_interval
from crosstok.results.tables.table import ABSENT, Block, Entry, Layout, Rows, absent, by_task, names, number

if TYPE_CHECKING:
    import pandas as pd

_COSTS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "bytes_per_token": ("bytes/token", "{:.2f}".format),
    "flops_per_byte": ("MFLOP/byte", lambda value: f"{value / 1e6:,.1f}"),
    "passes_per_byte": ("forward passes per byte", "{:.3f}".format),
    "bytes_per_s": ("bytes/s", "{:,.0f}".format),
    "seconds": ("time (s)", "{:.1f}".format),
    "new_token_share": ("new tokens (%)", lambda value: f"{100 * value:.1f}"),
}
"""Heading and format of each cost, by column of the frame."""
_WHERE_KNOWN = frozenset({"flops_per_byte", "passes_per_byte", "new_token_share"})


def layout(frame: "pd.DataFrame", *, facts: bool = False) -> Layout:
    """Return the layout of a comparison frame; ``facts`` adds tokenization statistics per task."""
    # Pandas copies a frame's attributes to every column taken out of it; a frame without any is fast.
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
    """Return explanations of the cost columns that are shown."""
    found = []
    if any(not absent(row["flops_per_byte"]) for row in rows):
        found.append(
            f"MFLOP/byte: millions of floating-point operations per byte of text read or scored, with a context of "
            f"{VIEW_BYTES} bytes; for an ensemble, the sum over its members."
        )
    if any(not absent(row["passes_per_byte"]) for row in rows):
        found.append(
            "Forward passes per byte: per byte generated, prompt processing included; for an ensemble, the sum over "
            "its members."
        )
    if any(not absent(row["new_token_share"]) for row in rows):
        found.append("New tokens: share of generated tokens that are not in the vocabulary of the model's source.")
    return found


def _scores(rows: Rows, numbers: dict[str, int]) -> Block:
    header, columns = ["model"], [[Entry(name) for name in names(rows)]]
    for task, of_task in by_task(rows).items():
        sizes = {row["n"] for row in of_task if row["n"]}
        size = max(sizes, default=0)
        first = of_task[0]
        header.append(f"{task}: {heading(first['metric'], first['unit'])}, n={size}")
        columns.append([_score(row, size, numbers) for row in of_task])
    return Block("", header, [list(row) for row in zip(*columns, strict=True)])


def _score(row: dict[str, Any], size: int, numbers: dict[str, int]) -> Entry:
    note = numbers.get(row["note"])
    if absent(row["value"]):
        return Entry(ABSENT, note=note)
    text = value_with_interval(row["unit"], row["value"], row["low"], row["high"])
    if row["n"] != size:
        text += f" n={row['n']}"
    return Entry(text, row["standing"] == "best", row["standing"] == "tied", note)


def _means(rows: Rows, means: Sequence[Mapping[str, Any]]) -> Block | None:
    """Return the means over tasks, one column per metric; None where no two tasks share a metric."""
    if not means:
        return None
    header, columns = ["model"], [[Entry(name) for name in names(rows)]]
    for metric, unit, tasks in dict.fromkeys((row["metric"], row["unit"], tuple(row["tasks"])) for row in means):
        known = {row["model"]: row for row in means if (row["metric"], row["unit"]) == (metric, unit)}
        header.append(f"{heading(metric, unit)}, mean of {len(tasks)} tasks")
        columns.append([_mean(known.get(name)) for name in names(rows)])
    return Block("means over tasks", header, [list(row) for row in zip(*columns, strict=True)])


def _mean(row: Mapping[str, Any] | None) -> Entry:
    if row is None:
        return Entry(ABSENT)
    text = value_with_interval(row["unit"], row["value"], row["low"], row["high"])
    return Entry(text, row["standing"] == "best", row["standing"] == "tied")


def _generation(rows: Rows) -> list[Block]:
    """Return one cost block per task with generated answers."""
    blocks = []
    for task, of_task in by_task(rows).items():
        if not any(row["stops"] for row in of_task):
            continue
        shown = _known_costs(of_task)
        header = ["model", *(_COSTS[name][0] for name in shown), "stop reasons", "verdicts"]
        body = [
            [
                Entry(row["model"]),
                *_cost(row, shown),
                Entry(row["stops"] or ABSENT),
                Entry(row["verdicts"] or ABSENT),
            ]
            for row in of_task
        ]
        blocks.append(Block(f"{task}: cost", header, body, frozenset({len(header) - 2, len(header) - 1})))
    return blocks


def _likelihood(rows: Rows) -> Block | None:
    """Return one cost block for all tasks that score texts."""
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
    return Block("texts: cost", header, [list(row) for row in zip(*columns, strict=True)], together=len(shown))


def _known_costs(rows: Rows) -> list[str]:
    """Return the cost columns to show; optional ones only where a model has a value."""
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
    header = ["model", "description", "parameters (M)", "vocabulary", "build time (s)"]
    return Block("models", header, body, frozenset({1}))
