"""Reference of losses, initialisers and recipes: what each is, what it needs, and its options, read from the code."""

import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from crosstok.distill.embeddings import Initialiser
from crosstok.distill.losses import Loss
from crosstok.distill.method import Method
from crosstok.distill.recipes.options import RECIPES
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.errors import unknown_name
from crosstok.plugins import class_at

Kind = Literal["loss", "initialiser", "recipe"]
_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "none", Any: "anything"}
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "at least", "max_length": "at most"}


@dataclass(frozen=True)
class OptionReference:
    """One option of a method or recipe."""

    name: str
    type: str
    """Type and limits, in words."""
    required: bool
    default: Any
    """A JSON value; None for a required option."""
    description: str


@dataclass(frozen=True)
class MethodReference:
    """A loss, an initialiser or a recipe."""

    name: str
    kind: Kind
    about: str
    """One line."""
    details: str
    """Definition, units and source: the text at the head of its module."""
    needs: tuple[str, ...]
    """What it uses besides its options."""
    built_in: bool
    options: tuple[OptionReference, ...]


def method_references() -> Iterator[MethodReference]:
    """Yield every loss, every initialiser and every recipe, plug-ins included, by kind and name.

    Raises UserError for a plug-in that cannot be imported or has the name of a built-in method.
    """
    for name in LOSSES.names():
        yield _method("loss", name)
    for name in INITIALISERS.names():
        yield _method("initialiser", name)
    for name in RECIPES:
        yield _recipe(name)


def method_reference(name: str) -> MethodReference:
    """Return the loss, initialiser or recipe called ``name``, or the loss or initialiser ``module:Class``.

    Raises UserError for an unknown name.
    """
    if name in RECIPES:
        return _recipe(name)
    if ":" in name:
        found: Any = LOSSES if _is_loss(name) else INITIALISERS
        return _method("loss" if found is LOSSES else "initialiser", name)
    if name in LOSSES.names():
        return _method("loss", name)
    if name in INITIALISERS.names():
        return _method("initialiser", name)
    raise unknown_name("method", name, [*LOSSES.names(), *INITIALISERS.names(), *RECIPES])


def option_references(model: type[BaseModel]) -> tuple[OptionReference, ...]:
    """Return the options that the fields of a pydantic class are, required ones first."""
    found = [_option(name, field) for name, field in model.model_fields.items()]
    return tuple(sorted(found, key=lambda option: not option.required))


def type_text(annotation: Any) -> str:  # noqa: PLR0911  (one return for each kind of type)
    """Return a type in words: ``number or none``, ``kl | reverse_kl``, ``list of integer``."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(parts[0]) + _limits(parts[1:])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_text, parts))
    if origin is dict:
        return "mapping"
    if origin is tuple and Ellipsis not in parts:
        return "list of " + ", ".join(map(type_text, parts))
    if origin in (tuple, list, frozenset, set):
        return f"list of {type_text(parts[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"mapping of {', '.join(annotation.model_fields)}"
    return str(getattr(annotation, "__name__", annotation))


def _method(kind: Literal["loss", "initialiser"], name: str) -> MethodReference:
    registry: Any = LOSSES if kind == "loss" else INITIALISERS
    found: type[Method] = registry.find(name)
    return MethodReference(
        name=name,
        kind=kind,
        about=_first_line(found),
        details=inspect.getdoc(import_module(found.__module__)) or "",
        needs=tuple(_needs(found)),
        built_in=name in registry.builtin,
        options=option_references(found),
    )


def _recipe(name: str) -> MethodReference:
    spec = RECIPES[name]
    about, _, details = (inspect.getdoc(import_module(f"crosstok.distill.recipes.{name}")) or "").partition("\n")
    return MethodReference(
        name=name,
        kind="recipe",
        about=about.replace("``", "`"),
        details=details.strip(),
        needs=tuple(f"a model in `{option}`" for option in spec.parents),
        built_in=True,
        options=option_references(spec),
    )


def _is_loss(name: str) -> bool:
    found = class_at(name)
    return isinstance(found, type) and issubclass(found, Loss)


def _needs(found: type[Method]) -> Iterator[str]:
    """Yield what a method uses besides its options, as far as its defaults tell."""
    try:
        made = found()
    except ValidationError:
        yield "depends on its options"
        return
    if isinstance(made, Loss):
        for side, readings in (("student", made.of_student), ("teacher", made.of_teacher)):
            if readings:
                yield f"readings of the {side}: {', '.join(sorted(readings))}"
    elif isinstance(made, Initialiser):
        if made.text_source:
            yield f"a text: {made.text_source}"
        if made.model_source:
            yield f"another model: {made.model_source}"


def _option(name: str, field: FieldInfo) -> OptionReference:
    required = field.is_required()
    default = None if required else field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    elif isinstance(default, tuple | frozenset | set):
        default = list(default)
    return OptionReference(
        name=field.alias or name,
        type=type_text(field.annotation) + _limits(field.metadata),
        required=required,
        default=default,
        description=" ".join((field.description or "").split()),
    )


def _limits(metadata: Any) -> str:
    limits = [
        f"{sign} {getattr(one, key):g}" for one in metadata for key, sign in _LIMITS.items()
        if isinstance(getattr(one, key, None), int | float)
    ]  # fmt: skip
    return f" ({', '.join(limits)})" if limits else ""


def _first_line(found: type) -> str:
    lines = (inspect.getdoc(found) or "").splitlines()
    return lines[0] if lines else ""
