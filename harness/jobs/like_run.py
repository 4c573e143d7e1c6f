"""A checkpoint measured as the models of an earlier run were, so that the two can be compared.

The suite of the baseline run lies in the store with every default filled in. Its tasks, budgets and settings are taken
as they are and only the models are replaced; whatever could make the rows incomparable is thereby the same.
"""

from pathlib import Path

from pydantic import ValidationError

from crosstok.errors import UserError
from crosstok.harness.jobs.run import Outcome, run_suite
from crosstok.harness.plan.suite import ModelSpec, Suite
from crosstok.model_source import ModelSource
from crosstok.progress import ProgressCallback
from crosstok.results.store.records import Run
from crosstok.results.store.store import Store


def suite_like(run: Run, name: str, models: dict[str, ModelSpec]) -> Suite:
    """Return the suite of an earlier run under another name and with other models; raises what ``suite_of`` does."""
    return suite_of(run).model_copy(update={"name": name, "models": models})


def suite_of(run: Run) -> Suite:
    """Return the suite of an earlier run.

    Raises:
        UserError: the run was written by a crosstok that knew other options.

    """
    try:
        return Suite.model_validate(run.config)
    except ValidationError as error:
        raise UserError(
            f"The suite of run {run.id} cannot be repeated: {error.errors()[0]['msg']}.",
            hint="Measure the baseline again with this version.",
        ) from error


def measure_like(
    run: Run, source: str, store: Store, *, progress: ProgressCallback | None = None, data: Path | None = None
) -> Outcome:
    """Measure the model at ``source`` on the tasks of ``run``; what the store holds already is not measured again."""
    suite = suite_like(run, f"{run.suite}-gate", {ModelSource.parse(source).name: ModelSpec(source=source)})
    return run_suite(suite, store, progress=progress, data=data)
