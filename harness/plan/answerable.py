"""Checks that a model can answer the requests of a task."""

from collections.abc import Iterable

from crosstok.errors import UserError
from crosstok.tasks.task import Generate, Task


def needs_likelihood(task: Task) -> bool:
    """Return whether ``task`` needs the likelihood of text, beyond generated answers."""
    return any(kind is not Generate for kind in task.request_types)


def require_answerable(model: str, tasks: Iterable[Task]) -> None:
    """Raise :class:`UserError` if one of ``tasks`` needs more than generated answers from a served model."""
    for task in tasks:
        if needs_likelihood(task):
            raise UserError(
                f"The model {model!r} is behind a server, which generates answers but scores no text; "
                f"{task.name!r} needs the likelihood of text.",
                hint="Leave the task out, or load the model from its weights.",
            )
