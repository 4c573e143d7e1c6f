"""Third-party packages for the programs of benchmarks: those a program needs, and those the sandbox must expose.

The sandbox exposes only the installed packages that are declared here, with their requirements. The extra ``code2k`` of
crosstok installs them all. A document is excluded if it needs a package that is not declared or not installed.

Some packages are left out because they take hundreds of megabytes for one or two documents each: opencv, TensorFlow,
librosa, geopandas, obspy and tesseract.
"""

import ast
import sys
from collections.abc import Iterable
from importlib.util import find_spec

from crosstok.sandbox.program import Limits
from crosstok.tasks.code.unittests import CANDIDATE_MODULE

LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": (),
    "pandas": ("pytz", "matplotlib", "openpyxl", "lxml"),
    "matplotlib": (),
    "sklearn": (),
    "requests": (),
    "scipy": (),
    "bs4": ("lxml",),
    "seaborn": (),
    "flask": (),
    "nltk": (),
    "faker": (),
    "django": (),
    "pytz": (),
    "gensim": (),
    "PIL": (),
    "regex": (),
    "docx": (),
    "openpyxl": (),
    "psutil": (),
    "statsmodels": (),
    "rsa": (),
    "lxml": (),
    "dateutil": (),
    "mock": (),
    "multidict": (),
    "sqlalchemy": (),
    "PyPDF2": (),
    "reportlab": (),
    "wordcloud": (),
    "wtforms": (),
    "flask_wtf": (),
    "flask_login": (),
    "flask_mail": (),
    "werkzeug": (),
    "xlwt": (),
    "Crypto": (),
    "cryptography": (),
    "pyquery": (),
    "Levenshtein": (),
    "chardet": (),
}
"""Import names, the most needed first, each with optional packages that it loads on demand."""
LIMITS = Limits(memory_bytes=4 << 30, cpu_s=30.0, wall_s=120.0)
"""Limits of programs that use these packages, whose address space alone exceeds a gigabyte."""


def needed(*sources: str) -> tuple[str, ...]:
    """Return the top-level third-party packages that the code in ``sources`` imports, sorted.

    The candidate's own module is not among them.
    """
    names: set[str] = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # the sandbox reports it
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return tuple(sorted(names - sys.stdlib_module_names - {CANDIDATE_MODULE}))


def missing(names: Iterable[str]) -> list[str]:
    """Return the packages among ``names`` that are not available on this host."""
    return sorted(name for name in names if name not in LIBRARIES or not _installed(name))


def visible(names: Iterable[str]) -> tuple[str, ...]:
    """Return the packages that the sandbox must expose for importing ``names``, without those missing on this host.

    Optional packages that are loaded on demand are included if they are installed.
    """
    usable = sorted(set(names) - set(missing(names)))
    wanted = [name for library in usable for name in (library, *LIBRARIES[library])]
    return tuple(name for name in dict.fromkeys(wanted) if _installed(name))


def _installed(package: str) -> bool:
    return find_spec(package) is not None
