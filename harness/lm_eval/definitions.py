"""Definitions of lm-eval's benchmarks, read with crosstok's data rule and sandbox."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from crosstok.errors import UserError, unknown_name
from crosstok.harness.lm_eval.splits import MissingSplit, Splits, our_data
from crosstok.sandbox.metrics import code_eval_is_sandboxed
from crosstok.tasks.choice.lm_eval_names import Borrowed

FEWSHOT_SEED = 1234  # lm-eval's own
_SANDBOXED = ("humaneval", "mbpp")
"""Families that run programs through ``code_eval``, which the sandbox replaces while they are read."""


@dataclass(frozen=True)
class Definition:
    """A task of lm-eval's, with its rows."""

    name: str
    task: Any
    """A ``ConfigurableTask``."""
    splits: Splits | None
    """None for a definition that creates its documents itself."""
    shots: int


def read_definitions(entry: Borrowed, *, data: Path | None, fewshot: int | None, revision: str) -> list[Definition]:
    """Return the task that ``entry`` names, or the members of the group or tag.

    ``fewshot`` replaces the number of few-shot examples of the definitions.

    Raises:
        UserError: The name is unknown, data is missing, a definition is not a configuration, or its programs would not
            run in the sandbox.

    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings concern definitions, not this run
    manager = _manager(entry)
    with our_data(data, revision) as given, code_eval_is_sandboxed():
        try:
            tasks = manager.load([entry.name])["tasks"]
        except (ValueError, KeyError, TypeError, ImportError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"lm-eval could not read its task {entry.name!r}: {reason}.") from error
    return [_definition(name, task, given, fewshot) for name, task in tasks.items()]


def _manager(entry: Borrowed) -> TaskManager:
    """Return lm-eval's index of the folder that contains the whole entry, else of the whole library."""
    library = Path(lm_eval.tasks.__file__).parent
    for folder in (entry.folder, entry.name, entry.name.partition("_")[0]):
        if folder and (library / folder).is_dir():
            manager = _index(library / folder)
            if _has_all(manager, entry.name):
                return manager
    manager = _index(None)
    if entry.name not in manager.all_tasks:
        raise unknown_name("benchmark of lm-eval", entry.name, manager.all_tasks)
    return manager


@functools.cache
def _index(folder: Path | None) -> TaskManager:
    """Return the index of one folder, or of all 14,000 definitions, which takes ten seconds."""
    return TaskManager() if folder is None else TaskManager(include_defaults=False, include_path=folder)


def _has_all(manager: TaskManager, name: str) -> bool:
    """Return whether ``name`` is a task, or a group with all of its members; tags may have members elsewhere."""
    entry = manager.task_index.get(name)
    if entry is None or entry.kind is Kind.TAG:
        return False
    members = (entry.cfg or {}).get("task") if entry.kind is Kind.GROUP else []
    return isinstance(members, list) and all(isinstance(one, str) and _has_all(manager, one) for one in members)


def _definition(name: str, task: Task | Group, given: list[Splits], fewshot: int | None) -> Definition:
    if not isinstance(task, ConfigurableTask):
        raise UserError(f"lm-eval's {name!r} is implemented as a Python class, which crosstok does not support.")
    if getattr(task, "UNSAFE_CODE", False) and not name.startswith(_SANDBOXED):
        raise UserError(
            f"lm-eval's {name!r} runs generated programs in its own process.",
            hint="Only its humaneval and mbpp families run in the sandbox; see also `crosstok tasks ls`.",
        )
    configured = task.get_config("num_fewshot")
    shots = int(configured or 0) if fewshot is None or configured == 0 else fewshot
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(FEWSHOT_SEED)
    splits = next((one for one in given if one is task.dataset), None)
    if isinstance(task.task_docs, MissingSplit):
        raise task.task_docs.error
    if shots and splits is not None:
        _check_examples(name, task, splits, shots)
    return Definition(name, task, splits, shots)


def _check_examples(name: str, task: Any, splits: Splits, shots: int) -> None:
    """Raise ``UserError`` if there are fewer few-shot examples than ``shots``."""
    found = len(task.sampler.df)
    if found >= shots:
        return
    missing = [error for split in splits.missing.values() if (error := split.error)]
    if not found and missing:
        raise UserError(f"Few-shot examples of {name!r}: {missing[0].message}", hint=missing[0].hint)
    raise UserError(f"The task {name!r} has only {found} few-shot examples, not {shots}.", hint="Lower `fewshot`.")
