"""Running a suite from plan to stored results; starting it again continues it.

Order of work: everything cheap is checked first (suite, data, store, sandbox), then each model is made and measured on
all tasks before the next one is loaded, so that one model is in memory at a time. A cell that is complete in the store
is not measured again, and a student that is in the cache is not made again.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from crosstok.errors import CrosstokError, RunIncomplete, UserError
from distill.checkpoints import Checkpoint
from harness import environment
from harness.choices import measure_choices
from harness.foreign import ForeignTask
from harness.generation import Generator
from harness.likelihood import Scorer
from harness.measure import Court, measure_answers, measure_code, measure_text, open_court
from harness.plan import Plan, PlannedCell, make_plan
from harness.progress import Reporter
from harness.students import Students
from harness.suite import Suite
from results import schema
from results.store import Store
from tasks.task import AnswerTask, ChoiceTask, CodeTask, Task, TextTask

SECONDS_PER_ANSWER = 2.0  # first guesses for the progress bar, on two cores
SECONDS_PER_KILOBYTE = 0.9
SECONDS_PER_CHOICE = 0.1


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    run_id: str
    status: schema.Progress
    seconds: float


def run_suite(suite: Suite, store: Store, *, console: Console, data: Path | None = None) -> Outcome:
    """Run ``suite`` and keep everything in ``store``.

    Raises ``UserError`` before any work for what is wrong with suite, data, store or sandbox, and ``RunIncomplete``
    when some cell could not be finished (which a second start continues).
    """
    began = time.monotonic()
    plan = make_plan(suite, data=data)
    run = schema.Run(
        id=plan.run_id,
        suite=suite.name,
        config=suite.model_dump(mode="json"),
        environment=environment.record(),
        status=schema.Progress.RUNNING,
    )
    store.begin_run(run)
    for task in plan.tasks:
        store.put_task(_task_record(task))
    status = schema.Progress.FAILED
    try:
        status = _Driver(plan, store, console, data).run()
    except KeyboardInterrupt:
        status = schema.Progress.PARTIAL
        raise
    finally:
        store.end_run(plan.run_id, status)
    return Outcome(plan.run_id, status, time.monotonic() - began)


class _Driver:
    def __init__(self, plan: Plan, store: Store, console: Console, data: Path | None) -> None:
        self.plan = plan
        self.store = store
        self.console = console
        self.data = data
        self.stored = {cell.fingerprint: self._begin(cell) for cell in plan.cells}

    def run(self) -> schema.Progress:
        device = pick_device(self.plan.suite.device)
        reporter = Reporter(self.console)
        students = Students(self.plan, reporter, self.data, device)
        names = list(self.plan.models)
        reporter.expect(
            sum(students.expected_s(name) for name in names)
            + sum(expected_s(cell) for cell in self.plan.cells if not self._complete(cell))
        )
        spec = self.plan.suite.sandbox
        needs_sandbox = any(isinstance(cell.task, CodeTask) and not self._complete(cell) for cell in self.plan.cells)
        with reporter:
            if not needs_sandbox:
                self._measure_all(students, reporter, None)
            else:
                with open_court(spec.backend, workers=spec.workers, unsafe=spec.unsafe) as court:
                    self._measure_all(students, reporter, court)
        return self._status()

    def _measure_all(self, students: Students, reporter: Reporter, court: Court | None) -> None:
        for name in self.plan.models:
            open_cells = [cell for cell in self.plan.cells_of(name) if not self._complete(cell)]
            if not open_cells:
                continue
            checkpoint = students.load(name)
            self.store.put_model(_model_record(self.plan, name, checkpoint, students.build_s(name)))
            for cell in open_cells:
                self._measure(cell, checkpoint, reporter, court)

    def _measure(self, cell: PlannedCell, checkpoint: Checkpoint, reporter: Reporter, court: Court | None) -> None:
        began = time.monotonic()
        status, problem = schema.Progress.PARTIAL, "interrupted"
        title = f"{cell.model.name} on {cell.task.name}"
        suite = self.plan.suite
        try:
            with reporter.stage(title, len(cell.task.documents()), expected_s(cell)) as advance:
                if isinstance(cell.task, TextTask):
                    scorer = Scorer(checkpoint, max_batch_tokens=suite.batch_tokens)
                    measure_text(cell, cell.task, scorer, self.store, advance)
                    status, problem = schema.Progress.COMPLETE, ""
                elif isinstance(cell.task, ChoiceTask):
                    scorer = Scorer(checkpoint, max_batch_tokens=suite.batch_tokens)
                    measure_choices(cell, cell.task, scorer, self.store, advance)
                    status, problem = schema.Progress.COMPLETE, ""
                elif isinstance(cell.task, ForeignTask):
                    scorer = Scorer(checkpoint, max_batch_tokens=suite.batch_tokens)
                    generator = Generator(checkpoint, max_batch_rows=suite.batch_rows)
                    cell.task.measure(cell, scorer, generator, self.store, advance)
                    status, problem = schema.Progress.COMPLETE, ""
                elif isinstance(cell.task, AnswerTask):
                    generator = Generator(checkpoint, max_batch_rows=suite.batch_rows)
                    measure_answers(cell, cell.task, generator, self.store, advance)
                    status, problem = schema.Progress.COMPLETE, ""
                elif isinstance(cell.task, CodeTask) and court is not None:
                    generator = Generator(checkpoint, max_batch_rows=suite.batch_rows)
                    undecided = measure_code(cell, cell.task, generator, court, self.store, advance)
                    status = schema.Progress.PARTIAL if undecided else schema.Progress.COMPLETE
                    problem = f"the sandbox failed on {undecided} programs" if undecided else ""
        except CrosstokError as error:
            status, problem = schema.Progress.FAILED, str(error)
            reporter.say(f"{title}: {error}")
        finally:
            self.store.end_cell(cell.fingerprint, status, error=problem, seconds=time.monotonic() - began)
            self.stored[cell.fingerprint] = status

    def _begin(self, cell: PlannedCell) -> schema.Progress:
        record = schema.Cell(
            fingerprint=cell.fingerprint,
            model=cell.model.fingerprint,
            task=cell.task.fingerprint(),
            seed=cell.model.seed,
            settings=cell.settings,
            status=schema.Progress.RUNNING,
        )
        return self.store.begin_cell(record, self.plan.run_id, cell.model.name).status

    def _complete(self, cell: PlannedCell) -> bool:
        return self.stored[cell.fingerprint] is schema.Progress.COMPLETE

    def _status(self) -> schema.Progress:
        statuses = set(self.stored.values())
        if statuses == {schema.Progress.COMPLETE}:
            return schema.Progress.COMPLETE
        return schema.Progress.FAILED if statuses == {schema.Progress.FAILED} else schema.Progress.PARTIAL


def require_complete(outcome: Outcome) -> None:
    """Raise ``RunIncomplete`` unless every cell of the run was measured."""
    if outcome.status is not schema.Progress.COMPLETE:
        raise RunIncomplete(f"Run {outcome.run_id} is {outcome.status.value}.", hint="The same command continues it.")


def pick_device(name: str) -> str:
    """Return the torch device for ``name``; ``auto`` is the GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"The device {name!r} is not available.", hint="Use device: cpu, or see `crosstok doctor`.")
    return name


def expected_s(cell: PlannedCell) -> float:
    """Return likely seconds for measuring ``cell``, to begin the progress bar with."""
    documents = cell.task.documents()
    members = max(len(cell.model.parents), 1) if cell.model.spec.ensemble else 1
    if isinstance(cell.task, CodeTask | AnswerTask):
        return SECONDS_PER_ANSWER * len(documents) * members
    if isinstance(cell.task, ChoiceTask | ForeignTask):
        return SECONDS_PER_CHOICE * len(documents) * members
    size = sum(len(document.fields.get("text", "")) for document in documents)
    return SECONDS_PER_KILOBYTE * size / 1024 * members


def _task_record(task: Task) -> schema.Task:
    source = task.source()
    return schema.Task(
        fingerprint=task.fingerprint(),
        name=task.name,
        version=task.version,
        settings=task.options.model_dump(mode="json"),
        source={"kind": source.kind, "location": source.location, "revision": source.revision, "sha256": source.sha256},
        documents=len(task.documents()),
        available=task.available(),
        metrics=[
            {"name": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}
            for metric in task.metrics
        ],
    )


def _model_record(plan: Plan, name: str, checkpoint: Checkpoint, build_s: float) -> schema.Model:
    model = plan.models[name]
    return schema.Model(
        fingerprint=model.fingerprint,
        label=model.label,
        spec=model.spec.model_dump(mode="json", exclude_none=True),
        tokenizer=checkpoint.tokenbytes.fingerprint,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        vocabulary=len(checkpoint.tokenizer),
        provenance=checkpoint.provenance,
        build_s=build_s,
    )
