"""Registry of methods: losses and initialisers by name, built in or offered by other packages through entry points.

A method that is still being written needs no package: ``module:Class`` names its class in the working directory.
Listing and checking names imports no method and no torch; a module is imported when its method is asked for.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from crosstok.distill.method import Method
from crosstok.errors import UserError, invalid_value, unknown_name
from crosstok.fingerprint import file_sha256
from crosstok.plugins import find_plugin, plugin_names, refuse_clash

if TYPE_CHECKING:
    from crosstok.distill.embeddings.initialiser import Initialiser
    from crosstok.distill.losses.loss import Loss

T = TypeVar("T", bound=Method)


class Registry(Generic[T]):
    """Classes of one kind, by name."""

    def __init__(self, kind: str, group: str, base: str, builtin: Mapping[str, str]) -> None:
        """``group`` is the entry point group; ``base`` and the built-in classes are named as ``module:Class``."""
        self.kind = kind
        self.group = group
        self.builtin = builtin
        self._base = base

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        return sorted({*self.builtin, *plugin_names(self.group)})

    def check_name(self, choice: str | Mapping[str, Any]) -> None:
        """Raise UserError unless ``choice`` names a known method or is written ``module:Class``; nothing is imported.

        A plug-in with the name of a built-in method is refused.
        """
        name = self._name(choice)
        if name in self.builtin:
            refuse_clash(self.kind, self.group, name)
        elif ":" not in name and name not in (names := self.names()):
            raise unknown_name(self.kind, name, names)

    def find(self, name: str) -> type[T]:
        """Return the class called ``name`` or ``module:Class``.

        Raises UserError for an unknown name, a plug-in that does not load or has the name of a built-in method, and a
        class of another kind.
        """
        if name in self.builtin:
            refuse_clash(self.kind, self.group, name)
            found = _load(self.builtin[name])
        else:
            found = find_plugin(self.kind, self.group, name, self.builtin)
        base = _load(self._base)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise UserError(f"The {self.kind} {name!r} is not a subclass of {base.__qualname__}.")
        return found

    def code(self, name: str) -> str:
        """Return the SHA-256 of the file that defines a plug-in; empty for a built-in method.

        It belongs to the fingerprint of everything that the method decides: a built-in method changes with crosstok's
        own version, a plug-in whenever its author saves the file.
        """
        if name in self.builtin:
            return ""
        found = self.find(name)
        try:
            return file_sha256(Path(inspect.getfile(found)))
        except (TypeError, OSError) as error:
            raise UserError(
                f"The {self.kind} {name!r} is not defined in a file, so a student cannot record its code.",
                hint="Move the class into a module.",
            ) from error

    def create(self, choice: str | Mapping[str, Any]) -> T:
        """Return the method that a suite asks for: a name, or a mapping of ``name`` and options.

        Raises UserError for an unknown name, an unknown option or a value out of range.
        """
        name = self._name(choice)
        options = {} if isinstance(choice, str) else {key: value for key, value in choice.items() if key != "name"}
        found = self.find(name)
        for option in options:
            if option not in found.model_fields:
                raise unknown_name(f"option of the {self.kind} {name}", str(option), found.model_fields)
        try:
            return found(**options)
        except ValidationError as error:
            raise UserError(f"The {self.kind} {name} cannot be used: {plain(error)}.") from error

    def _name(self, choice: str | Mapping[str, Any]) -> str:
        name = choice if isinstance(choice, str) else choice.get("name")
        if not isinstance(name, str):
            raise UserError(f"A {self.kind} needs a name: {choice!r} has none.", hint="Write {name: …, …}.")
        return name


LOSSES: "Registry[Loss]" = Registry(
    "loss",
    "crosstok.losses",
    "crosstok.distill.losses.loss:Loss",
    {
        "sft": "crosstok.distill.losses.sft:SFT",
        "alm": "crosstok.distill.losses.alm:ALM",
        "hidden": "crosstok.distill.losses.hidden:Hidden",
        "kd": "crosstok.distill.losses.kd:KD",
        "strict": "crosstok.distill.losses.strict:Strict",
        "bpm": "crosstok.distill.losses.bpm:BPM",
        "uld": "crosstok.distill.losses.uld:ULD",
        "gold": "crosstok.distill.losses.gold:GOLD",
        "mined": "crosstok.distill.losses.mined:MinED",
        "dskd": "crosstok.distill.losses.dskd:DSKD",
        "kl": "crosstok.distill.losses.expansion_kl:ExpansionKL",
    },
)
"""Training losses."""

INITIALISERS: "Registry[Initialiser]" = Registry(
    "initialiser",
    "crosstok.embeddings",
    "crosstok.distill.embeddings.initialiser:Initialiser",
    {
        "fvt": "crosstok.distill.embeddings.fvt:FVT",
        "subword": "crosstok.distill.embeddings.subword:Subword",
        "mean": "crosstok.distill.embeddings.mean:Mean",
        "hewitt": "crosstok.distill.embeddings.hewitt:Hewitt",
        "normal": "crosstok.distill.embeddings.normal:Normal",
        "zero": "crosstok.distill.embeddings.zero:Zero",
        "omp": "crosstok.distill.embeddings.omp:OMP",
        "nearest": "crosstok.distill.embeddings.nearest:Nearest",
        "token_distillation": "crosstok.distill.embeddings.token_distillation:TokenDistillation",
    },
)
"""Initialisers of embedding rows."""


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


def plain(error: ValidationError) -> str:
    """Return a validation error as one line: ``field: what is wrong; field: …``."""
    problems = []
    for part in error.errors():
        message = invalid_value(part["msg"])
        where = ".".join(map(str, part["loc"]))
        problems.append(f"{where}: {message[:1].lower()}{message[1:]}" if where else message)
    return "; ".join(problems)
