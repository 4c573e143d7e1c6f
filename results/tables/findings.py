"""What a comparison can and cannot tell apart, in plain sentences, and the footnotes of its table."""

from collections.abc import Iterator, Mapping

from crosstok.results.compare.comparison import ALL_PAIRS, Comparison, TaskComparison, unmeasured_models
from crosstok.results.compare.statistics import SIGNIFICANT, Difference
from crosstok.results.store.records import Cell, Progress
from crosstok.results.tables.number_format import amount, difference_unit, value_with_interval, with_interval

_NAMED = 5  # documents listed in a note


def findings(comparison: Comparison) -> list[str]:
    """Return what can be said of every task that at least two models were measured on, a line each."""
    lines = [" ".join([f"{task.task.name}:", *_sentences(task)]) for task in comparison.tasks if task.differences]
    lines.extend(line for task in comparison.tasks for line in _of_oracles(task))
    if comparison.comparisons > 1:
        methods = sorted({d.method for task in comparison.tasks for d in task.differences.values()})
        lines.append(
            f"Told apart means p < {SIGNIFICANT} on the documents that both models answered ({', '.join(methods)}), "
            f"corrected for the {comparison.comparisons} comparisons of this table (Holm)."
        )
    return lines


def _sentences(task: TaskComparison) -> list[str]:
    measured = list(task.estimates)
    baseline = measured[0]
    told: dict[str, Difference] = {}
    untold: dict[str, Difference] = {}
    for name in measured[1:]:
        difference = task.between(baseline, name)
        if difference:
            (told if difference.p < SIGNIFICANT else untold)[name] = difference
    sentences = []
    for better in (True, False):
        found = {name: d for name, d in told.items() if ((d.value > 0) == task.headline.higher_is_better) == better}
        if found:
            listed = ", ".join(f"{name} {with_interval(task.headline.unit, d)}" for name, d in found.items())
            sentences.append(
                f"{'Better' if better else 'Worse'} than {baseline} ({difference_unit(task.headline.unit)}): {listed}."
            )
    if untold:
        names = _listed(list(untold))
        sentences.append(f"Not told from {baseline}: {names}; {_blindness(task, untold)}.")
    others = [
        pair for pair, difference in task.differences.items() if baseline not in pair and difference.p >= SIGNIFICANT
    ]
    among_others = [pair for pair in task.differences if baseline not in pair]
    if others and len(others) == len(among_others):
        sentences.append("None of the others is told from another.")
    elif others:
        sentences.append(f"Not told from each other: {', '.join(f'{a}/{b}' for a, b in others)}.")
    elif among_others and len(measured) <= ALL_PAIRS:
        sentences.append("All others are told from each other.")
    return sentences


def _of_oracles(task: TaskComparison) -> Iterator[str]:
    """Yield a line per set of members: what they reach if the best of them could be chosen for every document."""
    by_members: dict[tuple[str, ...], list[str]] = {}
    for name, oracle in task.oracles.items():
        by_members.setdefault(oracle.members, []).append(name)
    for members, ensembles in by_members.items():
        found = task.oracles[ensembles[0]].estimate
        value = value_with_interval(task.headline.unit, found.value, found.low, found.high)
        beside = ", ".join(
            f"{name} {amount(task.headline.unit, task.estimates[name].value)}" for name in (*members, *ensembles)
        )
        yield (
            f"{task.task.name}: oracle-any of {_listed(list(members))} {value} (n = {found.n}), each "
            f"document by the member that did best on it; alone and together: {beside}."
        )


def _blindness(task: TaskComparison, differences: dict[str, Difference]) -> str:
    limits = [d.detectable for d in differences.values()]
    sizes = sorted({d.n for d in differences.values()})
    size = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}"
    if any(limit != limit for limit in limits):  # noqa: PLR0124  (NaN: no difference is large enough)
        return f"{size} is too few to show any difference"
    seen = " to ".join(dict.fromkeys(amount(task.headline.unit, limit) for limit in (min(limits), max(limits))))
    return f"a true difference below {seen} {difference_unit(task.headline.unit)} is likely to be missed at {size}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def footnotes(comparison: Comparison) -> dict[tuple[str, str], list[str]]:
    """Return what a reader must know of single entries of the table, by (model, task)."""
    notes: dict[tuple[str, str], list[str]] = {}
    for task in comparison.tasks:
        first = next(iter(task.cells), "")
        for model, cell in task.cells.items():
            found = _of_cell(task, model, cell)
            if model in task.mismatches:
                found.append(f"not comparable with {first}: {task.mismatches[model]}")
            if model in task.remarks:
                found.append(f"unlike {first}: {task.remarks[model]}")
            weak = sum(f.verdicts for f in comparison.verdicts.get(cell.fingerprint, ()) if f.integrity != "split")
            if weak:
                found.append(f"{weak} verdicts of programs that shared a process with their tests")
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
    """Return the models over a union of top-k tokens that have no cell of some task."""
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
    """Return what a reader must know of the run and its tasks."""
    notes = ["Bold: best of its column; ≈: not told from the best. Intervals are 95 %."]
    run = comparison.run
    if run.status is not Progress.COMPLETE:
        notes.append(f"The run is {run.status}: what is missing is marked; `crosstok run` continues it.")
    missing = unmeasured_models(run, [comparison.names[name] for task in comparison.tasks for name in task.cells])
    if missing:
        notes.append(f"Not measured at all: {_listed(missing)}.")
    if unasked := _unasked(comparison):
        notes.append(
            f"Not asked for likelihoods: {_listed(unasked)}, as a union of top-k tokens gives no probability to "
            "any other."
        )
    for task in comparison.tasks:
        if remark := task.task.source.get("remark"):
            notes.append(f"{task.task.name}: {remark}.")
        if excluded := sorted({name for cell in task.cells.values() for name in cell.settings.get("excluded", ())}):
            named = ", ".join(excluded[:_NAMED]) + (", …" if len(excluded) > _NAMED else "")
            notes.append(
                f"{task.task.name}: {len(excluded)} of {task.task.documents} documents were not asked, because their "
                f"published solutions fail on this machine: {named}."
            )
        whole = task.task.available
        if whole is not None and whole > task.task.documents:
            notes.append(f"{task.task.name} is a subset: {task.task.documents} of its {whole} documents.")
    return notes
