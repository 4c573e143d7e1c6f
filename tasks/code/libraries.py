"""Third-party packages that programs of benchmarks import: which ones a program needs, and what must be visible for it.

The sandbox shows a program nothing of the installed packages but those that are named, so a package is declared here
once, with the packages that it loads itself. Only packages whose shared libraries the sandbox finds are declared. One
that is not declared, or not installed on this host, excludes the documents that need it, by name.
"""

import ast
import sys
from collections.abc import Iterable
from importlib.util import find_spec

from sandbox.program import Limits
from tasks.code.unittests import CANDIDATE_MODULE

_NUMPY = ("numpy",)
_PANDAS = (*_NUMPY, "six", "dateutil", "pytz", "pandas")
_SCIPY = (*_NUMPY, "scipy")

LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": _NUMPY,
    "pandas": _PANDAS,
    "scipy": _SCIPY,
    "dateutil": ("six", "dateutil"),
    "pytz": ("pytz",),
    "regex": ("regex",),
    "lxml": ("lxml",),
    "psutil": ("psutil",),
    "requests": ("idna", "certifi", "charset_normalizer", "urllib3", "requests"),
}
LIMITS = Limits(memory_bytes=4 << 30, cpu_s=30.0, wall_s=120.0)
"""Of programs that work with these packages: their address space alone is more than a gigabyte."""


def needed(*sources: str) -> tuple[str, ...]:
    """Return the top-level packages outside of the standard library that the code in ``sources`` imports, sorted.

    The candidate's own module is none.
    """
    names: set[str] = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # the sandbox will say so, of a published solution as of any other
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return tuple(sorted(names - sys.stdlib_module_names - {CANDIDATE_MODULE}))


def missing(names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that no program can have on this host."""
    return sorted(name for name in names if name not in LIBRARIES or not all(map(_installed, LIBRARIES[name])))


def visible(names: Iterable[str]) -> tuple[str, ...]:
    """Return what the sandbox must show so that the packages ``names`` can be imported, without those missing here."""
    usable = sorted(set(names) - set(missing(names)))
    return tuple(dict.fromkeys(package for name in usable for package in LIBRARIES[name]))


def _installed(package: str) -> bool:
    return find_spec(package) is not None
