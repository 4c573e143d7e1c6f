"""Checks that a model can answer what a task asks of it: text, or the likelihood of text."""

from collections.abc import Iterable

from crosstok.errors import UserError
from crosstok.tasks.task import Generate, PromptStyle, Task


def asks_likelihood(task: Task, style: PromptStyle) -> bool:
    """Return whether ``task`` asks for the likelihood of texts, and not for answers."""
    first = next(iter(task.documents()), None)
    return first is not None and not isinstance(task.request(first, style), Generate)


def require_answerable(model: str, style: PromptStyle, tasks: Iterable[Task]) -> None:
    """Raise :class:`UserError` for a task that asks a served model for anything but answers."""
    for task in tasks:
        if asks_likelihood(task, style):
            raise UserError(
                f"The model {model!r} is behind a server, which answers prompts and scores no text, "
                f"and {task.name!r} needs the likelihood of text.",
                hint="Leave the task out, or measure the model from its weights.",
            )
