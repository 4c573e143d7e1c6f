"""Reading results: tables and comparisons from the store, without torch."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from crosstok.api.records import ModelDifference, TaskScore
from crosstok.errors import UserError
from crosstok.folders import store_location
from crosstok.results.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from crosstok.results.compare.contrast import Contrast

StoreLike = Store | str | Path | None
"""An open store, a file, a database URL, or None: what ``CROSSTOK_STORE`` names, else ``runs/crosstok.db``."""


def table(run: str | None = None, *, store: StoreLike = None) -> "pd.DataFrame":
    """Return the table of a run as a data frame: one row per model and task.

    Args:
        run: id of a run; default: the last one.
        store: an open store, a file or a database URL; default: ``CROSSTOK_STORE``, else ``runs/crosstok.db``.

    Returns:
        Scores with 95 % intervals, cost and facts of each model on each task, in the order of the suite. The columns
        are those of :func:`crosstok.results.tables.frame.comparison_frame`; ``attrs`` holds title, findings and notes.

    Raises:
        UserError: there is no such store or run.

    """
    from crosstok.results.tables.frame import comparison_frame  # imports scipy

    with opened(store, read_only=True) as results:
        return comparison_frame(results, run)


def compare(
    baseline: str,
    *models: str,
    run: str | None = None,
    metrics: Mapping[str, str] | None = None,
    store: StoreLike = None,
) -> tuple[ModelDifference, ...]:
    """Compare models with a baseline, on the documents that both answered.

    Tests are McNemar's exact test for single passes and a paired bootstrap over documents otherwise; all p values of a
    call are Holm-adjusted together.

    Args:
        baseline: name of a model in the run, or ``RUN/MODEL``.
        models: the models to compare with it, named likewise.
        run: the run of names without ``RUN/``; default: the last one.
        metrics: metric to compare instead of the headline, by name of the task.
        store: as in :func:`table`.

    Returns:
        One record per model and task that either was measured on; ``pandas.DataFrame(records)`` makes a frame of them.

    Raises:
        UserError: there is no such store, run, model or metric, or no model to compare.

    """
    from crosstok.results.compare.contrast import contrast, side  # imports scipy

    if not models:
        raise UserError("A comparison needs a baseline and at least one other model.", hint='compare("base", "alm")')
    with opened(store, read_only=True) as results:
        found = results.run(run)
        before, *others = [side(results, name, found) for name in (baseline, *models)]
        contrasts = contrast([(before, other) for other in others], dict(metrics or {}))
    return tuple(_difference(one) for one in contrasts)


def scores_of(store: Store, run: str) -> tuple[TaskScore, ...]:
    """Return every metric of every model on every task of a run."""
    from crosstok.results.compare.answers import Headline, answers_of  # imports scipy

    tasks, documents, names = store.tasks(run), store.document_scores(run), store.model_names(run)
    found = []
    for entry in store.cells(run):
        task = tasks[entry.task]
        for metric in task.metrics:
            headline = Headline.of(task, metric["name"])
            sums = documents.get((entry.cell.fingerprint, headline.name))
            estimate = answers_of(sums).estimate(headline) if sums else None
            found.append(
                TaskScore(
                    model=entry.model,
                    method=names[entry.model].model,
                    seed=names[entry.model].seed,
                    task=entry.task,
                    metric=headline.name,
                    unit=headline.unit,
                    higher_is_better=headline.higher_is_better,
                    value=estimate.value if estimate else math.nan,
                    low=estimate.low if estimate else math.nan,
                    high=estimate.high if estimate else math.nan,
                    n=estimate.n if estimate else 0,
                    documents=task.documents,
                    status=entry.cell.status.value,
                    problem=entry.cell.error,
                )
            )
    return tuple(found)


@contextmanager
def opened(store: StoreLike, *, read_only: bool = False) -> Iterator[Store]:
    """Open a store for the block; one that is open already stays open."""
    if isinstance(store, Store):
        yield store
        return
    with Store(store_location(store), read_only=read_only) as results:
        yield results


def _difference(one: "Contrast") -> ModelDifference:
    found = one.difference
    return ModelDifference(
        task=one.task,
        metric=one.headline.name,
        unit=one.headline.unit,
        baseline=one.baseline.name,
        baseline_run=one.baseline.run.id,
        model=one.model.name,
        model_run=one.model.run.id,
        before=one.before.value if one.before else math.nan,
        after=one.after.value if one.after else math.nan,
        difference=found.value if found else math.nan,
        low=found.low if found else math.nan,
        high=found.high if found else math.nan,
        p=found.p if found else math.nan,
        n=found.n if found else 0,
        detectable=found.detectable if found else math.nan,
        outcome=one.outcome,
        remark=one.remark,
    )
