"""Options shared by several commands, and the layout of ``--help``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from crosstok.option_text import parse_named

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


def task_option(text: str) -> dict[str, Any]:
    """Return the suite entry for ``NAME:option=value,option=value``, the argument of ``--task``."""
    name, options = parse_named(text)
    return {"name": name, **({"task": name} if "name" in options else {}), **options}
