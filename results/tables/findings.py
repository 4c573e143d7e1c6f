"""Sentences under a run's table: significant differences, what could not be detected, and footnotes."""

import math
from collections.abc import Iterator, Mapping

from crosstok.results.compare.comparison import ALL_PAIRS, Comparison, TaskComparison, unmeasured_models
from crosstok.results.compare.statistics import POWER, SIGNIFICANT, Difference
from crosstok.results.store.records import Cell, Progress
from crosstok.results.tables.number_format import amount, difference_unit, value_with_interval, with_interval

_NAMED = 5  # excluded documents listed in a note


def findings(comparison: Comparison) -> list[str]:
    """Return one sentence group per task that at least two models were measured on, and how significance was tested."""
    lines = [" ".join([f"{task.task.name}:", *_sentences(task)]) for task in comparison.tasks if task.differences]
    lines.extend(line for task in comparison.tasks for line in _of_oracles(task))
    if comparison.comparisons > 1:
        methods = sorted({d.method for task in comparison.tasks for d in task.differences.values()})
        lines.append(
            f"Significance: p < {SIGNIFICANT} ({', '.join(methods)}) on the documents that both models answered, "
            f"Holm-adjusted for the {comparison.comparisons} comparisons in this table."
        )
    return lines


def _sentences(task: TaskComparison) -> list[str]:
    measured = list(task.estimates)
    baseline = measured[0]
    unit = task.headline.unit
    significant: dict[str, Difference] = {}
    insignificant: dict[str, Difference] = {}
    for name in measured[1:]:
        difference = task.between(baseline, name)
        if difference:
            (significant if difference.p < SIGNIFICANT else insignificant)[name] = difference
    sentences = []
    for better in (True, False):
        found = {
            name: d for name, d in significant.items() if ((d.value > 0) == task.headline.higher_is_better) == better
        }
        if found:
            listed = ", ".join(f"{name} {with_interval(unit, d)}" for name, d in found.items())
            sentences.append(f"{'Better' if better else 'Worse'} than {baseline} ({difference_unit(unit)}): {listed}.")
    if insignificant:
        names = ", ".join(insignificant)
        adjusted = f"(Holm-adjusted p >= {SIGNIFICANT})"
        sentences.append(f"Not significantly different from {baseline} {adjusted}: {names}.")
        sentences.append(_undetectable(task, insignificant))
    others = [pair for pair in task.differences if baseline not in pair]
    tied = [pair for pair in others if task.differences[pair].p >= SIGNIFICANT]
    if tied and len(tied) == len(others):
        sentences.append("No significant differences among the others.")
    elif tied:
        sentences.append(f"Not significantly different from each other: {', '.join(f'{a}/{b}' for a, b in tied)}.")
    elif others and len(measured) <= ALL_PAIRS:
        sentences.append("All others differ significantly from each other.")
    return sentences


def _of_oracles(task: TaskComparison) -> Iterator[str]:
    """Yield a line per set of ensemble members: the score of the best member chosen for each document."""
    by_members: dict[tuple[str, ...], list[str]] = {}
    for name, oracle in task.oracles.items():
        by_members.setdefault(oracle.members, []).append(name)
    unit = task.headline.unit
    for members, ensembles in by_members.items():
        found = task.oracles[ensembles[0]].estimate
        value = value_with_interval(unit, found.value, found.low, found.high)
        scores = ", ".join(f"{name} {amount(unit, task.estimates[name].value)}" for name in (*members, *ensembles))
        yield (
            f"{task.task.name}: oracle over {_listed(list(members))} (best member of each document): {value}, "
            f"n = {found.n}; members and ensemble: {scores}."
        )


def _undetectable(task: TaskComparison, differences: dict[str, Difference]) -> str:
    """Return the sentence on which differences the number of documents is too small to detect."""
    limits = [d.detectable for d in differences.values()]
    sizes = sorted({d.n for d in differences.values()})
    size = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"
    if any(math.isnan(limit) for limit in limits):
        return f"No difference is detectable at {size}."
    unit = task.headline.unit
    limit = " to ".join(dict.fromkeys(amount(unit, limit) for limit in (min(limits), max(limits))))
    return f"Minimum detectable difference at {size}: {limit} {difference_unit(unit)} (power {POWER})."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def footnotes(comparison: Comparison) -> dict[tuple[str, str], list[str]]:
    """Return remarks on single entries of the table, by (model, task)."""
    notes: dict[tuple[str, str], list[str]] = {}
    for task in comparison.tasks:
        first = next(iter(task.cells), "")
        for model, cell in task.cells.items():
            found = _of_cell(task, model, cell)
            if model in task.mismatches:
                found.append(f"not comparable with {first}: {task.mismatches[model]}")
            if model in task.remarks:
                found.append(f"measured differently from {first}: {task.remarks[model]}")
            weak = sum(f.verdicts for f in comparison.verdicts.get(cell.fingerprint, ()) if f.integrity != "split")
            if weak:
                found.append(f"{weak} verdicts on programs that shared a process with their tests")
            if found:
                notes[model, task.task.name] = found
    return notes


def _of_cell(task: TaskComparison, model: str, cell: Cell) -> list[str]:
    if cell.status is Progress.COMPLETE:
        return []
    estimate = task.estimates.get(model)
    share = f"{estimate.n if estimate else 0} of {task.task.documents} documents"
    return [f"{cell.status}: {share}{f', {cell.error}' if cell.error else ''}"]


def _unasked(comparison: Comparison) -> list[str]:
    """Return the ensembles over a union of top-k tokens that were not measured on some task."""
    models = comparison.run.config.get("models")
    entries = models if isinstance(models, Mapping) else {}
    found = []
    for name in {name: None for task in comparison.tasks for name in task.cells}:
        entry = entries.get(comparison.names[name].model)
        ensemble = entry.get("ensemble") if isinstance(entry, Mapping) else None
        union = isinstance(ensemble, Mapping) and ensemble.get("tokens") == "union"
        if union and any(name not in task.cells for task in comparison.tasks):
            found.append(name)
    return found


def general_notes(comparison: Comparison) -> list[str]:
    """Return notes on the run and its tasks."""
    notes = ["Bold: best in its column; ≈: not significantly different from the best. Intervals have 95 % confidence."]
    run = comparison.run
    if run.status is not Progress.COMPLETE:
        notes.append(f"The run is {run.status}; missing results are marked. `crosstok run` continues it.")
    missing = unmeasured_models(run, [comparison.names[name] for task in comparison.tasks for name in task.cells])
    if missing:
        notes.append(f"Not measured: {_listed(missing)}.")
    if unasked := _unasked(comparison):
        notes.append(
            f"Not measured on likelihood tasks: {_listed(unasked)}; a union of top-k tokens assigns no probability to "
            "other tokens."
        )
    for task in comparison.tasks:
        if remark := task.task.source.get("remark"):
            notes.append(f"{task.task.name}: {remark}.")
        if excluded := sorted({name for cell in task.cells.values() for name in cell.settings.get("excluded", ())}):
            named = ", ".join(excluded[:_NAMED]) + (", …" if len(excluded) > _NAMED else "")
            notes.append(
                f"{task.task.name}: {len(excluded)} of {task.task.documents} documents are excluded because their "
                f"published solutions fail on this machine: {named}."
            )
        whole = task.task.available
        if whole is not None and whole > task.task.documents:
            notes.append(f"{task.task.name} is a subset: {task.task.documents} of its {whole} documents.")
    return notes
