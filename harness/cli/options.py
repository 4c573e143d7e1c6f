"""Options that several commands share, and the reading of ``key=value`` arguments."""

from pathlib import Path
from typing import Annotated, Any

import typer

from crosstok.errors import UserError

StoreOption = Annotated[
    str, typer.Option("--store", envvar="CROSSTOK_STORE", help="Where results are kept: a file, or a database URL.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", envvar="CROSSTOK_DATA", help="Folder of benchmark data and texts.")
]


def pair(text: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``; the value is read as YAML.

    Raises:
        UserError: there is no ``=``.

    """
    import yaml

    key, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"{text!r} is not an option.", hint="Write key=value.")
    return key.strip(), yaml.safe_load(value)


def task_option(text: str) -> dict[str, Any]:
    """Return the entry of a suite that ``NAME:option=value,option=value`` of ``--task`` stands for."""
    kind = next((prefix for prefix in ("lm_eval:", "yaml:") if text.startswith(prefix)), "")
    name, _, options = text.removeprefix(kind).partition(":")
    pairs = dict(pair(option) for option in options.split(",") if option)
    return {"name": kind + name, **({"task": kind + name} if "name" in pairs else {}), **pairs}
