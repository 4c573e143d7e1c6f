"""Runs of suites, from the plan to stored results. A run that is started again continues.

Cheap checks come first (suite, data, store, sandbox), then the published solutions of code benchmarks, which show what
this host can judge. Then each model is made and evaluated on all tasks before the next one is loaded: one model is in
memory at a time, two if the suite names a model to compare with (``agreement_with``). Cells that are complete in the
store and students in the cache are used as they are.
"""

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from crosstok.errors import CrosstokError, RunIncomplete, UserError
from crosstok.harness.generation.answer_facts import AnswerFacts
from crosstok.harness.jobs.estimates import PER_REFERENCE, seconds_to_make, seconds_to_measure
from crosstok.harness.jobs.records import cell_record, model_record, run_record, served_record, task_record
from crosstok.harness.jobs.students import Students
from crosstok.harness.likelihood.agreement import Agreement
from crosstok.harness.measure.engines import Engine, LocalEngine, ServedEngine
from crosstok.harness.measure.judging import Judge, open_judge
from crosstok.harness.measure.measure import measure
from crosstok.harness.measure.time_spent import TimeSpent
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.planned import Plan, PlannedCell
from crosstok.harness.plan.references import References, require_some
from crosstok.harness.plan.suite import Suite
from crosstok.progress import ProgressCallback, Reporter
from crosstok.results.store import records
from crosstok.results.store.store import Store
from crosstok.tasks.task import CodeTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crosstok.distill.models.checkpoints import Checkpoint


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run; the results are in the store."""

    run_id: str
    status: records.Progress
    seconds: float


def run_suite(
    suite: Suite,
    store: Store,
    *,
    progress: ProgressCallback | None = None,
    data: Path | None = None,
    in_memory: "Mapping[str, Checkpoint] | None" = None,
) -> Outcome:
    """Run ``suite`` and keep all results in ``store``.

    ``progress`` is called with the events of the run, ``data`` is the data folder, and ``in_memory`` has loaded models
    by the source that the suite gives them.

    Raises:
        UserError: before any model is loaded, suite, data, store or sandbox are unusable, or all published solutions of
            a benchmark fail on this host.

    """
    began = time.monotonic()
    draft = make_plan(suite, data=data)
    with ExitStack() as opened:
        judge = None
        if draft.code_tasks:
            spec = suite.sandbox
            judge = opened.enter_context(open_judge(spec.backend, workers=spec.workers, unsafe=spec.unsafe))
        reporter = opened.enter_context(Reporter(progress))
        for task in draft.tasks:
            if task.remark:
                reporter.say(f"{task.name}: {task.remark}")
        plan = draft if judge is None else judged_here(draft, judge, reporter)
        store.begin_run(run_record(plan))
        for task in plan.tasks:
            store.put_task(task_record(task))
        status = records.Progress.FAILED
        try:
            status = _Driver(plan, store, reporter, judge, data=data, in_memory=in_memory or {}).run()
        except KeyboardInterrupt:
            status = records.Progress.PARTIAL
            raise
        finally:
            store.end_run(plan.run_id, status)
    return Outcome(plan.run_id, status, time.monotonic() - began)


def judged_here(draft: Plan, judge: Judge, reporter: Reporter) -> Plan:
    """Return the plan with findings on the published solutions, which are run once per host."""
    unknown = [task for task in draft.code_tasks if judge.known(task) is None]
    reporter.expect(sum(PER_REFERENCE * len(task.documents()) for task in unknown))
    references = {}
    for task in draft.code_tasks:
        found = judge.known(task)
        if found is None:
            found = _checked(task, judge, reporter)
        require_some(found)
        references[task.name] = found
        if found.excluded:
            named = ", ".join(sorted(found.excluded)[:3]) + (", ..." if len(found.excluded) > 3 else "")
            reporter.say(
                f"{task.name}: {len(found.excluded)} of {found.documents} documents are excluded: their published "
                f"solutions fail on this host: {named} (reasons: `crosstok tasks check {task.kind}`)"
            )
    return draft.with_references(references)


def _checked(task: CodeTask, judge: Judge, reporter: Reporter) -> References:
    size = len(task.documents())
    with reporter.stage(f"published solutions of {task.name}", size, PER_REFERENCE * size) as advance:
        return judge.check(task, lambda done: advance(done, ""))


class _Driver:
    """One run: makes the models of a plan and measures its open cells."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        reporter: Reporter,
        judge: Judge | None,
        *,
        data: Path | None,
        in_memory: "Mapping[str, Checkpoint]",
    ) -> None:
        self.plan = plan
        self.store = store
        self.reporter = reporter
        self.judge = judge
        self.students = Students(plan, reporter, data, pick_device(plan.suite.device), in_memory)
        self.spent: list[TimeSpent] = []
        self._teacher: tuple[str, Checkpoint] | None = None
        self.stored = {cell.fingerprint: self._begin(cell) for cell in plan.cells}

    def run(self) -> records.Progress:
        left = [cell for cell in self.plan.cells if not self._complete(cell)]
        made = [self.plan.models[name] for name in self.students.to_make(left)]
        self.reporter.expect(sum(map(seconds_to_make, made)) + sum(map(seconds_to_measure, left)))
        for name in self.plan.models:
            open_cells = [cell for cell in self.plan.cells_of(name) if not self._complete(cell)]
            if not open_cells:
                continue
            engine = self._engine_or_failure(name, open_cells)
            if engine is None:
                continue
            gone = ""  # why the model cannot be asked any more
            for cell in open_cells:
                if gone:
                    self._end(cell, records.Progress.PARTIAL, gone)
                else:
                    gone = self._measure(cell, engine)
        if len(self.spent) > 1:
            self.reporter.say(f"all programs of this session: {sum(self.spent, TimeSpent())}")
        return self._status()

    def _engine_or_failure(self, name: str, cells: "Sequence[PlannedCell]") -> Engine | None:
        """Return the engine of the model ``name``; if it cannot be made or loaded, end ``cells`` as failed."""
        try:
            return self._engine(name)
        except CrosstokError as error:
            problem, hint = str(error), ""
        except Exception as error:  # a defect in the code of one model must not stop the others
            if os.environ.get("CROSSTOK_DEBUG") == "1":
                raise
            problem, hint = _one_line(error), " (`crosstok --debug` shows the traceback)"
        self.reporter.say(f"{name}: {problem}{hint}")
        for cell in cells:
            self._end(cell, records.Progress.FAILED, problem)
        return None

    def _engine(self, name: str) -> Engine:
        """Load the model ``name`` and store its record."""
        model, suite = self.plan.models[name], self.plan.suite
        if model.served is not None:
            self.store.put_model(served_record(model, model.served))
            return ServedEngine(model.served, rows=suite.batch_rows)
        checkpoint = self.students.load(name)
        self.store.put_model(model_record(self.plan, name, checkpoint, self.students.build_s(name)))
        facts = AnswerFacts(checkpoint.tokenbytes, self.students.new_ids(name, checkpoint))
        return LocalEngine(
            checkpoint, facts, batch_rows=suite.batch_rows, batch_tokens=suite.batch_tokens, heal=suite.heal
        )

    def _measure(self, cell: PlannedCell, engine: Engine) -> str:
        """Measure the rest of ``cell``; return why its model is no longer available, an empty string if it is."""
        began = time.monotonic()
        status, problem, spent = records.Progress.PARTIAL, "interrupted", None
        title = f"{cell.model.name} on {cell.task.name}"
        try:
            with self.reporter.stage(title, len(cell.documents), seconds_to_measure(cell)) as advance:
                agreement = self._agreement(cell, engine)
                spent = measure(cell, engine, self.store, advance, judge=self.judge, agreement=agreement)
            if cell.task.needs_sandbox:
                self.reporter.say(f"{title}: {spent}")
                self.spent.append(spent)
            undecided = spent.undecided
            status = records.Progress.PARTIAL if undecided else records.Progress.COMPLETE
            problem = f"the sandbox failed on {undecided} programs" if undecided else ""
        except RunIncomplete as error:
            problem = str(error)
            self.reporter.say(f"{title}: {error}")
            return problem
        except CrosstokError as error:
            status, problem = records.Progress.FAILED, str(error)
            self.reporter.say(f"{title}: {error}")
        except Exception as error:  # a defect in the code of one benchmark must not stop the others
            if os.environ.get("CROSSTOK_DEBUG") == "1":
                raise
            status = records.Progress.FAILED
            problem = _one_line(error)
            self.reporter.say(f"{title}: {problem} (`crosstok --debug` shows the traceback)")
        finally:
            self._end(cell, status, problem, time.monotonic() - began, spent)
        return ""

    def _end(
        self,
        cell: PlannedCell,
        status: records.Progress,
        problem: str,
        seconds: float = 0.0,
        spent: TimeSpent | None = None,
    ) -> None:
        parts = spent.parts if spent else None
        self.store.end_cell(cell.fingerprint, status, error=problem, seconds=seconds, spent=parts)
        self.stored[cell.fingerprint] = status

    def _agreement(self, cell: PlannedCell, engine: Engine) -> Agreement | None:
        """Return the comparison with the teacher of the cell; the teacher stays loaded for the next cell."""
        if cell.teacher is None or not isinstance(engine, LocalEngine):
            return None
        if self._teacher is None or self._teacher[0] != cell.teacher.fingerprint:
            self._teacher = (cell.teacher.fingerprint, self.students.load(cell.teacher.name))
        return Agreement(engine.checkpoint, self._teacher[1])

    def _begin(self, cell: PlannedCell) -> records.Progress:
        return self.store.begin_cell(cell_record(cell), self.plan.run_id, *cell.model.model_name).status

    def _complete(self, cell: PlannedCell) -> bool:
        return self.stored[cell.fingerprint] is records.Progress.COMPLETE

    def _status(self) -> records.Progress:
        statuses = set(self.stored.values())
        if statuses == {records.Progress.COMPLETE}:
            return records.Progress.COMPLETE
        return records.Progress.FAILED if statuses == {records.Progress.FAILED} else records.Progress.PARTIAL


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def require_complete(outcome: Outcome) -> None:
    """Raise ``RunIncomplete`` unless every cell of the run is complete."""
    if outcome.status is not records.Progress.COMPLETE:
        raise RunIncomplete(f"Run {outcome.run_id} is {outcome.status.value}.", hint="The same command continues it.")


def require_measured(outcome: Outcome, store: Store, model: str) -> None:
    """Raise UserError with the reason if every cell of ``model`` failed, as when it does not load."""
    cells = [found.cell for found in store.cells(outcome.run_id) if found.model == model]
    if cells and all(cell.status is records.Progress.FAILED for cell in cells):
        raise UserError(cells[0].error)


def pick_device(name: str) -> str:
    """Return the torch device for ``name``; ``auto`` selects the GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"The device {name!r} is not available.", hint="Set device: cpu, or see `crosstok doctor`.")
    return name
