"""Tables of contrasts: a data frame with a row per contrast, and a layout with a block per task."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crosstok.errors import UserError
from crosstok.results.compare.contrast import Contrast
from crosstok.results.compare.statistics import ODDS, POWER, Effect, Estimate
from crosstok.results.tables.number_format import amount, heading, value_with_interval, with_interval
from crosstok.results.tables.table import Block, Entry, Layout

if TYPE_CHECKING:
    import pandas as pd


MDE_NOTE = f"MDE: minimum detectable effect, the smallest true difference that is found with power {POWER}."


def contrast_frame(contrasts: Sequence[Contrast]) -> "pd.DataFrame":
    """Return one row per contrast.

    Columns: task, metric, unit, baseline, model, before, after, difference, low, high, p, n, detectable, method,
    effect, effect_low, effect_high, effect_is, outcome, incomplete and remark.
    """
    import pandas as pd

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
    """Return the layout of a table of contrasts, one block per task.

    Raises:
        UserError: there are no contrasts.

    """
    if not contrasts:
        raise UserError(
            "The models have no task in common to compare.", hint="Name two models that were measured on the same task."
        )
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
                    Entry(outcome_text(one)),
                ]
            )
        metric = heading(first.headline.name, first.headline.unit)
        header = ["model", metric, "difference", "effect", "p", "outcome"]
        blocks.append(Block(task, header, rows, frozenset({5})))
    tests = sorted({one.difference.method for one in contrasts if one.difference})
    notes = [f"p: {', '.join(tests)} on common documents, Holm-adjusted for all comparisons shown."] if tests else []
    if any("MDE" in outcome_text(one) for one in contrasts):
        notes.append(MDE_NOTE)
    notes += [f"effect: {what}." for what in sorted({one.effect.name for one in contrasts if one.effect})]
    notes += [f"{one.task}, {one.model.name}: {text}." for one in contrasts for text in _remarks(one)]
    return Layout(f"Comparison with {contrasts[0].baseline.name}", blocks, [], notes)


def _remarks(one: Contrast) -> list[str]:
    return [text for text in (one.incomplete, one.mismatch, one.remark) if text]


def outcome_text(one: Contrast) -> str:
    """Return the outcome with the number of documents and, if not significant, the minimum detectable effect."""
    if one.difference is None:
        return "not comparable" if one.mismatch else "not measured"
    details = f"n={one.difference.n}"
    if one.outcome == "not significant" and not math.isnan(one.difference.detectable):
        details = f"MDE {amount(one.headline.unit, one.difference.detectable)}, {details}"
    return f"{one.outcome} ({details})"


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
