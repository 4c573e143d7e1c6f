"""crosstok: benchmark and evaluation harness for tokenizer-transferred language models.

    import crosstok

    crosstok.run("suites/quickstart.yaml")
    crosstok.evaluate("hub:owner/name", tasks=["humaneval:limit=20"]).score("humaneval").value
    crosstok.table()

The names in ``__all__`` are the public API; everything else may change without notice. Names are imported on first use,
so ``import crosstok`` loads neither torch nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from crosstok.version import __version__

if TYPE_CHECKING:
    from crosstok.api.records import ModelDifference, RunResult, Student, TaskScore
    from crosstok.api.results import compare, table
    from crosstok.api.runs import evaluate, run
    from crosstok.api.students import distil, ensemble, expand, load, transfer
    from crosstok.distill.embeddings.initialiser import Initialiser
    from crosstok.distill.losses.loss import Loss
    from crosstok.errors import CrosstokError, RunIncomplete, UserError
    from crosstok.progress import ProgressEvent
    from crosstok.results.store.store import Store
    from crosstok.tasks.task import Task

__all__ = [
    "CrosstokError",
    "Initialiser",
    "Loss",
    "ModelDifference",
    "ProgressEvent",
    "RunIncomplete",
    "RunResult",
    "Store",
    "Student",
    "Task",
    "TaskScore",
    "UserError",
    "__version__",
    "compare",
    "distil",
    "ensemble",
    "evaluate",
    "expand",
    "load",
    "run",
    "table",
    "transfer",
]

_MODULES = {
    "CrosstokError": "errors",
    "Initialiser": "distill.embeddings.initialiser",
    "Loss": "distill.losses.loss",
    "ModelDifference": "api.records",
    "ProgressEvent": "progress",
    "RunIncomplete": "errors",
    "RunResult": "api.records",
    "Store": "results.store.store",
    "Student": "api.records",
    "Task": "tasks.task",
    "TaskScore": "api.records",
    "UserError": "errors",
    "compare": "api.results",
    "distil": "api.students",
    "ensemble": "api.students",
    "evaluate": "api.runs",
    "expand": "api.students",
    "load": "api.students",
    "run": "api.runs",
    "table": "api.results",
    "transfer": "api.students",
}
"""Module of each public name, inside this package."""


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'crosstok' has no attribute {name!r}")
    found: object = getattr(import_module(f"crosstok.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})
