"""Plug-in classes: found by an entry point of an installed package, or as ``module:Class`` in the working directory."""

import sys
from collections.abc import Collection
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from pathlib import Path
from typing import Any

from crosstok.errors import UserError, unknown_name


def plugin_names(group: str) -> dict[str, str]:
    """Return the names that installed packages register under ``group``, each with the package that registers it."""
    return {point.name: _package(point) for point in entry_points(group=group)}


def find_plugin(kind: str, group: str, name: str, known: Collection[str]) -> Any:
    """Return the class called ``name``: ``module:Class``, or an entry point of ``group``.

    ``kind`` says what is looked for in messages; ``known`` are the built-in names, listed for an unknown one. Raises
    UserError for an unknown name, a name that several packages register, and a class that cannot be imported.
    """
    if ":" in name:
        return class_at(name, kind, known)
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if not points:
        raise unknown_name(kind, name, {*known, *plugin_names(group)})
    if len(points) > 1:
        packages = sorted(_package(point) for point in points.values())
        raise UserError(
            f"The {kind} {name!r} is registered by {' and by '.join(packages)}.", hint="Uninstall all but one of them."
        )
    point = next(iter(points.values()))
    try:
        return point.load()
    except Exception as error:  # any error of a module that belongs to somebody else
        raise UserError(
            f"The {kind} {name!r} comes from {point.value}, which cannot be imported: {_reason(error)}.",
            hint="Repair or uninstall that package.",
        ) from error


def refuse_clash(kind: str, group: str, name: str) -> None:
    """Raise UserError if an installed package registers the built-in ``name`` too."""
    for point in entry_points(group=group, name=name):
        raise UserError(
            f"The package {_package(point)} registers the {kind} {name!r}, which is the name of a built-in one.",
            hint="Rename its entry point, or uninstall the package.",
        )


def class_at(path: str, kind: str = "method", known: Collection[str] = ()) -> Any:
    """Return what ``module:Class`` names; modules in the working directory are found too, after installed ones.

    Raises UserError where the module cannot be imported or lacks the class.
    """
    module, _, attribute = path.partition(":")
    if module in known:
        raise UserError(
            f"{attribute!r} is not an option of the {kind} {module}.", hint=f"Write {module}:OPTION=VALUE,OPTION=VALUE."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return attrgetter(attribute)(import_module(module))
    except Exception as error:  # any error of a module that belongs to somebody else
        raise UserError(
            f"The {kind} {path!r} cannot be imported: {_reason(error)}.",
            hint="Write module:Class, as Python would import it; --debug shows the traceback.",
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _reason(error: Exception) -> str:
    expected = isinstance(error, ImportError | AttributeError | ValueError)
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if expected and first else f"{type(error).__name__}: {first}".rstrip(": ")
