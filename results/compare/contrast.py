"""Models against a baseline, across runs: what changed, by how much, and what cannot be compared.

A model is named by its name in a run, or as ``RUN/MODEL``. Where two cells are not comparable (see
``crosstok.results.compare.comparability``) the reason is stated and no difference is computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crosstok.errors import UserError, unknown_name
from crosstok.results.compare import statistics
from crosstok.results.compare.comparability import Measurement, mismatch, mixed_versions
from crosstok.results.compare.comparison import SIGNIFICANT, Answers, Headline, answers_of, is_complete
from crosstok.results.compare.statistics import ODDS, Difference, Effect, Estimate
from crosstok.results.store.aggregates import DocumentScores, VerdictFacts
from crosstok.results.store.records import Cell, Run, Task
from crosstok.results.store.store import Store
from crosstok.results.tables.findings import amount, with_interval
from crosstok.results.tables.table import Block, Entry, Layout

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Side:
    """One model of one run with all that it was measured on."""

    name: str
    run: Run
    cells: dict[str, Cell]
    """By name of the task."""
    tasks: dict[str, Task]
    scores: dict[tuple[str, str], DocumentScores]
    verdicts: dict[str, list[VerdictFacts]]

    def answers(self, task: str, metric: str) -> Answers | None:
        """Return the scores on a task, None where there are none."""
        cell = self.cells.get(task)
        found = self.scores.get((cell.fingerprint, metric)) if cell else None
        return answers_of(found) if found else None

    def measurement(self, task: str) -> Measurement:
        """Return what decides whether its cell of a task may be compared."""
        cell = self.cells[task]
        return Measurement(self.tasks[task], cell, self.verdicts.get(cell.fingerprint, ()))

    def problem(self, task: str) -> str:
        """Return why the task is not completely measured, or nothing."""
        cell = self.cells.get(task)
        if cell is None:
            return f"{self.name}: not measured"
        if not is_complete(cell):
            return f"{self.name}: {cell.status}{f', {cell.error}' if cell.error else ''}"
        broken = sum(f.verdicts for f in self.verdicts.get(cell.fingerprint, ()) if f.status == "sandbox_error")
        return f"{self.name}: {broken} sandbox errors" if broken else ""


@dataclass(frozen=True)
class Contrast:
    """One model against the baseline on one task."""

    task: str
    headline: Headline
    baseline: Side
    model: Side
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None
    """Model minus baseline on common documents; p is corrected for all contrasts. None where not comparable."""
    effect: Effect | None
    """The same as a quotient: odds of gaining to losing a document for passes, change in percent otherwise."""
    mismatch: str
    """Why the two cannot be compared, or nothing."""
    incomplete: str
    """What is missing on either side, or nothing."""
    remark: str = ""
    """What differs and belongs to the models."""

    @property
    def outcome(self) -> str:
        """Return ``better``, ``worse``, ``not told apart`` or why there is no answer."""
        if self.difference is None:
            return f"not comparable: {self.mismatch}" if self.mismatch else self.incomplete
        if self.difference.p >= SIGNIFICANT:
            return "not told apart"
        return "better" if (self.difference.value > 0) == self.headline.higher_is_better else "worse"


def side(store: Store, reference: str, run: Run) -> Side:
    """Return the model that ``reference`` names: ``MODEL`` of ``run``, or ``RUN/MODEL``.

    Raises:
        UserError: there is no such run or model.

    """
    known = [entry.model for entry in store.cells(run.id)]
    name = reference
    if reference not in known and "/" in reference:
        other, _, name = reference.partition("/")
        run = store.run(other)
    found = sides(store, run)
    if name not in found:
        raise unknown_name(f"model of run {run.id}", name, found)
    return found[name]


def sides(store: Store, run: Run) -> dict[str, Side]:
    """Return all models of a run by name."""
    tasks, scores, verdicts = store.tasks(run.id), store.document_scores(run.id), store.verdict_facts(run.id)
    cells: dict[str, dict[str, Cell]] = {}
    for entry in store.cells(run.id):  # also of models that were planned and never made
        cells.setdefault(entry.model, {})[entry.task] = entry.cell
    return {name: Side(name, run, found, tasks, scores, verdicts) for name, found in cells.items()}


def best_of(known: Sequence[Side]) -> Side:
    """Return a side that stands on each task for the best of ``known`` that is completely measured there.

    Which one is best is decided by the headline metric alone, so the bar is as high as the luckiest of them; a task
    that none of them finished keeps the cell of the first one that has it, and with it what is wrong with that.
    """
    chosen: dict[str, Side] = {}
    for task in dict.fromkeys(task for one in known for task in one.cells):
        here = [one for one in known if task in one.cells]
        headline = Headline.of(here[0].tasks[task])
        scored = {
            place: found.value.sum() / found.weight.sum()
            for place, one in enumerate(here)
            if not one.problem(task) and (found := one.answers(task, headline.name)) and found.weight.sum()
        }
        sign = 1 if headline.higher_is_better else -1
        chosen[task] = here[max(scored, key=lambda place: sign * scored[place], default=0)]
    used = [one for one in known if any(one is other for other in chosen.values())]
    return Side(
        name=", ".join(one.name for one in used),
        run=used[-1].run,
        cells={task: one.cells[task] for task, one in chosen.items()},
        tasks={task: one.tasks[task] for task, one in chosen.items()},
        scores={place: scores for one in used for place, scores in one.scores.items()},
        verdicts={cell: facts for one in used for cell, facts in one.verdicts.items()},
    )


def contrast(pairs: Sequence[tuple[Side, Side]], metrics: dict[str, str] | None = None) -> list[Contrast]:
    """Return every (baseline, model) pair on every task that either was measured on, p values corrected together.

    ``metrics`` names another metric than the headline, by task.
    """
    found = [
        _on_task(baseline, model, task, (metrics or {}).get(task))
        for baseline, model in pairs
        for task in dict.fromkeys([*baseline.cells, *model.cells])
    ]
    tested = [place for place, one in enumerate(found) if one.difference]
    corrected = statistics.holm([one.difference.p for one in found if one.difference]).tolist()
    for place, p in zip(tested, corrected, strict=True):
        difference = found[place].difference
        if difference:
            found[place] = replace(found[place], difference=replace(difference, p=p))
    return found


def _on_task(baseline: Side, model: Side, task: str, metric: str | None) -> Contrast:
    headline = Headline.of((baseline if task in baseline.cells else model).tasks[task], metric)
    first, second = baseline.answers(task, headline.name), model.answers(task, headline.name)
    incomplete = "; ".join(problem for problem in (baseline.problem(task), model.problem(task)) if problem)
    reasons, remark = "", ""
    if task in baseline.cells and task in model.cells:
        reasons, remark = mismatch(baseline.measurement(task), model.measurement(task))
        remark = "; ".join(text for text in (remark, mixed_versions(baseline.run, model.run)) if text)
    difference = first.difference(second) if first and second and not reasons else None
    compared = difference if difference and difference.n else None
    return Contrast(
        task=task,
        headline=headline,
        baseline=baseline,
        model=model,
        before=first.estimate(headline) if first else None,
        after=second.estimate(headline) if second else None,
        difference=compared,
        effect=first.effect(second) if first and second and compared else None,
        mismatch=reasons,
        incomplete=incomplete,
        remark=remark,
    )


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
                    Entry(with_interval(one.headline, found) if found else "-"),
                    Entry(_effect(one.effect)),
                    Entry(f"{found.p:.2g}" if found else "-"),
                    Entry(told(one)),
                ]
            )
        unit = "%" if first.headline.unit == "fraction" else first.headline.unit
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
        return f"{one.outcome} (misses below {amount(one.headline, one.difference.detectable)}, n={one.difference.n})"
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
    figures = [amount(one.headline, value) for value in (estimate.value, estimate.low, estimate.high)]
    return f"{figures[0]} [{figures[1]}, {figures[2]}]"
