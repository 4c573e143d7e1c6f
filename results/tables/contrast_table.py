"""Tables of contrasts: a data frame with a row per contrast, and a table for people with a block per task."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crosstok.errors import UserError
from crosstok.results.compare.contrast import Contrast
from crosstok.results.compare.statistics import ODDS, Effect, Estimate
from crosstok.results.tables.number_format import amount, value_with_interval, with_interval
from crosstok.results.tables.table import Block, Entry, Layout

if TYPE_CHECKING:
    import pandas as pd


def contrast_frame(contrasts: Sequence[Contrast]) -> "pd.DataFrame":
    """Return one row per contrast: task, metric, unit, baseline, model, before, after, difference, low, high, p, n,
    detectable, method, effect, effect_low, effect_high, effect_is, outcome, incomplete and remark.
    """  # noqa: D205  (the columns are one list)
    import pandas as pd  # noqa: PLC0415

    rows = []
    for one in contrasts:
        found = one.difference
        rows.append(
            {
                "task": one.task,
                "metric": one.headline.name,
                "unit": one.headline.unit,
                "baseline": one.baseline.name,
                "baseline_run": one.baseline.run.id,
                "model": one.model.name,
                "model_run": one.model.run.id,
                "before": one.before.value if one.before else None,
                "after": one.after.value if one.after else None,
                "difference": found.value if found else None,
                "low": found.low if found else None,
                "high": found.high if found else None,
                "p": found.p if found else None,
                "n": found.n if found else 0,
                "detectable": found.detectable if found else None,
                "method": found.method if found else "",
                "effect": one.effect.value if one.effect else None,
                "effect_low": one.effect.low if one.effect else None,
                "effect_high": one.effect.high if one.effect else None,
                "effect_is": one.effect.name if one.effect else "",
                "outcome": one.outcome,
                "incomplete": one.incomplete,
                "remark": one.remark,
            }
        )
    return pd.DataFrame(rows)


def contrast_layout(contrasts: Sequence[Contrast]) -> Layout:
    """Return the contrasts as a table for people, a block per task."""
    if not contrasts:
        raise UserError("There is nothing to compare.", hint="Name two models that were measured on the same task.")
    blocks = []
    for task in dict.fromkeys(one.task for one in contrasts):
        of_task = [one for one in contrasts if one.task == task]
        first = of_task[0]
        rows = [[Entry(first.baseline.name), Entry(_figure(first, first.before)), *(Entry("-") for _ in range(4))]]
        for one in of_task:
            found = one.difference
            rows.append(
                [
                    Entry(one.model.name),
                    Entry(_figure(one, one.after)),
                    Entry(with_interval(one.headline.unit, found) if found else "-"),
                    Entry(_effect(one.effect)),
                    Entry(f"{found.p:.2g}" if found else "-"),
                    Entry(told(one)),
                ]
            )
        unit = "%" if first.headline.is_fraction else first.headline.unit
        header = ["model", f"{first.headline.name}, {unit}", "difference", "effect", "p", "outcome"]
        blocks.append(Block(task, header, rows, frozenset({5})))
    tests = sorted({one.difference.method for one in contrasts if one.difference})
    notes = [f"p: {', '.join(tests)} on common documents, corrected for all comparisons shown (Holm)."] if tests else []
    notes += [f"effect: {what}." for what in sorted({one.effect.name for one in contrasts if one.effect})]
    notes += [f"{one.task}, {one.model.name}: {text}." for one in contrasts for text in _remarks(one)]
    return Layout(f"Against {contrasts[0].baseline.name}", blocks, [], notes)


def _remarks(one: Contrast) -> list[str]:
    return [text for text in (one.incomplete, one.mismatch, one.remark) if text]


def told(one: Contrast) -> str:
    """Return the outcome in words, with the documents it rests on and, where nothing was told, what would be missed."""
    if one.difference is None:
        return "not comparable" if one.mismatch else "not measured"
    if one.outcome == "not told apart" and one.difference.detectable == one.difference.detectable:
        return (
            f"{one.outcome} (misses below {amount(one.headline.unit, one.difference.detectable)}, n={one.difference.n})"
        )
    return f"{one.outcome} (n={one.difference.n})"


def _effect(effect: Effect | None) -> str:
    if effect is None or math.isnan(effect.value):
        return "-"
    form = "{:.2f}" if effect.name == ODDS else "{:+.1f} %"
    value, low, high = (form.format(x) for x in (effect.value, effect.low, effect.high))
    return f"{value} [{low}, {high}]"


def _figure(one: Contrast, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return value_with_interval(one.headline.unit, estimate.value, estimate.low, estimate.high)
