"""Recipes: how students are made. Each one is a specification class; ``make_student`` makes what it describes."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from crosstok.distill.recipes.distil import DistilSpec
from crosstok.distill.recipes.expand import ExpandSpec
from crosstok.distill.recipes.student import StudentSpec, at, identity, make_student
from crosstok.distill.recipes.transfer import TransferSpec
from crosstok.distill.registry import plain
from crosstok.errors import UserError, unknown_name

__all__ = [
    "RECIPES",
    "DistilSpec",
    "ExpandSpec",
    "StudentSpec",
    "TransferSpec",
    "at",
    "check_student",
    "identity",
    "make_student",
]

RECIPES: dict[str, type[StudentSpec]] = {spec.kind: spec for spec in (TransferSpec, DistilSpec, ExpandSpec)}
"""By the name that a suite gives them."""


def check_student(recipe: str, options: Mapping[str, Any], name: str = "student") -> StudentSpec:
    """Return the checked specification of model ``name``, made by ``recipe``.

    Raises UserError for unknown keys, values out of range, and methods or options of methods that do not exist.
    """
    kind = RECIPES[recipe]
    known = [field.alias or key for key, field in kind.model_fields.items()]
    for key in options:
        if key not in known:
            raise unknown_name(f"option of {name}", str(key), known)
    try:
        spec = kind.model_validate(dict(options))
    except ValidationError as error:
        raise UserError(f"{name}: {plain(error)}.") from error
    spec.check()
    return spec
