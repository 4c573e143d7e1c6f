"""File locations of the packages that a program declares.

A program declares import names. Importing them may need everything that their distributions installed, and everything
those require in turn: the shared libraries of a wheel lie in a folder named after the distribution (``pillow.libs``
beside ``PIL``), and some packages read their own version from their metadata on import. The records that pip wrote
answer all of this, so no list of dependencies has to be maintained.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from crosstok.errors import UserError


def package_paths(packages: Sequence[str]) -> list[str]:
    """Return the folders and files that must be visible to import ``packages``.

    Raises UserError for a package that is not installed.
    """
    paths: dict[str, None] = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise UserError(
                f"The package {package!r}, which a program declares, is not installed.", hint="Install it with pip."
            )
        own = [Path(place) for place in spec.submodule_search_locations or ([spec.origin] if spec.origin else [])]
        found = [*own, *(path for one in distributions([package]) for path in _installed(one))]
        paths |= dict.fromkeys(str(path) for path in found if path.exists())
    return list(paths)


def distributions(packages: Sequence[str]) -> list[Distribution]:
    """Return the distributions that provide ``packages``, and their requirements, recursively."""
    waiting = [(name, frozenset[str]()) for package in packages for name in _owners().get(package, ())]
    found: dict[str, Distribution] = {}
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop(0)
        try:
            one = distribution(name)
        except PackageNotFoundError:  # a missing requirement: the import that needs it will fail with a clear message
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
    from packaging.requirements import Requirement  # only programs with packages need it

    for text in one.requires or ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield need.name, frozenset(need.extras)


def _installed(one: Distribution) -> list[Path]:
    """Return the top-level folders and files of a distribution, its metadata included."""
    tops = dict.fromkeys(file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__"))
    return [Path(str(one.locate_file(top))) for top in tops]
