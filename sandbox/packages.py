"""Where the packages of a program lie on this machine.

A program declares names that it imports. What it must see for them is all that their distributions installed and all
that these require in turn: shared libraries of a wheel lie in a folder named after the distribution (``pillow.libs``
beside ``PIL``), and some packages ask for their own version while they are imported. pip wrote all of it down, so
nobody has to keep lists of dependencies.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from crosstok.errors import UserError


def package_paths(packages: Sequence[str]) -> list[str]:
    """Return the folders and files that must be visible so that ``packages`` can be imported.

    Raises UserError where one is not installed.
    """
    paths: dict[str, None] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise UserError(
                f"The package {package!r}, which a program needs, is not installed.", hint="pip install it."
            )
        own = [Path(place) for place in spec.submodule_search_locations or ([spec.origin] if spec.origin else [])]
        found = [*own, *(path for one in distributions([package]) for path in _installed(one))]
        paths |= dict.fromkeys(str(path) for path in found if path.exists())
    return list(paths)


def distributions(packages: Sequence[str]) -> list[Distribution]:
    """Return the distributions that installed ``packages``, and those that they require, without extras of theirs."""
    waiting = [(name, frozenset[str]()) for package in packages for name in _owners().get(package, ())]
    found: dict[str, Distribution] = {}
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop(0)
        try:
            one = distribution(name)
        except PackageNotFoundError:  # required, and yet uninstalled: importing what needs it will say so
            continue
        found.setdefault(one.metadata["Name"], one)
        new = [need for need in _required(one, extras) if need not in seen]
        seen |= set(new)
        waiting += new
    return list(found.values())


@cache
def _owners() -> Mapping[str, list[str]]:
    return packages_distributions()


def _required(one: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    from packaging.requirements import Requirement  # noqa: PLC0415  (only programs with packages need it)

    for text in one.requires or ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need.name, frozenset(need.extras)


def _installed(one: Distribution) -> list[Path]:
    """Return what a distribution has put beside the packages of others, its own metadata included."""
    tops = dict.fromkeys(file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__"))
    return [Path(str(one.locate_file(top))) for top in tops]
