"""Tables of methods over seeds: a data frame with a row per method and task, and a layout with a block per task."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crosstok.results.compare.seeds import METHOD, MethodRow
from crosstok.results.compare.statistics import SIGNIFICANT
from crosstok.results.store.records import Run
from crosstok.results.tables.contrast_table import MDE_NOTE
from crosstok.results.tables.number_format import amount, difference_unit, heading, value_with_interval, with_interval
from crosstok.results.tables.table import Block, Entry, Layout

if TYPE_CHECKING:
    import pandas as pd


def method_frame(rows: Sequence[MethodRow]) -> "pd.DataFrame":
    """Return one row per method and task.

    Columns: method, task, metric, unit, seeds, value, low, high, spread (standard deviation over seeds), n,
    difference, difference_low, difference_high, p, standing and problems.
    """
    import pandas as pd  # `--help` imports this module

    return pd.DataFrame(
        {
            "method": row.method,
            "task": row.task,
            "metric": row.headline.name,
            "unit": row.headline.unit,
            "seeds": len(row.seeds),
            "value": row.estimate.value,
            "low": row.estimate.low,
            "high": row.estimate.high,
            "spread": float(np.std(row.by_seed, ddof=1)) if len(row.by_seed) > 1 else None,
            "n": row.estimate.n,
            "difference": row.difference.value if row.difference else None,
            "difference_low": row.difference.low if row.difference else None,
            "difference_high": row.difference.high if row.difference else None,
            "p": row.difference.p if row.difference else None,
            "standing": row.standing,
            "problems": row.problems,
        }
        for row in rows
    )


def method_layout(run: Run, rows: Sequence[MethodRow]) -> Layout:
    """Return the layout of a table of methods, one block per task."""
    blocks = []
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        body = [
            [
                Entry(row.method),
                Entry(_interval(row), best=row.standing == "best", tied=row.standing == "tied"),
                Entry(", ".join(amount(row.headline.unit, value) for value in row.by_seed)),
                Entry(with_interval(row.headline.unit, row.difference) if row.difference else "-"),
                Entry(f"{row.difference.p:.2g}" if row.difference else "-"),
                Entry(_outcome(row)),
            ]
            for row in of_task
        ]
        headline = of_task[0].headline
        metric = heading(headline.name, headline.unit)
        header = ["method", metric, "by seed", f"difference, {difference_unit(headline.unit)}", "p", "outcome"]
        blocks.append(Block(f"{task} (n={of_task[0].estimate.n})", header, body, frozenset({2, 5})))
    notes = [
        "Bold: best on its task; ≈: not significantly different from the best.",
        f"Intervals: 95 %, {METHOD}. Differences: from the first method, p Holm-adjusted over the table.",
    ]
    if any(row.difference and row.difference.p >= SIGNIFICANT for row in rows):
        notes.append(MDE_NOTE)
    notes += [f"{row.task}, {row.method}: {row.problems}." for row in rows if row.problems]
    return Layout(f"{run.id}: methods over seeds ({run.status})", blocks, [], notes)


def _interval(row: MethodRow) -> str:
    return value_with_interval(row.headline.unit, row.estimate.value, row.estimate.low, row.estimate.high)


def _outcome(row: MethodRow) -> str:
    found = row.difference
    if found is None:
        return "-"
    if found.p >= SIGNIFICANT:
        return f"not significant (MDE {amount(row.headline.unit, found.detectable)})"
    return "better" if (found.value > 0) == row.headline.higher_is_better else "worse"
