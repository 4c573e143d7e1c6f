"""Rescoring: judgement of the stored answers of a run, without a model.

Generation is expensive and judgement is cheap. After a corrected rule, with another time limit or sandbox, or on a
repaired machine, the stored answers can be judged again. The run is planned from its suite in the store, with the
stored identities of its models, so neither weights nor servers are needed.

If nothing that decides a number has changed, a cell stays the same and its verdicts are replaced. Otherwise (a task's
version, a limit, what this host can judge) there is a new cell. It takes over the answers to exactly its own requests
(equal ``asked`` hashes), and the old cell stays as it is. A cell with requests that have no such answer is partial;
``crosstok run`` generates the missing answers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosstok.errors import UserError, unknown_name
from crosstok.harness.jobs.like_run import suite_of
from crosstok.harness.jobs.records import cell_record, run_record, task_record
from crosstok.harness.jobs.run import judged_here
from crosstok.harness.measure.judging import Judge, judging_of, open_judge
from crosstok.harness.measure.pending_requests import (
    ASKED,
    PendingRequest,
    asked_of,
    cell_requests,
    pending_requests,
)
from crosstok.harness.measure.samples import excluded_samples
from crosstok.harness.measure.scoring import add_pass_at_k
from crosstok.harness.plan.answerable import needs_likelihood
from crosstok.harness.plan.contamination import only_unseen, texts_of
from crosstok.harness.plan.plan import SERVED_DTYPE, plan_cells
from crosstok.harness.plan.planned import Plan, PlannedCell, PlannedModel
from crosstok.harness.plan.suite import Suite
from crosstok.progress import Advance, ProgressCallback, Reporter
from crosstok.results.store.records import Cell, Progress, Run
from crosstok.results.store.store import Store
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import Task

SECONDS_PER_VERDICT = 0.1


@dataclass
class Rescored:
    """Result of rescoring one cell."""

    model: str
    task: str
    status: Progress
    judged: int = 0
    """Number of answers judged."""
    missing: int = 0
    """Number of requests without a stored answer."""
    changed: dict[str, str] = field(default_factory=dict)
    """Answers whose judgement changed, by name: the old and the new one."""
    why: str = ""
    """Reason why a cell was not rescored, or is partial."""


@dataclass(frozen=True)
class Outcome:
    """Result of rescoring a run."""

    run_id: str
    status: Progress
    cells: list[Rescored]


def rescore(
    store: Store,
    run_id: str | None,
    *,
    progress: ProgressCallback | None = None,
    tasks: Sequence[str] = (),
    timeout: float | None = None,
    backend: str | None = None,
    workers: int | None = None,
    data: Path | None = None,
) -> Outcome:
    """Rescore a run (``None``: the last one), or only its ``tasks`` if some are named.

    ``timeout`` (CPU seconds of each program), ``backend`` and ``workers`` replace the sandbox settings of the suite.

    Raises:
        UserError: The run or a task is unknown, data is missing, or no reference solution of a benchmark passes here.

    """
    run = store.run(run_id)
    suite = _with_sandbox(suite_of(run), timeout, backend, workers)
    for name in tasks:
        if name not in {spec.name for spec in suite.tasks}:
            raise unknown_name(f"task of run {run.id}", name, [spec.name for spec in suite.tasks])
    with ExitStack() as opened:
        reporter = opened.enter_context(Reporter(progress))
        plan = _plan_like(store, run, suite, data)
        judge = None
        if plan.code_tasks:
            spec = suite.sandbox
            judge = opened.enter_context(open_judge(spec.backend, workers=spec.workers, unsafe=spec.unsafe))
            plan = judged_here(plan, judge, reporter)
        return _Rescorer(store, run, plan, judge, reporter).rescore(set(tasks))


def _with_sandbox(suite: Suite, timeout: float | None, backend: str | None, workers: int | None) -> Suite:
    asked = {"timeout": timeout, "backend": backend, "workers": workers}
    changed = {name: value for name, value in asked.items() if value is not None}
    sandbox = type(suite.sandbox).model_validate({**suite.sandbox.model_dump(), **changed})
    return suite.model_copy(update={"sandbox": sandbox})


def _plan_like(store: Store, run: Run, suite: Suite, data: Path | None) -> Plan:
    """Return the plan of ``suite`` with the stored models of ``run``."""
    tasks = [build_task(spec.kind, spec.options, name=spec.name, data=data) for spec in suite.tasks]
    stored = {found.model: found.cell for found in store.cells(run.id)}
    names = store.model_names(run.id)
    records = store.models(run.id)
    models = {}
    for name, cell in stored.items():
        spec = suite.models.get(names[name].model)
        if spec is None:
            raise UserError(
                f"The model {name!r} of run {run.id} is not in the suite of that run.",
                hint="Check the store with `crosstok store check`.",
            )
        models[name] = PlannedModel(
            model_name=names[name],
            spec=spec,
            parents=(),
            options_of_parents=(),
            recipe=None,
            seed=cell.seed,
            style=spec.prompt or suite.prompt,
            fingerprint=cell.model,
            dtype=SERVED_DTYPE if cell.settings.get("dtype") == SERVED_DTYPE else "",
        )
    texts = {text for record in records.values() for text in texts_of(record.provenance)}
    return plan_cells(suite, models, only_unseen(tasks, sorted(texts)))


class _Rescorer:
    def __init__(self, store: Store, run: Run, plan: Plan, judge: Judge | None, reporter: Reporter) -> None:
        self._store = store
        self._plan = plan
        self._judge = judge
        self._reporter = reporter
        self._before = {(found.model, found.task): found.cell for found in store.cells(run.id)}

    def rescore(self, only: set[str]) -> Outcome:
        """Rescore every cell of the plan, or only those of the tasks ``only``."""
        plan, store = self._plan, self._store
        store.begin_run(run_record(plan))
        for task in plan.tasks:
            store.put_task(task_record(task))
        status = Progress.FAILED
        try:
            sizes = {cell.fingerprint: self._expected_s(cell, only) for cell in plan.cells}
            self._reporter.expect(sum(sizes.values()))
            found = [self._cell(cell, only, sizes[cell.fingerprint]) for cell in plan.cells]
            complete = all(one.status is Progress.COMPLETE for one in found)
            status = Progress.COMPLETE if complete else Progress.PARTIAL
        except KeyboardInterrupt:
            status = Progress.PARTIAL
            raise
        finally:
            store.end_run(plan.run_id, status)
        return Outcome(plan.run_id, status, found)

    def _expected_s(self, cell: PlannedCell, only: set[str]) -> float:
        return SECONDS_PER_VERDICT * len(cell.documents) if _why_not(cell.task, only) == "" else 0.0

    def _cell(self, cell: PlannedCell, only: set[str], expected_s: float) -> Rescored:
        store = self._store
        before = self._before.get((cell.model.name, cell.task.name))
        stored = store.begin_cell(cell_record(cell), self._plan.run_id, *cell.model.model_name)
        why = _why_not(cell.task, only)
        if why:
            if stored.status is not Progress.COMPLETE:
                store.end_cell(cell.fingerprint, Progress.PARTIAL, error=f"not rescored: {why}")
                return Rescored(cell.model.name, cell.task.name, Progress.PARTIAL, why=why)
            return Rescored(cell.model.name, cell.task.name, Progress.COMPLETE, why=why)
        old = store.cell(before.fingerprint) if before else None
        earlier = _judgements(store, old) if old else {}
        if old is not None and old.fingerprint != cell.fingerprint:
            self._take_over(cell, old)
        title = f"{cell.model.name} on {cell.task.name}"
        status, problem = Progress.PARTIAL, "interrupted"
        try:
            with self._reporter.stage(title, len(cell.documents), expected_s) as advance:
                judged, undecided = self._judge_again(cell, advance)
            missing = sum(len(one.indices) for one in self._missing(cell))
            problems = []
            if missing:
                problems.append(f"{missing} requests have no stored answer")
            if undecided:
                problems.append(f"the sandbox failed on {undecided} programs")
            status, problem = (Progress.PARTIAL if problems else Progress.COMPLETE), "; ".join(problems)
        finally:
            store.end_cell(cell.fingerprint, status, error=problem)
        now = _judgements(store, cell_record(cell))
        changed = {name: f"{was} -> {now[name]}" for name, was in earlier.items() if name in now and now[name] != was}
        return Rescored(cell.model.name, cell.task.name, status, judged, missing, changed, problem)

    def _missing(self, cell: PlannedCell) -> list[PendingRequest]:
        """Return the requests of ``cell`` that have no stored answer."""
        return pending_requests(cell_requests(cell), self._store.done_samples(cell.fingerprint))

    def _take_over(self, cell: PlannedCell, old: Cell) -> None:
        """Copy the answers of ``old`` to requests of ``cell`` that have no stored answer."""
        wanted = asked_of(self._missing(cell))
        self._store.add_samples(
            sample.model_copy(update={"cell": cell.fingerprint})
            for sample in self._store.samples(old.fingerprint)
            if sample.facts.get(ASKED, "") == wanted.get((sample.document, sample.index))
        )

    def _judge_again(self, cell: PlannedCell, advance: Advance) -> tuple[int, int]:
        """Judge every answer of ``cell``; return the number judged, and the number that the sandbox could not judge."""
        store = self._store
        store.add_samples(excluded_samples(cell))
        judging = judging_of(cell, cell_requests(cell), self._judge, store, again=True)
        answers = judging.unjudged()
        try:
            for sample in answers:
                judging.judge(sample)
        finally:
            judging.close()
        advance(len(cell.documents), str(judging))
        add_pass_at_k(cell, store)
        return len(answers) - judging.undecided, judging.undecided


def _judgements(store: Store, cell: Cell) -> Mapping[str, Any]:
    """Return the judgement of every answer: the status of its verdict, or the values of its scores."""
    verdicts = store.verdicts(cell.fingerprint)
    if verdicts:
        return {f"{one.document} #{one.index}": one.status for one in verdicts}
    values: dict[str, dict[str, float]] = {}
    for score in store.scores(cell.fingerprint):
        values.setdefault(f"{score.document} #{score.index}", {})[score.metric] = score.value
    return {name: ", ".join(f"{metric} {value:g}" for metric, value in found.items()) for name, found in values.items()}


def _why_not(task: Task, only: set[str]) -> str:
    if only and task.name not in only:
        return "not selected"
    return "likelihoods need the model" if needs_likelihood(task) else ""


def lines(outcome: Outcome, shown: int = 5) -> list[str]:
    """Return a summary: one line per cell, with the first changed answers."""
    found = []
    for cell in outcome.cells:
        title = f"{cell.model} on {cell.task}"
        if not cell.judged and cell.why:
            found.append(f"{title}: not rescored, {cell.why}")
            continue
        kinds = Counter(cell.changed.values())
        what = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(shown))
        names = ", ".join(sorted(cell.changed)[:shown]) + (", ..." if len(cell.changed) > shown else "")
        changed = f"{len(cell.changed)} changed ({what}): {names}" if cell.changed else "none changed"
        found.append(f"{title}: {cell.judged} rescored, {changed}" + (f"; {cell.why}" if cell.why else ""))
    return found
