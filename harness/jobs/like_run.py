"""Evaluation of a model with the suite of an earlier run, so that the two can be compared.

The store has the suite of every run with all defaults filled in. Tasks, budgets and settings are taken from there and
only the models are replaced.
"""

from pathlib import Path

from pydantic import ValidationError

from crosstok.errors import UserError
from crosstok.harness.jobs.run import Outcome, require_measured, run_suite
from crosstok.harness.plan.suite import ModelSpec, Suite
from crosstok.model_source import ModelSource
from crosstok.progress import ProgressCallback
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store


def suite_of(run: Run) -> Suite:
    """Return the suite of ``run``.

    Raises:
        UserError: another version of crosstok with other options wrote the run.

    """
    try:
        return Suite.model_validate(run.config)
    except ValidationError as error:
        raise UserError(
            f"The suite of run {run.id} does not fit this version: {error.errors()[0]['msg']}.",
            hint="Evaluate the baseline again with this version.",
        ) from error


def measure_like(
    run: Run, source: str, store: Store, *, progress: ProgressCallback | None = None, data: Path | None = None
) -> Outcome:
    """Evaluate the model ``source`` on the tasks of ``run``; results that the store has are used."""
    models = {ModelSource.parse(source).name: ModelSpec(source=source)}
    suite = suite_of(run).model_copy(update={"name": f"{run.suite}-gate", "models": models})
    outcome = run_suite(suite, store, progress=progress, data=data)
    require_measured(outcome, store, next(iter(models)))
    return outcome
