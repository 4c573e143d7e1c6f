"""Where the packages of a program lie on this machine."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from crosstok.errors import UserError


def package_paths(packages: Sequence[str]) -> list[str]:
    """Return the folders and files of installed packages, the shared libraries that their wheels carry included.

    Raises UserError where one is not installed.
    """
    paths: list[str] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            raise UserError(
                f"The package {package!r}, which a program needs, is not installed.", hint="pip install it."
            )
        origin = Path(spec.origin)
        path = origin.parent if spec.submodule_search_locations else origin
        libraries = path.with_name(f"{package}.libs")
        paths += [str(found) for found in (path, libraries) if found.exists()]
    return paths
