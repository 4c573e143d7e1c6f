"""Store records of a plan: its run, tasks, models and cells."""

from typing import TYPE_CHECKING

from crosstok.harness.plan.planned import Plan, PlannedCell, PlannedModel
from crosstok.harness.runtime import environment
from crosstok.results.store import records
from crosstok.tasks.sampling import metrics_of
from crosstok.tasks.task import Task

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint
    from crosstok.harness.openai.protocol import ServedModel


def run_record(plan: Plan) -> records.Run:
    """Return the record of a run that starts now."""
    return records.Run(
        id=plan.run_id,
        suite=plan.suite.name,
        config=plan.suite.model_dump(mode="json"),
        environment=environment.record(),
        status=records.Progress.RUNNING,
    )


def task_record(task: Task) -> records.Task:
    """Return the record of a task, with the metrics that its options select."""
    source = task.source()
    return records.Task(
        fingerprint=task.fingerprint(),
        name=task.name,
        version=task.version,
        settings=task.options.model_dump(mode="json"),
        source={"kind": source.kind, "location": source.location, "revision": source.revision, "sha256": source.sha256}
        | ({"remark": task.remark} if task.remark else {}),
        documents=len(task.documents()),
        available=task.available(),
        metrics=[
            {"name": metric.name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}
            for metric in metrics_of(task)
        ],
    )


def served_record(model: PlannedModel, served: "ServedModel") -> records.Model:
    """Return the record of a model behind a server, whose tokenizer and size are unknown."""
    return records.Model(
        fingerprint=model.fingerprint,
        label=model.label,
        spec=model.spec.model_dump(mode="json", exclude_none=True),
        tokenizer="",
        parameters=0,
        vocabulary=0,
        provenance={"server": served.source.location, "model": served.source.served, "about": dict(served.about)},
        build_s=0.0,
    )


def model_record(plan: Plan, name: str, checkpoint: "Checkpoint", build_s: float) -> records.Model:
    """Return the record of a loaded model; ``build_s`` is the time in seconds that making it took."""
    from crosstok.harness.runtime.flops import compute_of  # loads transformers

    model = plan.models[name]
    return records.Model(
        fingerprint=model.fingerprint,
        label=model.label,
        spec=model.spec.model_dump(mode="json", exclude_none=True),
        tokenizer=checkpoint.tokenbytes.fingerprint,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        vocabulary=len(checkpoint.tokenizer),
        provenance=checkpoint.provenance,
        build_s=build_s,
        compute=compute_of(checkpoint.model),
    )


def cell_record(cell: PlannedCell) -> records.Cell:
    """Return the record of a cell that starts now."""
    return records.Cell(
        fingerprint=cell.fingerprint,
        model=cell.model.fingerprint,
        task=cell.task.fingerprint(),
        seed=cell.model.seed,
        settings=cell.settings,
        status=records.Progress.RUNNING,
    )
