"""Training data contamination: the texts that models of a plan were trained on, and the tasks without them.

If any model of a plan was trained on problems of a benchmark, all models are evaluated on the other problems only, so
that their scores stay comparable. The benchmark decides which problems remain (``Task.unseen``). The training texts
come from the recipes of the suite and from the provenance files of existing students.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosstok.distill.models import provenance
from crosstok.harness.plan.planned import PlannedModel
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import Task


def trained_texts(models: Iterable[PlannedModel]) -> list[str]:
    """Return the names of all texts that ``models``, or models they are made from, were trained on."""
    names: set[str] = set()
    for model in models:
        sources = [model.spec.source]
        if model.identity is not None:
            names |= set(model.identity.texts)
        if model.recipe is not None:
            sources += [getattr(model.recipe, field) for field in model.recipe.parents.values()]
        for source in sources:
            if source is not None and (folder := Path(source)).is_dir():
                record = provenance.read(folder)
                names |= texts_of(record.as_dict()) if record else set()
    return sorted(names)


def texts_of(record: Mapping[str, Any]) -> set[str]:
    """Return the names of the training texts in a provenance record."""
    return {str(text["name"]) for text in record.get("data", ()) if "name" in text}


def only_unseen(tasks: Sequence[Task], texts: Sequence[str]) -> tuple[Task, ...]:
    """Return ``tasks`` without the problems that are in ``texts``; unaffected tasks are returned as they are."""
    return tuple(_unseen(task, texts) for task in tasks)


def _unseen(task: Task, texts: Sequence[str]) -> Task:
    changed = task.unseen(texts)
    if not changed:
        return task
    options = {**task.options.model_dump(exclude_unset=True), **changed}
    smaller = build_task(task.kind, options, name=task.name, data=task.data)
    what = ", ".join(f"{name}: {value}" for name, value in changed.items())
    smaller.remark = f"evaluated with {what} because a model was trained on the other parts"
    return smaller
