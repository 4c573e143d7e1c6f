"""Dry run of a suite: what a run would make and measure, what is there already, and an estimate of the time.

Nothing is made or written, and no weights are loaded. What a run checks before its first model is checked here too:
suite, sources, data and sandbox.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from crosstok import sandbox
from crosstok.harness.jobs.estimates import PER_REFERENCE, seconds_to_make, seconds_to_measure
from crosstok.harness.jobs.students import Students
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.planned import Plan, PlannedCell
from crosstok.harness.plan.references import known_references
from crosstok.harness.plan.suite import Suite
from crosstok.progress import Reporter
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store

_RUNS_READ = 20  # the newest runs of a store, from which the speed of a task is taken


@dataclass(frozen=True, slots=True)
class ModelForecast:
    """What a run would do about one model."""

    name: str
    label: str
    """Its source, or how it is made."""
    state: Literal["source", "served", "ready", "to make", "not needed"]
    """A source to load, a model behind a server, a student or an ensemble in the cache, one to make, or one that is not
    in the cache but whose cells are complete."""
    seconds: float
    """Estimate for making it, 0 where nothing is to be made."""


@dataclass(frozen=True, slots=True)
class CellForecast:
    """What a run would do about one model on one task."""

    model: str
    task: str
    documents: int
    stored: int
    """Documents whose answers are in the store."""
    state: Literal["complete", "partial", "to measure"]
    seconds: float
    """Estimate for what is left."""
    timed: bool
    """Whether the estimate comes from earlier cells of the same task in the store; otherwise it is an initial guess."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run of a suite would do."""

    run_id: str
    """Empty where it is not known yet: published solutions that are still to be run decide which documents count."""
    models: tuple[ModelForecast, ...]
    cells: tuple[CellForecast, ...]
    references: dict[str, int]
    """Number of published solutions to run first, by task."""
    seconds: float
    """Estimate for the whole run."""

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def forecast(suite: Suite, store: Store | None = None, *, data: Path | None = None) -> Forecast:
    """Return what a run of ``suite`` into ``store`` would do; ``None`` stands for an empty store.

    Raises:
        UserError: whatever ends a run before its first model: unknown names, missing data or sources, no sandbox.

    """
    plan, unchecked = _with_known_references(make_plan(suite, data=data))
    students = Students(plan, Reporter(), data, "cpu")
    speeds = _speeds(store) if store else {}
    cells = tuple(_cell(cell, store, speeds.get(cell.task.fingerprint())) for cell in plan.cells)
    left = [cell for cell, found in zip(plan.cells, cells, strict=True) if found.state != "complete"]
    needed = students.to_make(left)
    models = tuple(_model(students, name, needed) for name in plan.models)
    seconds = sum(model.seconds for model in models) + sum(cell.seconds for cell in cells)
    seconds += PER_REFERENCE * sum(unchecked.values())
    return Forecast("" if unchecked else plan.run_id, models, cells, unchecked, seconds)


def _with_known_references(plan: Plan) -> tuple[Plan, dict[str, int]]:
    """Return the plan with what is known of published solutions here, and how many are still to be run, by task."""
    if not plan.code_tasks:
        return plan, {}
    spec = plan.suite.sandbox
    tier = sandbox.open_pool(spec.backend, workers=spec.workers, unsafe=spec.unsafe).tier
    found = {task.name: known_references(task, tier) for task in plan.code_tasks}
    unchecked = {task.name: len(task.documents()) for task in plan.code_tasks if found[task.name] is None}
    return plan.with_references({name: known for name, known in found.items() if known is not None}), unchecked


def _model(students: Students, name: str, needed: Sequence[str]) -> ModelForecast:
    model = students.plan.models[name]
    if model.served is not None:
        return ModelForecast(name, model.label, "served", 0.0)
    if model.spec.source is not None:
        return ModelForecast(name, model.label, "source", 0.0)
    if name in needed:
        return ModelForecast(name, model.label, "to make", seconds_to_make(model))
    return ModelForecast(name, model.label, "ready" if students.ready(name) else "not needed", 0.0)


def _cell(cell: PlannedCell, store: Store | None, speed: float | None) -> CellForecast:
    known = store.cell(cell.fingerprint) if store else None
    size = len(cell.documents)
    if known is not None and known.status is Progress.COMPLETE:
        return CellForecast(cell.model.name, cell.task.name, size, size, "complete", 0.0, timed=True)
    stored = len(store.done_documents(cell.fingerprint)) if store and known else 0
    whole = seconds_to_measure(cell) if speed is None else speed * size
    left = whole * (1 - min(stored / size, 1.0)) if size else 0.0
    state: Literal["partial", "to measure"] = "partial" if stored else "to measure"
    return CellForecast(cell.model.name, cell.task.name, size, stored, state, left, timed=speed is not None)


def _speeds(store: Store) -> dict[str, float]:
    """Return the seconds per document of complete cells, by the fingerprint of their task: the median over models."""
    found: dict[str, list[float]] = {}
    for run in store.runs()[:_RUNS_READ]:
        sizes = {task.fingerprint: task.documents for task in store.tasks(run.id).values()}
        for cell in (entry.cell for entry in store.cells(run.id)):
            if cell.status is Progress.COMPLETE and cell.seconds and sizes.get(cell.task):
                found.setdefault(cell.task, []).append(cell.seconds / sizes[cell.task])
    return {task: median(values) for task, values in found.items()}


def _lines(found: Forecast) -> Iterator[str]:
    yield from _table(
        ("model", "how it is made", "state", "time"),
        [(one.name, one.label, one.state, _duration(one.seconds)) for one in found.models],
    )
    yield ""
    yield from _table(
        ("model", "task", "documents", "stored", "state", "time"),
        [
            (one.model, one.task, str(one.documents), str(one.stored), one.state, _duration(one.seconds))
            for one in found.cells
        ],
        right=(2, 3),
    )
    yield ""
    if found.references:
        named = ", ".join(f"{task} ({count})" for task, count in found.references.items())
        yield f"Published solutions to run in the sandbox first, once on this machine: {named}."
    timed = all(cell.timed for cell in found.cells)
    basis = "from earlier cells of the store" if timed else "an initial guess"
    make = sum(model.state == "to make" for model in found.models)
    measure = sum(cell.state != "complete" for cell in found.cells)
    yield (
        f"Run {found.run_id}".rstrip() + f": {make} of {len(found.models)} models to make, {measure} of "
        f"{len(found.cells)} cells to measure; estimated time {_duration(found.seconds)} ({basis})."
    )
    yield "Dry run: nothing was made or measured."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Iterator[str]:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _duration(seconds: float) -> str:
    """Return a duration to one or two figures; a dash for nothing."""
    if seconds < 1:
        return "-" if seconds <= 0 else "1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} d"
