"""Collections: names that stand for several benchmarks in a suite."""

from collections.abc import Mapping, Sequence
from typing import Any

from crosstok.errors import UserError

COLLECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "code2k": (
        "1996 Python problems: the published list of seven sets",
        ("humaneval", "mbpp", "odex", "classeval", "exercism", "bigcodebench_hard", "quixbugs"),
    ),
    "code-core": ("HumanEval and MBPP", ("humaneval", "mbpp")),
    "math": ("four sets of word and competition problems", ("gsm8k", "svamp", "math", "math500")),
}


def expand(tasks: Sequence[Any]) -> list[Any]:
    """Return the ``tasks`` of a suite with every collection replaced by its sets.

    Entries are names or mappings with ``name`` and options. Options of a collection go to each of its sets; a set that
    is also named by itself is measured once, with the options that it was named with.
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
            raise UserError(f"The collection {name!r} cannot be given another name.", hint="Leave out `task`.")
        sets = [one for one in COLLECTIONS[name][1] if one not in named]
        expanded += [{"name": one, **options} if options else one for one in sets]
        named |= set(sets)
    return expanded


def members(name: str) -> tuple[str, ...]:
    """Return the benchmarks that ``name`` stands for: those of a collection, or the one itself."""
    return COLLECTIONS[name][1] if name in COLLECTIONS else (name,)


def _name(task: Any) -> Any:
    return task.get("name") if isinstance(task, Mapping) else task
