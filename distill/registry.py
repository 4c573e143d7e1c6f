"""Methods found by name: the ones built in, and the ones that other packages offer through entry points.

A method that is still being written needs neither: ``module:Class`` names its class where it lies.

A method is one class. Its options are pydantic fields, so a suite file names them, a misspelt one is refused with a
hint, and provenance records them without further code. Modules are imported only when their method is asked for.
"""

import importlib
import inspect
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from crosstok.errors import UserError, unknown_name
from crosstok.fingerprint import file_sha256


class Method(BaseModel):
    """Base of everything that a registry finds: immutable options under a name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: ClassVar[str]

    def describe(self) -> dict[str, Any]:
        """Return the name and every option as JSON values: what provenance keeps and fingerprints use."""
        return {"name": self.name, **self.model_dump(mode="json")}


T = TypeVar("T", bound=Method)


class Registry(Generic[T]):
    """The classes of one kind, by name. Built-in names win over entry points of the same name."""

    def __init__(self, kind: str, group: str, base: type[T], builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._base = base
        self._builtin = builtin

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self._builtin, *(point.name for point in entry_points(group=self.group))})

    def find(self, name: str) -> type[T]:
        """Return the class called ``name`` or ``module:Class``.

        Raises UserError for an unknown name, a plug-in that does not load, and a class of another kind.
        """
        if ":" in name:
            found = class_at(name)
        elif name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
        else:
            point = next(iter(entry_points(group=self.group, name=name)), None)
            if point is None:
                raise unknown_name(self.kind, name, self.names())
            try:
                found = point.load()
            except (ImportError, AttributeError) as error:
                raise UserError(
                    f"The {self.kind} {name!r} comes from {point.value}, which cannot be imported: {error}.",
                    hint="Repair or uninstall that package.",
                ) from error
        if not (isinstance(found, type) and issubclass(found, self._base)):
            raise UserError(f"The {self.kind} {name!r} is not a subclass of {self._base.__qualname__}.")
        return found

    def code(self, name: str) -> str:
        """Return the SHA-256 of the file that a method of somebody else is written in; empty for a built-in one.

        It belongs to the fingerprint of whatever the method made: a built-in method changes with our own version, a
        plug-in whenever its author saves the file.
        """
        if name in self._builtin:
            return ""
        return file_sha256(Path(inspect.getfile(self.find(name))))

    def create(self, choice: str | Mapping[str, Any]) -> T:
        """Return the method that a suite file asks for: a name, or a mapping of ``name`` and options.

        Raises UserError for an unknown name, an unknown option or a value out of range.
        """
        options = {"name": choice} if isinstance(choice, str) else dict(choice)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise UserError(f"A {self.kind} needs a name: {dict(options)!r} has none.", hint="Write {name: …, …}.")
        found = self.find(name)
        for option in options:
            if option not in found.model_fields:
                raise unknown_name(f"option of the {self.kind} {name}", str(option), found.model_fields)
        try:
            return found(**options)
        except ValidationError as error:
            raise UserError(f"The {self.kind} {name} cannot be used: {plain(error)}.") from error


def class_at(path: str) -> Any:
    """Return what ``module:Class`` names; raise UserError where the module cannot be imported or lacks it."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"The method {path!r} cannot be imported: {error}.", hint="Write module:Class, as Python would import it."
        ) from error


def plain(error: ValidationError) -> str:
    """Return a validation error as one line: ``field: what is wrong; field: …``."""
    return "; ".join(
        f"{'.'.join(map(str, part['loc']))}: {part['msg'][:1].lower()}{part['msg'][1:]}" for part in error.errors()
    )
