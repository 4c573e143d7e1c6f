"""What the models of a plan were trained on, and what benchmarks must therefore leave out.

A model that has read a benchmark's training problems answers them from memory. Where any model of a plan has, all its
models are asked only the rest, so that they stay comparable: which problems that is, the benchmark says
(``Task.unseen``). Texts are known from the recipes of the suite, and from the provenance that lies in the folder of a
student that was made before.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosstok.distill.models import provenance
from crosstok.harness.plan.planned import PlannedModel
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import Task


def trained_texts(models: Iterable[PlannedModel]) -> list[str]:
    """Return the names of all texts that any of ``models``, or a model that it is made from, was trained on."""
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
    """Return the names of the texts that a provenance record, as a folder or the store has it, tells of."""
    return {str(text["name"]) for text in record.get("data", ()) if "name" in text}


def only_unseen(tasks: Sequence[Task], texts: Sequence[str]) -> tuple[Task, ...]:
    """Return ``tasks``, those that have training problems without them where these are among ``texts``."""
    return tuple(_unseen(task, texts) for task in tasks)


def _unseen(task: Task, texts: Sequence[str]) -> Task:
    changed = task.unseen(texts)
    if not changed:
        return task
    options = {**task.options.model_dump(exclude_unset=True), **changed}
    smaller = build_task(task.kind, options, name=task.name, data=task.data)
    what = ", ".join(f"{name}: {value}" for name, value in changed.items())
    smaller.remark = f"measured with {what}, because a model was trained on other parts of it"
    return smaller
