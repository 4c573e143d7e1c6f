"""Options written as text: ``key=value``, and ``NAME:option=value,option=value`` for a task, loss or initialiser."""

import re
from typing import Any

from crosstok.errors import UserError

_OPTIONS = re.compile(r":(?=[A-Za-z_]\w*=)")
_NEXT = re.compile(r",(?=\s*[A-Za-z_]\w*=)")


def parse_option(text: str) -> tuple[str, Any]:
    """Return key and value of ``key=value``; the value is read as YAML.

    Raises UserError where there is no ``=``, and for a value that is no YAML.
    """
    import yaml  # only where options are given

    key, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"{text!r} is not an option.", hint="Write key=value.")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"The value of {text!r} is not valid YAML.", hint="Quote it, as in key='\"…\"'.") from error


def parse_named(text: str) -> tuple[str, dict[str, Any]]:
    """Return name and options of ``NAME:option=value,option=value``.

    The name may hold colons (``lm_eval:gsm8k``, ``module:Class``), and values may hold colons and commas: options begin
    at the first colon, and each further one at a comma, that stands before ``option=``.
    """
    name, *rest = _OPTIONS.split(text, maxsplit=1)
    return name, dict(parse_option(part) for part in _NEXT.split(rest[0])) if rest else {}


def parse_choice(text: str) -> str | dict[str, Any]:
    """Return the method that ``NAME:option=value,…`` stands for, as a suite writes it: a name, or a mapping."""
    name, options = parse_named(text)
    if "name" in options:
        raise UserError(f"{text!r} names a method twice.", hint=f"Write {name}:option=value.")
    return {"name": name, **options} if options else name
