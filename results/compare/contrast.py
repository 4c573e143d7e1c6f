"""Contrasts: models against a baseline, within a run or across runs, with paired tests.

A model is referenced by its name in a run, or as ``RUN/MODEL``. Cells that are not comparable (see
``crosstok.results.compare.comparability``) have a reason instead of a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from crosstok.errors import unknown_name
from crosstok.results.compare import statistics
from crosstok.results.compare.answers import Answers, Headline, answers_of
from crosstok.results.compare.comparability import Measurement, mismatch, mixed_versions
from crosstok.results.compare.comparison import is_complete
from crosstok.results.compare.statistics import SIGNIFICANT, Difference, Effect, Estimate
from crosstok.results.store.aggregates import DocumentScores, VerdictFacts
from crosstok.results.store.records import Cell, Run, Task
from crosstok.results.store.store import Store


@dataclass(frozen=True)
class Side:
    """A model of a run with its cells, scores and verdicts on all tasks."""

    name: str
    """As shown in tables."""
    model: str
    """Name in the suite."""
    seed: int | None
    """Seed that it was made with; None if the suite makes it only once."""
    run: Run
    cells: dict[str, Cell]
    """Cells by name of the task."""
    tasks: dict[str, Task]
    scores: dict[tuple[str, str], DocumentScores]
    verdicts: dict[str, list[VerdictFacts]]

    def answers(self, task: str, metric: str) -> Answers | None:
        """Return the scores on a task, or None if there are none."""
        cell = self.cells.get(task)
        found = self.scores.get((cell.fingerprint, metric)) if cell else None
        return answers_of(found) if found else None

    def measurement(self, task: str) -> Measurement:
        """Return what determines whether its cell of a task is comparable."""
        cell = self.cells[task]
        return Measurement(self.tasks[task], cell, self.verdicts.get(cell.fingerprint, ()))

    def problem(self, task: str) -> str:
        """Return why the task is not completely measured, or an empty string."""
        cell = self.cells.get(task)
        if cell is None:
            return f"{self.name}: not measured"
        if not is_complete(cell):
            return f"{self.name}: {cell.status}{f', {cell.error}' if cell.error else ''}"
        broken = sum(f.verdicts for f in self.verdicts.get(cell.fingerprint, ()) if f.status == "sandbox_error")
        return f"{self.name}: {broken} sandbox errors" if broken else ""


@dataclass(frozen=True)
class Contrast:
    """A model against the baseline on a task."""

    task: str
    headline: Headline
    baseline: Side
    model: Side
    before: Estimate | None
    after: Estimate | None
    difference: Difference | None
    """Model minus baseline on common documents; p is Holm-adjusted for all contrasts. None if not comparable."""
    effect: Effect | None
    """Effect size: odds ratio of gained to lost documents for pass/fail metrics, relative change otherwise."""
    mismatch: str
    """Why the two are not comparable, or empty."""
    incomplete: str
    """What is missing on either side, or empty."""
    remark: str = ""
    """Harmless differences in how the two were measured."""

    @property
    def outcome(self) -> str:
        """``better``, ``worse``, ``not significant``, or the reason why there is no difference."""
        if self.difference is None:
            return f"not comparable: {self.mismatch}" if self.mismatch else self.incomplete
        if self.difference.p >= SIGNIFICANT:
            return "not significant"
        return "better" if (self.difference.value > 0) == self.headline.higher_is_better else "worse"


def side(store: Store, reference: str, run: Run) -> Side:
    """Return the model with this reference: ``MODEL`` of ``run``, or ``RUN/MODEL``.

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
    for entry in store.cells(run.id):  # includes models that were planned and never made
        cells.setdefault(entry.model, {})[entry.task] = entry.cell
    names = store.model_names(run.id)
    return {
        name: Side(name, names[name].model, names[name].seed, run, found, tasks, scores, verdicts)
        for name, found in cells.items()
    }


def best_of(known: Sequence[Side]) -> Side:
    """Return a side that has, on each task, the cell of the best of ``known`` that is complete there.

    The best is chosen by the headline metric alone, which makes the baseline optimistic. A task that none of them
    completed keeps the cell of the first one that has it, with its problem.
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
        model=used[-1].model,
        seed=used[-1].seed,
        run=used[-1].run,
        cells={task: one.cells[task] for task, one in chosen.items()},
        tasks={task: one.tasks[task] for task, one in chosen.items()},
        scores={place: scores for one in used for place, scores in one.scores.items()},
        verdicts={cell: facts for one in used for cell, facts in one.verdicts.items()},
    )


def contrast(pairs: Sequence[tuple[Side, Side]], metrics: dict[str, str] | None = None) -> list[Contrast]:
    """Return the contrast of every (baseline, model) pair on every task of either, p values Holm-adjusted together.

    ``metrics`` selects a metric other than the headline metric, by task.
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
