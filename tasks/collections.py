"""Collections: names for groups of benchmarks in a suite."""

from collections.abc import Mapping, Sequence
from typing import Any

from crosstok.errors import UserError

COLLECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "code2k": (
        "1996 Python problems from seven benchmarks, a published list",
        ("humaneval", "mbpp", "odex", "classeval", "exercism", "bigcodebench_hard", "quixbugs"),
    ),
    "code-core": ("HumanEval and MBPP", ("humaneval", "mbpp")),
    "math": ("word problems and competition problems, four benchmarks", ("gsm8k", "svamp", "math", "math500")),
}


def expand(tasks: Sequence[Any]) -> list[Any]:
    """Return the ``tasks`` of a suite with every collection replaced by its benchmarks.

    Entries are names or mappings with ``name`` and options. Options of a collection apply to each of its
    benchmarks. A benchmark that is also listed by itself is measured once, with its own options.
    """
    named = {_name(task) for task in tasks} - set(COLLECTIONS)
    expanded: list[Any] = []
    for task in tasks:
        name = _name(task)
        if name not in COLLECTIONS:
            expanded.append(task)
            continue
        options = {key: value for key, value in task.items() if key != "name"} if isinstance(task, Mapping) else {}
        if "task" in options:
            raise UserError(f"The collection {name!r} cannot be renamed.", hint="Leave out `task`.")
        sets = [one for one in COLLECTIONS[name][1] if one not in named]
        expanded += [{"name": one, **options} if options else one for one in sets]
        named |= set(sets)
    return expanded


def members(name: str) -> tuple[str, ...]:
    """Return the benchmarks of the collection ``name``; if it is no collection, ``name`` itself."""
    return COLLECTIONS[name][1] if name in COLLECTIONS else (name,)


def _name(task: Any) -> Any:
    return task.get("name") if isinstance(task, Mapping) else task
