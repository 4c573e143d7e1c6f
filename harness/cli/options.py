"""Options shared by several commands, parsers of ``key=value`` arguments, and the layout of ``--help``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from crosstok.errors import UserError

EVALUATE = "Evaluate"
MAKE = "Make models"
RESULTS = "Read and judge results"
MACHINE = "Tasks, models, data and this machine"
"""Panels of ``crosstok --help``."""

StoreOption = Annotated[
    str, typer.Option("--store", envvar="CROSSTOK_STORE", help="Store of results: a file or a database URL.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", envvar="CROSSTOK_DATA", help="Folder with benchmark data and texts.")
]


def examples(*commands: str) -> str:
    """Return the examples that close the ``--help`` of a command."""
    return "\n\n".join(("Examples:" if len(commands) > 1 else "Example:", *commands))


def pair(text: str) -> tuple[str, Any]:
    """Split ``key=value`` and read the value as YAML.

    Raises:
        UserError: there is no ``=``.

    """
    import yaml

    key, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"{text!r} is not an option.", hint="Write key=value.")
    return key.strip(), yaml.safe_load(value)


def task_option(text: str) -> dict[str, Any]:
    """Return the suite entry for ``NAME:option=value,option=value``, the argument of ``--task``."""
    kind = next((prefix for prefix in ("lm_eval:", "yaml:") if text.startswith(prefix)), "")
    name, _, options = text.removeprefix(kind).partition(":")
    pairs = dict(pair(option) for option in options.split(",") if option)
    return {"name": kind + name, **({"task": kind + name} if "name" in pairs else {}), **pairs}
